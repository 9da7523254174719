"""From a trained model and a user's annotated crops to a new model and an honest report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ..bundle import Bundle
from ..card import Card, default_colours
from .control import TrainingControl
from .datasets import CropSet
from .fine_tune_report import FineTuneReport
from .fine_tune_run import FineTuneEpoch, FineTuneRun
from .fine_tune_task import FineTuneOptions, Task
from .grown_head import CellNet

__all__ = [
    "FineTuneEpoch",
    "FineTuneOptions",
    "FineTuneReport",
    "TrainingControl",
    "fine_tune",
]


def fine_tune(
    bundle: Bundle,
    dataset: CropSet,
    options: FineTuneOptions | None = None,
    *,
    on_epoch: Callable[[FineTuneEpoch], None] | None = None,
    control: TrainingControl | None = None,
    **overrides: Any,
) -> tuple[Bundle, FineTuneReport]:
    """Go on training a model on annotated crops; classes it does not know are added.

    The head grows by the new classes and is fitted first, which takes a
    second; then all layers follow, on annotated crops, and on unannotated ones
    on which the old classes keep the shares that the old model gave them. The
    weights' moving average at the best epoch is what is kept.

    Parameters
    ----------
    bundle : Bundle
        A SparseAttnNet or a TNet; stays as it is.
    dataset : CropSet
        Annotated crops, at the model's size or twice that.
    options : FineTuneOptions, optional
        How.
    on_epoch : callable, optional
        Called after each epoch.
    control : TrainingControl, optional
        Pauses and cancels from another thread.
    **overrides
        Options by name.

    Returns
    -------
    bundle : Bundle
        The new model; `save_bundle` writes it.
    report : FineTuneReport

    Raises
    ------
    ValueError
        If the crops do not fit the model, or there is nothing to learn from.
    InterruptedError
        If it was cancelled before there was anything to keep.
    """
    options = dataclasses.replace(options or FineTuneOptions(), **overrides)
    task = Task(bundle, dataset, options)
    try:
        run = FineTuneRun(task, control or TrainingControl())
    except InterruptedError:
        raise InterruptedError(
            "Cancelled before anything was learned; the model is as it was."
        ) from None
    for epoch in run:
        if on_epoch is not None:
            on_epoch(epoch)
    model, temperature, report = run.result()
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    return Bundle(_card(task, model, temperature, report), state), report


def _card(task: Task, model: CellNet, temperature: float, report: FineTuneReport) -> Card:
    old = task.card
    new = [name for name in task.classes if name not in old.class_names]
    spare = [c for c in default_colours(64) if c not in old.colours]
    colours = (*old.colours, *(spare[i % len(spare)] for i in range(len(new))))
    learned = f", with new classes {', '.join(new)}" if new else ""
    training = old.training.model_copy(update={
        "data": f"{task.n_annotated} annotated cells, after: {old.training.data}",
        "split": "a fifth of the annotated groups of neighbouring cells is held out, by the "
        "SHA-256 of their names; these cells also chose the epoch and the temperature",
        "recipe": f"fine_tune from '{old.name}' ({task.bundle.hash[:12]})",
        "n_train": task.n_annotated,
        "n_validation": len(task.held),
        "n_test": len(task.held),
        "epochs": len(report.history),
        "history": [{k: v for k, v in row.items() if k != "best"} for row in report.history],
    })  # fmt: skip
    metrics = report.after.to_dict() if report.after is not None else {}
    return Card.model_validate({
        **old.model_dump(),
        "name": task.options.name or f"{old.name[:80]} fine-tuned",
        "description": f"{old.description} Fine-tuned{learned}.".strip(),
        "class_names": task.classes,
        "class_colours": colours,
        "architecture": dataclasses.asdict(model.config),
        "temperature": temperature,
        "training": training.model_dump(),
        "metrics": metrics,
        "test_vector": None,
        "tensors_sha256": "",
    })  # fmt: skip
