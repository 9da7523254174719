"""What a slide's file declares, checked before anything is allocated or decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError, isotropic_size, replaced_size
from ._tiles import MOST_TILE_BYTES

__all__ = [
    "check_level",
    "check_unchanged",
    "file_state",
    "known_pixel_size",
]

# The largest slides known are about 3e5 pixels along a side.
_MOST_SIDE = 2**23
_MOST_TILES = 2**25
_PLAUSIBLE_MPP = (0.01, 100.0)


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
    name: str,
    size: Sequence[float] | float | None,
    source: str,
    given: float | None = None,
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
    given : float, optional
        µm per pixel that the user gives in its place.
    """
    if given is not None:
        return given, replaced_size(given, known_pixel_size(name, size, source)[0])
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
