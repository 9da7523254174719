"""The verb ``hologram``: recordings to OPD, classes and measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .options import AsJson, Device, MethodOption, Overwrite
from .output import Row, describe_row, make_rows, progress_bar, refuse_unused, report_rows, row_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..bundle import Bundle
    from ..images.fields.cells import Method
    from ..images.holograms.recording import Kind
    from ..inference.prediction import Predictions
    from ..process.options import ProcessOptions
    from ..process.result import Result
    from ..progress import Progress

__all__ = ["hologram"]

_SUFFIXES = (".tif", ".tiff", ".npy")

Inputs = Annotated[
    list[Path],
    typer.Argument(help="Holograms, fields or phase: HDF5, .rtdc, TIFF, NPY, Phasics TIFF."),
]
Out = Annotated[Path, typer.Option(help="A folder, or for one input a file .tif or .npy.")]
Wavelength = Annotated[
    float | None,
    typer.Option(help="nm in vacuum, in place of what the file says, if it does.", min=1),
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
Settings = Annotated[
    str | None,
    typer.Option(help="Settings saved in the window: their file, or their JSON itself."),
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
Gpu = Annotated[bool, typer.Option("--gpu", help="Retrieve fields on a GPU.")]
Scores = Annotated[
    bool, typer.Option("--scores", help="Write classes into a copy of each .rtdc file.")
]


def hologram(
    inputs: Inputs,
    out: Out,
    wavelength: Wavelength = None,
    pixel_size: PixelSize = None,
    medium_index: MediumIndex = None,
    background: Background = None,
    kind: KindOption = None,
    settings: Settings = None,
    profile: ProfileOption = None,
    flip: Flip = False,
    focus: Focus = None,
    autofocus: Autofocus = None,
    model: ModelOption = None,
    method: MethodOption = "auto",
    device: Device = "auto",
    gpu: Gpu = False,
    scores: Scores = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruct holograms into optical path difference; classify and weigh the cells.

    Of each recording NAME, its ending included, are written: NAME_opd.tif, a
    map of optical path difference (nm), NAME.json with a summary and, with
    --model, NAME.csv with class, area, OPD and dry mass of each cell. Results
    of another recording or model are not replaced without --overwrite. A file
    that fails is named and does not stop the others.
    """
    from ..bundle import load_bundle
    from ..images.holograms.settings import HologramSettings
    from ..process.options import ProcessOptions

    base = HologramSettings()
    if settings is not None and settings.lstrip().startswith("{"):
        base = HologramSettings.from_text(settings, "--settings")
    elif settings is not None:
        base = HologramSettings.from_json(settings)
    known = {"wavelength": wavelength, "pixel_size": pixel_size, "medium_index": medium_index}
    how = {"profile": profile, "focus": focus, "autofocus": autofocus, "flip": flip or None}
    changes: dict[str, Any] = {k: v for k, v in (known | how).items() if v is not None}
    if scores and model is None:
        raise ValueError("--scores writes the classes of a model; give one, e.g. opd-simulated.")
    refuse_unused(
        "for cells, which only a model classifies (--model)",
        method=method != "auto" and model is None,
    )
    if focus is not None and autofocus is not None:
        raise ValueError("--focus and --autofocus are two ways to a focus: give one of them")
    options = ProcessOptions(
        task="hologram",
        method=cast("Method", method),
        settings=dataclasses.replace(base, **changes),
        kind=cast("Kind | None", kind),
        background=background,
        device=device,
        retrieval="gpu" if gpu else "cpu",
    )
    bundle = None if model is None else load_bundle(model)
    targets = _targets(inputs, out)

    def work(index: int) -> Row:
        map_, name = targets[index]
        with progress_bar(inputs[index].name, quiet=as_json) as progress:
            return _process(
                inputs[index],
                bundle,
                options,
                map_,
                name,
                scores=scores,
                overwrite=overwrite,
                progress=progress,
            )

    report_rows(make_rows([str(path) for path in inputs], work), as_json, describe_row)


def _targets(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Return for each input the file of its map, and how the names of its results begin."""
    if out.suffix.lower() in _SUFFIXES:
        if len(inputs) > 1:
            raise ValueError(f"{len(inputs)} files cannot become one {out.name}; give a folder")
        return [(out, out.with_suffix(""))]
    if out.suffix and not out.is_dir():
        raise ValueError(f"--out must be a folder or end in {', '.join(_SUFFIXES)}, got {out.name}")
    from ..process.inputs import name_inputs

    names = [out / item.key for item in name_inputs(inputs)]
    return [(name.with_name(f"{name.name}_opd.tif"), name) for name in names]


def _process(
    path: Path,
    bundle: Bundle | None,
    options: ProcessOptions,
    map_: Path,
    name: Path,
    *,
    scores: bool,
    overwrite: bool,
    progress: Progress,
) -> Row:
    from ..files import replacing
    from ..process.process import process_file
    from ..process.result import check_free, identity_of

    if scores:
        from ..export.rtdc import check_scorable

        check_scorable(path)
    scored = name.with_name(f"{name.name}_scored.rtdc")
    others = [map_, scored] if scores else [map_]
    mine = identity_of("hologram", bundle, path)
    check_free(name, mine, overwrite=overwrite, others=others)
    # The map comes last to its place: who is killed before has nothing there that is not known.
    with replacing(map_) as temporary:
        result = process_file(path, bundle, options, opd=temporary, progress=progress)
        written = result.write(name.parent, name.name, overwrite=overwrite)
    row = row_of(str(path), result, written) | {"opd": str(map_)}
    if scores and bundle is not None:
        _write_scores(path, scored, result, mine["model"])
        row["scores"] = str(scored)
    return row


def _write_scores(path: Path, scored: Path, result: Result, model: str) -> None:
    from ..export.rtdc import write_scores
    from ..inference.holograms import central_scores

    found = cast("Mapping[int, Predictions]", result.prediction)
    scores = central_scores([found[i] for i in sorted(found)], result.image.shape)
    # Whose it is was asked before.
    write_scores(path, scored, scores, model=model, overwrite=True)
