"""Small measures of maps and of differences, each with its source."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "bootstrap_mean",
    "gini",
    "overlap",
    "relevance_mass",
    "relevance_rank",
    "spearman",
]

Values = npt.NDArray[np.floating[Any]]

#: Fewer values than this give no interval: resampling three tells nothing.
LEAST = 5


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:+.2f}"
        return f"{self.value:+.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_list(self) -> list[float]:
        """Return value, low and high, for JSON."""
        return [self.value, self.low, self.high]


def bootstrap_mean(values: Values, n: int = 2000, seed: int = 0) -> Interval:
    """Mean of (N,) values with its 95 % bootstrap interval.

    The expanded percentile interval of Hesterberg 2015, "What teachers should
    know about the bootstrap": percentiles alone (Efron and Tibshirani 1993,
    chapter 13) are too narrow for few values, and would find twice as many
    differences as they should among ten. Differences between two methods on
    the same cells are given as one difference per cell: the interval is then
    paired. Not-a-number is left out. Of fewer than 5 values the interval is
    NaN, and of none the mean as well.

    Parameters
    ----------
    values : numpy.ndarray
        (N,), independent of each other.
    n : int
        Resamples.
    seed : int
        Of the resamples.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if len(known) < LEAST:
        mean = float(known.mean()) if len(known) else float("nan")
        return Interval(mean, float("nan"), float("nan"))
    rng, means = np.random.default_rng(seed), []
    # In parts, so that many cells do not take n times their memory.
    for start in range(0, n, 100):
        rows = rng.integers(len(known), size=(min(100, n - start), len(known)))
        means.append(known[rows].mean(axis=1))
    tail = _tail(len(known))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high))


def _tail(n: int) -> float:
    """Share of resamples beyond each end of the interval of n values; 0.025 for many."""
    from scipy import special

    wide = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.975)
    return float(special.ndtr(-wide))


def gini(relevance: Values) -> float:
    """Gini index of how relevance is spread: 0 all alike, towards 1 all in one place.

    Chalasani et al. 2020, "Concise explanations of neural networks using
    adversarial training"; the measure "Sparseness" of Quantus.
    """
    ordered = np.sort(np.abs(np.asarray(relevance, np.float64)).ravel())
    n, total = len(ordered), float(ordered.sum())
    if not n or total == 0:
        return 0.0
    place = 2 * np.arange(1, n + 1) - n - 1
    return float((place * ordered).sum() / (n * total))


def spearman(first: Values, second: Values) -> float:
    """Spearman's rank correlation, -1 to 1; ties share their mean rank.

    NaN where one of them is constant.
    """
    a, b = (_ranks(np.asarray(x, np.float64).ravel()) for x in (first, second))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / spread) if spread else float("nan")


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[which]
    return mean


def overlap(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks, 0 to 1; 1 where both are empty."""
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def relevance_mass(relevance: Values, mask: npt.NDArray[np.bool_]) -> float:
    """Share of all positive relevance that lies in a mask, 0 to 1.

    Relevance mass accuracy of Arras, Osman and Samek 2022, "CLEVR-XAI". By
    chance it is the mask's share of the area. NaN without any relevance.
    """
    positive = np.maximum(np.nan_to_num(np.asarray(relevance, np.float64)), 0)
    total = float(positive.sum())
    return float(positive[mask].sum() / total) if total else float("nan")


def relevance_rank(relevance: Values, mask: npt.NDArray[np.bool_]) -> float:
    """Share of a mask's K places that are among the K most relevant, 0 to 1.

    Relevance rank accuracy of Arras, Osman and Samek 2022. NaN for an empty mask.
    """
    flat, inside = np.nan_to_num(relevance, nan=-np.inf).ravel(), mask.ravel()
    k = int(inside.sum())
    if not k:
        return float("nan")
    top = np.argsort(-flat, kind="stable")[:k]
    return float(inside[top].mean())
