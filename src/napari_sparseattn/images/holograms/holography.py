"""From off-axis holograms to optical path difference.

Subtract the mean, pad, Fourier transform, keep the disk around the sideband,
move it to zero frequency, transform back (with qpretrieve's disk); divide by the
field of the background hologram; refocus (nrefocus); unwrap each frame by itself; fit
tilt and offset on background pixels and remove them; OPD = phase × λ / 2π.

Units: OPD in nm, phase in rad, wavelength in nm in vacuum, pixel size in µm
per pixel in the sample plane, refocusing distance in µm, frequencies in
cycles per pixel. Cells delay light: their phase is positive.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ...progress import Progress
from ..fields.field import Field, Modality
from ..normalise import level_outside
from .demodulate import Complex, Device, field_of, import_quietly, inverse
from .flatten import contrast, flatten, level_field, median
from .recording import Recording
from .settings import LIMITS, HologramSettings
from .sideband import HologramError, fill_bad, find_sideband, spectrum
from .unwrap import has_jump, unwrap

__all__ = [
    "Device",
    "HologramError",
    "HologramSettings",
    "Retrieved",
    "estimate_settings",
    "find_sideband",
    "iter_phase",
    "reconstruct",
    "retrieve",
    "spectrum",
]

_SIGN_FRAMES = 5
# Every so many pixels along rows and columns tell the background's amplitude.
_FEW = 3
# By what share two numbers may differ and be the same, written with fewer digits.
_SAME = 0.005
# What stands out the other way, of what stands out, is then more than a rim's ring.
_BOTH_WAYS = 0.3
_GHOST = (
    "much stands out both ways from the background: the background hologram may hold a cell, whose "
    "ghost is negative; the sign was taken without it. Give one without cells"
)
_MOST_BYTES = 8 * 2**30
_CHUNK_BYTES = 32 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieved:
    """One frame, reconstructed.

    Attributes
    ----------
    phase : numpy.ndarray, shape (H, W), float32
        rad; background at 0, cells positive. NaN where OPD was recorded and
        the wavelength is unknown.
    opd : numpy.ndarray, shape (H, W), float32, or None
        Optical path difference in nm; None where phase cannot become OPD, as
        the wavelength is unknown.
    amplitude : numpy.ndarray, shape (H, W), float32
        The background's median is 1.
    background : numpy.ndarray, shape (H, W), bool
        Pixels that tilt and offset were fitted on.
    focus : float
        µm that the field was refocused by.
    n_bad : int
        Pixels of the recorded frame that were NaN, infinite or saturated.
    """

    phase: npt.NDArray[np.float32]
    opd: npt.NDArray[np.float32] | None
    amplitude: npt.NDArray[np.float32]
    background: npt.NDArray[np.bool_]
    focus: float
    n_bad: int


def estimate_settings(
    recording: Recording, settings: HologramSettings | None = None
) -> HologramSettings:
    """Answer what the settings leave open, from some of the frames.

    Wavelength, pixel size and medium index are taken from the recording, the
    sideband from its background or first frame, the sign from what stands out
    of the background (in five frames spread over the recording), and the focus, if
    `autofocus` asks for it, from the first frame. Settled settings stay as
    they are.

    Parameters
    ----------
    recording : Recording
        Holograms, fields, phase or OPD.
    settings : HologramSettings, optional
        By default everything is found.

    Returns
    -------
    HologramSettings
        What is still None, nobody knows. Its `notes` tell what replaces a
        number of the file's own, where frames
        disagree on the sign, or the background seems to hold a cell.

    Raises
    ------
    HologramError
        If no fringes are found, in the frames or in the background, or refocusing lacks a quantity.
    """
    given = settings or HologramSettings()
    known = {
        name: getattr(given, name) or getattr(recording, name)
        for name in ("wavelength", "pixel_size", "medium_index")
    }
    said = _overridden(recording, given)
    settled = dataclasses.replace(given, **known, notes=(*given.notes, *said))
    if recording.kind == "hologram" and settled.sideband is None:
        plain = recording.background_of(0)
        found = _sideband(recording.frame(0), plain)
        settled = dataclasses.replace(settled, sideband=found)
    elif recording.kind == "hologram" and settled.inverted is None:
        # Of two sidebands, the user's choice is also a choice of sign.
        settled = dataclasses.replace(settled, inverted=False)
    if settled.inverted is None:
        settled = _with_sign(recording, settled)
    if settled.autofocus is not None:
        focus = _autofocus(recording, settled)
        settled = dataclasses.replace(settled, focus=focus, autofocus=None)
    return settled


def _overridden(recording: Recording, given: HologramSettings) -> tuple[str, ...]:
    """Tell which numbers of the file others were given for: results scale with them."""
    notes: tuple[str, ...] = ()
    for name, (_, _, unit) in LIMITS.items():
        mine, theirs = getattr(given, name), getattr(recording, name)
        if mine is None or theirs is None or abs(mine - theirs) <= _SAME * theirs:
            continue
        shown = name.replace("_", " ")
        note = f"the {shown} given, {mine:g}{unit}, replaces {theirs:g}{unit}, which the file says"
        if name == "wavelength":
            note += f": all OPD is {mine / theirs:.3g} times what it is by the file"
        if not any(note == known for known in given.notes):
            notes += (note,)
    return notes


def retrieve(
    recording: Recording, index: int, settings: HologramSettings, device: Device = "cpu"
) -> Retrieved:
    """Reconstruct one frame.

    Parameters
    ----------
    recording : Recording
        Where the frame comes from.
    index : int
        Which frame.
    settings : HologramSettings
        From `estimate_settings`, so that all frames are treated alike.
    device : {"cpu", "gpu"}
        ``"gpu"`` retrieves the field on CUDA; the rest is done on the CPU.

    Raises
    ------
    HologramError
        If refocusing lacks a quantity, or there is no GPU.
    IndexError
        If there is no such frame.
    """
    return next(iter_phase(recording, settings, [index], device))


def iter_phase(
    recording: Recording,
    settings: HologramSettings | None = None,
    frames: Iterable[int] | None = None,
    device: Device = "cpu",
) -> Iterator[Retrieved]:
    """Reconstruct frame by frame; only one is in memory at a time.

    Parameters are those of `retrieve`; `settings` are settled first, and
    `frames` are all by default.

    Yields
    ------
    Retrieved
        In the order of `frames`.
    """
    settled = estimate_settings(recording, settings)
    plain: Complex | None = None
    for index, frame in _read(recording, frames):
        if _has_fields(recording) and (plain is None or _changes(recording)):
            plain = _plain(recording, index, settled, device)
        yield _one(frame, plain, recording, settled, device, index)


def _read(
    recording: Recording, frames: Iterable[int] | None
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Read frames with their index; all of them in chunks, as files are opened anew each time."""
    if frames is not None:
        for index in frames:
            yield index, recording.frame(index)
        return
    height, width = recording.shape
    chunk = max(1, _CHUNK_BYTES // (recording.frames.dtype.itemsize * height * width))
    for start in range(0, len(recording), chunk):
        for i, frame in enumerate(recording.frames[start : start + chunk]):
            yield start + i, frame


def reconstruct(
    recording: Recording,
    settings: HologramSettings | None = None,
    progress: Progress | None = None,
    device: Device = "cpu",
) -> Field:
    """Reconstruct all frames into one field of view.

    Parameters
    ----------
    recording : Recording
        From `open_hologram`.
    settings : HologramSettings, optional
        By default everything is found; see `estimate_settings`.
    progress : callable, optional
        Called with "phase", the frames done and their number.
    device : {"cpu", "gpu"}
        See `retrieve`.

    Returns
    -------
    Field
        (H, W), or (n, H, W) of several frames, float32. OPD in nm; phase in
        rad where no wavelength is known.

    Raises
    ------
    HologramError
        As in `estimate_settings`; also if the result would not fit in 8 GiB, for which
        `iter_phase` goes frame by frame.
    """
    settled = estimate_settings(recording, settings)
    n, (height, width) = len(recording), recording.shape
    if 4 * n * height * width > _MOST_BYTES:
        raise HologramError(
            f"{n} frames of {height} x {width} pixels do not fit in memory at once; write them to "
            "a file with `napari-sparseattn hologram`, or go through them with iter_phase"
        )
    stack = np.empty((n, height, width), np.float32)
    for i, done in enumerate(iter_phase(recording, settled, None, device)):
        stack[i] = done.phase if done.opd is None else done.opd
        if progress is not None:
            progress("phase", i + 1, n)
    known = settled.wavelength is not None or recording.kind == "opd"
    modality: Modality = "opd" if known else "phase"
    data, axes = (stack, "TYX") if n > 1 else (stack[0], "YX")
    unit = "rad" if modality == "phase" else "nm"
    return Field(
        data,
        axes,
        settled.pixel_size,
        modality,
        unit,
        recording.name,
        recording.path,
        (*recording.notes, *settled.notes),
    )


def _has_fields(recording: Recording) -> bool:
    return recording.kind in ("hologram", "field")


def _plain(
    recording: Recording, index: int, settings: HologramSettings, device: Device
) -> Complex | None:
    shot = recording.background_of(index)
    return None if shot is None else inverse(field_of(shot, recording.kind, settings, device))


def _changes(recording: Recording) -> bool:
    return recording.background is not None and len(recording.background) > 1


def _one(
    frame: npt.NDArray[Any],
    plain: Complex | None,
    recording: Recording,
    settings: HologramSettings,
    device: Device,
    index: int,
) -> Retrieved:
    lost = np.zeros(frame.shape, np.bool_)
    if frame.dtype.kind not in "iub":
        lost = ~np.isfinite(frame)
    n_bad = int(np.count_nonzero(lost)) if recording.kind == "field" else fill_bad(frame)[1]
    if lost.all():
        # A frame without one finite pixel must not stop a long stack.
        empty = np.full(frame.shape, np.nan, np.float32)
        return Retrieved(empty, empty, empty, ~lost, settings.focus, n_bad)
    if _has_fields(recording):
        field = field_of(frame, recording.kind, settings, device)
        if plain is not None:
            field *= plain
        values, amplitude = _of_field(field, settings)
    else:
        values, amplitude = _of_phase(frame, recording, settings, index)
    if bool(settings.inverted) != settings.flip:
        values = -values
    values, background = flatten(values, settings.profile, settings.background)
    some = (slice(None, None, _FEW), slice(None, None, _FEW))
    ground = amplitude[some][background[some]]
    level = median(ground if len(ground) else amplitude)
    amplitude = amplitude / np.float32(max(level, 1e-12))
    if recording.kind != "hologram" and lost.any():
        # What was not measured stays so; a hologram's bad pixels have spread anyway.
        values, amplitude = (np.where(lost, np.float32(np.nan), v) for v in (values, amplitude))
        background = background & ~lost
    phase, opd = _in_units(values, recording, settings)
    return Retrieved(phase, opd, amplitude, background, settings.focus, n_bad)


def _in_units(
    values: npt.NDArray[np.float32], recording: Recording, settings: HologramSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Phase in rad and OPD in nm of values in rad, or in nm without a wavelength."""
    if settings.wavelength is not None:
        return values, values * np.float32(settings.scale)
    if recording.kind == "opd":
        return np.full_like(values, np.nan), values
    return values, None


def _of_field(
    field: Complex, settings: HologramSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Phase, unwrapped, and amplitude of a field whose background is divided out."""
    level = _move_focus(level_field(field), settings)
    step = 1
    if settings.sideband is not None:
        # The filter lets the phase change by about 2π times its radius per pixel.
        step = max(1, int(0.25 / (settings.filter_radius * math.hypot(*settings.sideband))))
    return unwrap(np.angle(level), step), np.abs(level)


def _of_phase(
    frame: npt.NDArray[Any], recording: Recording, settings: HologramSettings, index: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Phase (OPD, if it cannot be converted) and amplitude of what was recorded as such."""
    finite = np.isfinite(frame)
    values = fill_bad(frame)[0]
    outside = None if finite.all() else level_outside(values, finite)
    if outside is not None:
        values = np.where(finite, values, np.float32(outside))
    if (shot := recording.background_of(index)) is not None:
        values = values - fill_bad(shot)[0]
    if recording.kind == "opd" and settings.wavelength is not None:
        values = values / np.float32(settings.scale)
    amplitude = np.ones_like(values)
    if recording.amplitude is not None:
        amplitude = fill_bad(np.asarray(recording.amplitude[index : index + 1])[0])[0]
    if settings.focus:
        return _of_field((amplitude * np.exp(1j * values)).astype(np.complex64), settings)
    if recording.kind == "phase" and has_jump(values):
        turned = level_field(np.exp(1j * values).astype(np.complex64))
        values = unwrap(np.angle(turned))
    return values, amplitude


def _sideband(frame: npt.NDArray[Any], plain: npt.NDArray[Any] | None) -> tuple[float, float]:
    if plain is None:
        return find_sideband(frame)
    try:
        return find_sideband(plain)
    except HologramError as error:
        find_sideband(frame)  # if that has no fringes either, this says so
        raise HologramError(
            "No fringes stand out in the background hologram, though they do in the recording. "
            "Give another background, taken with the same optics, or none."
        ) from error


def _with_sign(recording: Recording, settings: HologramSettings) -> HologramSettings:
    """Choose the sign in which cells stand out upwards, by most of some frames."""
    first = dataclasses.replace(settings, inverted=False, flip=False, focus=0.0, autofocus=None)
    n = len(recording)
    chosen = np.unique(np.linspace(0, n - 1, min(_SIGN_FRAMES, n)).round().astype(int)).tolist()
    seen = [_contrast_of(recording, index, first) for index in chosen]
    notes: tuple[str, ...] = ()
    if recording.background is not None:
        doubtful = [k for k, pair in enumerate(seen) if min(pair) > _BOTH_WAYS * max(pair)]
        alone = dataclasses.replace(recording, background=None)
        for k in doubtful:
            # A cell in the background leaves a ghost of the other sign.
            seen[k] = _contrast_of(alone, chosen[k], first)
        if doubtful:
            notes += (_GHOST,)
    votes = [(up > down) - (up < down) for up, down in seen]
    falls = sum(votes) < 0
    if 1 in votes and -1 in votes:
        some = min(votes.count(1), votes.count(-1))
        other = f"{some} of {len(votes)} frames that were looked at have the other sign"
        notes += (f"{other}: look at the maps, and flip the sign if cells are dark",)
    settings = dataclasses.replace(settings, notes=(*settings.notes, *notes))
    if recording.kind == "hologram" and settings.sideband is not None:
        row, column = settings.sideband
        sideband = (-row, -column) if falls else (row, column)
        return dataclasses.replace(settings, sideband=sideband, inverted=False)
    return dataclasses.replace(settings, inverted=falls)


def _contrast_of(
    recording: Recording, index: int, settings: HologramSettings
) -> tuple[float, float]:
    """Return how much of a frame stands out above and below its background."""
    done = retrieve(recording, index, settings)
    values = done.phase if done.opd is None else done.opd
    return contrast(np.nan_to_num(values), done.background)


# -- focus


def _move_focus(field: Complex, settings: HologramSettings) -> Complex:
    if not settings.focus:
        return field
    refocus = _refocus(field, settings)
    moved: Complex = refocus.propagate(settings.focus * 1e-6).astype(np.complex64)
    return moved


def _refocus(field: Complex, settings: HologramSettings) -> Any:
    missing = [
        name.replace("_", " ")
        for name in ("wavelength", "pixel_size", "medium_index")
        if getattr(settings, name) is None
    ]
    if missing:
        raise HologramError(
            f"Refocusing needs the {' and the '.join(missing)}, which the file does not say. "
            "Give what is missing, or set the focus to 0."
        )
    return import_quietly("nrefocus").RefocusNumpy(
        field,
        wavelength=settings.wavelength * 1e-9,  # type: ignore[operator]
        pixel_size=settings.pixel_size * 1e-6,  # type: ignore[operator]
        medium_index=settings.medium_index,
    )


def _autofocus(recording: Recording, settings: HologramSettings) -> float:
    """Distance in µm at which the first frame's amplitude varies least."""
    if recording.kind in ("phase", "opd") and recording.amplitude is None:
        raise HologramError(
            "Autofocus looks at the amplitude, which this recording lacks. Give the distance."
        )
    assert settings.autofocus is not None
    frame = recording.frame(0)
    if recording.kind in ("phase", "opd"):
        phase, amplitude = _of_phase(frame, recording, dataclasses.replace(settings, focus=0.0), 0)
        field = (amplitude * np.exp(1j * phase)).astype(np.complex64)
    else:
        field = field_of(frame, recording.kind, settings)
        plain = _plain(recording, 0, settings, "cpu")
        field = field if plain is None else field * plain
    refocus = _refocus(level_field(field), settings)
    low, high = (1e-6 * (settings.focus + sign * settings.autofocus) for sign in (-1, 1))
    found = refocus.autofocus((low, high), metric="average gradient", minimizer="lmfit")
    return float(found) * 1e6
