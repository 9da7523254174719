"""The verb that trains and tests fold by fold: ``cross-validate``."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..judged import describe_figure
from ..kinds import KINDS
from .options import AsJson, Device
from .output import progress_bar, refuse_given
from .train import (
    bars_for,
    order_slides,
    prepare_cells,
    read_source,
    refuse_of_other_kinds,
    say_for,
    train_cells,
)

if TYPE_CHECKING:
    from ..training.loop.classifier import Parts
    from ..training.tune.cross_validation import CrossValidation, CurvePoint, FoldDone, Learner

__all__ = ["cross_validate"]

_OF_TRAINING = (
    "field_of_view", "size", "channels", "modality", "encoder", "pixel_size", "wanted", "features",
    "patch_um", "target", "outcome", "intervals",
)  # fmt: skip
_TRAINED = {kind.trained_as: kind for kind in KINDS.values()}
_SOURCE = typer.Argument(
    help="As for train: FOLDER/class/image or FOLDER/class/patient/image; for span a CSV of "
    "slides; for span-regions a folder of slides with outlines. With --model a project, or class "
    "folders."
)
_MODEL = typer.Option(
    help="Cross-validate fine-tuning this model of cells, rather than training from nothing."
)


def cross_validate(
    context: typer.Context,
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path, typer.Option(help="Folder for validation.json and predictions.csv.")],
    kind: Annotated[str, typer.Option(help="As for train.")] = "sparse-attn-net",
    model: Annotated[str | None, _MODEL] = None,
    folds: Annotated[int, typer.Option(min=3, max=50)] = 5,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve",
            help="Learn from a quarter and half of the groups too, and say what twice as many may "
            "give; takes up to three times as long.",
        ),
    ] = False,
    field_of_view: Annotated[float, typer.Option(min=1e-3)] = 32.0,
    size: Annotated[int | None, typer.Option(min=16)] = None,
    channels: int = 3,
    modality: str | None = None,
    encoder: Annotated[str, typer.Option(help="As for train.")] = "tissue-mobilenet",
    pixel_size: Annotated[float | None, typer.Option(min=0.01, max=100)] = None,
    wanted: str | None = None,
    features: Annotated[Path | None, typer.Option(help="As for train.")] = None,
    patch_um: Annotated[float | None, typer.Option(help="As for train.")] = None,
    target: Annotated[str | None, typer.Option(help="As for train.")] = None,
    outcome: Annotated[str, typer.Option(help="As for train.")] = "",
    intervals: Annotated[int, typer.Option(help="As for train.", min=1, max=100)] = 4,
    images: Annotated[list[Path] | None, typer.Option(help="As for fine-tune.")] = None,
    freeze: Annotated[str, typer.Option(help="As for fine-tune.")] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: int = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say how good a training is on patients it has not seen, by training once per fold.

    Images of one group (a patient's folder, a slide table's group) are never
    on both sides. Every image is judged once, by the model that had not seen
    its group; predictions.csv has what it said. Of follow-up the figure is the
    C-index, of numbers the correlation.
    """
    if kind not in _TRAINED:
        raise ValueError(f"--kind must be one of {', '.join(_TRAINED)}, got '{kind}'.")
    if model is None:
        refuse_given(context, "of fine-tuning (--model)", "images", "freeze")
        refuse_of_other_kinds(context, kind)
    else:
        why = "of training from nothing, and --model fine-tunes"
        refuse_given(context, why, "kind", *_OF_TRAINING)
    learner: Learner
    notes: tuple[str, ...] = ()
    if model is not None:
        learner, notes = _tuned(
            model, source, images or [], folds, as_json,
            freeze=freeze, epochs=epochs, seed=seed, device=device,
        )  # fmt: skip
    elif "slides" in _TRAINED[kind].takes:
        from ..training.runs.slide_orders import prepare_slides
        from ..training.tune.learners import SlideLearner

        written = out / "model.safetensors"  # never written: it names the model and its features
        order = order_slides(
            source, written, kind, encoder, pixel_size, wanted, epochs, seed, device, features,
            patch_um, target, outcome, intervals,
        )  # fmt: skip
        examples, _, settings = prepare_slides(order, bars_for(as_json), say_for(as_json))
        learner = SlideLearner(examples, settings)
    else:
        from ..training.tune.learners import CropLearner

        data, crops = prepare_cells(
            source,
            "model",
            kind=kind,
            field_of_view=field_of_view,
            size=size,
            channels=channels,
            modality=modality,
            quiet=as_json,
        )
        common = {"epochs": epochs or 24, "seed": seed, "device": device}

        def train(parts: Parts) -> Any:
            return train_cells(kind, data, crops, common, None, parts)[0]

        learner = CropLearner(data, train)
    found = _run(learner, folds, seed, learning_curve, as_json)
    _write(dataclasses.replace(found, notes=(*found.notes, *notes)), out, as_json)


def _tuned(
    model: str, source: Path, images: list[Path], folds: int, quiet: bool, **options: Any
) -> tuple[Learner, tuple[str, ...]]:
    from ..bundle import load_bundle
    from ..training.runs.validation import with_image_groups
    from ..training.tune.learners import TunedCrops
    from ..training.tune.task import FineTuneOptions

    bundle = load_bundle(model)
    if bundle.card.takes_slides:
        raise ValueError(
            "Fine-tuning a SPAN is cross-validated in the window, or in Python by `TunedSlides`; "
            "here, --kind span trains one from nothing."
        )
    data, _, notes = read_source(source, images, bundle.card, quiet)
    if (source / "project.json").is_file():
        data, note = with_image_groups(data, folds)
        notes = (*notes, *((note,) if note else ()))
    return TunedCrops(bundle, data, FineTuneOptions(**options)), notes


def _run(learner: Learner, folds: int, seed: int, curve: bool, quiet: bool) -> CrossValidation:
    from ..training.tune.cross_validation import CURVE, cross_validate

    with progress_bar("trainings", quiet) as progress:

        def show(fold: FoldDone) -> None:
            progress(fold.done, fold.total)
            if not quiet:
                share = "" if fold.share == 1 else f", {100 * fold.share:g} % of the groups"
                print(f"fold {fold.fold + 1}{share}: {_say_figure(fold)}", flush=True)

        return cross_validate(learner, folds, seed=seed, curve=CURVE if curve else (), on_fold=show)


def _say_figure(fold: FoldDone) -> str:
    if fold.figure == "accuracy":
        return f"{100 * fold.accuracy:.1f} %"
    return describe_figure(fold.figure, fold.accuracy if math.isfinite(fold.accuracy) else None)


def _say_point(point: CurvePoint, figure: str) -> str:
    if figure not in point.figures:
        return "too little to compare"
    value, (low, high) = point.figures[figure], point.intervals[figure]
    if figure == "accuracy":
        return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _write(found: CrossValidation, out: Path, as_json: bool) -> None:
    from ..files import replacing

    table, report = out / "predictions.csv", out / "validation.json"
    found.write_csv(table)
    told = found.to_dict()
    with replacing(report) as temporary:
        temporary.write_text(json.dumps(told, allow_nan=False), encoding="utf-8")
    if as_json:
        print(json.dumps({**told, "predictions": str(table), "report": str(report)}))
        return
    print(found.sentence)
    for point in found.curve:
        print(
            f"  from {point.n_groups:.0f} groups ({point.n:.0f} {found.unit}): "
            f"{_say_point(point, found.judged.figures[0])}"
        )
    for note in found.notes:
        print(f"note: {note}")
    print(f"written to {report} and {table}")
