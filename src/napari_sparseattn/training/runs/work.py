"""A run worked on in this process: trained on, gone on with, and its model kept as a version."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ...bundle import Bundle, load_bundle, save_bundle
from ...card import Card
from ...files import replacing
from ..data.annotated import cut_unannotated_cells
from ..data.project import Project, ProjectError
from ..loop.control import TrainingControl
from ..loop.epochs import FineTuneEpoch
from ..tune.fine_tune import fine_tune
from ..tune.report import FineTuneReport
from ..tune.slides import tune_slides
from .data import make_slide_examples
from .runs import (
    CHECKPOINT,
    Run,
    finish,
    other_crops,
    read_arrays,
    read_crops,
    read_images,
    read_rehearsal,
    report_path,
    target_of,
)

__all__ = ["save_version", "train_run"]

OnEpoch = Callable[[FineTuneEpoch], None]


def train_run(
    run: Run,
    control: TrainingControl,
    on_epoch: OnEpoch | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> tuple[Bundle, FineTuneReport]:
    """Train what a run is to train, or go on with it from its checkpoint.

    Parameters
    ----------
    run : Run
        As written by `write_run`.
    control : TrainingControl
        Pauses and cancels from another thread.
    on_epoch : callable, optional
        Called after each epoch.
    on_stage : callable, optional
        Called with what begins, in words.

    Raises
    ------
    ValueError
        If the data do not fit the model, or are damaged.
    InterruptedError
        If it was cancelled before there was anything to keep.
    """
    bundle = load_bundle(run.model)
    train = _train_slides if run.kind == "slides" else _train_cells
    return train(run, bundle, control, on_epoch, on_stage)


def save_version(run: Run, bundle: Bundle, report: FineTuneReport) -> Path:
    """Keep a run's model and report among the user's models, never over another; it is finished."""
    path = target_of(run)
    changes = {"name": path.stem, "class_colours": _colours(run, bundle.card)}
    named = dataclasses.replace(bundle, card=bundle.card.model_copy(update=changes))
    plain = {"format": 1, "model": path.stem, "report": report.to_dict()}
    # The report first: a model that is there has one.
    with replacing(report_path(path)) as temporary:
        temporary.write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
    save_bundle(named, path)
    finish(run)
    return path


def _colours(run: Run, card: Card) -> tuple[str, ...]:
    """Return the colours that the classes have in the project, where it has them."""
    try:
        known = Project(run.folder.parent.parent).classes()
    except ProjectError:
        # Not worth losing the model for.
        return card.colours
    pairs = zip(card.class_names, card.colours, strict=True)
    return tuple(known.get(name, colour) for name, colour in pairs)


def _train_cells(
    run: Run,
    bundle: Bundle,
    control: TrainingControl,
    on_epoch: OnEpoch | None,
    on_stage: Callable[[str], None],
) -> tuple[Bundle, FineTuneReport]:
    on_stage("Looking for cells that nobody annotated…")
    others = _find_others(run, bundle.card)
    on_stage("Fitting the last layer…")
    return fine_tune(
        bundle,
        read_crops(run),
        on_epoch=on_epoch,
        control=control,
        unlabelled=others,
        rehearsal=read_rehearsal(run),
        freeze=run.freeze,
        epochs=run.epochs,
        seconds=run.seconds,
        seed=run.seed,
        device=run.device,
        checkpoint=run.folder / CHECKPOINT,
        name=run.name,
    )


def _find_others(run: Run, card: Card) -> npt.NDArray[Any] | None:
    """Crops of cells that nobody annotated: the same ones when the run goes on."""

    def cut() -> npt.NDArray[Any]:
        fields = read_images(run.folder)
        project = Project(run.folder.parent.parent)
        return cut_unannotated_cells(project, lambda image: fields.get(image.hash), card)

    crops = other_crops(run.folder, cut)
    return crops if len(crops) else None


def _train_slides(
    run: Run,
    bundle: Bundle,
    control: TrainingControl,
    on_epoch: OnEpoch | None,
    on_stage: Callable[[str], None],
) -> tuple[Bundle, FineTuneReport]:
    on_stage("Training…")
    more: dict[str, Any] = {} if run.epochs is None else {"epochs": run.epochs}
    return tune_slides(
        bundle,
        make_slide_examples(read_arrays(run.folder), run.names, run.groups),
        run.class_names,
        on_epoch=on_epoch,
        control=control,
        seconds=run.seconds,
        seed=run.seed,
        device=run.device,
        checkpoint=run.folder / CHECKPOINT,
        name=run.name,
        **more,
    )
