"""What a model said of images, beside what they are: one table for every measurement."""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .files import replacing
from .metrics import (
    FIGURE_TITLES,
    Report,
    classification_report,
    concordance,
    correlation,
    group_intervals,
    ranked_auc,
)
from .reprs import short_repr
from .targets import TARGETS

__all__ = ["FEWEST_GROUPS", "EstimateReport", "Estimated", "Judged", "describe_figure"]

Measure = Callable[[npt.NDArray[np.int64]], dict[str, float | None]]

#: Fewer groups than this say nothing of how groups differ; images are then drawn one by one.
FEWEST_GROUPS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Probabilities of labelled images, with the group (patient, slide) of each.

    Parameters
    ----------
    names : tuple of str
        (N,) what each is called.
    groups : tuple of str
        (N,) what each is of; empty text where that is not known.
    truth : numpy.ndarray
        (N,) int64 indices of the classes.
    probabilities : numpy.ndarray
        (N, C) float32.
    class_names : tuple of str
        The C classes.
    """

    __repr__ = short_repr

    names: tuple[str, ...]
    groups: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]

    #: What is measured, the main figure first.
    figures = TARGETS["classes"].figures
    #: Whether the answers of several models may be measured together.
    comparable = True

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def units(self) -> tuple[str, ...]:
        """(N,) what intervals draw: groups where there are enough, else the images."""
        known = {group for group in self.groups if group}
        if len(known) < FEWEST_GROUPS:
            return tuple(str(i) for i in range(len(self)))
        return tuple(
            f"group {group}" if group else f"image {i}" for i, group in enumerate(self.groups)
        )

    @property
    def n_groups(self) -> int:
        """How many groups intervals draw from; 0 where images are drawn one by one."""
        known = {group for group in self.groups if group}
        return len(known) if len(known) >= FEWEST_GROUPS else 0

    def report(self) -> Report:
        """Return the figures; where there are groups, the accuracy's interval draws these."""
        found = classification_report(self.probabilities, self.truth, self.class_names)
        if not self.n_groups:
            return found
        return dataclasses.replace(found, accuracy_interval=self.intervals()["accuracy"])

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of ``accuracy``, ``balanced_accuracy`` and ``auc``."""
        return self._intervals

    @functools.cached_property
    def _intervals(self) -> dict[str, tuple[float, float]]:
        return group_intervals(self.units, self.measure())

    def measure(
        self, rows: npt.NDArray[np.bool_] | None = None
    ) -> Callable[[npt.NDArray[np.int64]], dict[str, float | None]]:
        """Return what gives the figures of some rows, by default all, for `group_intervals`.

        Given how often each row counts, (N,), it returns ``accuracy``,
        ``balanced_accuracy`` and ``auc``; None where a figure cannot be told.
        """
        here = np.flatnonzero(np.ones(len(self), bool) if rows is None else rows)
        right = (self.probabilities.argmax(axis=1) == self.truth)[here]
        one_hot = self.truth[here][:, None] == np.arange(len(self.class_names))
        ranks = [
            np.unique(self.probabilities[here, i], return_inverse=True)[1]
            for i in range(len(self.class_names))
        ]

        def measure(counts: npt.NDArray[np.int64]) -> dict[str, float | None]:
            weights = counts[here].astype(np.float64)
            if not weights.any():
                return {"accuracy": None, "balanced_accuracy": None, "auc": None}
            support = weights @ one_hot
            recall = (weights * right) @ one_hot / np.maximum(support, 1)
            aucs = [ranked_auc(rank, one_hot[:, i], weights) for i, rank in enumerate(ranks)]
            known = [auc for auc in aucs if auc is not None]
            return {
                "accuracy": float((weights * right).sum() / weights.sum()),
                "balanced_accuracy": float(recall[support > 0].mean()),
                "auc": float(np.mean(known)) if known else None,
            }

        return measure

    def by_group(self) -> Judged:
        """Return one row per class and group: the mean probabilities of its images."""
        keys = [
            (int(label), group or name)
            for label, group, name in zip(self.truth, self.groups, self.names, strict=True)
        ]
        order = list(dict.fromkeys(keys))
        number = np.array([order.index(key) for key in keys], np.int64)
        sums = np.zeros((len(order), self.probabilities.shape[1]))
        np.add.at(sums, number, self.probabilities)
        means = (sums / np.bincount(number)[:, None]).astype(np.float32)
        groups = tuple(group for _, group in order)
        truth = np.array([label for label, _ in order], np.int64)
        return Judged(groups, groups, truth, means, self.class_names)

    @classmethod
    def join(cls, parts: Sequence[Judged]) -> Judged:
        """Return the rows of several, of the same classes, one after the other."""
        return cls(
            tuple(name for part in parts for name in part.names),
            tuple(group for part in parts for group in part.groups),
            np.concatenate([part.truth for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            parts[0].class_names,
        )

    def write_csv(
        self, path: str | os.PathLike[str], more: dict[str, list[Any]] | None = None
    ) -> None:
        """Write a row per image: name, group, class, predicted class, probabilities.

        Parameters
        ----------
        path : path-like
            The file; it is replaced whole.
        more : dict of str to list, optional
            Further columns, N values each.
        """
        more = more or {}
        columns = ["image", "group", "class", "predicted"]
        columns += [f"p_{name}" for name in self.class_names] + list(more)
        predicted = self.probabilities.argmax(axis=1)
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(columns)
            for i, name in enumerate(self.names):
                classes = self.class_names[self.truth[i]], self.class_names[predicted[i]]
                chances = [f"{value:.6g}" for value in self.probabilities[i]]
                rest = [values[i] for values in more.values()]
                writer.writerow([name, self.groups[i], *classes, *chances, *rest])


@dataclasses.dataclass(frozen=True)
class EstimateReport:
    """How well risks or numbers fit what became of patients.

    Attributes
    ----------
    n, n_groups : int
        Slides, and patients (groups).
    n_events : int or None
        Patients who had the event; None of numbers.
    figures : dict of str to float or None
        See `metrics.FIGURE_TITLES`; None where one cannot be told.
    intervals : dict of str to (float, float)
        95 %, by bootstrap over patients.
    unit : str
        Of the number.
    """

    n: int
    n_groups: int
    n_events: int | None
    figures: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    unit: str = ""

    @property
    def sentence(self) -> str:
        """The figures for people."""
        said = "; ".join(
            describe_figure(name, value, self.intervals.get(name), self.unit)
            for name, value in self.figures.items()
        )
        had = "" if self.n_events is None else f", {self.n_events} with the event"
        patients = "1 patient" if self.n_groups == 1 else f"{self.n_groups} patients"
        slides = "" if self.n == self.n_groups else f" ({self.n} slides)"
        return f"{said}, on {patients}{slides}{had}"

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "n": self.n,
            "n_groups": self.n_groups,
            "n_events": self.n_events,
            **self.figures,
            "intervals": {name: list(span) for name, span in self.intervals.items()},
            "sentence": self.sentence,
        }


def describe_figure(
    name: str, value: float | None, span: tuple[float, float] | None = None, unit: str = ""
) -> str:
    """Say a figure of risks or numbers with its 95 % interval."""
    title = FIGURE_TITLES[name]
    if value is None:
        return f"{title} unknown, there is too little to compare"
    # An error is in the unit of the number, all else is a share.
    style, of = (".4g", f" {unit}".rstrip()) if name == "mae" else (".3f", "")
    around = f" (95 % interval {span[0]:{style}} to {span[1]:{style}})" if span else ""
    return f"{title} {value:{style}}{of}{around}"


@dataclasses.dataclass(frozen=True, eq=False)
class Estimated:
    """Risks or numbers of slides whose outcomes are known; what `Judged` is of classes.

    A patient's slides are taken together: the mean of their scores is measured.

    Parameters
    ----------
    names, groups : tuple of str
        (N,) what each slide is called, and its patient; empty text where that
        is not known, and the slide then stands for itself.
    outcomes : numpy.ndarray
        (N, k) float64: values, or times and events.
    scores : numpy.ndarray
        (N,) float64.
    target : str
        A row of `targets.TARGETS`.
    unit : str
        Of the number, or the time.
    """

    __repr__ = short_repr

    names: tuple[str, ...]
    groups: tuple[str, ...]
    outcomes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    target: str
    unit: str = ""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def figures(self) -> tuple[str, ...]:
        """What is measured, the main figure first."""
        return TARGETS[self.target].figures

    @property
    def comparable(self) -> bool:
        """Whether the answers of several models may be measured together: risks have no scale."""
        return not TARGETS[self.target].survival

    @property
    def units(self) -> tuple[str, ...]:
        """(N,) what intervals draw: patients, or slides of which none is known."""
        return tuple(
            f"group {group}" if group else f"image {name}"
            for group, name in zip(self.groups, self.names, strict=True)
        )

    @property
    def n_groups(self) -> int:
        """How many patients there are."""
        return len(set(self.units))

    @property
    def report_unit(self) -> str:
        """Of errors; those of risks have none."""
        return "" if TARGETS[self.target].survival else self.unit

    def report(self) -> EstimateReport:
        """Return the figures, with intervals by bootstrap over patients."""
        events = None
        if TARGETS[self.target].survival:
            had = zip(self.units, self.outcomes[:, 1], strict=True)
            events = len({unit for unit, event in had if event})
        figures = self.measure()(np.ones(len(self), np.int64))
        unit = self.report_unit
        return EstimateReport(len(self), self.n_groups, events, figures, self.intervals(), unit)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the figures, by bootstrap over patients."""
        return group_intervals(self.units, self.measure())

    def measure(self, rows: npt.NDArray[np.bool_] | None = None) -> Measure:
        """Return what gives the figures of some rows, by default all, for `group_intervals`.

        Given how often each row counts, (N,), the same for all of a patient's,
        it returns the `figures`; None where one cannot be told.
        """
        here = np.flatnonzero(np.ones(len(self), bool) if rows is None else rows)
        units = [self.units[i] for i in here]
        _, first, number = np.unique(np.array(units), return_index=True, return_inverse=True)
        # Sums over a patient's slides; a number is a slide's, and its mean the patient's.
        count = np.maximum(np.bincount(number), 1)
        scores = np.bincount(number, self.scores[here]) / count
        outcomes = np.stack(
            [np.bincount(number, column) / count for column in self.outcomes[here].T], axis=1
        )
        tell = (_tell_concordance if TARGETS[self.target].survival else _tell_numbers)(
            outcomes, scores
        )
        return lambda counts: tell(counts[here[first]])

    def by_group(self) -> Estimated:
        """Return this: patients are taken together already."""
        return self

    @classmethod
    def join(cls, parts: Sequence[Estimated]) -> Estimated:
        """Return the rows of several, of the same target, one after the other."""
        return dataclasses.replace(
            parts[0],
            names=tuple(name for part in parts for name in part.names),
            groups=tuple(group for part in parts for group in part.groups),
            outcomes=np.concatenate([part.outcomes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
        )

    def write_csv(
        self, path: str | os.PathLike[str], more: dict[str, list[Any]] | None = None
    ) -> None:
        """Write a row per slide: name, group, what is known, and the risk or number."""
        kind, more = TARGETS[self.target], more or {}
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            predicted = "risk" if kind.survival else "predicted"
            writer.writerow(["image", "group", *kind.columns, predicted, *more])
            for i, name in enumerate(self.names):
                known = [f"{value:.6g}" for value in self.outcomes[i]]
                rest = [values[i] for values in more.values()]
                writer.writerow([name, self.groups[i], *known, f"{self.scores[i]:.6g}", *rest])


def _tell_concordance(
    outcomes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> Measure:
    index = concordance(outcomes[:, 0], outcomes[:, 1] > 0, scores)
    return lambda counts: {"c_index": index(counts)}


def _tell_numbers(outcomes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> Measure:
    from scipy.stats import rankdata

    truth = outcomes[:, 0]

    def tell(counts: npt.NDArray[np.int64]) -> dict[str, float | None]:
        a, b = np.repeat(truth, counts), np.repeat(scores, counts)
        if not len(a):
            return {"pearson": None, "spearman": None, "mae": None}
        return {
            "pearson": correlation(a, b),
            "spearman": correlation(rankdata(a), rankdata(b)),
            "mae": float(np.abs(a - b).mean()),
        }

    return tell
