"""From a trained model and a user's annotated crops to a new model and an honest report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...bundle import Bundle
from ..data.datasets import CropSet
from ..loop.control import TrainingControl
from ..loop.epochs import FineTuneEpoch
from .card import Learned, make_tuned_card
from .known import know_again
from .report import FineTuneReport
from .run import FineTuneRun
from .task import FineTuneOptions, Task

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
    second, beside states that the model keeps of its own training. Where there
    are few crops that is all. Else all layers follow, on annotated crops, and
    on unannotated ones on which the old classes keep the shares that the old
    model gave them; the weights' moving average at the best epoch is kept.

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
    model, report = run.result()
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    known, spec = know_again(task, model)
    card = make_tuned_card(
        bundle, _describe_learning(task), dataclasses.asdict(model.config), report, spec
    )
    return Bundle(card, state, known=known), report


def _describe_learning(task: Task) -> Learned:
    return Learned(
        task.options.name,
        task.n_annotated,
        f"{task.n_annotated} annotated cells",
        "a fifth of the annotated groups of neighbouring cells is held out, by the SHA-256 of "
        "their names; these cells also chose the epoch and the temperature",
        "fine_tune",
    )
