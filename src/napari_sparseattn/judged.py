"""What a model said of labelled images, beside what they are: one table for every measurement."""

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
from .metrics import Report, classification_report, group_intervals, ranked_auc

__all__ = ["FEWEST_GROUPS", "Judged"]

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

    names: tuple[str, ...]
    groups: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]

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
