"""Holograms, fields and phase in HDF5: .rtdc, qpimage, and qpformat's raw files.

Units in the files differ; a `Recording` always has µm and nm:

==================  ==================================  =====================
file                what is read                        units in the file
==================  ==================================  =====================
.rtdc               events/qpi_oah, qpi_oah_bg;         µm, nm; phase in rad
                    events/qpi_pha, qpi_amp
qpimage             phase/raw minus phase/bg_data;      m; phase in rad
                    amplitude/raw over its bg_data
qpformat off-axis   datasets 0, 1, …                    m
qpformat Meep       sinogram/i/field, background/field  pixels per wavelength
==================  ==================================  =====================

Sources: dclab 0.73 (`definitions.meta_const`, `definitions.feat_const`),
qpimage (`meta.DATA_DEF`, `image_data.Phase`), qpformat
(`SeriesFieldSinogramMeepHDF5`, `SeriesRawOAHQpformatHDF5`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from . import _hdf5 as h5
from .recording import Frames, Kind, Recording

if TYPE_CHECKING:
    import h5py

__all__ = ["event_count", "open_hdf5"]

_HOLOGRAM, _HOLOGRAM_BACKGROUND = "qpi_oah", "qpi_oah_bg"
_PHASE, _AMPLITUDE = "qpi_pha", "qpi_amp"
# Outside of these a number is in another unit than its name says.
_PLAUSIBLE = {
    "pixel_size": (1e-3, 1e3),
    "wavelength": (10.0, 1e5),
    "medium_index": (0.5, 5.0),
}
_Names = Mapping[str, tuple[tuple[str, ...], float]]
_METRES: _Names = {
    "pixel_size": (("pixel size",), 1e6),
    "wavelength": (("wavelength",), 1e9),
    "medium_index": (("medium index",), 1.0),
}


def open_hdf5(
    path: Path, *, kind: Kind | None = None, wavelength: float | None = None
) -> Recording:
    """Open one of the HDF5 formats above, told by what is in it.

    Only what the file declares is read, and its first and last frame to see
    whether a recording was cut short. Frames are read when they are asked for.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    kind : {"hologram", "field", "phase", "opd"}, optional
        Which to read where there is more than one. An .rtdc file with both
        gives its holograms.
    wavelength : float, optional
        In nm, where the file's pixel size is in wavelengths (Meep). It does
        not replace one in the file.

    Returns
    -------
    Recording
        Numbers that the file lacks, or that are in no possible unit, are None.

    Raises
    ------
    ImageError
        If it is none of these formats, does not hold `kind`, or is damaged.
    """
    with h5.reading(path) as file:
        recording = _read(file, path, kind, wavelength)
    return _with_note_on_tail(recording)


def event_count(path: Path) -> int:
    """Return the number of events in an .rtdc file: those its features have in common.

    Raises
    ------
    ImageError
        If it is no .rtdc file, or has no events.
    """
    with h5.reading(path) as file:
        counts = feature_lengths(file, path)
    return min(counts.values())


def feature_lengths(file: h5py.File, path: Path) -> dict[str, int]:
    """Return the events each feature of an .rtdc file has; traces and contours are left out.

    Raises
    ------
    ImageError
        If it is no .rtdc file, or has no events.
    """
    import h5py

    events = h5.child(file, "events")
    if not isinstance(events, h5py.Group):
        raise ImageError(f"{path.name} is not an .rtdc file: it has {h5.contents(file)}")
    lengths = {}
    for name in events:
        member = events[name] if isinstance(events.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(member, h5py.Dataset) and member.shape:
            lengths[name] = int(member.shape[0])
    if not lengths or min(lengths.values()) == 0:
        raise ImageError(f"{path.name} has no events; nothing was recorded, or the recording broke")
    return lengths


def _read(file: h5py.File, path: Path, kind: Kind | None, wavelength: float | None) -> Recording:
    if h5.child(file, "events") is not None:
        return _rtdc(file, path, kind)
    if (numbered := _numbered_names(file, "qpi_")) and h5.child(file, "phase") is None:
        return _qpimage(file, path, kind, numbered)
    if h5.images(file, "phase", "raw", ndim=2) is not None:
        return _qpimage(file, path, kind, [])
    if h5.child(file, "sinogram") is not None:
        return _meep(file, path, kind, wavelength)
    if h5.text(file.attrs, "imaging_modality").lower() == "off-axis holography":
        return _raw_off_axis(file, path, kind)
    raise ImageError(
        f"{path.name} holds no holograms or phase that can be told; it has {h5.contents(file)}. "
        "Known are .rtdc with qpi_oah or qpi_pha, qpimage, and off-axis or Meep files of qpformat; "
        "export others as a TIFF stack or .npy"
    )


def _recording(path: Path, frames: Frames, kind: Kind, **known: Any) -> Recording:
    try:
        return Recording(frames, kind, name=path.stem, path=path, **known)
    except ValueError as error:
        raise ImageError(f"{path.name}: {error}") from error


def _pick(path: Path, kind: Kind | None, offered: tuple[Kind, ...]) -> Kind:
    if kind is None:
        return offered[0]
    if kind not in offered:
        raise ImageError(f"{path.name} holds {' and '.join(offered)}, not {kind}; leave kind out")
    return kind


def _numbered_names(group: h5py.Group, prefix: str = "") -> list[str]:
    """Return the names made of a prefix and a number, in the order of the numbers."""
    pattern = re.compile(re.escape(prefix) + r"\d{1,9}")
    return sorted(filter(pattern.fullmatch, group), key=lambda name: int(name[len(prefix) :]))


def _read_numbers(
    notes: list[str], frames: Iterable[h5py.AttributeManager], names: _Names
) -> dict[str, Any]:
    """Return the numbers that all frames agree on, as arguments of `Recording`.

    Parameters
    ----------
    notes : list of str
        Gains what the user should know.
    frames : iterable of h5py.AttributeManager
        Where each frame's numbers are.
    names : mapping
        By argument: names to look for, and the factor to µm or nm. The first
        name found is taken.
    """
    found: dict[str, set[float]] = {what: set() for what in names}
    for attributes in frames:
        for what, (keys, factor) in names.items():
            values = (h5.number(attributes, key) for key in keys)
            value = next((v for v in values if v is not None), None)
            if value is not None:
                found[what].add(value * factor)
    known: dict[str, Any] = {}
    for what, held in found.items():
        if not held:
            continue
        low, high = _PLAUSIBLE[what]
        lowest, highest = min(held), max(held)
        shown = what.replace("_", " ")
        if not low <= lowest <= highest <= high:
            unit = {"pixel_size": " µm", "wavelength": " nm"}.get(what, "")
            notes.append(f"the file's {shown} of {lowest:g}{unit} is not possible and was not used")
        elif highest > lowest * (1 + 1e-6):
            notes.append(
                f"the {shown} differs between frames ({lowest:g} to {highest:g}) and was not used"
            )
        else:
            known[what] = lowest
    return known


def _rtdc(file: h5py.File, path: Path, kind: Kind | None) -> Recording:
    feature_lengths(file, path)
    features: dict[Kind, str] = {"hologram": _HOLOGRAM, "phase": _PHASE}
    offered: dict[Kind, h5.H5Stack] = {
        kind: frames
        for kind, name in features.items()
        if (frames := h5.stack(file, path, "events", name)) is not None
    }
    if not offered:
        elsewhere = "; its images may be in the file it was made from" if "basins" in file else ""
        raise ImageError(
            f"{path.name} holds neither holograms (events/{_HOLOGRAM}) nor phase "
            f"(events/{_PHASE}); its events have {h5.contents(file['events'])}{elsewhere}"
        )
    kind = _pick(path, kind, tuple(offered))
    second_name = {"hologram": _HOLOGRAM_BACKGROUND, "phase": _AMPLITUDE}[kind]
    second = h5.stack(file, path, "events", second_name)
    notes = []
    if len(offered) > 1 and kind == "hologram":
        notes.append("the file also holds phase: kind='phase' opens it")
    frames, second = _together(offered[kind], second, notes)
    declared = h5.number(file.attrs, "experiment:event count")
    if declared is not None and declared != len(frames):
        notes.append(f"the file says {declared:g} events but has {len(frames)}")
    return _recording(
        path,
        frames,
        kind,
        **_read_numbers(notes, [file.attrs], _rtdc_names(file, kind)),
        background=second if kind == "hologram" else None,
        amplitude=second if kind == "phase" else None,
        notes=tuple(notes),
    )


def _rtdc_names(file: h5py.File, kind: Kind) -> _Names:
    size = ("qpi:pixel size proc", "imaging:pixel size")
    if kind == "hologram":
        # dclab keeps the size of phase pixels in imaging:pixel size; that is
        # the hologram's too unless the phase was scaled down.
        scaled = bool(h5.number(file.attrs, "qpi:scale to filter"))
        size = ("qpi:pixel size raw", *(() if scaled else ("imaging:pixel size",)))
    return {
        "pixel_size": (size, 1.0),
        "wavelength": (("qpi:wavelength",), 1.0),
        "medium_index": (("qpi:medium index",), 1.0),
    }


def _together(
    frames: h5.H5Stack, second: h5.H5Stack | None, notes: list[str]
) -> tuple[h5.H5Stack, h5.H5Stack | None]:
    """Cut two stacks to the frames they share: a crash leaves one of them longer."""
    if second is None or len(second) in (1, len(frames)):
        return frames, second
    n = min(len(frames), len(second))
    notes.append(
        f"{frames.place[-1]} has {len(frames)} frames and {second.place[-1]} {len(second)}: "
        f"only the first {n} were opened. The recording may have been cut short"
    )
    return _first(frames, n), _first(second, n)


def _first(frames: h5.H5Stack, n: int) -> h5.H5Stack:
    return dataclasses.replace(frames, shape=(n, *frames.shape[1:]))


def _qpimage(file: h5py.File, path: Path, kind: Kind | None, numbered: list[str]) -> Recording:
    kind = _pick(path, kind, ("phase",))
    roots: list[tuple[str, ...]] = [(name,) for name in numbered] or [()]
    frames = h5.series(file, path, [(*root, "phase") for root in roots], "difference")
    if frames is None:
        raise ImageError(
            f"{path.name} looks like a qpimage series, but {numbered[0]} holds no phase/raw; "
            "save it again with qpimage"
        )
    amplitude = h5.series(file, path, [(*root, "amplitude") for root in roots], "ratio")
    notes: list[str] = []
    owners = (file[root[0]] if root else file for root in roots)
    return _recording(
        path,
        frames,
        kind,
        **_read_numbers(notes, (owner.attrs for owner in owners), _METRES),
        amplitude=amplitude,
        notes=tuple(notes),
    )


def _raw_off_axis(file: h5py.File, path: Path, kind: Kind | None) -> Recording:
    numbered = _numbered_names(file)
    frames = h5.series(file, path, [(name,) for name in numbered])
    if frames is None:
        raise ImageError(f"{path.name} names no holograms 0, 1, …; it has {h5.contents(file)}")
    notes: list[str] = []
    return _recording(
        path,
        frames,
        _pick(path, kind, ("hologram",)),
        **_read_numbers(notes, (file[name].attrs for name in numbered), _METRES),
        notes=tuple(notes),
    )


def _meep(file: h5py.File, path: Path, kind: Kind | None, wavelength: float | None) -> Recording:
    import h5py

    sinogram = h5.child(file, "sinogram")
    numbered = _numbered_names(sinogram) if isinstance(sinogram, h5py.Group) else []
    places = [("sinogram", name, "field") for name in numbered]
    frames = h5.series(file, path, places)
    if frames is None:
        raise ImageError(f"{path.name} has a sinogram, but no fields in it; save it again")
    attributes = [h5.member(file, *place).attrs for place in places]  # type: ignore[union-attr]
    notes = ["simulated: lengths in the file are in wavelengths"]
    known = _read_numbers(notes, attributes, {"medium_index": (("MEDIUM_RI",), 1.0)})
    sampling = h5.number(attributes[0], "SAMPLING")
    if wavelength is None:
        notes.append("give the wavelength to get the pixel size")
    elif sampling is not None and min(sampling, wavelength) > 0:
        known["pixel_size"] = wavelength / 1000 / sampling
    focus = h5.number(attributes[0], "extraction focus distance [px]")
    if focus is not None:
        notes.append(f"the fields were taken {focus:g} pixels behind the middle of the cell")
    return _recording(
        path,
        frames,
        _pick(path, kind, ("field",)),
        **known,
        background=h5.series(file, path, [("background", "field")]),
        notes=tuple(notes),
    )


def _with_note_on_tail(recording: Recording) -> Recording:
    """Say so where the last frame is empty and the first is not."""
    frames = recording.frames
    if len(frames) < 2 or np.any(frames[len(frames) - 1 :]) or not np.any(frames[:1]):
        return recording
    note = "the last frame is all zero: the recording may have been cut short"
    return dataclasses.replace(recording, notes=(*recording.notes, note))
