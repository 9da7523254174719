"""Cross-validation of a project's fine-tuning, in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import load_bundle
from ...files import replacing
from ..tune.cross_validation import CURVE, CrossValidation, FoldDone, Learner, cross_validate
from .messages import FineTuneRequest, Stage
from .process import training_events
from .runs import Run, hold, read_arrays, read_crops, write_run

if TYPE_CHECKING:
    from ..data.datasets import CropSet

__all__ = ["Validated", "stream_validation", "validate_run", "with_image_groups"]

#: What is left in a run's folder by `validate_run`.
RESULT, PREDICTIONS = "validation.json", "predictions.csv"
_LOCK_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Validated:
    """What cross-validation gave.

    Attributes
    ----------
    sentence : str
        For people.
    result : dict
        As `CrossValidation.to_dict`.
    predictions : str
        The CSV of out-of-fold predictions.
    """

    sentence: str
    result: dict[str, Any]
    predictions: str


def stream_validation(request: FineTuneRequest) -> Iterator[Stage | FoldDone | Validated]:
    """Gather what is annotated, and cross-validate fine-tuning on it in another process.

    Nothing of it stays in the project.

    Parameters
    ----------
    request : FineTuneRequest
        With ``folds``.

    Raises
    ------
    ValueError
        If there is too little; the message says why.
    RuntimeError
        If the process ends by itself.
    """
    from .data import gather_cells, gather_slides

    model, choices = request.model, request.choices
    assert model is not None
    assert model.bundle.path is not None
    # Two folders deep, as runs are: what is above them is their project.
    parent = request.project / "validation"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        with hold(folder, seconds=_LOCK_SECONDS):
            slides = model.bundle.card.takes_slides
            gather = gather_slides if slides else gather_cells
            found = yield from gather(request, folder)
            request.switch.check()
            run = Run(
                name=model.bundle.path.stem,
                model=str(model.bundle.path),
                device=model.device if choices.device == "auto" else choices.device,
                freeze=choices.freeze,
                seconds=choices.seconds,
                kind="slides" if slides else "cells",
                class_names=found.class_names,
                names=found.names,
                groups=found.groups,
                notes=found.notes,
                folder=folder,
                folds=request.folds,
                curve=request.curve,
            )
            write_run(run, found.arrays)
            yield Stage("Starting to train…")
            for event in training_events(folder, request.switch):
                kind = event.pop("event", "")
                if kind == "fold":
                    yield FoldDone(**event)
                elif kind == "stage":
                    yield Stage(event["text"])
                elif kind == "validated":
                    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
                    table = (folder / PREDICTIONS).read_text(encoding="utf-8")
                    yield Validated(event["text"], result, table)
                elif kind in ("stopped", "failed"):
                    raise ValueError(event["text"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            parent.rmdir()


def validate_run(run: Run, on_fold: Callable[[FoldDone], None] | None = None) -> CrossValidation:
    """Cross-validate what a run would train, and leave the result in its folder.

    Raises
    ------
    ValueError
        If there is too little.
    """
    from ..tune.learners import TunedCrops, TunedSlides
    from ..tune.task import FineTuneOptions
    from .data import make_slide_examples

    bundle = load_bundle(run.model)
    learner: Learner
    note = ""
    if run.kind == "slides":
        examples = make_slide_examples(read_arrays(run.folder), run.names, run.groups)
        more: dict[str, Any] = {} if run.epochs is None else {"epochs": run.epochs}
        learner = TunedSlides(
            bundle, examples, run.class_names, seed=run.seed, device=run.device, **more
        )
    else:
        data, note = with_image_groups(read_crops(run), run.folds)
        options = FineTuneOptions(
            freeze=run.freeze,  # type: ignore[arg-type]
            epochs=run.epochs,
            seconds=run.seconds,
            seed=run.seed,
            device=run.device,
        )
        learner = TunedCrops(bundle, data, options)
    found = cross_validate(
        learner, run.folds, seed=run.seed, curve=CURVE if run.curve else (), on_fold=on_fold
    )
    notes = (*found.notes, *((note,) if note else ()), *run.notes)
    found = dataclasses.replace(found, notes=notes)
    found.write_csv(run.folder / PREDICTIONS)
    with replacing(run.folder / RESULT) as temporary:
        temporary.write_text(json.dumps(found.to_dict(), allow_nan=False), encoding="utf-8")
    return found


def with_image_groups(data: CropSet, folds: int) -> tuple[CropSet, str]:
    """Return annotated crops grouped by image, where there are enough, and a note if not.

    Annotated cells are grouped by blocks of their image, which train and
    held-out cells of one image come from; images are further apart.
    """
    images = tuple(group.partition(":")[0] for group in data.groups)
    enough = len(set(images)) >= folds and all(
        len({images[row] for row in (data.labels == label).nonzero()[0]}) >= min(3, folds)
        for label in set(data.labels.tolist())
    )
    if enough:
        return dataclasses.replace(data, groups=images), ""
    said = (
        f"The cells are of {len(set(images))} image(s), too few to keep images apart: blocks of "
        "an image are, and cells of other images may be told apart less well."
    )
    return data, said
