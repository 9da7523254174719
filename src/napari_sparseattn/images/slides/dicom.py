"""Which files a DICOM slide consists of, and what is said of the image that models see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["files_of_slide", "read_description"]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def files_of_slide(path: Path) -> tuple[list[Path], list[str]]:
    """Return the files of one slide in a folder, or of a file's own, and what to note.

    Of several slides in a folder it is the largest. A slide's images are of one
    series; label and overview may be of another, of the same glass.

    Raises
    ------
    pydicom.errors.InvalidDicomError, OSError
        If a file that is given cannot be read as DICOM.
    """
    import pydicom

    tags = ["SOPClassUID", "SeriesInstanceUID", "ContainerIdentifier", "ImageType"]
    tags += ["TotalPixelMatrixRows", "TotalPixelMatrixColumns"]
    beside = path.iterdir() if path.is_dir() else path.parent.glob(f"*{path.suffix}")
    found = []
    for file in sorted(beside):
        try:
            if file.is_file():
                found.append((file, pydicom.dcmread(file, specific_tags=tags)))
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
    whole: dict[str, tuple[int, str]] = {}
    for _, held in found:
        size = int(held.get("TotalPixelMatrixRows", 0) or 0)
        size *= int(held.get("TotalPixelMatrixColumns", 0) or 0)
        if _is_whole(held):
            series = str(held.get("SeriesInstanceUID", ""))
            most = (size, str(held.get("ContainerIdentifier", "") or ""))
            whole[series] = max(whole.get(series, most), most)
    if path.is_dir():
        if not whole:
            return [file for file, _ in found], []
        chosen = max(whole, key=lambda series: whole[series][0])
    else:
        own = pydicom.dcmread(path, specific_tags=tags)
        chosen = str(own.get("SeriesInstanceUID", ""))
    glass = whole.get(chosen, (0, ""))[1]
    files = [
        file
        for file, held in found
        if str(held.get("SeriesInstanceUID", "")) == chosen
        or (
            glass
            and held.get("SOPClassUID") == _WHOLE_SLIDE
            and "VOLUME" not in held.get("ImageType", ())
            and str(held.get("ContainerIdentifier", "")) == glass
            and sum(container == glass for _, container in whole.values()) == 1
        )
    ]
    notes = []
    if path.is_dir() and len(whole) > 1:
        notes.append(f"holds {len(whole)} slides; the largest is read. Give a file of another")
    return files, notes


def read_description(path: Path, shape: tuple[int, int]) -> Dataset:
    """Read what a DICOM slide says of its image of one size, without the pixels.

    Parameters
    ----------
    path : pathlib.Path
        A file of the slide, or its folder.
    shape : (int, int)
        Height and width of the image in pixels.

    Raises
    ------
    ImageError
        If there is none of that size, or the files cannot be read.
    """
    import pydicom

    found = []
    try:
        for file in files_of_slide(path)[0]:
            held = pydicom.dcmread(file, stop_before_pixels=True)
            if not _is_whole(held):
                continue
            size = (held.get("TotalPixelMatrixRows"), held.get("TotalPixelMatrixColumns"))
            if size == tuple(shape):
                return held
            found.append(" x ".join(map(str, size)))
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        raise ImageError(f"{path.name} cannot be read as DICOM ({error}); open it again") from error
    sizes = ", ".join(found) or "none"
    raise ImageError(
        f"{path.name} holds no image of {shape[0]} x {shape[1]} pixels (it holds {sizes})"
    )


def _is_whole(held: Dataset) -> bool:
    """Whether it is a level of a slide: no label or overview, and no map made of one."""
    return held.get("SOPClassUID") == _WHOLE_SLIDE and "VOLUME" in held.get("ImageType", ())
