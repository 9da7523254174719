"""TIFF files whose pages end: tifffile follows some circles of pages for ever."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import ImageError

if TYPE_CHECKING:
    import tifffile

__all__ = ["open_pages"]

_MOST_PAGES = 2**20
_MOST_TAGS = 4096
# tifffile itself cuts a circle that it meets among so many pages, once it is asked for them all.
_CUT = 99


@contextlib.contextmanager
def open_pages(path: Path | IO[bytes]) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF whose pages have been counted; it is closed at the end of the block.

    Parameters
    ----------
    path : pathlib.Path or binary file
        A file; or one that is open, is not on this computer, and has a name. Files that
        its description names are then not looked for here.

    Raises
    ------
    ImageError
        If its pages go round in a circle that is not cut, or are too many.
    TIFF_ERRORS
        What tifffile raises on a damaged file, see `_decode`.
    """
    import tifffile

    if isinstance(path, Path):
        opened, name = tifffile.TiffFile(path), path.name
    else:
        name = str(path.name)
        opened = tifffile.TiffFile(path, name=name, _multifile=False)
    with opened as tif:
        _check_circles(name, tif)
        yield tif


def _check_circles(name: str, tif: tifffile.TiffFile) -> None:
    form, file = tif.tiff, tif.filehandle
    at, seen = int(tif.pages.first.offset), set[int]()
    while at not in seen:
        seen.add(at)
        file.seek(at)
        head = file.read(form.tagnosize)
        n_tags = struct.unpack(form.tagnoformat, head)[0] if len(head) == form.tagnosize else None
        if n_tags is None or n_tags > _MOST_TAGS:
            return
        file.seek(at + form.tagnosize + n_tags * form.tagsize)
        following = file.read(form.offsetsize)
        if len(following) < form.offsetsize:
            return
        at = int(struct.unpack(form.offsetformat, following)[0])
        if at == 0 or at >= file.size:
            return
        if len(seen) > _MOST_PAGES:
            raise ImageError(
                f"{name} has over {_MOST_PAGES} pages; save it in several files, or copy it again "
                "if it is damaged"
            )
    if len(seen) > _CUT:
        raise ImageError(
            f"the pages of {name} go round in a circle: it is damaged; copy or export it again"
        )
    len(tif.pages)
