"""From a trained SPAN and a user's annotated slides to a new SPAN and an honest report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle import Bundle
from ...card import readable_name
from ..data.datasets import hash_folds
from ..data.span_data import SlideExample, by_sha256
from ..loop.control import TrainingControl
from ..loop.epochs import FineTuneEpoch
from ..loop.known import measure_known_slides
from .card import Learned, make_tuned_card
from .report import FineTuneReport
from .slides_run import SlideTask, TuneRun, TuneSlidesOptions

__all__ = ["TuneSlidesOptions", "held_out_slides", "too_few_slides", "tune_slides"]

#: One group in so many is held out.
_FOLDS = 5
#: Groups of a class from which on one of them is held out, whatever the hash says.
_LEAST_GROUPS = 3


def held_out_slides(examples: Sequence[SlideExample]) -> npt.NDArray[np.bool_]:
    """Which slides (N,) are held out: a fifth of the groups, by their hash.

    Slides are few: a class of three groups or more of which the hash holds out
    none holds out the one whose SHA-256 is the lowest. Otherwise a group stays
    where it is, whatever is added.
    """
    taught: dict[str, set[int]] = {}
    for example in examples:
        taught.setdefault(example.belongs_to, set()).update(_classes_of(example))
    groups = by_sha256(taught)
    folds = hash_folds(groups, _FOLDS)
    out = {group for group, fold in zip(groups, folds, strict=True) if fold == 0}
    for label in sorted(set().union(*taught.values())):
        own = [group for group in groups if label in taught[group]]
        if len(own) >= _LEAST_GROUPS and not out.intersection(own):
            out.add(own[0])
    return np.array([example.belongs_to in out for example in examples], dtype=bool)


def too_few_slides(examples: Sequence[SlideExample], class_names: Sequence[str]) -> list[str]:
    """Say in plain sentences, before training, what there is too little of.

    Parameters
    ----------
    examples : sequence of SlideExample
        With classes, or patch labels.
    class_names : sequence of str
        What the labels mean.

    Returns
    -------
    list of str
        Empty where all is well.
    """
    out = held_out_slides(examples)
    said = []
    for index, name in enumerate(class_names):
        shown = readable_name(name)
        own = np.array([index in _classes_of(example) for example in examples], dtype=bool)
        if not own.any():
            continue
        n, checked = int((own & ~out).sum()), int((own & out).sum())
        if n < 2:
            said.append(
                f"'{shown}' has {n} slide{'s' * (n != 1)} to learn from: annotate at least 3 in "
                "all."
            )
        if not checked:
            said.append(
                f"'{shown}' has no slide held out to test on: annotate more, or the report cannot "
                "say how well it is told apart."
            )
    return said


def tune_slides(
    bundle: Bundle,
    examples: Sequence[SlideExample],
    class_names: Sequence[str],
    options: TuneSlidesOptions | None = None,
    *,
    on_epoch: Callable[[FineTuneEpoch], None] | None = None,
    control: TrainingControl | None = None,
    **overrides: Any,
) -> tuple[Bundle, FineTuneReport]:
    """Go on training a SPAN on annotated slides.

    Where a SPAN-MIL gets classes that it does not know, its last layer is
    fitted first; then all layers follow. A SPAN-UNet finds one kind of tissue: where
    that is another than the model's, the new kind takes its place. The held-out
    slides, see `held_out_slides`, choose the epoch, and the report is about them.

    Parameters
    ----------
    bundle : Bundle
        A SPAN-MIL or a SPAN-UNet; stays as it is.
    examples : sequence of SlideExample
        With classes, or with patch labels, whose features are of the model's
        encoder; `gather_slides` makes them.
    class_names : sequence of str
        What the labels mean; of patches: other tissue, and the wanted one.
    options : TuneSlidesOptions, optional
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
        Of slides, or of the patches of the held-out slides that have a label.

    Raises
    ------
    ValueError
        If the slides do not fit the model, or there is nothing to learn from.
    InterruptedError
        If it was cancelled before there was anything to keep.
    """
    if bundle.card.target is not None:
        raise ValueError(
            f"'{bundle.card.name}' gives a {bundle.card.target.answer_name}. Classes can be added "
            "to models of classes only; train it anew on a table of slides."
        )
    options = dataclasses.replace(options or TuneSlidesOptions(), **overrides)
    task = SlideTask(bundle, examples, class_names, held_out_slides(examples), options)
    run = TuneRun(task, control or TrainingControl())
    for epoch in run:
        if on_epoch is not None:
            on_epoch(epoch)
    model, report = run.result()
    known, spec = measure_known_slides(model, task.train, task.held)
    card = make_tuned_card(
        bundle, _describe_learning(task), dataclasses.asdict(model.config), report, spec
    )
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    return Bundle(card, state, known=known), report


def _describe_learning(task: SlideTask) -> Learned:
    return Learned(
        task.options.name,
        len(task.train),
        f"{len(task.train)} annotated slides",
        "a fifth of the groups of slides is held out, by the SHA-256 of their names, and at "
        "least one of each class; these slides also chose the epoch and the temperature",
        "tune_slides",
    )


def _classes_of(example: SlideExample) -> set[int]:
    if example.label is not None:
        return {example.label}
    labels = example.patch_labels
    return set() if labels is None else {int(v) for v in np.unique(labels[labels >= 0])}
