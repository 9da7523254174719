"""What a slide's file declares, checked before anything is allocated or decoded."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

from .._decode import ImageError, isotropic_size
from ._tiles import MOST_TILE_BYTES

__all__ = [
    "check_level",
    "check_unchanged",
    "codestream_fault",
    "file_state",
    "jpeg_fault",
    "known_pixel_size",
]

# The largest slides known are about 3e5 pixels along a side.
_MOST_SIDE = 2**23
_MOST_TILES = 2**25
_PLAUSIBLE_MPP = (0.01, 100.0)
_END = b"\xff\xd9"
_SOF = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))


def file_state(path: Path) -> tuple[int, ...]:
    """Return what tells a file from one that was put in its place or written over it."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def check_unchanged(path: Path, state: tuple[int, ...]) -> None:
    """Refuse a file that is not the one whose `file_state` was taken.

    Raises
    ------
    ImageError
        If it is gone, was written to, or was replaced.
    """
    try:
        same = file_state(path) == state
    except OSError as error:
        raise ImageError(f"{path.name} cannot be reached any more ({error})") from error
    if not same:
        raise ImageError(f"{path.name} was changed or replaced since it was opened; open it again")


def check_level(
    name: str, height: int, width: int, tile: Sequence[int], n_tiles: int | None, channels: int
) -> None:
    """Refuse a level whose declared sizes are absurd or do not fit its tiles.

    Parameters
    ----------
    name : str
        The file, for the message.
    height, width : int
        Declared size of the level.
    tile : (int, int)
        Declared size of its tiles or strips.
    n_tiles : int, optional
        How many the file lists; None where it does not list them.
    channels : int
        Bytes per pixel.

    Raises
    ------
    ImageError
        Saying which, and what to do.
    """
    if min(height, width) < 1 or min(tile) < 1:
        raise ImageError(
            f"{name} declares an image of {height} x {width} pixels in tiles of {tile[0]} x "
            f"{tile[1]}, so nothing to read: it is damaged; copy or export it again"
        )
    if max(height, width) > _MOST_SIDE:
        raise ImageError(
            f"{name} declares {height} x {width} pixels, more than any slide has: it is damaged; "
            "copy or export it again"
        )
    if tile[0] * tile[1] * channels > MOST_TILE_BYTES:
        raise ImageError(
            f"{name} is stored in pieces of {tile[0]} x {tile[1]} pixels, "
            f"{tile[0] * tile[1] * channels / 2**20:.0f} MB each; the most that is decoded at once "
            f"is {MOST_TILE_BYTES // 2**20} MB. Save it again in tiles of 256 or 512 pixels, or "
            "copy it again if it is damaged"
        )
    expected = math.ceil(height / tile[0]) * math.ceil(width / tile[1])
    if expected > _MOST_TILES:
        raise ImageError(
            f"{name} declares {expected} tiles, more than can be kept track of; save it in tiles "
            "of 256 or 512 pixels"
        )
    if n_tiles is not None and n_tiles != expected:
        raise ImageError(
            f"{name} declares {height} x {width} pixels, which are {expected} tiles, but lists "
            f"{n_tiles}: it is damaged; copy or export it again"
        )


def known_pixel_size(
    name: str, size: Sequence[float] | float | None, source: str
) -> tuple[float | None, tuple[str, ...]]:
    """Return µm per pixel and notes; None, never a guess, where they do not make sense.

    Parameters
    ----------
    name : str
        The file, for the notes.
    size : float or (float, float), optional
        µm per pixel that the file states, y and x.
    source : str
        Where it states that.
    """
    if size is None:
        return None, (
            f"{name} does not say how many µm a pixel is; give it, or the scale stays unknown",
        )
    try:
        pixel_size = isotropic_size(size)
    except ValueError as error:
        return None, (f"the µm per pixel in {name} ({source}) were not used: {error}",)
    low, high = _PLAUSIBLE_MPP
    if not low <= pixel_size <= high:
        note = f"{name} states {pixel_size:g} µm per pixel ({source}), which no slide has"
        return None, (f"{note}; give the true one",)
    return pixel_size, ()


def jpeg_fault(data: bytes, height: int, width: int, channels: int) -> str | None:
    """Return what is wrong with a JPEG stream that a decoder would paint over, or None.

    libjpeg warns and goes on: a stream cut short ends in grey, one with
    zeroed bytes in noise, and the size in it is allocated whatever the tile's.

    Parameters
    ----------
    data : bytes
        The stream of one tile.
    height, width, channels : int
        The tile's declared size.
    """
    if data[:2] != b"\xff\xd8":
        return "it does not begin as a JPEG" if any(data[:64]) else "its bytes are zero"
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SOF:
            size = struct.unpack(">HH", data[at + 5 : at + 9])
            if size[0] > height or size[1] > width:
                return f"it holds {size[0]} x {size[1]} pixels, the tile {height} x {width}"
            break
        at += 1 if marker == 0xFF else 2 + length
    return _stream_fault(data, height, width, channels)


def codestream_fault(data: bytes, height: int, width: int, channels: int) -> str | None:
    """Return what is wrong with a JPEG 2000 stream that a decoder would paint over, or None.

    Parameters
    ----------
    data, height, width, channels
        As for `jpeg_fault`.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 512)
    if start < 0 or len(data) < start + 24:
        return "it does not begin as a JPEG 2000" if any(data[:64]) else "its bytes are zero"
    x1, y1, x0, y0 = struct.unpack(">IIII", data[start + 8 : start + 24])
    if y1 - y0 > height or x1 - x0 > width:
        return f"it holds {y1 - y0} x {x1 - x0} pixels, the tile {height} x {width}"
    return _stream_fault(data, height, width, channels)


def _stream_fault(data: bytes, height: int, width: int, channels: int) -> str | None:
    held = data.rstrip(b"\0")
    if held[-2:] != _END:
        return "it ends too early"
    # An even tile may be coded as 2 bits of zero per block of 64 values: as
    # many zero bytes are sound, more come from a gap in the file.
    most = 512 + height * width * channels // 256
    if b"\0" * most in held:
        return "a part of its bytes is zero"
    return None
