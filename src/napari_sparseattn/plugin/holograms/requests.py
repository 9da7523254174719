"""Work of the hologram panel: frozen requests, and how they are answered."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...images.errors import ImageError
from ...images.holograms.recording import Frames, Kind, Recording
from ...images.holograms.settings import HologramSettings
from ..core.status import Progress
from .recordings import LayerData, recording_layer

if TYPE_CHECKING:
    from napari.layers import Image

    from ...images.holograms.holography import Retrieved

__all__ = [
    "LIVE_SIDE",
    "Failure",
    "FocusRequest",
    "FolderAnswer",
    "FolderRequest",
    "OpenRequest",
    "Opened",
    "PreviewAnswer",
    "PreviewRequest",
    "ReconstructAnswer",
    "ReconstructRequest",
    "WorkRequest",
    "answer_open",
    "answer_preview",
    "files_to_reconstruct",
    "open_recording",
    "stream_reconstruction",
    "stream_work",
]

#: Larger frames are previewed by their centre.
LIVE_SIDE = 512

_SUFFIXES = (".tif", ".tiff", ".npy", ".png", ".jpg", ".jpeg", ".bmp", ".h5", ".hdf5", ".rtdc")
_KNOWN = ("wavelength", "pixel_size", "medium_index")
#: Endings of written files, by their unit.
_ENDINGS = {"nm": "_opd.ome.tif", "rad": "_phase.ome.tif"}
#: Seconds between reports of progress.
_OFTEN = 0.05
_LIMIT_FRAMES = 16
_MOST_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class PreviewRequest:
    """Reconstruct the displayed frame, or its centre.

    Parameters
    ----------
    generation : int
        An answer to an older one is dropped.
    recording : Recording
        Not yet read.
    index : int
        The frame.
    settings : HologramSettings
        The user's.
    settled : HologramSettings or None
        What they came to for another frame of the recording.
    """

    generation: int
    recording: Recording
    index: int
    settings: HologramSettings
    settled: HologramSettings | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PreviewAnswer:
    """A frame reconstructed to look at.

    Parameters
    ----------
    request : PreviewRequest
        What was asked.
    settled : HologramSettings
        With sideband and sign found, if they could be.
    spectrum : numpy.ndarray or None
        (S, S) log10 power, for holograms.
    retrieved : Retrieved or None
        None where it could not be reconstructed.
    shape : (int, int)
        Height and width of what was reconstructed; less than the frame's for
        the centre.
    problem : str
        Why it could not be reconstructed.
    """

    request: PreviewRequest
    settled: HologramSettings
    spectrum: npt.NDArray[np.float32] | None
    retrieved: Retrieved | None
    shape: tuple[int, int]
    problem: str = ""

    @property
    def cropped(self) -> bool:
        """Whether only the centre was reconstructed."""
        return self.shape != self.request.recording.shape


@dataclasses.dataclass(frozen=True, eq=False)
class FocusRequest:
    """Find the focus of the first frame."""

    layer: Image
    recording: Recording
    settings: HologramSettings


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructRequest:
    """Reconstruct a layer, all frames.

    Parameters
    ----------
    layer : napari.layers.Image
        Only carried, not touched by the worker.
    recording : Recording
        Its frames.
    settings : HologramSettings
        The user's.
    leading : tuple of int
        Lengths of the layer's axes before y and x, whose product is the
        number of frames.
    """

    layer: Image
    recording: Recording
    settings: HologramSettings
    leading: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructAnswer:
    """A layer reconstructed.

    Parameters
    ----------
    values : numpy.ndarray
        Float32, the layer's leading axes before (H, W): OPD in nm, or phase in rad.
    unit : {"nm", "rad"}
        Which.
    limits : (float, float)
        Between which the values lie, but for a few pixels.
    settled : HologramSettings
        As used.
    n_bad : int
        NaN and saturated pixels in all frames.
    """

    values: npt.NDArray[np.float32]
    unit: str
    limits: tuple[float, float]
    settled: HologramSettings
    n_bad: int


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRequest:
    """Reconstruct files with the same settings.

    Parameters
    ----------
    files : tuple of pathlib.Path
        What to read.
    out : pathlib.Path
        Folder to write to.
    settings : HologramSettings
        Its wavelength, pixel size and index override those of the files.
    known : HologramSettings
        Its wavelength, pixel size and index are for files that do not say theirs.
    kind : {"hologram", "field", "phase", "opd"} or None
        Of files that do not say it.
    background : Frames or None
        For files that hold none.
    """

    files: tuple[Path, ...]
    out: Path
    settings: HologramSettings
    known: HologramSettings
    kind: Kind | None = None
    background: Frames | None = None


#: Longer work than a preview.
WorkRequest = ReconstructRequest | FolderRequest | FocusRequest


@dataclasses.dataclass(frozen=True, eq=False)
class OpenRequest:
    """Open a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    kind : {"hologram", "field", "phase", "opd"} or None
        Of files that do not say it.
    background : bool
        Whether it is to be the background of the source.
    """

    path: Path
    kind: Kind | None = None
    background: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A file that was opened.

    Parameters
    ----------
    recording : Recording
        Its contents.
    layer : tuple
        The layer that shows it, as napari's readers return layers.
    kind_known : bool
        Whether the file or the user said what its values are.
    """

    recording: Recording
    layer: LayerData
    kind_known: bool


@dataclasses.dataclass(frozen=True)
class Failure:
    """A file that could not be reconstructed, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        named = self.reason.startswith(self.name)
        return self.reason if named else f"{self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class FolderAnswer:
    """The files written from a folder, and how many of them are phase in rad."""

    written: tuple[Path, ...]
    in_rad: int = 0


def answer_preview(request: PreviewRequest) -> PreviewAnswer:
    """Reconstruct one frame, or its centre where that keeps the preview live.

    Problems of the recording are part of the answer: its spectrum helps to
    see them.
    """
    from ...images.holograms.holography import HologramError, estimate_settings, retrieve, spectrum

    recording, settings = request.recording, request.settings
    window = _centre(recording.shape)
    frame = _cut_window(recording, request.index, window)
    seen = None
    if recording.kind == "hologram":
        seen = spectrum(frame.frame(0))
    settled, retrieved, problem = request.settled or settings, None, ""
    try:
        if request.settled is None:
            # On the first frame, as the reconstruction of all frames does.
            first = frame if request.index == 0 else _cut_window(recording, 0, window)
            settled = estimate_settings(first, dataclasses.replace(settings, autofocus=None))
        retrieved = retrieve(frame, 0, settled)
    except HologramError as error:
        problem = str(error)
    return PreviewAnswer(request, settled, seen, retrieved, frame.shape, problem)


def open_recording(path: Path, kind: Kind | None = None) -> Opened:
    """Open a file, and read its first frame.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    kind : {"hologram", "field", "phase", "opd"}, optional
        For files that do not say it.

    Raises
    ------
    ImageError, OSError
        If it cannot be read.
    """
    from ...images.holograms.files import open_hologram

    known = True
    try:
        recording = open_hologram(path)
    except ImageError:
        # Decimal numbers may be any of three kinds. What cannot be read as one
        # of them cannot be read at all, and says so again.
        recording, known = open_hologram(path, kind=kind or "opd"), kind is not None
    return Opened(recording, recording_layer(recording, kind_known=known), known)


def answer_open(request: OpenRequest) -> Opened:
    """Open a file, see `open_recording`."""
    return open_recording(request.path, request.kind)


def stream_work(
    request: WorkRequest,
) -> Iterator[Progress | Failure | FolderAnswer | ReconstructAnswer | float]:
    """Do longer work step by step.

    Yields
    ------
    Progress and Failure, finally the answer
        Of the focus its distance in µm. Closing the iterator stops the work.

    Raises
    ------
    ValueError
        If it cannot be done; the message says why.
    """
    if isinstance(request, FocusRequest):
        yield _find_focus(request)
    elif isinstance(request, ReconstructRequest):
        yield from stream_reconstruction(request)
    else:
        yield from _stream_folder(request)


def _find_focus(request: FocusRequest) -> float:
    """Return the distance in µm at which the first frame is sharp."""
    from ...images.holograms.holography import estimate_settings

    return estimate_settings(request.recording, request.settings).focus


def stream_reconstruction(request: ReconstructRequest) -> Iterator[Progress | ReconstructAnswer]:
    """Reconstruct frame by frame.

    Yields
    ------
    Progress, finally ReconstructAnswer
        Closing the iterator stops the work.

    Raises
    ------
    ValueError
        If the recording cannot be reconstructed, or the result is too large.
    """
    from ...images.holograms.holography import estimate_settings, iter_phase

    recording = request.recording
    n, shape = len(recording), recording.shape
    if 4 * n * shape[0] * shape[1] > _MOST_BYTES:
        raise ValueError(
            f"{n} frames of {shape[0]} × {shape[1]} pixels would not fit in memory. Put the file "
            "in a folder of its own and use Apply to folder…, or the command line."
        )
    settled = estimate_settings(recording, request.settings)
    values = np.empty((n, *shape), np.float32)
    pace, n_bad = _Pace(n), 0
    for i, done in enumerate(iter_phase(recording, settled)):
        values[i] = _values(done)
        n_bad += done.n_bad
        if (progress := pace.at(i + 1)) is not None:
            yield progress
    unit = _unit(recording, settled)
    some = values[:: max(1, n // _LIMIT_FRAMES)]
    yield ReconstructAnswer(
        values.reshape(*request.leading, *shape), unit, _limits(some), settled, n_bad
    )


def files_to_reconstruct(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that may hold holograms, but not what was written from them."""
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _SUFFIXES
            and not path.name.lower().endswith(tuple(_ENDINGS.values()))
            and not path.name.startswith(".")
            and path.is_file()
        )
    )


def _stream_folder(request: FolderRequest) -> Iterator[Progress | Failure | FolderAnswer]:
    """Reconstruct file after file; one that fails does not stop the others."""
    pace, written, in_rad = _Pace(len(request.files)), [], 0
    names = _names(request.files)
    for i, (path, name) in enumerate(zip(request.files, names, strict=True)):
        try:
            out, unit = _reconstruct_file(path, name, request)
        except (ValueError, TypeError, OSError, MemoryError) as error:
            yield Failure(path.name, str(error) or type(error).__name__)
        else:
            written.append(out)
            in_rad += unit == "rad"
        yield pace.progress(i + 1)
    yield FolderAnswer(tuple(written), in_rad)


def _reconstruct_file(path: Path, name: str, request: FolderRequest) -> tuple[Path, str]:
    """Reconstruct a file frame by frame; return the written file, and its unit."""
    from ...export.opd import write_opd_frames
    from ...images.holograms.holography import estimate_settings, iter_phase

    opened = open_recording(path, request.kind)
    recording = opened.recording
    if not opened.kind_known:
        raise ValueError("it does not say what its values are; choose an image like it first")
    if recording.background is None and request.background is not None:
        recording = dataclasses.replace(recording, background=request.background)
    lacking = {k: getattr(request.known, k) for k in _KNOWN if getattr(recording, k) is None}
    settled = estimate_settings(recording.with_known(**lacking), request.settings)
    unit = _unit(recording, settled)
    out = request.out / f"{name}{_ENDINGS[unit]}"
    if out.exists():
        raise ValueError(f"{out.name} is there already. Remove it, or choose another folder.")
    frames = (_values(done) for done in iter_phase(recording, settled))
    shape = (len(recording), *recording.shape)
    write_opd_frames(frames, shape, unit, settled.pixel_size, out)
    return out, unit


def _values(done: Retrieved) -> npt.NDArray[np.float32]:
    return done.phase if done.opd is None else done.opd


def _unit(recording: Recording, settled: HologramSettings) -> str:
    return "rad" if settled.wavelength is None and recording.kind != "opd" else "nm"


def _names(files: Sequence[Path]) -> list[str]:
    """Name the results; files that differ only in their suffix keep it."""
    stems = [path.stem.lower() for path in files]
    return [
        path.stem if stems.count(stem) == 1 else path.name
        for path, stem in zip(files, stems, strict=True)
    ]


def _centre(shape: tuple[int, int]) -> tuple[slice, slice]:
    rows, columns = (
        slice((n - min(n, LIVE_SIDE)) // 2, (n - min(n, LIVE_SIDE)) // 2 + min(n, LIVE_SIDE))
        for n in shape
    )
    return rows, columns


def _cut_window(recording: Recording, index: int, window: tuple[slice, slice]) -> Recording:
    """Return one frame's window, in memory, as a recording of its own."""

    def cut(frame: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
        return None if frame is None else np.ascontiguousarray(frame[window])[None]

    amplitude = recording.amplitude
    frame = cut(recording.frame(index))
    assert frame is not None
    return dataclasses.replace(
        recording,
        frames=frame,
        background=cut(recording.background_of(index)),
        amplitude=None if amplitude is None else cut(np.asarray(amplitude[index : index + 1])[0]),
    )


def _limits(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (0.5, 99.95)))
    return low, high if high > low else low + 1.0


class _Pace:
    """Makes reports of progress, not more often than a window can show them."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = time.monotonic()
        self._last = self._began

    def at(self, done: int) -> Progress | None:
        now = time.monotonic()
        if now - self._last < _OFTEN and done < self._total:
            return None
        self._last = now
        return self.progress(done)

    def progress(self, done: int) -> Progress:
        per_item = (time.monotonic() - self._began) / max(done, 1)
        return Progress(done, self._total, per_item * (self._total - done))
