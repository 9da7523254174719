"""Folds for cross-validation: whole groups, with the classes spread evenly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["group_folds", "share_of_groups"]


def group_folds(
    labels: Sequence[int] | npt.NDArray[np.int64],
    groups: Sequence[str],
    folds: int = 5,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Give each example a fold; examples of one group always get the same one.

    The largest groups are placed first, each where the classes then are spread
    most evenly. Ties are broken by the SHA-256 of seed and name, so that the
    same names give the same folds.

    Parameters
    ----------
    labels : sequence of int
        (N,) classes, 0 or more.
    groups : sequence of str
        (N,) the patient, slide or field of each.
    folds : int
        3 or more: one to test on, one to choose on, the rest to learn from.
    seed : int
        Another gives other folds.

    Returns
    -------
    numpy.ndarray
        (N,) int64, 0 to folds - 1; none is empty.

    Raises
    ------
    ValueError
        If there are fewer than three folds, fewer groups than folds, or a class
        with fewer than three groups.
    """
    labels = np.asarray(labels, np.int64)
    names = sorted(set(groups), key=lambda name: _key(name, seed))
    if folds < 3:
        raise ValueError(
            f"{folds} folds are too few: one is tested on, one chooses the weights, and the rest "
            "is learned from. Take three or more, best five."
        )
    if len(names) < folds:
        raise ValueError(
            f"There are {len(names)} groups (patients, slides) for {folds} folds. Add some, or "
            "take fewer folds."
        )
    number = {name: i for i, name in enumerate(names)}
    of = np.array([number[name] for name in groups], np.int64)
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1))
    np.add.at(counts, (of, labels), 1)
    for label, own in enumerate((counts > 0).sum(axis=0)):
        if 0 < own < 3:
            raise ValueError(
                f"Class {label} is of {own} group(s) (patients, slides): three are needed, to "
                "learn from, to choose on and to test on."
            )
    share = counts / np.maximum(counts.sum(axis=0), 1)
    placed = np.zeros((folds, share.shape[1]))
    taken = np.zeros(folds, np.int64)
    fold = np.zeros(len(names), np.int64)
    for group in sorted(range(len(names)), key=lambda each: -share[each].sum()):
        # Squares grow most where a class is crowded already.
        cost = ((placed + share[group]) ** 2).sum(axis=1) - (placed**2).sum(axis=1)
        left = len(names) - int(taken.sum())
        if left <= int((taken == 0).sum()):
            cost[taken > 0] = np.inf  # no fold may stay empty
        best = int(np.lexsort((taken, np.round(cost, 12)))[0])
        fold[group] = best
        placed[best] += share[group]
        taken[best] += 1
    return fold[of]


def share_of_groups(
    labels: Sequence[int] | npt.NDArray[np.int64],
    groups: Sequence[str],
    share: float,
    seed: int = 0,
) -> npt.NDArray[np.bool_]:
    """Which examples (N,) belong to a share of the groups; a larger share holds a smaller one.

    Every class that occurs keeps two groups, or all where it has no more.

    Parameters
    ----------
    labels, groups
        See `group_folds`.
    share : float
        Above 0, up to 1.
    seed : int
        Another takes other groups.
    """
    labels = np.asarray(labels, np.int64)
    names = sorted(set(groups), key=lambda name: _key(name, seed))
    wanted = set(names[: max(1, round(share * len(names)))])
    for label in np.unique(labels):
        own = {group for group, each in zip(groups, labels, strict=True) if each == label}
        for name in [name for name in names if name in own][:2]:
            wanted.add(name)
    return np.array([group in wanted for group in groups], bool)


def _key(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()
