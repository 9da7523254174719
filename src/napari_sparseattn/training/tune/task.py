"""What fine-tuning starts from: options, data as the grown model sees it, and a fitted head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ...bundle import Bundle
from ...card import Card
from ...device import choose_device
from ...images.normalise import to_float
from ..data.datasets import CropSet
from ..data.split import held_out
from ..loop.augment import Augmentation
from ..loop.checkpoint import fingerprint
from .grown_head import (
    CellNet,
    HeadFeatures,
    class_weights,
    fit_head,
    grow,
    head_features,
    unite_classes,
)
from .steps import StepOptions, TrainingCrops

__all__ = ["FineTuneOptions", "Task", "choose_augmentation"]

_REHEARSED = 100
#: Crops per class, in the median, from which on all layers are trained.
_ENOUGH = 100


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuneOptions:
    """How to fine-tune; nothing has to be chosen.

    Parameters
    ----------
    epochs : int, optional
        Points on the curves; by default as many as the crops are worth.
    seconds : float, optional
        About how long it may take; the first epoch's time sets how many follow.
    freeze : {"auto", "none", "backbone", "head"}
        Which layers stay as they are. ``"backbone"``: all but those that read
        the features, which is quicker. ``"head"``: all but the last, which is
        fitted once to the annotated crops and to the states that the model
        keeps of its own training, in a second. ``"auto"`` trains everything
        where there are a hundred crops of most classes, else ``"head"`` where
        the model keeps states, else ``"backbone"``.
    rehearsal : CropSet, optional
        Crops of the classes that the model was trained on, where they are at
        hand; all are trained on, and none is held out.
    unlabelled : numpy.ndarray, optional
        (M, s, s, C) crops that nobody annotated, best of the same images; see
        `cut_unannotated_cells`. On them the new model is held to the old one.
        Without them the annotated crops alone serve for that.
    learning_rate : float, optional
        AdamW's peak rate.
    balance : bool
        Draw classes equally often, however many crops they have.
    mixed_precision : {"auto", "off", "bfloat16"}
        ``"auto"`` times both on the first crops, and takes the quicker.
    augmentation : Augmentation, optional
        By default what suits the modality, see `choose_augmentation`.
    seed : int
        Seeds everything.
    device : str
        See `choose_device`.
    checkpoint : pathlib.Path, optional
        A file that is written after each epoch. If it is there when training
        begins, and is of the same data, model and settings, training goes on
        from it. It is left in place: remove it once the new model is saved.
    name : str
        Of the new model; by default the old one's with "fine-tuned".
    steps : StepOptions, optional
        Everything else, for measurements.
    """

    epochs: int | None = None
    seconds: float | None = None
    freeze: Literal["auto", "none", "backbone", "head"] = "auto"
    rehearsal: CropSet | None = None
    unlabelled: npt.NDArray[Any] | None = None
    learning_rate: float | None = None
    balance: bool = True
    mixed_precision: Literal["auto", "off", "bfloat16"] = "auto"
    augmentation: Augmentation | None = None
    seed: int = 0
    device: str = "auto"
    checkpoint: Path | None = None
    name: str = ""
    steps: StepOptions | None = None


class Task:
    """The data as the grown model sees it, and what the old one says of it."""

    def __init__(self, bundle: Bundle, dataset: CropSet, options: FineTuneOptions) -> None:
        card = bundle.card
        self.bundle, self.card, self.options = bundle, card, options
        self.seen: HeadFeatures | None = None
        self.size = card.crop.size
        self.device = choose_device(options.device)
        more = options.rehearsal.class_names if options.rehearsal is not None else ()
        self.classes = unite_classes(card.class_names, (*dataset.class_names, *more))
        for part in (dataset, options.rehearsal):
            if part is not None:
                _check_crops(part.crops, card)
        out = held_out(dataset)
        self.dataset = _relabel(dataset, self.classes)
        self.held, train = self.dataset.subset(out), self.dataset.subset(~out)
        if not len(train) or len(np.unique(train.labels)) + len(card.class_names) < 2:
            raise ValueError(
                "There is nothing to learn from yet: all annotated cells are held out. Annotate "
                "at least ten cells of each class, in several places."
            )
        self.n_annotated = len(train)
        self.crops, self.labels = train.crops, train.labels
        if options.rehearsal is not None:
            again = _relabel(_some(options.rehearsal, options.seed), self.classes)
            self.crops = np.concatenate([self.crops, _as_type(again.crops, self.crops.dtype)])
            self.labels = np.concatenate([self.labels, again.labels])
        self.others = self._take_unlabelled()
        self.steps = _choose_steps(options, len(self.labels))
        self.augmentation = options.augmentation or choose_augmentation(card)

    def _take_unlabelled(self) -> npt.NDArray[Any]:
        given = self.options.unlabelled
        if given is None or not len(given):
            # Where states are kept, the annotated crops need not stand in for what was known.
            return self.crops[:0] if self.freeze == "head" else self.crops
        _check_crops(given, self.card)
        return _as_type(given, self.crops.dtype)

    @property
    def freeze(self) -> str:
        """Which layers stay as they are, decided."""
        if self.options.freeze != "auto":
            return self.options.freeze
        if np.median(np.bincount(self.labels)) >= _ENOUGH:
            return "none"
        return "backbone" if self.bundle.known is None else "head"

    @property
    def kept(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """States of the model's own training and their classes; those held out are left out.

        None where there are none, or where the layers that gave them will change.
        """
        known = self.bundle.known
        if known is None or known.held.all() or self.freeze != "head":
            return None
        rows = ~known.held
        return torch.from_numpy(known.states[rows]), torch.from_numpy(known.labels[rows])

    def fingerprint(self) -> str:
        """sha256 of all that the result depends on."""
        options = self.options
        settings = (self.steps, self.augmentation, self.freeze, options.seed, options.balance,
                    options.mixed_precision, options.seconds, self.device)  # fmt: skip
        # The weights themselves: a bundle that was never saved has no hash.
        weights = [self.bundle.state[key].numpy() for key in sorted(self.bundle.state)]
        return fingerprint(
            [repr(settings), *self.classes, *weights, self.crops, self.labels, self.others,
             self.held.crops, self.held.labels]
        )  # fmt: skip

    def prepare(self, proceed: Callable[[], bool] = lambda: True) -> tuple[CellNet, TrainingCrops]:
        """Grow the model, fit its head, and gather what the steps need.

        Raises
        ------
        InterruptedError
            If `proceed`, asked now and then, says no.
        """
        n_old, old = len(self.card.class_names), self.bundle.cell_model(self.device)
        seen, others = (
            head_features(old, crops, self.card.normalisation, self.size,
                          views=self.steps.views, device=self.device, proceed=proceed)
            for crops in (self.crops, self.others)
        )  # fmt: skip
        known = self.labels < n_old
        right = seen.logits[0].argmax(1).numpy()[known] == self.labels[known]
        # Where the user corrects the old model, it is to be believed less.
        trust = (float(right.sum()) + 2) / (len(right) + 2)
        grown = grow(old, len(self.classes))
        weights = torch.ones(len(self.classes))
        if self.options.balance:
            weights = class_weights(self.labels, len(self.classes))
        labelled = (seen, torch.from_numpy(self.labels))
        shares = fit_head(grown.head, labelled, others, weights, trust, self.kept)
        self.seen = seen
        return grown, TrainingCrops(
            self.crops, self.labels, self.others, others.probabilities, shares
        )


def choose_augmentation(card: Card) -> Augmentation:
    """Return changes that suit the modality, and a user's own images: gentle in colour."""
    if len(card.channels) == 1 and card.unit:
        spread = card.normalisation.std
        return Augmentation(physical=True, scale=0.1, stretch=0.05, blur=0.7, noise=0.1 * spread)
    return Augmentation(
        scale=0.25, stain=0.08, counterstain=0, response=0, depth=0.3, tint=0.2, haze=0.1,
        white=0.1, gamma=0.15, blur=0.8, noise=0.02, jpeg=0.1,
    )  # fmt: skip


def _choose_steps(options: FineTuneOptions, crops: int) -> StepOptions:
    chosen = options.steps or StepOptions()
    if options.steps is None:
        # Many crops are worth more steps; few are learned by heart in fewer.
        steps = int(np.clip(crops / chosen.batch_size, chosen.steps, 4 * chosen.steps))
        chosen = dataclasses.replace(chosen, steps=steps)
    if options.epochs is not None:
        if options.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {options.epochs}")
        chosen = dataclasses.replace(chosen, epochs=options.epochs)
    if options.learning_rate is not None:
        chosen = dataclasses.replace(chosen, learning_rate=options.learning_rate)
    return chosen


def _check_crops(crops: npt.NDArray[Any], card: Card) -> None:
    channels, physical = len(card.channels), bool(card.unit)
    if crops.ndim != 4 or crops.shape[-1] != channels:
        raise ValueError(
            f"'{card.name}' takes crops of {card.channels_text}, "
            f"these have shape {crops.shape}. Choose a model for such images."
        )
    if physical and not np.issubdtype(crops.dtype, np.floating):
        raise ValueError(
            f"'{card.name}' takes values in {card.unit}, these are integers. Open the images "
            "with their unit."
        )


def _some(data: CropSet, seed: int) -> CropSet:
    """At most `_REHEARSED` crops of each class: more take time and teach little."""
    order = np.random.default_rng(seed).permutation(len(data))
    rows = np.zeros(len(data), dtype=bool)
    for index in range(len(data.class_names)):
        rows[order[data.labels[order] == index][:_REHEARSED]] = True
    return data.subset(rows)


def _relabel(data: CropSet, classes: tuple[str, ...]) -> CropSet:
    place = np.array([classes.index(name) for name in data.class_names], dtype=np.int64)
    return dataclasses.replace(data, labels=place[data.labels], class_names=classes)


def _as_type(crops: npt.NDArray[Any], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    if crops.dtype == kind:
        return crops
    if np.issubdtype(kind, np.floating):
        return to_float(crops).astype(kind)
    raise ValueError(
        f"annotated crops are {kind} and the others {crops.dtype}: give both as one type."
    )
