"""Fine-tuning from a window: data gathered, and trained on in another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .messages import (
    FineTuneChoices,
    FineTuneRequest,
    Prepared,
    Stage,
    Survey,
    Trained,
)
from .process import Switch, training_events
from .runs import (
    Epoch,
    Run,
    discard,
    hold,
    new_run_folder,
    read_crops,
    read_epochs,
    read_run,
    write_run,
)

__all__ = [
    "FineTuneChoices",
    "FineTuneRequest",
    "Prepared",
    "Stage",
    "Survey",
    "Trained",
    "stream_training",
    "survey",
]

#: Held-out crops that are kept as pictures for the report.
_MOST_PICTURES = 2000
_PICTURE_SIDE = 96
#: How long a run may take to end that this window has given up.
_LOCK_SECONDS = 10.0


def survey(request: FineTuneRequest) -> Survey:
    """Count what is annotated, and say of what there is too little, without opening images."""
    from .data import survey_project

    assert request.model is not None
    text, hints, enough = survey_project(request.project, request.model.bundle.card)
    return Survey(text, hints, enough)


def stream_training(
    request: FineTuneRequest,
) -> Iterator[Stage | Prepared | Epoch | Trained]:
    """Gather the data, and train in another process.

    Yields
    ------
    Stage, Prepared, Epoch, Trained
        `Trained` at the end, or nothing more when it was killed. Closing the
        iterator kills the training; its checkpoint stays.

    Raises
    ------
    ValueError
        If there is nothing to learn from; the message says why.
    InterruptedError
        If it was cancelled before anything was learned.
    RuntimeError
        If training failed.
    """
    if request.run is None:
        # Who begins anew has given up what was interrupted.
        discard(request.project)
    folder = request.run.folder if request.run is not None else _new_folder(request)
    with hold(folder, seconds=_LOCK_SECONDS):
        if request.run is None:
            yield from _prepare(request, folder)
            request.switch.check()
        run = read_run(folder)
        yield _prepare_window(run)
        yield Stage("Starting to train…")
        yield from _train(run, request.switch)
    if not request.switch.killed:
        discard(request.project)


def _new_folder(request: FineTuneRequest) -> Path:
    assert request.model is not None
    path = request.model.bundle.path
    name = request.model.bundle.card.name if path is None else path.stem
    return new_run_folder(request.project, name)


def _prepare(request: FineTuneRequest, folder: Path) -> Iterator[Stage]:
    from .data import gather_cells, gather_slides

    model, choices = request.model, request.choices
    assert model is not None
    assert model.bundle.path is not None
    gather = gather_slides if model.bundle.card.takes_slides else gather_cells
    found = yield from gather(request, folder)
    request.switch.check()
    run = Run(
        name=folder.name,
        model=str(model.bundle.path),
        device=model.device if choices.device == "auto" else choices.device,
        freeze=choices.freeze,
        seconds=choices.seconds,
        kind="slides" if model.bundle.card.takes_slides else "cells",
        class_names=found.class_names,
        names=found.names,
        groups=found.groups,
        notes=found.notes,
        folder=folder,
    )
    write_run(run, found.arrays)


def _prepare_window(run: Run) -> Prepared:
    from ...bundle import read_card

    size = read_card(run.model).crop.size
    if run.kind == "slides":
        return Prepared(run, {}, size, tuple(read_epochs(run.folder)))
    from ..data.split import held_out

    data = read_crops(run)
    rows = np.flatnonzero(held_out(data))[:_MOST_PICTURES]
    pictures = {run.names[row]: picture_of(data.crops[row]) for row in rows}
    return Prepared(run, pictures, size, tuple(read_epochs(run.folder)))


def _train(run: Run, switch: Switch) -> Iterator[Stage | Epoch | Trained]:
    for event in training_events(run.folder, switch):
        kind = event.pop("event", "")
        if kind == "stage":
            yield Stage(event["text"])
        elif kind == "epoch":
            yield Epoch.from_dict(event)
        elif kind == "done":
            from ...bundle import read_card
            from .reports import read_report
            from .runs import report_path

            path = Path(event["model"])
            yield Trained(path, read_report(report_path(path)), read_card(path).colours)
        elif kind == "stopped":
            raise InterruptedError(event["text"])
        elif kind == "failed":
            raise ValueError(event["text"])


def picture_of(crop: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a crop (s, s, C) as a picture (t, t, 3) uint8, at most 96 px wide."""
    step = max(1, crop.shape[0] // _PICTURE_SIDE)
    side = crop.shape[0] // step * step
    values = crop[:side, :side].astype(np.float32)
    small = values.reshape(side // step, step, side // step, step, -1).mean(axis=(1, 3))
    if np.issubdtype(crop.dtype, np.floating):
        low, high = (float(v) for v in np.percentile(small, (0.5, 99.5)))
        small = 255 * (small - low) / max(high - low, 1e-12)
    shown = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    channels = shown.shape[-1]
    if channels not in (1, 3):
        shown = shown[..., :1]
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))
