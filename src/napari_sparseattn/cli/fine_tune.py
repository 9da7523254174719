"""Fine-tuning on the command line: annotations in, a new model and a report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bundle import Bundle
    from ..card import Card
    from ..images.fields.field import Field
    from ..training.data.annotations import ImageRecord
    from ..training.data.datasets import CropSet
    from ..training.loop.epochs import FineTuneEpoch
    from ..training.runs.runs import Run
    from ..training.tune.report import FineTuneReport

__all__ = ["fine_tune"]

_SECONDS = typer.Option(help="About how long it may take.", min=1)


def fine_tune(
    model: Annotated[str, typer.Argument(help="Name of a model, or its file.")],
    source: Annotated[
        Path,
        typer.Argument(help="A project of annotations, or a folder of FOLDER/class/image."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The model file to write, NAME.safetensors. Without it, of a project, the next "
            "version is kept among your models, as the window does."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Of a project: folders to look for images in that have moved."),
    ] = None,
    rehearsal: Annotated[
        Path | None,
        typer.Option(help="FOLDER/class/image of what the model was trained on, if at hand."),
    ] = None,
    freeze: Annotated[str, typer.Option(help="auto, none or backbone.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="By default decided.", min=1)] = None,
    seconds: Annotated[float | None, _SECONDS] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the project's interrupted training, see --out."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Go on training a model on annotated cells; new classes are added to those it knows.

    Beside the model an HTML report says what was gained, on held-out cells. With --out,
    a run that was killed goes on where it was when the same is asked again; a new
    version goes on with --resume, here or in the window.
    """
    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    if freeze not in ("auto", "none", "backbone"):
        raise ValueError(f"--freeze must be auto, none or backbone, got '{freeze}'.")
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder '{source}'.")
    if out is None and not (source / "project.json").is_file():
        raise ValueError("Of a folder of class folders no versions are kept: give --out.")
    if resume and out is not None:
        raise ValueError("--resume goes on with a version: leave --out away.")

    from ..bundle import load_bundle
    from ..training.runs.runs import Run, hold, interrupted_run, new_run_folder

    bundle = load_bundle(model)
    if resume:
        run = interrupted_run(source)
        if run is None:
            raise ValueError(f"No training of '{source}' was interrupted.")
        if bundle.path is None or Path(run.model).resolve() != bundle.path.resolve():
            raise ValueError(f"The interrupted training is of '{run.model}': name that model.")
        with hold(run.folder):
            _work(run, out, as_json)
        return
    if out is not None:
        folder = out.with_name(f"{out.stem}.training")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = new_run_folder(source, model if bundle.path is None else bundle.path.stem)
    with hold(folder):
        data, others, notes = _read(source, images or [], bundle.card, as_json)
        run = Run(
            name=folder.name if out is None else out.stem,
            model=str(bundle.path),
            device=device,
            freeze=freeze,
            seconds=seconds,
            kind="cells",
            class_names=data.class_names,
            names=data.names,
            groups=data.groups,
            notes=notes,
            folder=folder,
            seed=seed,
            epochs=epochs,
        )
        again = None if rehearsal is None else _folder(rehearsal, bundle.card, as_json)
        run = _write(run, data, others, again, bundle.card)
        _work(run, out, as_json)


def _write(
    run: Run, data: CropSet, others: NDArray[Any] | None, again: CropSet | None, card: Card
) -> Run:
    """Write what the run learns from, and note of what there is too little."""
    import dataclasses

    import numpy as np

    from ..training.data.annotated import too_few
    from ..training.data.split import held_out
    from ..training.runs.runs import keep_other_crops, write_run

    arrays = {"crops": data.crops, "labels": data.labels, "held_out": held_out(data)}
    if again is not None:
        arrays |= {"rehearsal.crops": again.crops, "rehearsal.labels": again.labels}
        run = dataclasses.replace(run, rehearsal=again.class_names)
    run = dataclasses.replace(run, notes=(*run.notes, *too_few(data, card.class_names)))
    keep_other_crops(run.folder, np.empty((0, 0, 0, 0), np.uint8) if others is None else others)
    write_run(run, arrays)
    return run


def _work(run: Run, out: Path | None, as_json: bool) -> None:
    """Train, and write the model and its report: to a file, or as a version."""
    import shutil

    from ..bundle import load_bundle, save_bundle
    from ..training.loop.control import TrainingControl
    from ..training.runs.runs import finish
    from ..training.runs.work import save_version, train_run

    if not as_json:
        for note in run.notes:
            print(note)
    new, report = train_run(run, TrainingControl(), None if as_json else _show)
    if out is None:
        path = save_version(run, new, report)
    else:
        path = out
        save_bundle(new, path)
        finish(run)
    _report(load_bundle(path), report, path, list(run.notes), as_json)
    shutil.rmtree(run.folder, ignore_errors=True)


def _read(
    source: Path, folders: list[Path], card: Card, quiet: bool
) -> tuple[CropSet, NDArray[Any] | None, tuple[str, ...]]:
    """Return annotated crops, unannotated ones or None, and what was left out."""
    if not (source / "project.json").is_file():
        return _folder(source, card, quiet), None, ()
    from ..training.data.annotated import cut_cells, cut_fields, cut_unannotated_cells
    from ..training.data.project import Project

    project = Project(source)

    def open_it(image: ImageRecord) -> Field | None:
        return _open(image, folders)

    kinds = {item.kind for _, items in project.annotations() for item in items}
    if "fields" in card.model_kind.takes and "cell" not in kinds:
        found = cut_fields(project, open_it, card)
        return found.data, None, found.notes
    found = cut_cells(project, open_it, card)
    return found.data, cut_unannotated_cells(project, open_it, card), found.notes


def _folder(folder: Path, card: Card, quiet: bool) -> CropSet:
    from ..training.data.datasets import read_class_folders

    with progress_bar("images", quiet=quiet) as progress:
        return read_class_folders(
            folder, 2 * card.crop.size, len(card.channels), progress, least_classes=1
        )


def _open(image: ImageRecord, folders: list[Path]) -> Field | None:
    """Open the image where it was, or in one of the folders; only if its pixels are the same."""
    from ..images.fields.field import Field
    from ..images.opening import open_image
    from ..training.data.annotations import image_hash

    name = Path(image.path).name or image.name
    for path in (Path(image.path), *(folder / name for folder in folders)):
        if not path.is_file():
            continue
        field = open_image(path, pixel_size=image.pixel_size)
        if isinstance(field, Field) and image_hash(field) == image.hash:
            return field
    return None


def _show(epoch: FineTuneEpoch) -> None:
    print(epoch, flush=True)


def _report(
    bundle: Bundle, report: FineTuneReport, out: Path, notes: list[str], as_json: bool
) -> None:
    from ..files import replacing
    from ..training.tune.html import render_report

    page = out.with_suffix(".html")
    with replacing(page) as temporary:
        temporary.write_text(render_report(report), encoding="utf-8")
    if as_json:
        plain = {"model": str(out), "hash": bundle.hash, "report": str(page), "warnings": notes}
        print(json.dumps({**plain, **report.to_dict()}, allow_nan=False))
        return
    print(report.sentence)
    print(f"written to {out}, report {page}")
