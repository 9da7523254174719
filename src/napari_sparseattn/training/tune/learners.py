"""Trainings that can be cross-validated: each kind of model, from nothing or from a known one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle import Bundle
from ...judged import Estimated, Judged
from ..data.datasets import CropSet
from ..data.span_data import SlideExample
from ..loop.classifier import Parts
from ..loop.fit import predict_logits
from ..loop.slides import SlideTraining, train_slides
from ..loop.span import estimate_outcomes, predict_slides
from .cross_validation import Rows
from .fine_tune import fine_tune
from .grown_head import unite_classes
from .slides import tune_slides
from .task import FineTuneOptions

__all__ = ["CropLearner", "SlideLearner", "TunedCrops", "TunedSlides"]

TrainParts = Callable[[Parts], Bundle]
Stop = Callable[[], bool]


class CropLearner:
    """A model of crops, trained from random weights.

    Parameters
    ----------
    data : CropSet
        All crops, with groups where these are known.
    train : callable
        Trains on the parts it is given.
    """

    unit = "images"

    def __init__(self, data: CropSet, train: TrainParts) -> None:
        self.data, self.train = data, train

    @property
    def labels(self) -> Sequence[int]:
        """Class of each crop."""
        return self.data.labels.tolist()  # type: ignore[no-any-return]

    @property
    def groups(self) -> Sequence[str]:
        """Group of each crop."""
        return self.data.groups or ("",) * len(self.data)

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Judged:
        """See `Learner`."""
        parts: Parts = {
            "train": self.data.subset(train),
            "validation": self.data.subset(validation),
            "test": self.data.subset(test),
        }
        return _judge_crops(self.train(parts), parts["test"], self.data.class_names)


class TunedCrops(CropLearner):
    """A known model of crops, fine-tuned.

    Parameters
    ----------
    bundle : Bundle
        The model to begin with.
    data : CropSet
        All annotated crops.
    options : FineTuneOptions
        How.
    """

    unit = "annotated cells"

    def __init__(self, bundle: Bundle, data: CropSet, options: FineTuneOptions) -> None:
        super().__init__(data, self._refuse)
        self.bundle, self.options = bundle, options

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Judged:
        """See `Learner`; the validation rows choose the epoch and the temperature."""
        used = train | validation
        data = dataclasses.replace(self.data.subset(used), held_out=validation[used])
        bundle, _ = fine_tune(self.bundle, data, self.options)
        classes = unite_classes(self.bundle.card.class_names, self.data.class_names)
        return _judge_crops(bundle, self.data.subset(test), classes)

    @staticmethod
    def _refuse(_: Parts) -> Bundle:
        raise NotImplementedError


class SlideLearner:
    """A SPAN, trained from random weights on slides, or on the patches of slides.

    Parameters
    ----------
    examples : sequence of SlideExample
        All slides.
    settings : SlideTraining
        What and how to train.
    stop : callable, optional
        See `train_slides`.
    """

    def __init__(
        self, examples: Sequence[SlideExample], settings: SlideTraining, stop: Stop | None = None
    ) -> None:
        self.examples, self.settings, self.stop = list(examples), settings, stop
        self.unit = "patches" if settings.segments else "slides"

    @property
    def labels(self) -> Sequence[int]:
        """Class of each slide, or what folds share evenly; of patches, whether any is wanted."""
        return [_label_of(example) for example in self.examples]

    @property
    def groups(self) -> Sequence[str]:
        """Group of each slide, or its name."""
        return [example.belongs_to for example in self.examples]

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Judged | Estimated:
        """See `Learner`."""
        parts = {
            "train": _take(self.examples, train),
            "validation": _take(self.examples, validation),
            "test": _take(self.examples, test),
        }
        bundle, _ = train_slides(
            self.examples,
            self.settings,
            parts=parts,  # type: ignore[arg-type]
            stop=self.stop,
        )
        if bundle.card.target is not None:
            return estimate_outcomes(bundle.slide_model(), parts["test"], bundle.card.target)
        return _judge_slides(bundle, parts["test"], self.settings.class_names)


class TunedSlides:
    """A known SPAN, fine-tuned on slides.

    Parameters
    ----------
    bundle : Bundle
        The model to begin with.
    examples : sequence of SlideExample
        All annotated slides.
    class_names : sequence of str
        What their labels mean.
    **options
        Of `TuneSlidesOptions`.
    """

    def __init__(
        self,
        bundle: Bundle,
        examples: Sequence[SlideExample],
        class_names: Sequence[str],
        **options: Any,
    ) -> None:
        self.bundle, self.examples, self.class_names = bundle, list(examples), tuple(class_names)
        self.options = options
        self.unit = "patches" if bundle.card.segments else "slides"

    @property
    def labels(self) -> Sequence[int]:
        """Class of each slide; of patches, whether any is of the wanted tissue."""
        return [_label_of(example) for example in self.examples]

    @property
    def groups(self) -> Sequence[str]:
        """Group of each slide, or its name."""
        return [example.belongs_to for example in self.examples]

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Judged:
        """See `Learner`; what chooses the epoch is taken from all but the tested slides."""
        known = _take(self.examples, train | validation)
        bundle, _ = tune_slides(self.bundle, known, self.class_names, **self.options)
        asked = _take(self.examples, test)
        old = self.bundle.card.class_names
        if self.bundle.card.segments:
            return _judge_slides(bundle, asked, self.class_names)
        classes = unite_classes(old, self.class_names)
        place = [classes.index(name) for name in self.class_names]
        asked = [
            dataclasses.replace(each, label=None if each.label is None else place[each.label])
            for each in asked
        ]
        return _judge_slides(bundle, asked, classes)


def _judge_crops(bundle: Bundle, data: CropSet, class_names: Sequence[str]) -> Judged:
    card = bundle.card
    logits = predict_logits(bundle.cell_model(), data.crops, card.normalisation, card.crop.size)
    chances = (logits / card.temperature).softmax(1).numpy()
    place = np.array([tuple(class_names).index(name) for name in data.class_names], np.int64)
    return Judged(
        data.names,
        data.groups or ("",) * len(data),
        place[data.labels],
        _align(chances, card.class_names, class_names),
        tuple(class_names),
    )


def _judge_slides(
    bundle: Bundle, examples: Sequence[SlideExample], class_names: Sequence[str]
) -> Judged:
    card = bundle.card
    logits = predict_slides(bundle.slide_model(), examples)
    if not card.segments:
        chances = np.concatenate([(each / card.temperature).softmax(1).numpy() for each in logits])
        return Judged(
            tuple(example.name for example in examples),
            tuple(example.belongs_to for example in examples),
            np.array([example.label for example in examples], np.int64),
            _align(chances, card.class_names, class_names),
            tuple(class_names),
        )
    names, groups, truth, shares = [], [], [], []
    for example, each in zip(examples, logits, strict=True):
        labels = example.patch_labels
        assert labels is not None
        rows = np.flatnonzero(labels >= 0)
        names += [f"{example.name} patch {row}" for row in rows]
        groups += [example.belongs_to] * len(rows)
        truth.append(labels[rows].astype(np.int64))
        shares.append((each[:, 0] / card.temperature).sigmoid().numpy()[rows])
    share = np.concatenate(shares)
    chances = np.stack([1 - share, share], axis=1).astype(np.float32)
    return Judged(tuple(names), tuple(groups), np.concatenate(truth), chances, tuple(class_names))


def _align(
    chances: npt.NDArray[np.float32], names: Sequence[str], wanted: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Columns in the order wanted; 0 for classes that a fold's model never saw."""
    found = np.zeros((len(chances), len(wanted)), np.float32)
    for column, name in enumerate(names):
        found[:, tuple(wanted).index(name)] = chances[:, column]
    return found


def _take(examples: Sequence[SlideExample], rows: Rows) -> list[SlideExample]:
    return [example for example, take in zip(examples, rows, strict=True) if take]


def _label_of(example: SlideExample) -> int:
    if example.label is not None:
        return example.label
    return 0 if example.patch_labels is None else int((example.patch_labels == 1).any())
