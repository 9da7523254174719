"""How far a map of evidence can be believed, as plain data with a verdict.

Content is removed in the order of the map and of maps that know nothing of the
model; each time the whole model runs anew, selector included. What is compared
is the probability of the class that the model gave the untouched image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..reprs import short_repr
from .measures import Interval, bootstrap_mean

__all__ = [
    "LEVEL",
    "Curves",
    "Faithfulness",
    "FaithfulnessOfSet",
    "OrderScore",
    "describe_difference",
    "say_whether_more",
]

Array = npt.NDArray[np.float64]

_NAMES = {
    "random": "random",
    "edges": "edges",
    "centre": "nearness to the centre",
    "dark": "darkness",
    "dark blurred": "blurred darkness",
}
#: Share of random maps that are called better than random.
LEVEL = 0.025


def say_whether_more(more: bool | None, what: str = "pixels") -> str:
    """Say in one sentence what the test against random orders gave; None without a test."""
    if more is None:
        return f"Whether these {what} matter more than random ones was not tested"
    than = "more" if more else "no more"
    return f"Removing these {what} changes the answer {than} than removing random ones"


def describe_difference(difference: Interval, to: str) -> str:
    """Say in words whether a difference to a baseline holds.

    ``"better than random by +0.41 [0.32, 0.50]"`` if the whole interval lies
    above 0, else ``"not better than random"`` with the figures behind it;
    without an interval, that there are too few.
    """
    name = _NAMES.get(to, to)
    if difference.low > 0:
        return f"better than {name} by {difference}"
    if np.isnan(difference.low):
        return f"too few to compare with {name} ({difference})"
    return f"not better than {name} ({difference})"


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Probability of the class while content goes or comes, in one order.

    Parameters
    ----------
    shares : numpy.ndarray
        (S,) ascending from 0 to 1.
    deletion : numpy.ndarray
        (S,) with that share, the most relevant first, removed (Petsiuk et al.
        2018; the MoRF curve of Samek et al. 2017).
    insertion : numpy.ndarray
        (S,) with only that share, the most relevant first, left. Read from
        the right it is the curve of removing the least relevant first (LeRF).
    """

    __repr__ = short_repr

    shares: Array
    deletion: Array
    insertion: Array

    def __post_init__(self) -> None:
        s = self.shares
        if s.ndim != 1 or len(s) < 2 or s[0] != 0 or s[-1] != 1 or (np.diff(s) <= 0).any():
            raise ValueError("shares must ascend from 0 to 1")
        if self.deletion.shape != s.shape or self.insertion.shape != s.shape:
            raise ValueError("both curves need one value per share")

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, 0 to 1: small where the order is right."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, 0 to 1: large where the order is right."""
        return float(np.trapezoid(self.insertion, self.shares))

    @property
    def gain(self) -> float:
        """Symmetric gain, -1 to 1: least relevant first less most relevant first.

        The symmetric relevance gain of Blücher, Vielhaben and Strodthoff 2024,
        "Decoupling pixel flipping and occlusion strategy for consistent XAI
        benchmarks". The area of removing the least relevant first is that of
        insertion; a random order has a gain of 0 on average.
        """
        return self.insertion_area - self.deletion_area

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "shares": self.shares.round(6).tolist(),
            "deletion": self.deletion.round(6).tolist(),
            "insertion": self.insertion.round(6).tolist(),
            "deletion_area": self.deletion_area,
            "insertion_area": self.insertion_area,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class OrderScore:
    """What one order of removal did; means over the fills.

    Parameters
    ----------
    curves : Curves
        Mean over fills, and over draws where the order was drawn by lot.
    gains : mapping of str to numpy.ndarray
        Per fill the symmetric gains, (D,): one, or one per draw.
    drop_without : float
        Necessity: fall of the probability when as much as the model selected
        is removed from the top of the order. High is good. Comprehensiveness
        of DeYoung et al. 2020, "ERASER".
    drop_with_only : float
        Sufficiency: fall of the probability when nothing else is left. Near 0
        is good. Sufficiency of the same paper.
    """

    __repr__ = short_repr

    curves: Curves
    gains: Mapping[str, Array]
    drop_without: float
    drop_with_only: float

    @property
    def gain(self) -> float:
        """Symmetric gain, mean over fills and draws."""
        return float(np.mean([values.mean() for values in self.gains.values()]))

    @property
    def draws(self) -> Array:
        """(D,) symmetric gain of each draw, mean over fills."""
        mean: Array = np.mean(list(self.gains.values()), axis=0)
        return mean

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "gain": self.gain,
            "gain_by_fill": {name: float(g.mean()) for name, g in self.gains.items()},
            "drop_without": self.drop_without,
            "drop_with_only": self.drop_with_only,
            **self.curves.to_dict(),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Faithfulness:
    """How far the evidence for one prediction can be believed.

    Parameters
    ----------
    label : str
        The class that was predicted, which all probabilities are of.
    probability : float
        Of the untouched image.
    selected : float
        Share of the content that the model selected.
    own : tuple of str
        The model's own orders, the one that the overlay shows first.
    orders : mapping of str to OrderScore
        Those, and the baselines.
    sparseness : float
        Gini index of the first own map.
    stability : mapping of str to float
        Intersection over union of the selection with that under a small
        change, per kind of change; ``"chance"`` is what two selections of
        that size share by chance. Empty where not measured.
    mass_in_mask, mask_share : float
        Share of the selection inside the object's mask, and the mask's share
        of the area, which is what chance gives; NaN without a mask.
    control : float
        Rank correlation of the first own map with that of the same network
        with shuffled weights: evidence of what was learned is near 0
        (Adebayo et al. 2018). NaN where not measured.
    runs : int
        Times that the model ran.
    seconds : float
        Wall time.
    random_drops : numpy.ndarray
        (D,) `OrderScore.drop_without` of random orders of the grain of the
        first own map, of as many units each; empty where not tested.
    """

    __repr__ = short_repr

    label: str
    probability: float
    selected: float
    own: tuple[str, ...]
    orders: Mapping[str, OrderScore]
    sparseness: float
    stability: Mapping[str, float]
    mass_in_mask: float
    mask_share: float
    control: float
    runs: int
    seconds: float
    random_drops: Array = dataclasses.field(default_factory=lambda: np.empty(0))

    @property
    def fills(self) -> tuple[str, ...]:
        """What removed content was replaced with."""
        return tuple(self.orders[self.own[0]].gains)

    def p_random(self, own: str | None = None) -> float:
        """Share of random orders whose removal changes the answer as much, or more; NaN untested.

        The p-value of a permutation test: the order itself counts as one of
        the random ones, so that of maps that are random a share of `LEVEL`, no
        more, has a p-value of `LEVEL` or less.
        """
        drawn = self.random_drops
        if not len(drawn):
            return float("nan")
        as_much = int((drawn >= self.orders[own or self.own[0]].drop_without).sum())
        return (1 + as_much) / (1 + len(drawn))

    def more_than_random(self, own: str | None = None) -> bool | None:
        """Whether removing these units changes the answer more; None where not tested.

        It takes at least 39 random orders to say so at `LEVEL`.
        """
        p = self.p_random(own)
        return None if np.isnan(p) else p <= LEVEL

    def sentence(self, what: str = "pixels") -> str:
        """Say in one sentence whether these units matter more than random ones."""
        return say_whether_more(self.more_than_random(), what)

    def difference(self, to: str = "random", own: str | None = None) -> Interval:
        """How much better the order is than a baseline.

        Against random orders, by how much more the probability falls when what
        was selected is removed than when as much is removed at random; the
        interval holds 95 % of the random orders, and lies above 0 where
        `more_than_random` says so. Against others it is the symmetric gain
        that is compared, and the interval is the range over the fills.
        """
        mine, theirs = self.orders[own or self.own[0]], self.orders[to]
        if to.startswith("random"):
            drawn, drop = np.sort(self.random_drops), mine.drop_without
            n = len(drawn)
            if not n:
                return Interval(drop - theirs.drop_without, float("nan"), float("nan"))
            # So many, counted from either end, that the order's own place decides.
            high = int(np.floor(LEVEL * (n + 1)))
            most = float(drawn[n - high]) if high else float("inf")
            least = float(drawn[high - 1]) if high else float("-inf")
            return Interval(float(drop - drawn.mean()), drop - most, drop - least)
        by_fill = [float(mine.gains[f].mean() - theirs.gains[f].mean()) for f in mine.gains]
        return Interval(float(np.mean(by_fill)), min(by_fill), max(by_fill))

    def verdict(self, to: str = "random", own: str | None = None) -> str:
        """Say whether the evidence is better than a baseline, with numbers."""
        found = self.difference(to, own)
        if not to.startswith("random"):
            return describe_difference(found, to)
        more = self.more_than_random(own)
        if more is None:
            return f"not tested against random ({found})"
        numbers = f"{found}, p = {self.p_random(own):.2g} of {len(self.random_drops)} random orders"
        return f"better than random by {numbers}" if more else f"not better than random ({numbers})"

    @property
    def baselines(self) -> tuple[str, ...]:
        """The orders that know nothing of the model."""
        return tuple(name for name in self.orders if name not in self.own)

    def row(self) -> dict[str, float | str]:
        """Return one value per column, for a table that joins with predictions."""
        columns: dict[str, float | str] = {
            "class": self.label,
            "p": self.probability,
            "selected_share": self.selected,
        }
        for name, score in self.orders.items():
            columns[f"gain_{_column_name(name)}"] = score.gain
        first = self.orders[self.own[0]]
        columns |= {
            "drop_without": first.drop_without,
            "drop_with_only": first.drop_with_only,
            "p_random": self.p_random(),
            "better_than_random": _word(self.more_than_random()),
            "sparseness": self.sparseness,
            "mass_in_mask": self.mass_in_mask,
            "mask_share": self.mask_share,
            "control": self.control,
        }
        for name, value in self.stability.items():
            if name != "chance":
                columns[f"stability_{_column_name(name)}"] = value
        return columns

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON; what was not measured is None."""
        return {
            "kind": "faithfulness",
            "class": self.label,
            "probability": self.probability,
            "selected_share": self.selected,
            "fills": list(self.fills),
            "own": list(self.own),
            "orders": {name: score.to_dict() for name, score in self.orders.items()},
            "sentence": self.sentence("parts"),
            "p_random": _known(self.p_random()),
            "random_drops": self.random_drops.round(6).tolist(),
            "verdicts": {name: self.verdict(name) for name in self.baselines},
            "differences": {name: _to_list(self.difference(name)) for name in self.baselines},
            "sparseness": self.sparseness,
            "stability": dict(self.stability),
            "mass_in_mask": _known(self.mass_in_mask),
            "mask_share": _known(self.mask_share),
            "control": _known(self.control),
            "runs": self.runs,
            "seconds": self.seconds,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class FaithfulnessOfSet:
    """How far the evidence of a model can be believed, over many predictions.

    Parameters
    ----------
    ids : tuple
        One per prediction: cell ids, or names.
    items : tuple of Faithfulness
        Of the same orders.
    seed : int
        Of the bootstrap.
    """

    __repr__ = short_repr

    ids: tuple[int | str, ...]
    items: tuple[Faithfulness, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.items or len(self.ids) != len(self.items):
            raise ValueError("a set needs at least one prediction, and one id for each")
        if len({tuple(item.orders) for item in self.items}) > 1:
            raise ValueError("all predictions of a set must be measured with the same orders")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def own(self) -> tuple[str, ...]:
        """The model's own orders, the one that the overlay shows first."""
        return self.items[0].own

    @property
    def baselines(self) -> tuple[str, ...]:
        """The orders that know nothing of the model."""
        return self.items[0].baselines

    def gains(self, order: str, fill: str | None = None) -> Array:
        """(N,) symmetric gain of each prediction, of one fill or their mean."""
        scores = [item.orders[order] for item in self.items]
        return np.array([s.gain if fill is None else float(s.gains[fill].mean()) for s in scores])

    def values(self, name: str, order: str | None = None) -> Array:
        """(N,) values of a measure of `Faithfulness`, or of one of its orders."""
        of = (item if order is None else item.orders[order] for item in self.items)
        return np.array([float(getattr(each, name)) for each in of])

    def mean(self, name: str, order: str | None = None) -> Interval:
        """Mean of such a measure with its bootstrap interval."""
        return bootstrap_mean(self.values(name, order), seed=self.seed)

    def difference(
        self, to: str = "random", own: str | None = None, fill: str | None = None
    ) -> Interval:
        """Mean difference of the symmetric gain to a baseline's, paired over predictions.

        That of random orders is measured, too: it is 0 in expectation, but where they
        are scattered by a model's own pattern, whose first pixels are read more often.
        """
        mine = self.gains(own or self.own[0], fill)
        return bootstrap_mean(mine - self.gains(to, fill), seed=self.seed)

    def verdict(self, to: str = "random", own: str | None = None, fill: str | None = None) -> str:
        """Say whether the evidence is better than a baseline, with numbers."""
        return describe_difference(self.difference(to, own, fill), to)

    @property
    def tested(self) -> int:
        """Predictions that were tested against random orders."""
        return sum(item.more_than_random() is not None for item in self.items)

    @property
    def more(self) -> int:
        """Predictions of which removing the evidence changes the answer more than random does."""
        return sum(item.more_than_random() is True for item in self.items)

    def excess(self) -> Interval:
        """Mean of how much more the probability falls than without random units."""
        over = [
            item.orders[item.own[0]].drop_without - item.random_drops.mean()
            if len(item.random_drops)
            else np.nan
            for item in self.items
        ]
        return bootstrap_mean(np.array(over), seed=self.seed)

    def sentence(self, what: str = "pixels") -> str:
        """Say in one sentence whether these units matter more than random ones, and how often."""
        found = self.excess()
        if not self.tested:
            return say_whether_more(None, what)
        counted = f"in {self.more} of {self.tested} ({self.tested * LEVEL:.2g} by chance)"
        if np.isnan(found.low):
            than = f"Removing these {what} changes the answer more than removing random ones"
            return f"{than} {counted}"
        return f"{say_whether_more(found.low > 0, what)}: {counted}"

    def stability(self) -> dict[str, Interval]:
        """Mean stability per kind of change."""
        kinds = self.items[0].stability
        return {
            kind: bootstrap_mean(
                np.array([item.stability.get(kind, np.nan) for item in self.items]), seed=self.seed
            )
            for kind in kinds
        }

    def subset(self, rows: Sequence[int]) -> FaithfulnessOfSet:
        """Return some of the predictions."""
        chosen = tuple(self.items[i] for i in rows)
        return FaithfulnessOfSet(tuple(self.ids[i] for i in rows), chosen, self.seed)

    def by_class(self) -> dict[str, FaithfulnessOfSet]:
        """Split by predicted class."""
        rows: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            rows.setdefault(item.label, []).append(i)
        return {label: self.subset(which) for label, which in sorted(rows.items())}

    def ordered(self) -> list[int]:
        """Rows of the predictions, the most faithful first: for galleries."""
        order = np.argsort(-self.gains(self.own[0]), kind="stable")
        return [int(i) for i in order]

    def rows(self) -> list[dict[str, float | str | int]]:
        """One row per prediction with its id, for a table that joins with predictions."""
        return [{"id": i, **item.row()} for i, item in zip(self.ids, self.items, strict=True)]

    def to_dict(self, each: bool = False) -> dict[str, Any]:
        """Return lists and numbers, for JSON; `each` adds every prediction."""
        names = ("sparseness", "mass_in_mask", "mask_share", "control", "selected")
        fills = self.items[0].fills
        summary: dict[str, Any] = {
            "kind": "faithfulness-of-set",
            "n": len(self),
            "own": list(self.own),
            "fills": list(fills),
            "gains": {
                order: _to_list(bootstrap_mean(self.gains(order), seed=self.seed))
                for order in self.items[0].orders
            },
            "sentence": self.sentence("parts"),
            "more_than_random": self.more,
            "tested": self.tested,
            "excess_over_random": _to_list(self.excess()),
            "verdicts": {o: {b: self.verdict(b, o) for b in self.baselines} for o in self.own},
            "verdicts_by_fill": {
                f: {b: self.verdict(b, fill=f) for b in self.baselines} for f in fills
            },
            "drop_without": self._per_order("drop_without"),
            "drop_with_only": self._per_order("drop_with_only"),
            "stability": {kind: _to_list(value) for kind, value in self.stability().items()},
        }
        for name in names:
            summary[name] = _to_list(self.mean(name))
        if each:
            summary["each"] = [
                {"id": i, **item.to_dict()} for i, item in zip(self.ids, self.items, strict=True)
            ]
        return summary

    def _per_order(self, name: str) -> dict[str, list[float | None]]:
        return {order: _to_list(self.mean(name, order)) for order in self.items[0].orders}


def _column_name(name: str) -> str:
    return name.replace(" ", "_")


def _word(known: bool | None) -> str:
    return "" if known is None else str(known).lower()


def _to_list(interval: Interval) -> list[float | None]:
    """JSON knows no NaN."""
    return [_known(value) for value in interval.to_list()]


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
