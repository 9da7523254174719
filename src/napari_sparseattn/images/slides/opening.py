"""Open a whole-slide image as a `Pyramid`; the kind is told from the content."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...addresses import Address, as_source
from ...progress import Progress, heard
from .._decode import TIFF_ERRORS, TIFF_MAGIC
from .._foreign import foreign_format
from .._pages import open_pages
from ..errors import ImageError, isotropic_size
from ._channels import MOST_CHANNELS
from ._remote import NetworkSettings
from .overview import FLAT_PIXELS, attach_overview
from .pyramid import Pyramid

if TYPE_CHECKING:
    import tifffile

__all__ = ["SLIDE_SUFFIXES", "NetworkSettings", "is_dicom", "is_slide", "open_slide"]

#: Endings that scanners' files have; TIFF and folders are told from their content.
SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".scn",
    ".bif",
    ".mrxs",
    ".vms",
    ".vmu",
    ".svslide",
    ".czi",
    ".dcm",
)
_VENDOR_SUFFIXES = frozenset(SLIDE_SUFFIXES) - {".svs", ".ndpi", ".dcm"}
_DICOM_MAGIC = b"DICM"
_HEAD_BYTES = 132
# Files of a folder whose first bytes are looked at for DICOM.
_MOST_LOOKED_INTO = 16
# An image without levels beyond this is opened as a slide rather than as one field of view.
_MOST_FIELD_PIXELS = 2**26
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"\x93NUMPY": "NPY"}


def open_slide(
    path: str | os.PathLike[str] | Address,
    *,
    pixel_size: float | None = None,
    threads: int | None = None,
    icc: bool = True,
    network: NetworkSettings | None = None,
    progress: Progress | None = None,
) -> Pyramid:
    """Open a whole-slide image; nothing but its description is read.

    SVS, NDPI, OME-TIFF, Philips and generic pyramidal TIFF; OME-Zarr folders
    (needs zarr); MRXS, SCN, BIF, VMS, CZI and the like (need openslide-python
    and openslide-bin); DICOM (needs wsidicom, or OpenSlide). What a file
    declares is checked before memory is taken. OpenSlide and wsidicom run in
    a process of their own, so that their crashes cost one tile.

    Parameters
    ----------
    path : path-like, or an address
        The file, or the folder of an OME-Zarr or DICOM slide. Of a slide of the TIFF
        family or in OME-Zarr also an address that begins with ``https://``,
        ``http://`` or ``s3://`` (needs aiohttp, or s3fs): only what is read is loaded.
    pixel_size : float, optional
        µm per pixel at full resolution, in place of what the file says.
    threads : int, optional
        How many decode the tiles of one region of a TIFF file; by default the
        cores, at most 4. One is best where several callers read at once.
    icc : bool
        Convert colours from the ICC profile in the file to sRGB, where there is one that
        would change them; without, pixels are as OpenSlide gives them.
    network : NetworkSettings, optional
        Of an address: how long to wait, how often to try, and how much to keep in memory.
    progress : callable, optional
        Of an address: called with "opening", 0 and 0 some times a second while the
        network is waited for; it may raise to stop.

    Returns
    -------
    Pyramid
        Its ``pixel_size`` is None, and its ``notes`` say why, where the file states
        none, an absurd one, or one that differs between y and x. A file without coarse
        levels has those that `make_overview` made of it earlier as its ``overview``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read as a slide; the message says why and what to do.
    ValueError
        If `pixel_size` is not a positive number.
    """
    size = None if pixel_size is None else isotropic_size(pixel_size)
    source = as_source(path)
    if isinstance(source, Address):
        with heard(progress, "opening"):
            return _open_remote(source, size, threads, icc, network or NetworkSettings())
    pyramid = _open(source, size, threads)
    attach_overview(pyramid)
    pyramid.use_profile(icc)
    return pyramid


def _open_remote(
    address: Address,
    pixel_size: float | None,
    threads: int | None,
    icc: bool,
    network: NetworkSettings,
) -> Pyramid:
    pyramid: Pyramid
    if address.is_zarr:
        from ._zarr import open_zarr

        pyramid = open_zarr(address, pixel_size, network)
    else:
        from ._tiff import open_tiff

        pyramid = open_tiff(address, pixel_size, threads, network)
    if pyramid.levels[-1].n_pixels > FLAT_PIXELS:
        note = f"{pyramid.name} has no coarse levels: to look at the whole of it, all of it is "
        pyramid.notes += (note + "loaded. Better copy it to this computer",)
    pyramid.use_profile(icc)
    return pyramid


def _open(file: Path, pixel_size: float | None, threads: int | None) -> Pyramid:
    if file.is_dir():
        return _open_folder(file, pixel_size)
    head = _head(file)
    suffix = file.suffix.lower()
    # OpenSlide reads some CZI; the error of `open_vendor` says what to do with the others.
    if suffix != ".czi" and (foreign := foreign_format(file, head)):
        raise ImageError(foreign)
    if head[:4] in TIFF_MAGIC:
        return _open_tiff(file, pixel_size, threads)
    if head[128:132] == _DICOM_MAGIC:
        return _open_dicom(file, pixel_size)
    if suffix in _VENDOR_SUFFIXES:
        from ._vendor import open_vendor

        return open_vendor(file, "openslide", pixel_size)
    for magic, kind in _PICTURES.items():
        if head.startswith(magic):
            raise ImageError(
                f"{file.name} is a {kind} image, not a slide, whatever its name says; open it as "
                "an image"
            )
    raise ImageError(
        f"{file.name} is not a slide: its content is neither TIFF nor DICOM nor that of another "
        "scanner. Copy it again, or export it from the scanner's software"
    )


def is_slide(path: str | os.PathLike[str] | Address) -> bool:
    """Tell, from its description alone, whether a file is to be opened as a slide.

    True for vendors' endings, DICOM, OME-Zarr folders, and those TIFF files
    that have several levels or are larger than a field of view. Whatever is at an
    address is read as a slide.
    """
    file = as_source(path)
    if isinstance(file, Address):
        return True
    if file.is_dir():
        from ._zarr import is_zarr

        return is_zarr(file) or _has_dicom(file)
    if file.suffix.lower() in SLIDE_SUFFIXES:
        return True
    try:
        head = _head(file)
    except (ImageError, OSError):
        return False
    if head[128:132] == _DICOM_MAGIC:
        return True
    if head[:4] not in TIFF_MAGIC or foreign_format(file, head):
        return False
    try:
        with open_pages(file) as tif:
            return any(_is_pyramid(tif, series) for series in tif.series)
    except (*TIFF_ERRORS, SyntaxError, AttributeError):
        return False


def _is_pyramid(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> bool:
    """Tell whether one of the images of a TIFF has levels, or is too large for one field."""
    page = series.keyframe
    if page.bitspersample not in (8, 16) or page.dtype is None or page.dtype.kind != "u":
        return False
    if not 1 <= page.samplesperpixel <= MOST_CHANNELS:
        return False
    if page.imagelength * page.imagewidth > _MOST_FIELD_PIXELS:
        return True
    from ._tiff import level_pages

    return bool(page.is_tiled and len(level_pages(tif, series)) > 1)


def _head(file: Path) -> bytes:
    """Return the first bytes of a file that can be read."""
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if not file.is_file():
        raise ImageError(f"{file.name} is not an ordinary file; give the slide itself")
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except OSError as error:
        why = "no permission" if isinstance(error, PermissionError) else str(error)
        raise ImageError(f"{file.name} cannot be read: {why}") from error
    if not head:
        raise ImageError(f"{file.name} is an empty file; copy or export it again")
    return head


def _open_folder(folder: Path, pixel_size: float | None) -> Pyramid:
    from ._zarr import is_zarr, open_zarr

    if is_zarr(folder):
        return open_zarr(folder, pixel_size)
    if _has_dicom(folder):
        return _open_dicom(folder, pixel_size)
    raise ImageError(f"{folder.name} is a folder without OME-Zarr or DICOM in it; give one slide")


def _has_dicom(folder: Path) -> bool:
    try:
        files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
        if any(file.suffix.lower() == ".dcm" for file in files):
            return True
        # Archives name them without an ending.
        return any(_is_dicom(file) for file in files[:_MOST_LOOKED_INTO] if not file.suffix)
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Tell whether a file or folder holds DICOM, from first bytes and names alone."""
    return _has_dicom(path) if path.is_dir() else _is_dicom(path)


def _is_dicom(file: Path) -> bool:
    try:
        return file.is_file() and _head(file)[128:132] == _DICOM_MAGIC
    except (ImageError, OSError):
        return False


def _open_tiff(file: Path, pixel_size: float | None, threads: int | None) -> Pyramid:
    from ._tiff import open_tiff

    try:
        with open_pages(file) as tif:
            # Their levels are made of overlapping or scattered images, which
            # OpenSlide puts together.
            scattered = tif.is_bif or tif.is_scn
    except (*TIFF_ERRORS, SyntaxError, AttributeError):
        scattered = False  # open_tiff says what is wrong
    if scattered:
        from ._vendor import open_vendor

        return open_vendor(file, "openslide", pixel_size)
    return open_tiff(file, pixel_size, threads)


def _open_dicom(path: Path, pixel_size: float | None) -> Pyramid:
    from ._vendor import open_vendor

    # OpenSlide reads DICOM too, one file of a series at a time.
    by_openslide = path.is_file() and not _is_installed("wsidicom") and _is_installed("openslide")
    return open_vendor(path, "openslide" if by_openslide else "dicom", pixel_size)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
