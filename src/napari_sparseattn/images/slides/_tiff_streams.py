"""JPEG and JPEG 2000 inside an ordinary TIFF, checked before a decoder believes what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._decode import ImageError
from ._checks import codestream_fault, jpeg_fault

if TYPE_CHECKING:
    import tifffile

__all__ = ["check_streams"]

_FAULTS = {7: jpeg_fault} | dict.fromkeys((33003, 33004, 33005, 34712), codestream_fault)


def check_streams(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Refuse a TIFF of which a part is of another size than declared, or incomplete.

    A decoder takes the memory that the stream itself asks for, 12 GB for a
    JPEG of 65 500 pixels a side, and paints what is missing in grey.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    series : tifffile.TiffPageSeries
        Whose pages are checked; those without JPEG are not read.

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
