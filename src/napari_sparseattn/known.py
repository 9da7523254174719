"""What a model's states were on what it was trained on, and how unlike them another is.

A model's state is what its last layer reads: a SparseAttnNet's class token, the
mean over a TNet's crops, a SPAN's global token, or its state of a patch. Of the
training images it lies around the means of the classes; the distance to the
nearest, in units of the usual spread (Mahalanobis; Lee et al. 2018), says how
unlike all of them an image is. The unit of `novelty` is the threshold that a
stated share of held-out images exceeds.

Some things are common beside what a model tells apart: red cells and background
beside white cells. Where states of those were measured too, an image nearer to
them than to any class is said to look like them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = [
    "CHECKED_STATES",
    "FALSE_ALARMS",
    "KEPT_STATES",
    "PREFIX",
    "KnownPatches",
    "KnownStates",
    "OtherThings",
    "extend_known_states",
    "fit_known_patches",
    "fit_known_states",
    "threshold_of",
]

Floats = npt.NDArray[np.float32]

#: Share of held-out images that may be flagged.
FALSE_ALARMS = 0.03
#: Part of it that looks like other things, where those were measured.
_OTHERS_PART = 1 / 3
#: Weight of the other things' spread beside that of the classes.
_OTHERS_SPREAD = 0.5
#: Share of the other things' own states that is too far from them to be told from a cell of
#: another laboratory: at `FALSE_ALARMS` a fifth of BCCD's white cells looked like red cells.
_BEYOND_REACH = 0.1
#: States per class that are kept for fine-tuning, and held-out ones that tell what it forgot.
KEPT_STATES, CHECKED_STATES = 32, 12
#: Of the tensors' names in a model file.
PREFIX = "known."
#: Below this share of the mean variance no direction is trusted.
_FLOOR = 1e-3
#: Patches whose features are read at a time.
_PATCHES = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class OtherThings:
    """States of K kinds of things that are none of the classes.

    Parameters
    ----------
    means : numpy.ndarray
        (K, D) float32.
    root : numpy.ndarray
        (D, D) float32, as of `KnownStates`, of the spread within classes and kinds.
    typical, limit : float
        How much nearer to a kind than to its class, in squared lengths, the
        typical held-out image is (which is less than nothing), and one at
        which it is flagged.
    reach : float
        Length from the nearest kind's mean up to which an image looks like it:
        what is far from everything may still be nearer to one than to the other.
    """

    means: Floats
    root: Floats
    typical: float
    limit: float
    reach: float

    def __post_init__(self) -> None:
        k, d = self.means.shape if self.means.ndim == 2 else (0, 0)
        if not k or self.root.shape != (d, d):
            raise ValueError("states of other things contradict each other in their shapes")
        if not (np.isfinite(self.means).all() and np.isfinite(self.root).all()) or not (
            -math.inf < self.typical < self.limit < math.inf and 0 < self.reach < math.inf
        ):
            raise ValueError("states of other things are not all numbers")

    def likeness(self, states: Floats, own: Floats) -> Floats:
        """How like each kind states (N, D) are, beside the means of the classes (M, D).

        Returns
        -------
        numpy.ndarray
            (N, K) float32: 0 of a typical image of the classes, 1 at the limit.
        """
        nearer: Floats = _nearer(states, self.means, own, self.root)
        return (nearer - np.float32(self.typical)) / np.float32(self.limit - self.typical)

    def within_reach(self, states: Floats) -> npt.NDArray[np.bool_]:
        """Whether states (N, D) are as near to one of the kinds as most of its own are: (N,)."""
        return _distances(states, self.means, self.root) <= self.reach


@dataclasses.dataclass(frozen=True, eq=False)
class KnownPatches:
    """An encoder's features, F numbers each, of patches of M classes of slides.

    Parameters
    ----------
    means : numpy.ndarray
        (M, F) float32.
    root : numpy.ndarray
        (F, F) float32, as of `KnownStates`.
    threshold : float
        Length that counts as 1 where it is a slide's: the geometric mean of its patches'.
    """

    means: Floats
    root: Floats
    threshold: float

    def __post_init__(self) -> None:
        m, width = self.means.shape if self.means.ndim == 2 else (0, 0)
        if not m or self.root.shape != (width, width):
            raise ValueError("known patches contradict each other in their shapes")
        if not (np.isfinite(self.means).all() and np.isfinite(self.root).all()) or not (
            math.isfinite(self.threshold) and self.threshold > 0
        ):
            raise ValueError("known patches are not all numbers")

    @property
    def width(self) -> int:
        """Numbers per patch, F."""
        return int(self.means.shape[1])

    def novelty(self, features: Any) -> Floats:
        """How unlike the known patches others (N, F) are: (N,) float32.

        They are an array, or anything whose slices are arrays: a part is read at a time.
        """
        parts = [
            _distances(
                np.asarray(features[start : start + _PATCHES], np.float32), self.means, self.root
            )
            for start in range(0, features.shape[0], _PATCHES)
        ]
        found: Floats = np.concatenate(parts) / np.float32(self.threshold)
        return found

    def slide_novelty(self, features: Any) -> float:
        """How unlike the known slides one of patches (N, F) is, 1 at the threshold."""
        return self.of_slide(self.novelty(features))

    @staticmethod
    def of_slide(novelty: Floats) -> float:
        """Novelty of a slide by that of its patches (N,): their geometric mean.

        A few patches of blood or folded tissue do not make it unlike all others.
        """
        return float(np.exp(np.log(np.maximum(novelty, 1e-6)).mean()))


@dataclasses.dataclass(frozen=True, eq=False)
class KnownStates:
    """The states of M classes that were measured, of D numbers each.

    Parameters
    ----------
    means : numpy.ndarray
        (M, D) float32, one per class that had states.
    root : numpy.ndarray
        (D, D) float32: what a difference of states is multiplied by, so that
        its length is in units of the spread within classes.
    threshold : float
        Length that counts as 1.
    states : numpy.ndarray
        (n, D) float32, some states as they were, for fine-tuning.
    labels : numpy.ndarray
        (n,) int64, their classes.
    held : numpy.ndarray
        (n,) bool: which of them the weights were not fitted to, and no later
        training may be fitted to either: they tell what it forgot.
    others : OtherThings or None
        What is common beside the classes; None where it was not measured.
    patches : KnownPatches or None
        Of slides, what the encoder makes of patches; None where it was not measured.
    """

    means: Floats
    root: Floats
    threshold: float
    states: Floats
    labels: npt.NDArray[np.int64]
    held: npt.NDArray[np.bool_]
    others: OtherThings | None = None
    patches: KnownPatches | None = None

    def __post_init__(self) -> None:
        m, d = self.means.shape if self.means.ndim == 2 else (0, 0)
        n = self.states.shape[:1]
        shapes = (self.root.shape, self.states.shape[1:], self.labels.shape, self.held.shape)
        if not m or shapes != ((d, d), (d,), n, n):
            raise ValueError("known states contradict each other in their shapes")
        numbers = (self.means, self.root, self.states)
        if not all(np.isfinite(each).all() for each in numbers) or not (
            math.isfinite(self.threshold) and self.threshold > 0
        ):
            raise ValueError("known states are not all numbers")
        if self.others is not None and self.others.root.shape != (d, d):
            raise ValueError("known states and those of other things differ in their width")

    @property
    def width(self) -> int:
        """Numbers per state, D."""
        return int(self.means.shape[1])

    def novelty(self, states: npt.ArrayLike) -> Floats:
        """How unlike the known states others (N, D) are: (N,) float32, 1 at the threshold."""
        states = np.asarray(states, np.float32)
        values = _distances(states, self.means, self.root) / np.float32(self.threshold)
        if self.others is not None:
            values = np.maximum(values, self.others.likeness(states, self.means).max(1))
        return values

    def look_like_others(self, states: npt.ArrayLike) -> npt.NDArray[np.bool_] | None:
        """Whether states (N, D) look like the other things: (N,); None where nobody measured.

        Which of those is not said: a red cell of another laboratory lies nearest
        to the background of this one.
        """
        if self.others is None:
            return None
        states = np.asarray(states, np.float32)
        nearer = self.others.likeness(states, self.means).max(1) > 1
        found: npt.NDArray[np.bool_] = nearer & self.others.within_reach(states)
        return found

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what is written to a model file, by names that begin with `PREFIX`."""
        import torch

        arrays: dict[str, npt.NDArray[Any]] = {
            "means": self.means,
            "root": self.root,
            "threshold": np.array([self.threshold], np.float32),
            "states": self.states,
            "labels": self.labels,
            "held": self.held,
        }
        if (others := self.others) is not None:
            levels = np.array([others.typical, others.limit, others.reach], np.float32)
            arrays |= {"other_means": others.means, "other_root": others.root}
            arrays["other_levels"] = levels
        if (patches := self.patches) is not None:
            arrays |= {"patch_means": patches.means, "patch_root": patches.root}
            arrays["patch_threshold"] = np.array([patches.threshold], np.float32)
        return {PREFIX + name: torch.from_numpy(each.copy()) for name, each in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KnownStates | None:
        """Read what `to_tensors` gave; None where there is nothing.

        Raises
        ------
        ValueError
            If tensors are missing or unknown, or do not fit each other.
        """
        if not tensors:
            return None
        found = {name.removeprefix(PREFIX): each.numpy() for name, each in tensors.items()}
        kinds = dict.fromkeys(("means", "root", "threshold", "states"), "f4")
        kinds |= {"labels": "i8", "held": "b1"}
        if "other_means" in found:
            kinds |= dict.fromkeys(("other_means", "other_root", "other_levels"), "f4")
        if "patch_means" in found:
            kinds |= dict.fromkeys(("patch_means", "patch_root", "patch_threshold"), "f4")
        if {name: each.dtype.str[1:] for name, each in found.items()} != kinds:
            raise ValueError("known states are incomplete, or of other types")
        if found["threshold"].shape != (1,):
            raise ValueError("known states have no single threshold")
        threshold = float(found["threshold"][0])
        kept = (found["states"], found["labels"], found["held"])
        others = None
        if "other_means" in found:
            if found["other_levels"].shape != (3,):
                raise ValueError("states of other things have no three levels")
            levels = (float(level) for level in found["other_levels"])
            others = OtherThings(found["other_means"], found["other_root"], *levels)
        patches = None
        if "patch_means" in found:
            if found["patch_threshold"].shape != (1,):
                raise ValueError("known patches have no single threshold")
            least = float(found["patch_threshold"][0])
            patches = KnownPatches(found["patch_means"], found["patch_root"], least)
        return cls(found["means"], found["root"], threshold, *kept, others, patches)


def fit_known_states(
    states: Floats,
    labels: npt.NDArray[np.int64],
    held: Floats,
    held_labels: npt.NDArray[np.int64] | None = None,
    *,
    others: tuple[Floats, npt.NDArray[np.int64]] | None = None,
    false_alarms: float = FALSE_ALARMS,
    kept: int = KEPT_STATES,
    seed: int = 0,
) -> KnownStates:
    """Measure what is usual on some states, and the threshold on others.

    Parameters
    ----------
    states : numpy.ndarray
        (N, D) of training images, with at least two of a class.
    labels : numpy.ndarray
        (N,) int64.
    held : numpy.ndarray
        (H, D) of images that the weights were not fitted to; none of them may
        be among `states`. As many as ``1 / false_alarms`` are needed for the
        stated share; of fewer, the farthest is the threshold.
    held_labels : numpy.ndarray, optional
        (H,) int64; with them some are kept to tell what is forgotten.
    others : tuple of numpy.ndarray, optional
        States (O, D) of things that are none of the classes, and their kinds
        (O,) int64, from 0 on; each has two states or more.
    false_alarms : float
        Share of the held-out images beyond the threshold, or looking like others.
    kept : int
        States per class to keep, drawn by lot.
    seed : int
        Of that draw.

    Raises
    ------
    ValueError
        If there are too few states to measure a spread.
    """
    if len(states) < 3 or not len(held):
        raise ValueError("too few states to say what is usual: at least 3, and 1 held out")
    classes = np.unique(labels)
    means = np.stack([states[labels == each].mean(0) for each in classes])
    own = means[np.searchsorted(classes, labels)]
    residuals = (states - own).astype(np.float64)
    root = _root_of_precision(residuals, len(classes))
    beside = None
    if others is not None:
        beside = _measure_others(others, means, root, held, _OTHERS_PART * false_alarms)
        false_alarms *= 1 - _OTHERS_PART
    threshold = threshold_of(_distances(held, means, root), false_alarms)
    rows = _draw(labels, kept, seed)
    more = _draw(held_labels, CHECKED_STATES, seed) if held_labels is not None else rows[:0]
    checked = labels[:0] if held_labels is None else held_labels[more]
    return KnownStates(
        means.astype(np.float32),
        root,
        threshold,
        np.concatenate([states[rows], held[more]]).astype(np.float32),
        np.concatenate([labels[rows], checked]).astype(np.int64),
        np.arange(len(rows) + len(more)) >= len(rows),
        beside,
    )


def fit_known_patches(
    features: Floats,
    labels: npt.NDArray[np.int64],
    held: Sequence[Floats],
    *,
    false_alarms: float = FALSE_ALARMS,
) -> KnownPatches:
    """Measure what patches are usual, and the threshold on other slides.

    Parameters
    ----------
    features : numpy.ndarray
        (N, F) of training patches.
    labels : numpy.ndarray
        (N,) int64, their classes.
    held : sequence of numpy.ndarray
        (N_i, F) of each slide that neither encoder nor model was fitted to.
    false_alarms : float
        Share of the held-out slides beyond the threshold.

    Raises
    ------
    ValueError
        If there are too few patches or slides.
    """
    if len(features) < 3 or not held:
        raise ValueError("too few patches to say what is usual: at least 3, and a slide held out")
    classes = np.unique(labels)
    means = np.stack([features[labels == each].mean(0) for each in classes])
    residuals = (features - means[np.searchsorted(classes, labels)]).astype(np.float64)
    root = _root_of_precision(residuals, len(classes))
    made = KnownPatches(means.astype(np.float32), root, 1.0)
    lengths = np.array([made.slide_novelty(each) for each in held], np.float32)
    return dataclasses.replace(made, threshold=threshold_of(lengths, false_alarms))


def extend_known_states(
    known: KnownStates,
    states: Floats,
    labels: npt.NDArray[np.int64],
    held: Floats,
    held_labels: npt.NDArray[np.int64],
    *,
    false_alarms: float = FALSE_ALARMS,
) -> KnownStates:
    """Add the states of other cells, of the same network with another last layer.

    Their classes get means of their own, beside those of the same classes in
    the first training: another laboratory's cells lie elsewhere. The spread is
    a mixture of both, the more of the new the more there are. Thresholds are
    set on the held-out states of both.

    Parameters
    ----------
    known : KnownStates
        As they were.
    states, labels : numpy.ndarray
        (N, D) and (N,) of the cells that were learned from.
    held, held_labels : numpy.ndarray
        (H, D) and (H,) of those that were held out; H may be 0.
    false_alarms : float
        Share of the held-out states beyond the threshold.
    """
    classes = np.unique(labels)
    own = np.stack([states[labels == each].mean(0) for each in classes])
    residuals = (states - own[np.searchsorted(classes, labels)]).astype(np.float64)
    n, d = residuals.shape
    # A class of n cells lies 1 / n of its spread nearer to its own mean.
    fresh = residuals.T @ residuals / max(n - len(classes), 1)
    inverse = np.linalg.inv(known.root.astype(np.float64))
    weight = n / (n + 2 * d)
    values, vectors = np.linalg.eigh((1 - weight) * inverse.T @ inverse + weight * fresh)
    root = (vectors / np.sqrt(np.maximum(values, _FLOOR * values.mean()))).astype(np.float32)
    means = np.concatenate([known.means, own.astype(np.float32)])
    usual = np.concatenate([known.states[known.held], held])
    if not len(usual):
        usual = np.concatenate([known.states, states])
    others = known.others
    if others is not None:
        part = _OTHERS_PART * false_alarms
        levels = _levels(_nearer(usual, others.means, means, others.root), part)
        others = dataclasses.replace(others, typical=levels[0], limit=levels[1])
        false_alarms *= 1 - _OTHERS_PART
    rows, more = _draw(labels, KEPT_STATES, 0), _draw(held_labels, CHECKED_STATES, 0)
    return KnownStates(
        means,
        root,
        threshold_of(_distances(usual, means, root), false_alarms),
        np.concatenate([known.states, states[rows], held[more]]).astype(np.float32),
        np.concatenate([known.labels, labels[rows], held_labels[more]]).astype(np.int64),
        np.concatenate([known.held, np.zeros(len(rows), bool), np.ones(len(more), bool)]),
        others,
    )


def _measure_others(
    others: tuple[Floats, npt.NDArray[np.int64]],
    own: Floats,
    root: Floats,
    held: Floats,
    false_alarms: float,
) -> OtherThings:
    """Measure kinds of other things, and when an image looks like one."""
    states, kinds = others
    means = np.stack([states[kinds == each].mean(0) for each in np.unique(kinds)])
    spread = (states - means[kinds]).astype(np.float64)
    inverse = np.linalg.inv(root.astype(np.float64))
    within = inverse.T @ inverse
    of_others = spread.T @ spread / max(len(spread) - len(means), 1)
    values, vectors = np.linalg.eigh((1 - _OTHERS_SPREAD) * within + _OTHERS_SPREAD * of_others)
    both = (vectors / np.sqrt(np.maximum(values, _FLOOR * values.mean()))).astype(np.float32)
    levels = _levels(_nearer(held, means, own, both), false_alarms)
    reach = threshold_of(_distances(states, means, both), _BEYOND_REACH)
    return OtherThings(means.astype(np.float32), both, *levels, reach)


def _nearer(states: Floats, others: Floats, own: Floats, root: Floats) -> Floats:
    """(N, K) squared lengths to the nearest of the classes' means less those to others'."""
    least = np.square(_distances(states, own, root))
    each = [np.square(_distances(states, others[i : i + 1], root)) for i in range(len(others))]
    found: Floats = least[:, None] - np.stack(each, axis=1)
    return found


def _levels(nearer: Floats, false_alarms: float) -> tuple[float, float]:
    """Return what is typical of the nearest kind of other things, and the limit."""
    highest = nearer.max(1)
    typical = float(np.median(highest))
    lengths = highest - np.float32(typical)
    return typical, typical + threshold_of(lengths, false_alarms)


def threshold_of(lengths: Floats, false_alarms: float = FALSE_ALARMS) -> float:
    """Return the length beyond which a new one lies at this rate, all being exchangeable."""
    # Of n + 1 lengths a new one is beyond the j-th with probability (n + 1 - j) / (n + 1).
    place = min(math.ceil((len(lengths) + 1) * (1 - false_alarms)), len(lengths))
    return max(float(np.sort(lengths)[place - 1]), 1e-6)


def _draw(labels: npt.NDArray[np.int64], most: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows, at most so many of each class, drawn by lot."""
    draw = np.random.default_rng(seed)
    rows = [draw.permutation(np.flatnonzero(labels == each))[:most] for each in np.unique(labels)]
    return np.sort(np.concatenate([*rows, np.empty(0, np.int64)]))


def _distances(states: Floats, means: Floats, root: Floats) -> Floats:
    """(N,) lengths to the nearest mean."""
    flat = states @ root
    centres = means @ root
    squares = np.square(flat).sum(1)[:, None] + np.square(centres).sum(1) - 2 * flat @ centres.T
    least: Floats = np.sqrt(np.maximum(squares.min(1), 0)).astype(np.float32)
    return least


def _root_of_precision(residuals: npt.NDArray[np.float64], n_means: int) -> Floats:
    """(D, D) float32 R with R Rᵀ the inverse of the residuals' covariance, shrunk as need be."""
    n, d = residuals.shape
    covariance = residuals.T @ residuals / max(n - n_means, 1)
    level = float(np.trace(covariance)) / d or 1.0
    # Few states say little of how D numbers go together: shrunk as by Chen et al. 2010 (OAS).
    square, trace = float(np.square(covariance).sum()), float(np.trace(covariance)) ** 2
    free = (n + 1 - 2 / d) * (square - trace / d)
    weight = min(1.0, ((1 - 2 / d) * square + trace) / free) if free > 0 else 1.0
    covariance = (1 - weight) * covariance + weight * level * np.eye(d)
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors / np.sqrt(np.maximum(values, _FLOOR * level))).astype(np.float32)
    return root
