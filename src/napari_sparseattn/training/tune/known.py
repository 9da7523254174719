"""What a fine-tuned model knows: what it knew, and the cells that it was tuned on."""

from __future__ import annotations

import numpy as np

from ...card import NoveltySpec
from ...known import KnownStates, extend_known_states, fit_known_states
from ..loop.fit import predict_states
from ..loop.known import MOST_STATES, describe_known, draw_rows
from .grown_head import CellNet
from .report import LEAST_TO_CALIBRATE
from .task import Task

__all__ = ["know_again"]

#: Cells below which nothing can be said of their spread.
_LEAST = 10


def know_again(task: Task, model: CellNet) -> tuple[KnownStates | None, NoveltySpec | None]:
    """Measure the known states over the old and the new classes.

    Where the last layer alone was fitted, states stay what they were, and
    those of the annotated cells are added. Where layers below it have changed,
    they are measured anew, on the crops that were trained on and on those that
    nobody annotated; what is common beside the classes is then no longer known.

    Parameters
    ----------
    task : Task
        Prepared.
    model : SparseAttnNet or TNet
        The new model, on the CPU.

    Returns
    -------
    known : KnownStates or None
        None where there are too few cells.
    spec : NoveltySpec or None
        The same for the card.
    """
    card, old = task.card, task.bundle.known
    softening: dict[str, float] = {}
    if card.novelty is not None:
        softening["softening"] = card.novelty.softening
        # A temperature that was fitted to the user's own cells is right of what is usual to them.
        if len(task.held) < LEAST_TO_CALIBRATE:
            softening["softening_from"] = card.novelty.softening_from
    held = np.empty((0, model.head.in_features), np.float32)
    if len(task.held):
        held = predict_states(model, task.held.crops, card.normalisation, task.size).numpy()
    if task.freeze == "head" and old is not None:
        assert task.seen is not None
        own = task.seen.features[0].numpy()
        known = extend_known_states(old, own, task.labels, held, task.held.labels)
        before = 0 if card.novelty is None else card.novelty.n
        spec = describe_known(known, before + len(own), int(old.held.sum()) + len(held))
        kept = () if card.novelty is None else card.novelty.others
        return known, spec.model_copy(update={"others": kept} | softening)
    crops, labels = task.crops, task.labels
    given = task.options.unlabelled
    if given is not None and len(given):
        others = predict_states(model, task.others, card.normalisation, task.size)
        said = model.head(others).argmax(1).numpy()
    rows = draw_rows(labels, MOST_STATES)
    states = predict_states(model, crops[rows], card.normalisation, task.size).numpy()
    labels = labels[rows]
    if given is not None and len(given):
        states, labels = np.concatenate([states, others.numpy()]), np.concatenate([labels, said])
    if len(states) < _LEAST or not len(held):
        return None, None
    known = fit_known_states(states, labels, held, task.held.labels)
    spec = describe_known(known, len(states), len(held))
    return known, spec.model_copy(update=softening)
