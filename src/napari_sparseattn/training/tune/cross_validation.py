"""Cross-validation by group: how good a training is on patients that it has not seen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...judged import Estimated, Judged, describe_figure
from ...metrics import group_intervals
from ...reprs import short_repr
from ..data.folds import group_folds, share_of_groups

__all__ = [
    "CURVE",
    "CrossValidation",
    "CurvePoint",
    "FoldDone",
    "Learner",
    "cross_validate",
]

Rows = npt.NDArray[np.bool_]

#: Shares of the groups for learning that a learning curve is drawn through.
CURVE = (0.25, 0.5, 1.0)

Answers = Judged | Estimated


class Learner(Protocol):
    """What is cross-validated: examples, and a training that may be repeated.

    Attributes
    ----------
    labels : sequence of int
        (N,) a class of each example, by which folds are made even.
    groups : sequence of str
        (N,) the patient, slide or field of each.
    unit, groups_are : str
        What an example and a group are called, in the plural.
    """

    @property
    def labels(self) -> Sequence[int]:
        """See the class."""

    @property
    def groups(self) -> Sequence[str]:
        """See the class."""

    @property
    def unit(self) -> str:
        """See the class."""

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Answers:
        """Train on some rows (N,), choose on others, and judge the third; in their order."""


@dataclasses.dataclass(frozen=True)
class FoldDone:
    """One training that is over.

    Attributes
    ----------
    done, total : int
        Trainings that are, of how many.
    fold : int
        Which fold was tested on, from 0.
    share : float
        Share of the groups for learning that was learned from.
    accuracy : float
        On the fold; NaN where it cannot be told.
    figure : str
        What that is, where it is another figure, such as a C-index.
    """

    done: int
    total: int
    fold: int
    share: float
    accuracy: float
    figure: str = "accuracy"


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """What a share of the groups was worth.

    Attributes
    ----------
    share : float
        Of the groups for learning.
    n_groups, n : float
        Groups and examples learned from, mean over the folds.
    figures : mapping of str to float
        Mean over the folds.
    intervals : mapping of str to (float, float)
        95 %, by bootstrap over groups.
    """

    share: float
    n_groups: float
    n: float
    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """What cross-validation gave.

    Attributes
    ----------
    judged : Judged or Estimated
        Every example as judged by the model that had not seen its group.
    fold : numpy.ndarray
        (N,) int64, the fold of each row.
    figures : mapping of str to float
        ``accuracy``, ``balanced_accuracy`` and ``auc``, or those of a risk or
        number: means over the folds.
    intervals : mapping of str to (float, float)
        95 %, by bootstrap over groups.
    per_fold : tuple of mapping
        The figures of each fold; None where one cannot be told.
    curve : tuple of CurvePoint
        The learning curve, smallest share first; empty where none was asked for.
    more : mapping, optional
        Accuracy to be expected of twice as many groups, ``accuracy`` and
        ``interval``; None without a curve.
    unit : str
        What the rows are, in the plural.
    notes : tuple of str
        What the figures depend on.
    """

    __repr__ = short_repr

    judged: Answers
    fold: npt.NDArray[np.int64]
    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    per_fold: tuple[Mapping[str, float | None], ...]
    curve: tuple[CurvePoint, ...] = ()
    more: Mapping[str, Any] | None = None
    unit: str = "images"
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The result for people."""
        n = len({group for group in self.judged.groups if group})
        of = f" of {n} groups" if n else ""
        if isinstance(self.judged, Estimated):
            said = "; ".join(
                describe_figure(name, value, self.intervals.get(name), self.judged.report_unit)
                for name, value in self.figures.items()
            )
            return (
                f"{said or 'Nothing could be compared'}: means over the folds, on "
                f"{len(self.judged)} {self.unit}{of}, each judged by a model that had not seen its "
                "group."
            )
        low, high = self.intervals["accuracy"]
        said = (
            f"{100 * self.figures['accuracy']:.1f} % of {len(self.judged)} {self.unit}{of} right, "
            f"each judged by a model that had not seen its group (95 % interval {100 * low:.1f} "
            f"to {100 * high:.1f})"
        )
        if "auc" in self.figures:
            low, high = self.intervals["auc"]
            said += f"; AUC {self.figures['auc']:.3f} ({low:.3f} to {high:.3f})"
        if self.more is not None:
            low, high = self.more["interval"]
            said += (
                f". With twice as many groups about {100 * self.more['accuracy']:.1f} % are to be "
                f"expected ({100 * low:.1f} to {100 * high:.1f})"
            )
        return f"{said}."

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "folds": len(self.per_fold),
            "n": len(self.judged),
            "n_groups": len({group for group in self.judged.groups if group}),
            **self.figures,
            "intervals": {name: list(span) for name, span in self.intervals.items()},
            "per_fold": [dict(each) for each in self.per_fold],
            "pooled": self.judged.report().to_dict() if self.judged.comparable else None,
            "learning_curve": [
                {
                    **dataclasses.asdict(point),
                    "intervals": {name: list(span) for name, span in point.intervals.items()},
                }
                for point in self.curve
            ],
            "with_twice_as_many_groups": None if self.more is None else dict(self.more),
            "notes": list(self.notes),
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a row per example: what the model that had not seen it said, and its fold."""
        self.judged.write_csv(path, {"fold": self.fold.tolist()})


def cross_validate(
    learner: Learner,
    folds: int = 5,
    *,
    seed: int = 0,
    curve: Sequence[float] = (),
    on_fold: Callable[[FoldDone], None] | None = None,
) -> CrossValidation:
    """Train once per fold on the others, and judge the fold.

    One fold is tested on, the next chooses weights and temperature, the rest
    is learned from. A group is in one fold as a whole.

    Parameters
    ----------
    learner : Learner
        Examples, and how to train on some of them.
    folds : int
        3 or more.
    seed : int
        Of the folds.
    curve : sequence of float
        Shares of the groups for learning, such as `CURVE`, for a learning
        curve; each takes a training per fold. 1 is always among them.
    on_fold : callable, optional
        Called after each training; it may raise to stop.

    Raises
    ------
    ValueError
        If there are too few groups, or a share is not in 0 to 1.
    """
    known = any(learner.groups)
    groups = [
        f"group {group}" if group else f"example {i}" for i, group in enumerate(learner.groups)
    ]
    labels = np.asarray(learner.labels, np.int64)
    fold = group_folds(labels, groups, folds, seed)
    shares = sorted({*curve, 1.0})
    if not 0 < shares[0] <= shares[-1] <= 1:
        raise ValueError(f"shares of a learning curve are above 0 and up to 1, got {shares}")
    gathered: dict[float, _Gathered] = {share: _Gathered() for share in shares}
    total, done = folds * len(shares), 0
    # What is asked for most comes first.
    for share in reversed(shares):
        for number in range(folds):
            test, validation = fold == number, fold == (number + 1) % folds
            train = ~(test | validation)
            rows = np.flatnonzero(train)
            chosen = share_of_groups(labels[rows], [groups[row] for row in rows], share, seed)
            train[rows[~chosen]] = False
            judged = learner.learn(train, validation, test)
            own = {groups[row] for row in np.flatnonzero(train)}
            gathered[share].add(judged, number, len(own), int(train.sum()))
            done += 1
            if on_fold is not None:
                figure = judged.figures[0]
                value = judged.measure()(np.ones(len(judged), np.int64))[figure]
                accuracy = float("nan") if value is None else value
                on_fold(FoldDone(done, total, number, share, accuracy, figure))
    whole = gathered[1.0]
    figures, intervals = whole.figures(), whole.intervals()
    points = tuple(
        CurvePoint(
            share,
            float(np.mean(each.n_groups)),
            float(np.mean(each.n)),
            each.figures(),
            each.intervals(),
        )
        for share, each in gathered.items()
    )
    said = (
        "No groups (patients, slides) are known: what is alike may lie on both sides, and the "
        "figures may be too good."
    )
    notes = () if known else (said,)
    return CrossValidation(
        whole.judged,
        whole.fold,
        figures,
        intervals,
        tuple(whole.per_fold()),
        points if len(points) > 1 else (),
        _extrapolate(gathered) if len(points) > 1 else None,
        learner.unit,
        notes,
    )


class _Gathered:
    """Out-of-fold answers of one share of the groups."""

    def __init__(self) -> None:
        self._parts: list[Answers] = []
        self._fold: list[npt.NDArray[np.int64]] = []
        self.n_groups: list[int] = []
        self.n: list[int] = []

    def add(self, judged: Answers, number: int, n_groups: int, n: int) -> None:
        """Take the answers on one fold."""
        self._parts.append(judged)
        self._fold.append(np.full(len(judged), number, np.int64))
        self.n_groups.append(n_groups)
        self.n.append(n)

    @property
    def judged(self) -> Answers:
        return type(self._parts[0]).join(self._parts)  # type: ignore[arg-type]

    @property
    def fold(self) -> npt.NDArray[np.int64]:
        return np.concatenate(self._fold)

    def per_fold(self) -> list[dict[str, float | None]]:
        """The figures of each fold."""
        return [part.measure()(np.ones(len(part), np.int64)) for part in self._parts]

    def figures(self) -> dict[str, float]:
        """Means over the folds."""
        return _means(self.per_fold())

    def measure(self) -> Callable[[npt.NDArray[np.int64]], dict[str, float | None]]:
        """Return what gives means over the folds, for `group_intervals`."""
        judged, fold = self.judged, self.fold
        each = [judged.measure(fold == number) for number in np.unique(fold)]
        return lambda counts: {**_means([measure(counts) for measure in each])}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 %, by bootstrap over groups."""
        return group_intervals(self.judged.units, self.measure())


def _means(each: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    found = {}
    for name in each[0]:
        values = [value for one in each if (value := one[name]) is not None]
        if values:
            found[name] = float(np.mean(values))
    return found


def _extrapolate(gathered: Mapping[float, _Gathered]) -> dict[str, Any] | None:
    """Accuracy to be expected of twice the groups, with an interval by bootstrap over groups.

    Errors are taken to fall as a power of the number of groups, never to rise.
    None where groups are so few that all shares are the same, and of risks and
    numbers, whose figures do not fall to 0.
    """
    if isinstance(gathered[1.0].judged, Estimated):
        return None
    sizes = np.log([np.mean(each.n_groups) for each in gathered.values()])
    if np.ptp(sizes) == 0:
        return None
    away = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    whole = gathered[1.0].judged
    # The same folds are judged in the same order whatever was learned from.
    measures = [each.measure() for each in gathered.values()]

    def twice(counts: npt.NDArray[np.int64]) -> dict[str, float | None]:
        found = [measure(counts)["accuracy"] for measure in measures]
        if any(value is None for value in found):
            return {"accuracy": None}
        # Half a mistake at least, or the logarithm of none is nowhere.
        errors = np.maximum(1 - np.array(found, np.float64), 0.5 / len(whole))
        slope = min(0.0, float(away @ np.log(errors)))
        return {"accuracy": float(1 - errors[-1] * 2**slope)}

    ones = np.ones(len(whole), np.int64)
    spans = group_intervals(whole.units, twice)
    return {"accuracy": twice(ones)["accuracy"], "interval": list(spans["accuracy"])}
