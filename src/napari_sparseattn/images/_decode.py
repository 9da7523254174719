"""Bytes of an image file to an array, distrusting what the file declares."""

from __future__ import annotations

import dataclasses
import math
import re
import struct
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._foreign import foreign_format
from ._pages import open_pages
from ._streams import check_streams
from .errors import CELL_PIXEL_UM, ImageError

if TYPE_CHECKING:
    import PIL.Image
    import tifffile

__all__ = [
    "HDF5_MAGIC",
    "TIFF_ERRORS",
    "TIFF_MAGIC",
    "Decoded",
    "check_tiff",
    "colour_order",
    "decode",
    "ome_pixels",
    "tiff_pixel_size",
]

_LIMIT = 4 * 2**30
_BOMB_SIZE = 256 * 2**20
_BOMB_RATIO = 200
#: First bytes of an HDF5 file, and of a TIFF.
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What tifffile raises on damaged files, besides its own.
TIFF_ERRORS = (
    ValueError,
    OSError,
    LookupError,
    TypeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    struct.error,
)
_MICROMETRES = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
    "å": 1e-4,
}
#: What some files that are no images begin with, in lower case.
_OTHER_KINDS = {
    b"%pdf": "a PDF",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"pk\x03\x04": "a ZIP archive, or a document of an office program",
    b"gif8": "a GIF",
    b"riff": "a WebP picture, a sound or a video",
    b"\x1f\x8b": "something compressed with gzip",
}
_PLAUSIBLE_UM = (0.01, 20.0)
#: Values of the tag Orientation with which rows are columns.
_TRANSPOSED = (5, 6, 7, 8)
#: Colours that are not red, green and blue. Decoders of JPEG and the like turn YCbCr into those;
#: of pixels packed in one of the plain ways nobody does.
_OTHER_COLOURS = {
    "SEPARATED": "printing colours (CMYK)",
    "YCBCR": "brightness and two differences (YCbCr)",
    "CIELAB": "CIELAB",
    "ICCLAB": "CIELAB",
    "ITULAB": "CIELAB",
    "LOGLUV": "LogLuv",
}
_PLAIN = (1, 5, 8, 32773, 32946, 34925, 50000)
#: What a channel is that is named by a colour, and names that say no more than a number.
_PRIMARIES = (
    re.compile(r"\b(?:r|red)\b"),
    re.compile(r"\b(?:g|green)\b"),
    re.compile(r"\b(?:b|blue)\b"),
)
_NUMBERED = re.compile(r"(?:channel|ch|c)?[\s:_-]*[\d\s:_/-]*")
_UNITS_BY_CHANNEL = {"OPD (nm)": "nm", "phase (rad)": "rad"}


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What a file holds: pixels, axis letters, µm per pixel, colour or not, unit.

    `axes` is None where the file does not say; `unit` is "nm" or "rad" for the
    OPD and phase maps that `export.opd` writes. `notes` is what the user should
    know, such as that the file holds other images, whose sizes are `images`;
    `image` says which of them it is. `not_colour` is True of channels that nothing calls
    red, green and blue. `scale_notes` are those that ask for the pixel
    size, for who does not give it. `profile` is the ICC profile of the colours.
    """

    data: npt.NDArray[Any]
    axes: str | None = None
    pixel_size: tuple[float, float] | None = None
    colour: bool = False
    not_colour: bool = False
    unit: str = ""
    notes: tuple[str, ...] = ()
    scale_notes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    image: int = 0
    profile: bytes | None = None


def decode(path: Path, image: int | None = None) -> Decoded:
    """Read a TIFF, PNG, JPEG, BMP or NPY file, told by its first bytes.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    image : int, optional
        Which of several images in a TIFF, from 0; by default the largest.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it is not such a file, or damaged, or declares an absurd size.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ImageError(f"{path.name} is a folder; give one image file")
    size = path.stat().st_size
    if size == 0:
        raise ImageError(f"{path.name} is an empty file; copy or export it again")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except PermissionError as error:
        raise ImageError(f"{path.name} cannot be read: no permission") from error
    magic = start[:8]
    if foreign := foreign_format(path, start):
        raise ImageError(foreign)
    if magic[:4] in TIFF_MAGIC:
        return _read_tiff(path, size, image)
    if image:
        raise ImageError(f"{path.name} has no image {image}: it holds 1")
    if magic[:6] == b"\x93NUMPY":
        return _read_npy(path, size)
    if magic[:8] == b"\x89PNG\r\n\x1a\n" or magic[:3] == b"\xff\xd8\xff" or magic[:2] == b"BM":
        return _read_pillow(path)
    raise ImageError(
        f"{path.name} is not a TIFF, PNG, JPEG, BMP, NPY or HDF5 file, whatever its name says: "
        f"it holds {_guess_content(start)}. Copy it again, or export it from your microscope's "
        "software as TIFF"
    )


def _guess_content(start: bytes) -> str:
    """Say in plain words what a file seems to be, by its first bytes."""
    for begins, what in _OTHER_KINDS.items():
        if start.lower().startswith(begins):
            return what
    if start[4:8] == b"ftyp":
        return "a video or a HEIF picture"
    # Bytes below 32 but tab and line breaks are in no text.
    printable = bytes([9, 10, 13, *range(32, 127)])
    return "text" if not start.translate(None, printable) else "something unknown, or is damaged"


def _read_npy(path: Path, size: int) -> Decoded:
    # numpy multiplies the declared sizes in machine integers, so they are
    # checked here with Python's before it maps the file.
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            # numpy asks for as many bytes as the header declares, 4 GiB at most, before it looks.
            width = 2 if version == (1, 0) else 4
            length = int.from_bytes(file.read(width), "little")
            if length > size:
                raise ImageError(
                    f"{path.name} declares a header of {length} bytes but holds only {size}: "
                    "it is damaged or incomplete; copy or save it again"
                )
            file.seek(-width, 1)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            declared = math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ImageError(
                    f"{path.name} holds Python objects, which are never loaded; save plain numbers"
                )
            if declared > size - file.tell():
                raise ImageError(
                    f"{path.name} declares {shape} values of {dtype} but holds only {size} bytes: "
                    "it is damaged or incomplete; copy or save it again"
                )
        if declared == 0:
            raise ImageError(f"{path.name} holds an empty array of shape {shape}")
        return Decoded(np.load(path, mmap_mode="r", allow_pickle=False))
    except ImageError:
        raise
    except (ValueError, OSError, SyntaxError, struct.error, tokenize.TokenError) as error:
        raise ImageError(
            f"{path.name} is not a readable NPY file ({error}); save it again"
        ) from error


def _read_pillow(path: Path) -> Decoded:
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
            _check_size(path, image.height, image.width, len(image.getbands()))
            if image.format == "PNG" and _png_depth(path) == 16 and len(image.getbands()) > 1:
                return _read_deep_png(path)
            image.load()
            # Only where Pillow leaves the colours as they are does the profile describe them.
            plain = image.mode in ("RGB", "RGBA", "P", "PA")
            profile = image.info.get("icc_profile") if plain else None
            decoded = _from_pillow(PIL.ImageOps.exif_transpose(image))
            return dataclasses.replace(decoded, profile=profile or None)
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(
            f"{path.name} declares too many pixels ({error}); open a part of it"
        ) from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(
            f"{path.name} is damaged or incomplete ({error}); copy or export it again"
        ) from error


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _read_deep_png(path: Path) -> Decoded:
    # Pillow keeps 8 of the 16 bits of a colour, and not the upper ones.
    import imagecodecs

    try:
        data = imagecodecs.png_decode(path.read_bytes())
    except imagecodecs.PngError as error:
        raise ImageError(f"{path.name} is damaged ({error}); export it again") from error
    if data.shape[-1] == 2:
        return Decoded(data[..., 0], "YX")
    return Decoded(data, "YXC", colour=True)


def _from_pillow(image: PIL.Image.Image) -> Decoded:
    mode = image.mode
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or mode == "PA" else "RGB")
    elif mode in ("LA", "La"):
        image = image.getchannel(0)
    elif mode not in ("1", "L", "F", "I", "RGB", "RGBA") and not mode.startswith("I;16"):
        image = image.convert("RGB")
    data = np.array(image)
    if data.dtype == np.int32 and data.min() >= 0 and data.max() <= np.iinfo(np.uint16).max:
        # Pillow widens some 16-bit PNGs to 32 bits; their range is 16 bits.
        data = data.astype(np.uint16)
    return Decoded(data, "YX" if data.ndim == 2 else "YXC", colour=data.ndim == 3)


def _check_size(path: Path, *lengths: int) -> None:
    if min(lengths) < 1:
        raise ImageError(f"{path.name} declares an empty image {lengths}; export it again")
    if math.prod(lengths) > _LIMIT:
        raise ImageError(
            f"{path.name} declares {math.prod(lengths) / 2**30:.0f} GiB of pixels, more than "
            "is opened as one field of view; crop it, or check that the file is not damaged"
        )


def _read_tiff(path: Path, size: int, image: int | None = None) -> Decoded:
    try:
        with open_pages(path) as tif:
            if not tif.series:
                raise ImageError(f"{path.name} holds no image; export it again")
            series, notes = _choose_series(path, tif, image)
            asking: tuple[str, ...] = ()
            check_tiff(path, size, series)
            check_streams(path, series)
            data = series.asarray()
            pixel_size = tiff_pixel_size(tif, series)
            if pixel_size is None and _is_printed(tif, series):
                note = f"the resolution in {path.name} is that of a screen or a printer, not of a "
                asking += (note + "microscope, and was not used; give the µm per pixel",)
            low, high = CELL_PIXEL_UM
            if pixel_size is not None and not low <= min(pixel_size) <= max(pixel_size) <= high:
                note = f"{path.name} states {max(pixel_size):g} µm per pixel, which no microscope "
                asking += (note + "has: it was not used; give the true one",)
                pixel_size = None
            arranged = _order_colours(_arrange(path, data, series, pixel_size), tif, series)
            images = _describe_images(tif) if len(tif.series) > 1 else ()
            return dataclasses.replace(
                arranged,
                unit=_ome_unit(tif),
                notes=notes,
                scale_notes=asking,
                images=images,
                image=tif.series.index(series),
                profile=series.keyframe.iccprofile,
            )
    except ImageError:
        raise
    except TIFF_ERRORS as error:
        # tifffile lets parsing errors of a damaged file through as they fall.
        if "imagecodecs" in str(error):
            raise ImageError(
                f"{path.name} uses a compression that needs one more package: "
                "pip install imagecodecs, or save the file uncompressed"
            ) from error
        raise ImageError(
            f"{path.name} is a damaged TIFF ({error}); copy or export it again"
        ) from error


def _choose_series(
    path: Path, tif: tifffile.TiffFile, image: int | None
) -> tuple[tifffile.TiffPageSeries, tuple[str, ...]]:
    """Return one image of several, by default the largest, and what to note."""
    if image is not None:
        if not 0 <= image < len(tif.series):
            raise ImageError(f"{path.name} has no image {image}: it holds {len(tif.series)}")
        return tif.series[image], ()
    areas = [
        int(s.keyframe.imagelength) * int(s.keyframe.imagewidth)
        if "Y" in s.axes and "X" in s.axes and s.keyframe is not None
        else 0
        for s in tif.series
    ]
    largest = areas.index(max(areas))
    if len(areas) == 1:
        return tif.series[0], ()
    page = tif.series[largest].keyframe
    note = (
        f"{path.name} holds {len(areas)} images; number {largest}, the largest "
        f"({page.imagewidth} x {page.imagelength} pixels), was opened"
    )
    return tif.series[largest], (note,)


def _describe_images(tif: tifffile.TiffFile) -> tuple[str, ...]:
    pages = [series.keyframe for series in tif.series]
    return tuple(f"{page.imagewidth} x {page.imagelength} pixels" for page in pages)


def check_tiff(path: Path, size: int, series: tifffile.TiffPageSeries) -> None:
    """Refuse a series whose declared sizes do not fit the file of `size` bytes.

    Raises
    ------
    ImageError
        Saying what does not fit.
    """
    lengths = tuple(int(n) for n in series.shape)
    if getattr(series, "dtype", None) is None or not lengths:
        raise ImageError(
            f"{path.name} holds pixels of a kind that cannot be read; export it as 8 or 16 bits"
        )
    _check_size(path, *lengths, series.dtype.itemsize)
    decoded = math.prod(lengths) * series.dtype.itemsize
    keyframe = series.keyframe
    if decoded > _BOMB_SIZE and decoded > _BOMB_RATIO * size:
        raise ImageError(
            f"{path.name} would grow from {size / 2**20:.1f} MB to {decoded / 2**20:.0f} MB; "
            "it was not opened. If the file is sound, save it uncompressed"
        )
    packed = decoded if keyframe.bitspersample >= 8 else decoded * keyframe.bitspersample // 8
    if keyframe.compression == 1 and packed > size:
        raise ImageError(
            f"{path.name} declares {lengths} pixels but holds only {size} bytes: "
            "it is damaged or incomplete; copy or export it again"
        )
    for page in series.pages:
        if page is None:
            raise ImageError(
                f"{path.name} is one of several files and others are missing; keep them together"
            )
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(offset + count > size for offset, count in ends):
            raise ImageError(
                f"{path.name} ends too early: it is incomplete; copy or export it again"
            )


def _arrange(
    path: Path,
    data: npt.NDArray[Any],
    series: tifffile.TiffPageSeries,
    pixel_size: tuple[float, float] | None,
) -> Decoded:
    """Name the axes, drop those of length 1, and make colours plain."""
    axes = series.axes
    page = series.keyframe
    photometric = getattr(page.photometric, "name", "")
    if photometric in _OTHER_COLOURS and not (
        photometric == "YCBCR" and int(page.compression) not in _PLAIN
    ):
        raise ImageError(f"{path.name} is in {_OTHER_COLOURS[photometric]}; save it as RGB")
    if photometric == "PALETTE" and page.colormap is not None:
        data = np.moveaxis(page.colormap[:, data], 0, -1)
        axes += "S"
    # Not masks of one bit: tifffile writes those as MINISWHITE with True as 1.
    if photometric == "MINISWHITE" and data.dtype.kind == "u":
        data = ~data
    keep = [n for n, a in enumerate(axes) if a in "YX" or data.shape[n] > 1]
    data = data.reshape([data.shape[n] for n in keep])
    letters = [axes[n] for n in keep]
    if "S" in letters and "C" in letters:
        raise ImageError(f"{path.name} has several colour images as channels; save one of them")
    colour = "S" in letters and photometric in ("RGB", "YCBCR", "PALETTE")
    if "S" in letters and not colour and page.extrasamples:
        data = data.take(
            range(data.shape[letters.index("S")] - len(page.extrasamples)), letters.index("S")
        )
    turn = page.tags.valueof(274, 1)
    if turn != 1:
        data = _turn(data, letters.index("Y"), letters.index("X"), turn)
        if pixel_size is not None and turn in _TRANSPOSED:
            pixel_size = pixel_size[::-1]
    named = ["C" if a == "S" else a for a in letters]
    for n, letter in enumerate(named):
        if letter not in "TZYXC":
            free = [a for a in "TZ" if a not in named]
            if not free:
                raise ImageError(
                    f"{path.name} has axes {axes!r}; save one series of it as a plain stack"
                )
            named[n] = free[0]
    return Decoded(data, "".join(named), pixel_size, colour)


def _order_colours(
    found: Decoded, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> Decoded:
    """Put planes that an OME description calls red, green and blue in that order.

    Others, such as dyes, and four of which nobody says that one is alpha, are no colours.
    """
    axes = found.axes or ""
    if "C" not in axes or "S" in series.axes:
        return found
    axis = axes.index("C")
    count = found.data.shape[axis]
    names = _channel_names(tif, series)
    if order := colour_order(tif, series, count):
        return dataclasses.replace(found, data=np.take(found.data, order, axis), colour=True)
    named = any(not _NUMBERED.fullmatch(name) for name in names)
    return dataclasses.replace(found, not_colour=named or count != len(_PRIMARIES))


def colour_order(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, count: int) -> list[int]:
    """Return which of so many channels are red, green and blue by OME's names; else nothing."""
    names = _channel_names(tif, series)
    primary = [
        next((n for n, each in enumerate(_PRIMARIES) if each.search(name)), None) for name in names
    ]
    if not count == len(primary) == len(_PRIMARIES) or set(primary) != {0, 1, 2}:
        return []
    return [primary.index(n) for n in range(count)]


def _channel_names(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[str]:
    """Return what an OME description calls the channels of an image, in lower case."""
    held = ome_pixels(tif, series).get("Channel", ()) if tif.ome_metadata else ()
    every = held if isinstance(held, list) else [held]
    return [str(one.get("Name", "")).strip().lower() for one in every if isinstance(one, dict)]


def _turn(data: npt.NDArray[Any], y: int, x: int, turn: int) -> npt.NDArray[Any]:
    """Return pixels as the tag Orientation of a TIFF says that they are to be looked at."""
    flips = {2: (x,), 3: (y, x), 4: (y,), 5: (), 6: (y,), 7: (y, x), 8: (x,)}
    if turn not in flips:
        return data
    data = np.flip(data, flips[turn])
    return np.swapaxes(data, y, x) if turn in _TRANSPOSED else data


def tiff_pixel_size(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries | None = None
) -> tuple[float, float] | None:
    """Return µm per pixel along y and x of an image, where the file states a plausible one.

    OME and ImageJ state what they do on purpose: it is returned even where no
    microscope has it, for the caller to refuse.

    Parameters
    ----------
    tif : tifffile.TiffFile
        The file.
    series : tifffile.TiffPageSeries, optional
        Which of its images, by default the first.
    """
    if tif.ome_metadata:
        return _ome_pixel_size(tif, series)
    page = tif.pages.first if series is None else series.keyframe
    per_unit = [_ratio(page.tags.get(name)) for name in ("YResolution", "XResolution")]
    if per_unit[0] is None or per_unit[1] is None:
        return None
    if tif.imagej_metadata:
        unit = _micrometres(tif.imagej_metadata.get("unit"))
        if unit is None or _is_screen_resolution(unit, per_unit[0]):
            return None
        return unit / per_unit[0], unit / per_unit[1]
    tag = page.tags.get("ResolutionUnit")
    unit = {2: 25400.0, 3: 1e4}.get(int(tag.value) if tag is not None else 0)
    if unit is None or _is_screen_resolution(unit, per_unit[0]):
        return None
    y, x = unit / per_unit[0], unit / per_unit[1]
    low, high = _PLAUSIBLE_UM
    return (y, x) if low <= min(y, x) and max(y, x) <= high else None


def _ome_unit(tif: tifffile.TiffFile) -> str:
    """Return the unit of the values, from the name of an OME file's only channel."""
    import tifffile

    if not tif.ome_metadata:
        return ""
    image: Any = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
    pixels = image.get("Pixels", {}) if isinstance(image, dict) else {}
    channel = pixels.get("Channel", {}) if isinstance(pixels, dict) else {}
    name = channel.get("Name") if isinstance(channel, dict) else None
    return _UNITS_BY_CHANNEL.get(str(name), "")


def _is_printed(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> bool:
    """Tell whether a file states a resolution in inches or cm that no microscope has."""
    per_unit = _ratio(series.keyframe.tags.get("YResolution"))
    if per_unit is None or tif.ome_metadata:
        return False
    if tif.imagej_metadata:
        unit = _micrometres(tif.imagej_metadata.get("unit"))
    else:
        tag = series.keyframe.tags.get("ResolutionUnit")
        unit = {2: 25400.0, 3: 1e4}.get(int(tag.value) if tag is not None else 0)
    return unit is not None and _is_screen_resolution(unit, per_unit)


def _is_screen_resolution(unit: float, per_unit: float) -> bool:
    """Tell whether it is a screen's or a printer's: so many dots per inch, over 20 µm each."""
    return unit >= 1e4 and unit / per_unit > _PLAUSIBLE_UM[1]


def ome_pixels(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries | None) -> Mapping[str, Any]:
    """Return what the OME description says of the pixels of an image, by default the first."""
    import tifffile

    found: Any = tifffile.xml2dict(str(tif.ome_metadata)).get("OME", {}).get("Image", {})
    images = [image for image in (found if isinstance(found, list) else [found]) if image]
    every: list[Mapping[str, Any]] = [image.get("Pixels", {}) for image in images]
    index = 0 if series is None else tif.series.index(series)
    if series is not None:
        # Images of which the file holds no pixels have no series.
        size = int(series.keyframe.imagewidth), int(series.keyframe.imagelength)
        alike = [n for n, p in enumerate(every) if (p.get("SizeX"), p.get("SizeY")) == size]
        index = index if index in alike else (alike or [index])[0]
    return every[index] if index < len(every) else {}


def _ome_pixel_size(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries | None
) -> tuple[float, float] | None:
    pixels, sizes = ome_pixels(tif, series), []
    for axis in "YX":
        unit = _micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        value = pixels.get(f"PhysicalSize{axis}")
        if unit is None or not isinstance(value, int | float) or value <= 0:
            return None
        sizes.append(value * unit)
    return sizes[0], sizes[1]


def _micrometres(unit: object) -> float | None:
    # ImageJ writes the micro sign as an escape.
    text = str(unit or "").replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip().lower()
    return _MICROMETRES.get(text)


def _ratio(tag: tifffile.TiffTag | None) -> float | None:
    if tag is None or not isinstance(tag.value, tuple) or tag.value[1] == 0 or tag.value[0] <= 0:
        return None
    return float(tag.value[0] / tag.value[1])
