"""Figures of merit of a classifier, from probabilities and true classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FIGURE_TITLES",
    "ClassMetrics",
    "Report",
    "classification_report",
    "concordance",
    "correlation",
    "expected_calibration_error",
    "group_intervals",
    "ranked_auc",
    "roc_auc",
    "whole_percent",
    "wilson",
]

#: Figures by the names they have in files, and what people call them.
FIGURE_TITLES = {
    "accuracy": "accuracy",
    "c_index": "C-index",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's rank correlation",
    "mae": "mean absolute error",
}


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 of one class, each 0 to 1, and its size.

    `auc` is that of the class against all others; None where only one of the
    two occurs, or in reports from before it was measured.
    """

    precision: float
    recall: float
    f1: float
    support: int
    auc: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """How well a classifier did on n labelled images.

    Attributes
    ----------
    n : int
        Images.
    accuracy : float
        Share that is right.
    accuracy_interval : tuple of float
        Its 95 % Wilson interval.
    balanced_accuracy : float
        Mean recall of the classes that occur.
    macro_f1 : float
        Mean F1 of the classes that occur.
    per_class : dict of str to ClassMetrics
        Of every class.
    confusion : numpy.ndarray
        (C, C) int64; rows are true classes, columns predicted ones.
    ece : float
        Expected calibration error over 15 equal bins of confidence.
    auc : float or None
        Area under the ROC curve; of more than two classes the mean over those
        that occur, each against all others. None where one class occurs only.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    per_class: dict[str, ClassMetrics]
    confusion: npt.NDArray[np.int64]
    ece: float
    auc: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {**dataclasses.asdict(self), "confusion": self.confusion.tolist()}


def classification_report(
    probabilities: npt.NDArray[np.floating[Any]],
    truth: npt.NDArray[np.integer[Any]],
    class_names: Sequence[str],
) -> Report:
    """Compare probabilities (N, C) with true class indices (N,).

    Raises
    ------
    ValueError
        If there is nothing to compare, or the shapes disagree.
    """
    n_classes = len(class_names)
    if not len(truth) or probabilities.shape != (len(truth), n_classes):
        raise ValueError(
            f"expected probabilities ({len(truth)}, {n_classes}) for at least one image, got "
            f"{probabilities.shape}"
        )
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits = np.diag(confusion).astype(np.float64)
    support, claimed = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = hits / np.maximum(support, 1)
    precision = hits / np.maximum(claimed, 1)
    f1 = 2 * hits / np.maximum(support + claimed, 1)
    present = support > 0
    aucs = [roc_auc(probabilities[:, i], truth == i) for i in range(n_classes)]
    known = [auc for auc in aucs if auc is not None]
    return Report(
        n=len(truth),
        accuracy=float(hits.sum() / len(truth)),
        accuracy_interval=wilson(int(hits.sum()), len(truth)),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        per_class={
            name: ClassMetrics(
                float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]), aucs[i]
            )
            for i, name in enumerate(class_names)
        },
        confusion=confusion,
        ece=expected_calibration_error(probabilities, truth),
        auc=float(np.mean(known)) if known else None,
    )


def roc_auc(
    scores: npt.NDArray[np.floating[Any]],
    positive: npt.NDArray[np.bool_],
    weights: npt.NDArray[Any] | None = None,
) -> float | None:
    """Area under the ROC curve of scores (N,); ties count half.

    Parameters
    ----------
    scores : numpy.ndarray
        (N,) higher for what is more probably positive.
    positive : numpy.ndarray
        (N,) bool.
    weights : numpy.ndarray, optional
        (N,) how often each counts, 0 or more.

    Returns
    -------
    float or None
        None where all are positive, or none.
    """
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    return ranked_auc(np.unique(scores, return_inverse=True)[1], positive, weights)


def ranked_auc(
    rank: npt.NDArray[np.integer[Any]],
    positive: npt.NDArray[np.bool_],
    weights: npt.NDArray[Any],
) -> float | None:
    """`roc_auc` of scores whose ranks (N,), from 0 and ties alike, are known: without sorting."""
    size = int(rank.max(initial=-1)) + 1
    yes = np.bincount(rank[positive], weights[positive], minlength=size)
    no = np.bincount(rank[~positive], weights[~positive], minlength=size)
    pairs = yes.sum() * no.sum()
    if pairs == 0:
        return None
    below = np.cumsum(no) - no
    return float((yes * (below + no / 2)).sum() / pairs)


def concordance(
    time: npt.NDArray[np.floating[Any]],
    event: npt.NDArray[np.bool_],
    risk: npt.NDArray[np.floating[Any]],
) -> Callable[[npt.NDArray[Any]], float | None]:
    """Prepare Harrell's C-index of risks (N,): how often the higher risk has the event first.

    Two are compared where the one with the shorter time had the event, or
    where at one time one had it and the other was censored; two events at one
    time are not. Equal risks count half.

    Parameters
    ----------
    time : numpy.ndarray
        (N,) until the event, or the end of what is known.
    event : numpy.ndarray
        (N,) bool, whether it was the event.
    risk : numpy.ndarray
        (N,) higher for whom it is expected sooner.

    Returns
    -------
    callable
        Given how often each counts, (N,), returns the index; None where no two
        can be compared.
    """
    first = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    won = np.where(risk[:, None] == risk, 0.5, risk[:, None] > risk) * first
    pairs = first.astype(np.float64)

    def measure(counts: npt.NDArray[Any]) -> float | None:
        weights = np.asarray(counts, np.float64)
        total = float(weights @ pairs @ weights)
        return float(weights @ won @ weights) / total if total else None

    return measure


def correlation(
    first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]
) -> float | None:
    """Pearson's correlation of two (N,); None where one of them is the same throughout."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else None


def group_intervals(
    groups: Sequence[str],
    measure: Callable[[npt.NDArray[np.int64]], dict[str, float | None]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals by drawing whole groups with replacement.

    Images of one patient are alike: drawn one by one they would make every
    interval too narrow.

    Parameters
    ----------
    groups : sequence of str
        (N,) the patient, or slide, of each row.
    measure : callable
        Given how often each row counts, (N,) int64, returns figures by name;
        None where a figure cannot be told of that draw, which is then left out.
    samples : int
        Draws.
    seed : int
        Seeds them.

    Returns
    -------
    dict of str to (float, float)
        2.5 and 97.5 % of each figure over the draws.
    """
    rng = np.random.default_rng(seed)
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = int(number.max(initial=-1)) + 1
    found: dict[str, list[float]] = {}
    for _ in range(samples):
        drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        for name, value in measure(drawn[number]).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {
        name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for name, values in found.items()
    }


def expected_calibration_error(
    probabilities: npt.NDArray[np.floating[Any]],
    truth: npt.NDArray[np.integer[Any]],
    bins: int = 15,
) -> float:
    """Mean gap between confidence and accuracy over equal bins, 0 to 1."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(chosen, minlength=bins)
    gaps = np.abs(
        np.bincount(chosen, weights=confidence, minlength=bins)
        - np.bincount(chosen, weights=right, minlength=bins)
    )
    return float(gaps[counts > 0].sum() / len(truth))


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def whole_percent(share: float) -> str:
    """Return a share, 0 to 1, as text such as ``"97%"``; 100% only from 99.95% on."""
    rounded = round(100 * share)
    return f"{99 if rounded == 100 and share < 0.9995 else rounded}%"
