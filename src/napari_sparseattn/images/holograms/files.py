"""Open a file of holograms, complex fields, phase or OPD as a `Recording`."""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._decode import (
    HDF5_MAGIC,
    TIFF_ERRORS,
    TIFF_MAGIC,
    Decoded,
    check_tiff,
    decode,
    tiff_pixel_size,
)
from .._pages import open_pages
from ..errors import ImageError, isotropic_size
from ..fields.field import Field
from .recording import Frames, Kind, Recording

if TYPE_CHECKING:
    import tifffile

__all__ = ["RawStack", "open_hologram", "read_as_field"]

_KINDS_BY_UNIT: dict[str, Kind] = {"nm": "opd", "rad": "phase"}
_ZIP_MAGIC = b"PK\x03\x04"
# Equal channels come back from JPEG differing by this many grey levels at most.
_JPEG_ROUNDING = 4
_MOST_BYTES = 4 * 2**30
_MOST_CHANNELS = 4


def open_hologram(
    path: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    pixel_size: float | None = None,
    wavelength: float | None = None,
    medium_index: float | None = None,
    background: str | os.PathLike[str] | npt.NDArray[Any] | None = None,
) -> Recording:
    """Open holograms, complex fields, phase or optical path difference.

    .rtdc, qpimage and qpformat HDF5; Phasics TIFF; TIFF (also stacks), PNG,
    JPEG, BMP and NPY. The format is told from the content, not from the name.
    Frames of HDF5 and of uncompressed TIFF stacks are read when they are
    asked for, and NPY files are memory-mapped; other images are read at once.

    Integers are taken for holograms and complex numbers for fields. For
    decimal numbers (phase in rad, OPD in nm) `kind` must be given.

    Parameters
    ----------
    path : path-like
        The file.
    kind : {"hologram", "field", "phase", "opd"}, optional
        What the values are, where the file does not say.
    pixel_size : float, optional
        µm per pixel; replaces what the file says, like the next two.
    wavelength : float, optional
        Vacuum wavelength in nm.
    medium_index : float, optional
        Refractive index of the medium.
    background : path-like or numpy.ndarray, optional
        The same without cells, (H, W) or one per frame; replaces the file's.

    Returns
    -------
    Recording
        Numbers that neither the file nor the caller gives are None.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read, is none of these, or `kind` is needed.
    """
    file = Path(path)
    recording = _open(file, kind, wavelength, pixel_size)
    try:
        recording = recording.with_known(
            pixel_size=pixel_size, wavelength=wavelength, medium_index=medium_index
        )
        if background is None:
            return recording
        frames = _background(background, recording)
        return dataclasses.replace(recording, background=frames)
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"{file.name}: {error}") from error


def read_as_field(path: Path) -> Field:
    """Open an HDF5 recording as a field of view, all frames in memory.

    Holograms have modality ``"hologram"``; phase and OPD their unit, and are
    as recorded: `reconstruct` also takes off the background.

    Raises
    ------
    ImageError
        As in `open_hologram`; also for complex fields, which no field of view
        holds, and for more than 4 GiB.
    """
    recording = open_hologram(path)
    if recording.kind == "field":
        raise ImageError(
            f"{path.name} holds complex fields; open it with open_hologram and reconstruct, or in "
            "the Holograms window"
        )
    n, (height, width) = len(recording), recording.shape
    if n * height * width * recording.frames.dtype.itemsize > _MOST_BYTES:
        raise ImageError(
            f"{path.name} holds {n} frames of {height} x {width} pixels, too many to open at once; "
            "go through them with open_hologram and iter_phase"
        )
    frames = np.asarray(recording.frames[0:n])
    unit = {"phase": "rad", "opd": "nm"}.get(recording.kind, "")
    data, axes = (frames, "TYX") if n > 1 else (frames[0], "YX")
    about = recording.name, path, tuple(recording.notes)
    return Field(data, axes, recording.pixel_size, recording.kind, unit, *about)


def _open(
    path: Path, kind: Kind | None, wavelength: float | None, pixel_size: float | None
) -> Recording:
    magic = _magic(path)
    if magic == HDF5_MAGIC:
        from .rtdc import open_hdf5

        return open_hdf5(path, kind=kind, wavelength=wavelength)
    if magic[:4] == _ZIP_MAGIC:
        raise ImageError(_on_archive(path))
    if magic[:4] in TIFF_MAGIC:
        return _open_tiff(path, kind, pixel_size)
    return _from_image(path, kind, pixel_size, decode(path), jpeg=magic[:3] == b"\xff\xd8\xff")


def _magic(path: Path) -> bytes:
    if not path.is_file():
        return b""  # decode says what is wrong
    try:
        with path.open("rb") as file:
            return file.read(8)
    except PermissionError as error:
        raise ImageError(f"{path.name} cannot be read: no permission") from error


def _on_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()[:6]]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"{path.name} is a damaged archive; copy or save it again"
    held = ", ".join("".join(c for c in name[:40] if c.isprintable()) for name in names)
    return (
        f"{path.name} is an archive ({held}), and which of these is the hologram is not known; "
        "save the hologram as one .npy file, and its background as another"
    )


def _from_image(
    path: Path, kind: Kind | None, pixel_size: float | None, decoded: Decoded, *, jpeg: bool
) -> Recording:
    notes: list[str] = []
    frames = _frames(path, decoded, _JPEG_ROUNDING if jpeg else 0, notes)
    kind = kind or _KINDS_BY_UNIT.get(decoded.unit)
    return _recording(path, frames, kind, pixel_size or decoded.pixel_size, notes)


def _recording(
    path: Path,
    frames: Frames,
    kind: Kind | None,
    pixel_size: float | tuple[float, float] | None,
    notes: list[str],
) -> Recording:
    """Make a recording of bare pixels, whose kind is told or asked for."""
    kind = _kind(path, kind, frames.dtype)
    try:
        size = None if pixel_size is None else isotropic_size(pixel_size)
        return Recording(
            frames, kind, pixel_size=size, name=path.stem, path=path, notes=tuple(notes)
        )
    except ValueError as error:
        raise ImageError(f"{path.name}: {error}") from error


def _kind(path: Path, kind: Kind | None, dtype: np.dtype[Any]) -> Kind:
    if dtype.kind not in "iufc":
        raise ImageError(f"{path.name} holds {dtype}, not holograms or phase; export the image")
    if dtype.kind == "c":
        if kind in (None, "field"):
            return "field"
        raise ImageError(f"{path.name} holds complex fields, not {kind}; leave kind out")
    if kind == "field":
        raise ImageError(f"{path.name} holds real numbers; a field is complex: save it as such")
    if kind is not None:
        return kind
    if dtype.kind == "f":
        raise ImageError(
            f"{path.name} holds decimal numbers: they can be phase in rad, optical path "
            "difference in nm, or hologram intensities. Say which: kind='phase', 'opd' or "
            "'hologram'"
        )
    return "hologram"


def _frames(path: Path, decoded: Decoded, tolerance: int, notes: list[str]) -> npt.NDArray[Any]:
    """Return pixels as (n, H, W): extra axes become frames, equal channels one."""
    data, axes = decoded.data, decoded.axes
    if data.size == 0:
        raise ImageError(f"{path.name} holds no pixels: its shape is {data.shape}; export it again")
    if axes is None:
        if not 2 <= data.ndim <= 4:
            raise ImageError(f"{path.name} has the shape {data.shape}; save frames as (n, H, W)")
        channels = data.ndim > 2 and data.shape[-1] in (1, 3, 4) and min(data.shape[-3:-1]) > 4
        axes = ("TZ"[: data.ndim - 3] + "YXC") if channels else "TZ"[: data.ndim - 2] + "YX"
    if "C" in axes and data.shape[axes.index("C")] > _MOST_CHANNELS:
        n = data.shape[axes.index("C")]
        notes.append(f"{n} channels, as the file calls them, were taken for frames")
    elif "C" in axes:
        data = np.moveaxis(data, axes.index("C"), -1)
        data = _one_channel(path, data, tolerance)
        axes = axes.replace("C", "")
    order = [axes.index(a) for a in axes if a not in "YX"]
    if len(order) > 1:
        counts = " x ".join(str(data.shape[i]) for i in order)
        notes.append(f"{counts} frames are in one row")
    data = data.transpose([*order, axes.index("Y"), axes.index("X")])
    return data.reshape(-1, *data.shape[-2:])


def _one_channel(path: Path, data: npt.NDArray[Any], tolerance: int) -> npt.NDArray[Any]:
    channels = data.shape[-1]
    colour = channels in (1, 3, 4)
    green = data[..., min(1, channels - 1)]
    for other in range(min(channels, 3)) if colour else ():
        low, high = np.minimum(data[..., other], green), np.maximum(data[..., other], green)
        colour = colour and bool(np.all(high - low <= tolerance))
    if not colour:
        raise ImageError(
            f"{path.name} has {channels} channels that differ; a hologram is one: save that "
            "channel alone, in grey"
        )
    return green


def _background(given: str | os.PathLike[str] | npt.NDArray[Any], recording: Recording) -> Frames:
    if isinstance(given, np.ndarray):
        frames: Frames = given[np.newaxis] if given.ndim == 2 else given
        if len(frames.shape) != 3:
            raise ValueError(f"the background has the shape {given.shape}; it must be (H, W)")
    else:
        frames = open_hologram(given, kind=recording.kind).frames
    if (frames.dtype.kind == "c") != (recording.kind == "field") or frames.dtype.kind not in "iufc":
        raise ValueError(
            f"the background is of type {frames.dtype}; it must be of the same kind as the "
            f"{recording.kind}s"
        )
    return frames


@dataclasses.dataclass(frozen=True)
class RawStack:
    """Uncompressed frames in a file; it is open only while frames are read.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    offsets : tuple of int
        Where each of the n frames begins, in bytes.
    shape : (int, int, int)
        n, H, W.
    dtype : numpy.dtype
        As in the file, byte order included.
    """

    path: Path
    offsets: tuple[int, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Return the frames of a slice with step 1 as (n, H, W).

        Raises
        ------
        ImageError
            If the file is gone or has become shorter.
        """
        offsets = self.offsets[index]
        frames = np.empty((len(offsets), *self.shape[1:]), self.dtype)
        try:
            with self.path.open("rb") as file:
                for frame, offset in zip(frames, offsets, strict=True):
                    file.seek(offset)
                    if file.readinto(frame.reshape(-1).view(np.uint8)) < frame.nbytes:
                        raise ImageError(f"{self.path.name} ends too early; copy it again")
        except OSError as error:
            raise ImageError(f"{self.path.name} cannot be read any more ({error})") from error
        return frames


def _open_tiff(path: Path, kind: Kind | None, pixel_size: float | None) -> Recording:
    """Open a TIFF: Phasics', an uncompressed stack, or one to be decoded."""
    try:
        with open_pages(path) as tif:
            recording = _open_undecoded(path, tif, kind, pixel_size)
        if recording is None:
            recording = _from_image(path, kind, pixel_size, decode(path), jpeg=False)
    except ImageError:
        raise
    except TIFF_ERRORS as error:
        raise ImageError(
            f"{path.name} is a damaged TIFF ({error}); copy or export it again"
        ) from error
    return recording


def _open_undecoded(
    path: Path, tif: tifffile.TiffFile, kind: Kind | None, pixel_size: float | None
) -> Recording | None:
    from . import _phasics

    size = path.stat().st_size
    if _phasics.is_phasics(tif):
        if kind not in (None, "opd"):
            raise ImageError(
                f"{path.name} holds optical path difference, not {kind}; leave kind out"
            )
        for series in tif.series:
            check_tiff(path, size, series)
        return _phasics.read_phasics(tif, path)
    frames = _raw_stack(path, size, tif) if tif.series else None
    if frames is None:
        return None
    notes = []
    if len(tif.series) > 1:
        notes.append(f"the first of {len(tif.series)} images in the file was opened")
    return _recording(path, frames, kind, pixel_size or tiff_pixel_size(tif), notes)


def _raw_stack(path: Path, size: int, tif: tifffile.TiffFile) -> RawStack | None:
    """Return the frames of a plain grey uncompressed stack, or None for any other."""
    series = tif.series[0]
    shape, page = tuple(int(n) for n in series.shape), series.keyframe
    if (
        page.dtype is None
        or len(shape) < 3
        or not series.axes.endswith("YX")
        or set(series.axes) & set("CS")
        or series.is_multifile
        or page.compression != 1
        or page.is_tiled
        or page.samplesperpixel != 1
        or getattr(page.photometric, "name", "") != "MINISBLACK"
        or page.bitspersample != page.dtype.itemsize * 8
        or page.fillorder != 1
    ):
        return None
    check_tiff(path, size, series)
    n = math.prod(shape[:-2])
    dtype = page.dtype.newbyteorder(tif.byteorder)
    step = math.prod(shape[-2:]) * dtype.itemsize
    if series.dataoffset is not None:
        offsets = tuple(series.dataoffset + i * step for i in range(n))
    else:
        offsets = tuple(start for p in series.pages if (start := _start(p, step)) >= 0)
    if len(offsets) != n or max(offsets) + step > size:
        return None
    return RawStack(path, offsets, (n, shape[-2], shape[-1]), dtype)


def _start(page: tifffile.TiffPage | tifffile.TiffFrame | None, step: int) -> int:
    """Return where a page's pixels begin if they are in one piece, else -1."""
    if page is None:
        return -1
    place = page.dataoffsets[0]
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset != place:
            return -1
        place += count
    return int(page.dataoffsets[0]) if place - page.dataoffsets[0] == step else -1
