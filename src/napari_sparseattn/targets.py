"""What a model of slides may learn: classes, a number, or survival. One table, one row per kind.

Everything that differs between these stands in a row: the columns of a table that
state it, how many numbers the network gives, what single score they come to, and the
part that trains on it. Cards name the row; see `card.TargetSpec`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TARGETS", "TargetKind", "TargetName", "survival_curve", "target_of_columns"]

TargetName = Literal["classes", "number", "hazards", "cox"]

Outcomes = npt.NDArray[np.float64]

#: Fewer patients than this make no stratum of their own: each part of a split needs one.
_LEAST = 3


@dataclasses.dataclass(frozen=True)
class TargetKind:
    """One kind of thing that a slide model may learn.

    Parameters
    ----------
    name : str
        As cards and the command line have it.
    title : str
        What people call it.
    columns : tuple of str
        What a table of slides states it by, beside slide, group and split.
    score : callable
        Turns the network's numbers (..., C) into one (...), which is ranked
        and explained; of classes there is none, and it raises a TypeError.
    strata : callable
        Turns outcomes (N, k) into kinds (N,) int that every part of a split
        should have some of.
    objective : str
        The part that has its loss, ``"module:attribute"``; empty of classes.
    figures : tuple of str
        By what it is measured, the main one first.
    of_patients : bool
        Whether a patient has one outcome, whatever the number of slides.
    by_intervals : bool
        Whether the network gives one number per interval of time.
    """

    name: TargetName
    title: str
    columns: tuple[str, ...]
    score: Callable[[Tensor], Tensor]
    strata: Callable[[Outcomes], npt.NDArray[np.int64]]
    objective: str
    figures: tuple[str, ...]
    of_patients: bool = False
    by_intervals: bool = False

    @property
    def classes(self) -> bool:
        """Whether it is classes, which have no outcome beside their name."""
        return not self.objective

    @property
    def survival(self) -> bool:
        """Whether it is a time until an event, which may be censored."""
        return "event" in self.columns

    def load_objective(self) -> Any:
        """Import what has its loss.

        Raises
        ------
        ValueError
            If it is classes, whose loss the training of classes has.
        """
        if not self.objective:
            raise ValueError(f"there is no objective of {self.title}")
        module, _, attribute = self.objective.partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def assign_strata(self, outcomes: Outcomes, groups: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the strata (N,) of outcomes; those of fewer than three patients join another."""
        found = self.strata(outcomes)
        for value in np.unique(found):
            own = {group for group, each in zip(groups, found, strict=True) if each == value}
            if len(own) < _LEAST:
                found = np.where(found == value, found.max() if value == found.min() else 0, found)
        return found


def survival_curve(outputs: Tensor) -> Tensor:
    """Chances (..., K) of no event by the end of each interval, of log odds (..., K) of hazards."""
    return (1 - outputs.sigmoid()).cumprod(-1)


def _no_score(_: Tensor) -> Tensor:
    raise TypeError("classes have no single score")


def _first(outputs: Tensor) -> Tensor:
    return outputs[..., 0]


def _hazard_risk(outputs: Tensor) -> Tensor:
    """One less the mean chance of no event, over the ends of the intervals: 0 to 1."""
    return 1 - survival_curve(outputs).mean(-1)


def _thirds(outcomes: Outcomes) -> npt.NDArray[np.int64]:
    values = outcomes[:, 0]
    return np.searchsorted(np.quantile(values, (1 / 3, 2 / 3)), values).astype(np.int64)


def _events(outcomes: Outcomes) -> npt.NDArray[np.int64]:
    return outcomes[:, 1].astype(np.int64)


def _classes(outcomes: Outcomes) -> npt.NDArray[np.int64]:
    return outcomes[:, 0].astype(np.int64)


#: By the name that cards have.
TARGETS: Mapping[str, TargetKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            TargetKind(
                "classes", "classes", ("label",), _no_score, _classes, "",
                ("accuracy", "balanced_accuracy", "auc"),
            ),
            TargetKind(
                "number", "a number", ("value",), _first, _thirds,
                "training.loop.objectives:NumberObjective", ("pearson", "spearman", "mae"),
            ),
            TargetKind(
                "hazards", "survival, by hazards of intervals", ("time", "event"), _hazard_risk,
                _events, "training.loop.objectives:HazardObjective", ("c_index",), True,
                True,
            ),
            TargetKind(
                "cox", "survival, by Cox's partial likelihood", ("time", "event"), _first,
                _events, "training.loop.objectives:CoxObjective", ("c_index",), True,
            ),
        )
    }
)  # fmt: skip


def target_of_columns(columns: Sequence[str], asked: str | None = None) -> TargetKind:
    """Return the kind that a table's columns state, or the one asked for.

    Of follow-up, hazards are taken where nothing is asked for.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if asked is not None:
        if asked not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got '{asked}'")
        return TARGETS[asked]
    for kind in TARGETS.values():
        if kind.columns[0] in columns:
            return kind
    return TARGETS["classes"]
