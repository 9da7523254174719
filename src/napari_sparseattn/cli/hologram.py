"""The verb ``hologram``: recordings to OPD, classes and measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import typer

from .progress import progress_bar
from .rows import Row, free_stem, report_rows, rows_of

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..images.fields.cells import Method
    from ..images.holograms.holography import Device, HologramSettings
    from ..images.holograms.recording import Kind, Recording
    from ..inference.prediction import Predictions

__all__ = ["hologram"]

_SUFFIXES = (".tif", ".tiff", ".npy")

Inputs = Annotated[
    list[Path],
    typer.Argument(help="Holograms, fields or phase: HDF5, .rtdc, TIFF, NPY, Phasics TIFF."),
]
Out = Annotated[Path, typer.Option(help="A folder, or for one input a file .tif or .npy.")]
Wavelength = Annotated[
    float | None, typer.Option(help="nm in vacuum, where the file does not say.", min=1)
]
PixelSize = Annotated[
    float | None, typer.Option(help="µm per pixel in the sample plane, likewise.", min=1e-4)
]
MediumIndex = Annotated[
    float | None, typer.Option(help="Refractive index around the cells, likewise.", min=1)
]
Background = Annotated[Path | None, typer.Option(help="The same recording without cells.")]
KindOption = Annotated[
    str | None, typer.Option(help="hologram, field, phase or opd, if the file cannot tell.")
]
SettingsFile = Annotated[
    Path | None, typer.Option(help="Settings saved in the window, for a whole folder.")
]
ProfileOption = Annotated[
    str | None, typer.Option(help="Background to remove: none, offset, tilt, curved.")
]
Flip = Annotated[bool, typer.Option("--flip", help="Change the sign that was found.")]
Focus = Annotated[float | None, typer.Option(help="µm to refocus by.")]
Autofocus = Annotated[
    float | None, typer.Option(help="Search the focus within so many µm.", min=1e-3)
]
ModelOption = Annotated[
    str | None, typer.Option(help="Also classify the cells, e.g. opd-simulated; see models.")
]
MethodOption = Annotated[str, typer.Option(help="How to find cells.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps, for the model.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Retrieve fields on a GPU, by CuPy.")]
Scores = Annotated[
    bool, typer.Option("--scores", help="Write classes into a copy of each .rtdc file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is done with every file."""

    settings: HologramSettings
    open_as: dict[str, Any]
    bundle: Bundle | None
    method: Method
    device: str
    retrieval: Device
    scores: bool
    as_json: bool


def hologram(
    inputs: Inputs,
    out: Out,
    wavelength: Wavelength = None,
    pixel_size: PixelSize = None,
    medium_index: MediumIndex = None,
    background: Background = None,
    kind: KindOption = None,
    settings: SettingsFile = None,
    profile: ProfileOption = None,
    flip: Flip = False,
    focus: Focus = None,
    autofocus: Autofocus = None,
    model: ModelOption = None,
    method: MethodOption = "auto",
    device: DeviceOption = "auto",
    gpu: Gpu = False,
    scores: Scores = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruct holograms into optical path difference; classify and weigh the cells.

    Writes an OPD map (nm) of each file and, with --model, a CSV with class,
    area, OPD and dry mass of each cell. A file that fails is named and does
    not stop the others.
    """
    from ..bundle import load_bundle
    from ..images.holograms.settings import HologramSettings

    base = HologramSettings() if settings is None else HologramSettings.from_json(settings)
    known = {"wavelength": wavelength, "pixel_size": pixel_size, "medium_index": medium_index}
    how = {"profile": profile, "focus": focus, "autofocus": autofocus, "flip": flip or None}
    changes: dict[str, Any] = {k: v for k, v in (known | how).items() if v is not None}
    if scores and model is None:
        raise ValueError("--scores writes the classes of a model; give one, e.g. opd-simulated.")
    job = _Job(
        dataclasses.replace(base, **changes),
        {"kind": cast("Kind | None", kind), "background": background},
        None if model is None else load_bundle(model),
        cast("Method", method),
        device,
        "gpu" if gpu else "cpu",
        scores,
        as_json,
    )
    targets = _targets(inputs, out)
    rows = rows_of([str(p) for p in inputs], lambda i: _process(inputs[i], targets[i], job))
    report_rows(rows, as_json, _about)


def _targets(inputs: list[Path], out: Path) -> list[Path]:
    if out.suffix.lower() in _SUFFIXES:
        if len(inputs) > 1:
            raise ValueError(f"{len(inputs)} files cannot become one {out.name}; give a folder")
        return [out]
    if out.suffix and not out.is_dir():
        raise ValueError(f"--out must be a folder or end in {', '.join(_SUFFIXES)}, got {out.name}")
    taken: set[str] = set()
    return [out / f"{free_stem(path.stem, taken)}_opd.tif" for path in inputs]


def _process(path: Path, target: Path, job: _Job) -> Row:
    from ..export.opd import write_opd_frames
    from ..export.tables import write_csv
    from ..images.holograms.files import open_hologram
    from ..images.holograms.holography import estimate_settings

    if job.scores:
        from ..export.rtdc import check_scorable

        check_scorable(path)
    recording = open_hologram(path, **job.open_as)
    settled = estimate_settings(recording, job.settings)
    known = settled.wavelength is not None or recording.kind == "opd"
    found: dict[int, Predictions] = {}
    unit, shape = "nm" if known else "rad", (len(recording), *recording.shape)
    highest: list[float] = []
    frames = _frames(recording, settled, job, found, highest)
    write_opd_frames(frames, shape, unit, settled.pixel_size, target)
    row: Row = {
        "image": str(path),
        "kind": recording.kind,
        "frames": len(recording),
        "opd": str(target),
        "unit": unit,
        "peak": float(np.nanmax(highest)) if np.isfinite(highest).any() else None,
        "scale_known": known and settled.pixel_size is not None,
        "wavelength_nm": settled.wavelength,
        "pixel_size_um": settled.pixel_size,
        "sideband": settled.sideband,
        "focus_um": settled.focus,
        "notes": [*recording.notes, *settled.notes],
    }
    if job.bundle is not None:
        table = target.with_name(f"{target.stem}.csv")
        write_csv(found, table)
        row["csv"] = str(table)
        row["cells"] = sum(map(len, found.values()))
        row["counts"] = _counts(found)
    if job.scores and job.bundle is not None:
        row["scores"] = str(_write_scores(path, target, recording, found, job.bundle))
    return row


def _frames(
    recording: Recording,
    settled: HologramSettings,
    job: _Job,
    found: dict[int, Predictions],
    highest: list[float],
) -> Iterator[npt.NDArray[np.float32]]:
    """Give each frame to the writer, and keep what was found on the way."""
    from ..inference.holograms import iter_recording

    results = iter_recording(
        recording,
        settled,
        job.bundle,
        method=job.method,
        device=job.device,
        retrieval=job.retrieval,
    )
    with progress_bar(recording.name or "frames", quiet=job.as_json) as progress:
        for result in results:
            if result.predictions is not None:
                found[result.index] = result.predictions
            image = result.field.data
            highest.append(float(np.nanmax(image)) if np.isfinite(image).any() else np.nan)
            progress("frames", result.index + 1, len(recording))
            yield image


def _counts(found: dict[int, Predictions]) -> dict[str, int]:
    total: dict[str, int] = {}
    for predictions in found.values():
        for name, n in predictions.counts().items():
            total[name] = total.get(name, 0) + n
    return {name: n for name, n in total.items() if n}


def _write_scores(
    path: Path, target: Path, recording: Recording, found: dict[int, Predictions], bundle: Bundle
) -> Path:
    from ..export.rtdc import write_scores
    from ..inference.holograms import central_scores

    out = target.with_name(f"{path.stem}_scored.rtdc")
    scores = central_scores([found[i] for i in range(len(recording))], recording.shape)
    # The name is ours, so what is there is of an earlier run.
    write_scores(path, out, scores, model=f"{bundle.card.name}@{bundle.hash[:12]}", overwrite=True)
    return out


def _about(row: Row) -> Iterator[str]:
    peak = "" if row["peak"] is None else f", peak {row['peak']:.4g} {row['unit']}"
    yield f"{row['image']}: {row['frames']} frame(s) of {row['kind']}{peak}"
    if row["unit"] == "rad":
        yield "  wavelength unknown, so this is phase: give --wavelength for OPD in nm"
    if row["pixel_size_um"] is None:
        yield "  pixel size unknown: give --pixel-size for areas and dry mass"
    yield from (f"  {note}" for note in row["notes"])
    if "cells" in row:
        counts = ", ".join(f"{n} {name}" for name, n in row["counts"].items()) or "none"
        yield f"  {row['cells']} cells ({counts})"
    yield from (f"  {row[key]}" for key in ("opd", "csv", "scores") if key in row)
