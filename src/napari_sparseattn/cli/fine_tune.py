"""Fine-tuning on the command line: annotations in, a new model and a report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import progress_bar

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..card import Card
    from ..images.fields.field import Field
    from ..training.data.annotations import ImageRecord
    from ..training.data.datasets import CropSet
    from ..training.tune.fine_tune import FineTuneEpoch, FineTuneReport

__all__ = ["fine_tune"]

_SECONDS = typer.Option(help="About how long it may take.", min=1)


def fine_tune(
    model: Annotated[str, typer.Argument(help="Name of a model, or its file.")],
    source: Annotated[
        Path,
        typer.Argument(help="A project of annotations, or a folder of FOLDER/class/image."),
    ],
    out: Annotated[Path, typer.Option(help="The model file to write, NAME.safetensors.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Go on training a model on annotated cells; new classes are added to those it knows.

    Beside the model an HTML report says what was gained, on held-out cells. A
    run that was killed goes on where it was when the same is asked again.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    if freeze not in ("auto", "none", "backbone"):
        raise ValueError(f"--freeze must be auto, none or backbone, got '{freeze}'.")

    from ..bundle import load_bundle, save_bundle
    from ..training.data.annotated import too_few
    from ..training.tune.fine_tune import fine_tune as run

    bundle = load_bundle(model)
    data, unlabelled, notes = _read(source, images or [], bundle.card, as_json)
    if not as_json:
        for note in (*notes, *too_few(data, bundle.card.class_names)):
            print(note)
    checkpoint = out.with_name(f"{out.stem}.checkpoint")
    new, report = run(
        bundle,
        data,
        on_epoch=None if as_json else _show,
        unlabelled=unlabelled,
        rehearsal=_folder(rehearsal, bundle.card, as_json) if rehearsal else None,
        freeze=freeze,
        epochs=epochs,
        seconds=seconds,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        name=out.stem,
    )
    saved = save_bundle(new, out)
    checkpoint.unlink(missing_ok=True)
    _report(saved, report, out, [*notes, *too_few(data, bundle.card.class_names)], as_json)


def _read(
    source: Path, folders: list[Path], card: Card, quiet: bool
) -> tuple[CropSet, Any, tuple[str, ...]]:
    """Return annotated crops, unannotated ones or None, and what was left out."""
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder '{source}'.")
    if not (source / "project.json").is_file():
        return _folder(source, card, quiet), None, ()
    from ..training.data.annotated import annotated_cells, annotated_fields, unannotated_cells
    from ..training.data.project import Project

    project = Project(source)

    def opened(image: ImageRecord) -> Field | None:
        return _open(image, folders)

    kinds = {item.kind for _, items in project.annotations() for item in items}
    if "fields" in card.model_kind.takes and "cell" not in kinds:
        found = annotated_fields(project, opened, card)
        return found.data, None, found.notes
    found = annotated_cells(project, opened, card)
    return found.data, unannotated_cells(project, opened, card), found.notes


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

    page = out.with_suffix(".html")
    with replacing(page) as temporary:
        temporary.write_text(report.to_html(), encoding="utf-8")
    if as_json:
        told = {"model": str(out), "hash": bundle.hash, "report": str(page), "warnings": notes}
        print(json.dumps({**told, **report.to_dict()}, allow_nan=False))
        return
    print(report.sentence)
    print(f"written to {out}, report {page}")
