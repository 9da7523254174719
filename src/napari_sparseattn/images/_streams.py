"""JPEG and JPEG 2000 streams, checked before a decoder believes what they say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._stream_sizes import PICTURES, picture_fault
from .errors import ImageError

if TYPE_CHECKING:
    import tifffile

__all__ = ["check_streams", "codestream_fault", "jpeg_fault"]

_Fault = Callable[[bytes, int, int, int], str | None]
_END = b"\xff\xd9"
_SOF = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))


def check_streams(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Refuse a TIFF of which a part is of another size than declared, or incomplete.

    A decoder takes the memory that the stream itself asks for, 12 GB for a
    JPEG of 65 500 pixels a side, and paints what is missing in grey.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    series : tifffile.TiffPageSeries
        Whose pages are checked; those of other compressions are not read.

    Raises
    ------
    ImageError
        Naming the first part that is not as declared.
    """
    fault = _FAULTS.get(int(series.keyframe.compression))
    if fault is None:
        return
    for page in series.pages:
        if page is None:
            continue
        height, width, channels = _part(series.keyframe)
        handle = page.parent.filehandle
        for n, (offset, count) in enumerate(
            zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            handle.seek(offset)
            if count and (why := fault(handle.read(count), height, width, channels)):
                raise ImageError(
                    f"{path.name} is damaged: {why} (part {n + 1} of {len(page.dataoffsets)}); "
                    "copy or export it again"
                )


def _part(page: Any) -> tuple[int, int, int]:
    """Return height, width and channels of a page's tiles or strips."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth), int(page.samplesperpixel)
    rows = min(int(page.rowsperstrip), int(page.imagelength))
    return rows, int(page.imagewidth), int(page.samplesperpixel)


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


def _of_picture(compression: int) -> _Fault:
    def fault(data: bytes, height: int, width: int, channels: int) -> str | None:
        return picture_fault(compression, data, height, width)

    return fault


_FAULTS: dict[int, _Fault] = {
    7: jpeg_fault,
    **dict.fromkeys((33003, 33004, 33005, 34712), codestream_fault),
    **{compression: _of_picture(compression) for compression in PICTURES},
}
