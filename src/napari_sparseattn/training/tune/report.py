"""What fine-tuning gained: the model before and after on the same held-out cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtr
from torch import Tensor

from ...metrics import Report, classification_report
from ...reprs import short_repr
from ..loop.classifier import fit_temperature

__all__ = [
    "LEAST_TO_CALIBRATE",
    "FineTuneReport",
    "HeldOut",
    "HeldOutCell",
    "KeptCells",
    "Paired",
    "Verdict",
    "compare",
]

Verdict = Literal["better", "worse", "too little data"]

#: Probability of so uneven a result by chance below which it is believed.
_LEVEL = 0.05
#: Held-out cells, slides or patches below which no temperature is fitted.
LEAST_TO_CALIBRATE = 20
_ONE = {"cells": "cell", "slides": "slide", "patches": "patch"}


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out cells.

    Parameters
    ----------
    ids : tuple of str
        Of the annotations.
    labels : numpy.ndarray
        (N,) int64, of `class_names`.
    class_names, old_class_names : tuple of str
        Of the new model, and of the one before.
    unit : str
        What they are: ``"cells"``, ``"slides"`` or ``"patches"``.
    groups : numpy.ndarray, optional
        (N,) int64: the slide of each patch.
    """

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    old_class_names: tuple[str, ...]
    unit: str = "cells"
    groups: npt.NDArray[np.int64] | None = None


@dataclasses.dataclass(frozen=True)
class KeptCells:
    """K cells that the model's file keeps of its own training, and neither training was fitted to.

    Parameters
    ----------
    labels, before, after : numpy.ndarray
        (K,) int64: their classes, and what the model before and the new one say.
    """

    labels: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class HeldOutCell:
    """One held-out cell: its class, and what the two models said.

    Attributes
    ----------
    id : str
        Of the annotation.
    label, before, after : str
        Classes.
    probability : float
        Of `after`.
    """

    id: str
    label: str
    before: str
    after: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Paired:
    """How two models did on the same cells.

    Attributes
    ----------
    n : int
        Cells.
    before, after : int
        How many each has right.
    gained, lost : int
        Right only after, and right only before.
    p : float
        Exact McNemar test, two-sided. Of patches, which are not independent of
        their neighbours: exact sign test over the slides, each of which gained
        or lost.
    """

    n: int
    before: int
    after: int
    gained: int
    lost: int
    p: float

    @property
    def verdict(self) -> Verdict:
        """What can be said."""
        if self.p >= _LEVEL or self.gained == self.lost:
            return "too little data"
        return "better" if self.gained > self.lost else "worse"


@dataclasses.dataclass(frozen=True)
class FineTuneReport:
    """What a fine-tuning run gave.

    Attributes
    ----------
    verdict : str
        ``"better"``, ``"worse"`` or ``"too little data"``.
    sentence : str
        The same for people, with the figures.
    class_names, old_class_names : tuple of str
        Of the new model, and of the one before.
    before, after : Report or None
        On the held-out cells; None where there are none. Of classes that it
        does not know the model before gives 0.
    all_cells, known, fresh : Paired
        Both models on all held-out cells, on those of classes known before,
        and on those of new classes.
    kept : Paired or None
        Both models on cells that the model's file keeps of its own training;
        None where there are none, or the new model's states are others.
    kept_classes : dict of str to tuple of int
        Of these, by class: how many, and right before and after.
    cells : tuple of HeldOutCell
        Every held-out cell.
    temperature : float
        Of the new model.
    history : tuple of dict
        Every epoch: losses, accuracies, k, selected pixels moved, seconds.
    best_epoch : int
        Whose weights are kept; 0 is the fitted head alone.
    annotated : dict of str to int
        Annotated cells per class.
    unannotated : dict
        ``n``, share ``as_before`` and share ``of_new_classes``, over the cells
        nobody annotated; empty where none were given.
    seconds : float
        Wall time.
    notes : tuple of str
        What happened on the way.
    unit : str
        What is counted: ``"cells"``, ``"slides"`` or ``"patches"``.
    """

    __repr__ = short_repr

    verdict: Verdict
    sentence: str
    class_names: tuple[str, ...]
    old_class_names: tuple[str, ...]
    before: Report | None
    after: Report | None
    all_cells: Paired
    known: Paired
    fresh: Paired
    cells: tuple[HeldOutCell, ...]
    temperature: float
    history: tuple[dict[str, float | int | None], ...]
    best_epoch: int
    annotated: dict[str, int]
    unannotated: dict[str, float]
    seconds: float
    notes: tuple[str, ...] = ()
    unit: str = "cells"
    kept: Paired | None = None
    kept_classes: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)

    def of(self, label: str, predicted: str) -> tuple[str, ...]:
        """Ids of the held-out cells of a class that the new model gave another (or the same)."""
        return tuple(c.id for c in self.cells if (c.label, c.after) == (label, predicted))

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("before", "after"):
            plain[name] = plain[name] and plain[name].to_dict()
        for name in ("all_cells", "known", "fresh"):
            plain[name] = dataclasses.asdict(plain[name])
        plain["kept"] = None if self.kept is None else dataclasses.asdict(self.kept)
        plain["cells"] = [dataclasses.asdict(cell) for cell in self.cells]
        return plain


def compare(
    held: HeldOut,
    old_logits: Tensor,
    new_logits: Tensor,
    temperature: float,
    *,
    history: Sequence[dict[str, float | int | None]],
    best_epoch: int,
    annotated: Mapping[str, int],
    unannotated: Mapping[str, float],
    seconds: float,
    notes: Sequence[str],
    kept: KeptCells | None = None,
) -> FineTuneReport:
    """Compare the logits of the model before, (N, n_old), and after, (N, C).

    The old logits are already divided by that model's temperature. The new
    model's probabilities are measured at temperatures that each half of the
    cells has from the other, so that the calibration is not flattered.
    """
    labels, names = held.labels, held.class_names
    n_old = len(held.old_class_names)
    old = np.zeros((len(labels), len(names)), dtype=np.float32)
    old[:, :n_old] = old_logits.softmax(1).numpy()
    new = _cross_calibrate(new_logits, torch.from_numpy(labels), temperature, held.groups)
    before, after = (p.argmax(1) if len(p) else np.empty(0, np.int64) for p in (old, new))
    known = labels < n_old
    every, old_ones, fresh = (
        _pair(labels[rows], before[rows], after[rows],
                None if held.groups is None else held.groups[rows])
        for rows in (np.ones(len(labels), bool), known, ~known)
    )  # fmt: skip
    cells = tuple(
        HeldOutCell(held.ids[i] if held.ids else str(i), names[labels[i]], names[before[i]],
                    names[after[i]], float(new[i, after[i]]))
        for i in range(len(labels))
    )  # fmt: skip
    own = None if kept is None else _pair(kept.labels, kept.before, kept.after)
    sentence = _describe_result(every, old_ones, fresh, unannotated, held.unit, own)
    return FineTuneReport(
        verdict=_verdict(every, old_ones, own),
        sentence=sentence,
        class_names=names,
        old_class_names=held.old_class_names,
        before=classification_report(old, labels, names) if len(labels) else None,
        after=classification_report(new, labels, names) if len(labels) else None,
        all_cells=every,
        known=old_ones,
        fresh=fresh,
        cells=cells,
        temperature=temperature,
        history=tuple(history),
        best_epoch=best_epoch,
        annotated=dict(annotated),
        unannotated=dict(unannotated),
        seconds=seconds,
        notes=tuple(notes),
        unit=held.unit,
        kept=own,
        kept_classes={} if kept is None else _by_class(kept, names),
    )


def _by_class(kept: KeptCells, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    found = {}
    for index in np.unique(kept.labels).tolist():
        own = kept.labels == index
        was, now = (int((said[own] == index).sum()) for said in (kept.before, kept.after))
        found[names[index]] = (int(own.sum()), was, now)
    return found


def _cross_calibrate(
    logits: Tensor,
    truth: Tensor,
    temperature: float,
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Probabilities at temperatures that were fitted on other cells, or other slides."""
    probabilities = (logits / temperature).softmax(1)
    places = torch.arange(len(truth)) if groups is None else torch.from_numpy(groups)
    even = places % 2 == 0
    if min(int(even.sum()), int((~even).sum())) >= LEAST_TO_CALIBRATE // 2:
        for own, other in ((even, ~even), (~even, even)):
            fitted = fit_temperature(logits[other], truth[other])
            probabilities[own] = (logits[own] / fitted).softmax(1)
    return probabilities.numpy().astype(np.float32)


def _pair(
    labels: npt.NDArray[np.int64],
    before: npt.NDArray[np.integer[Any]],
    after: npt.NDArray[np.integer[Any]],
    groups: npt.NDArray[np.int64] | None = None,
) -> Paired:
    was, now = before == labels, after == labels
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    up, down = gained, lost
    if groups is not None:
        net = np.bincount(groups, weights=now.astype(np.int64) - was.astype(np.int64))
        up, down = int((net > 0).sum()), int((net < 0).sum())
    return Paired(len(labels), int(was.sum()), int(now.sum()), gained, lost, _by_chance(up, down))


def _by_chance(up: int, down: int) -> float:
    """Two-sided probability of so uneven tosses of a coin: scipy.stats takes a second to load."""
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))


def _verdict(every: Paired, known: Paired, kept: Paired | None = None) -> Verdict:
    # New classes only gain: what was known must not be lost for them.
    lost = known.verdict == "worse" or (kept is not None and kept.verdict == "worse")
    return "worse" if lost else every.verdict


def _describe_result(
    every: Paired,
    known: Paired,
    fresh: Paired,
    unannotated: Mapping[str, float],
    unit: str = "cells",
    kept: Paired | None = None,
) -> str:
    """Plain sentences: what is new and what was known, apart."""
    one = "cell" if unit == "cells" else "slide"
    if not every.n:
        start = f"Too little data to tell: no annotated {one} is held out."
        more = ", in several places or images" if one == "cell" else " slides"
        said = [f"{start} Annotate more{more}."]
    else:
        start = {
            "better": "Better",
            "worse": "Worse",
            "too little data": "Too little data to tell",
        }[_verdict(every, known, kept)]
        counted = f"of {every.n} held-out {unit} {every.after} are right, {every.before} before"
        said = [f"{start}: {counted} (p = {every.p:.2g})."]
        if fresh.n:
            said.append(f"Of {fresh.n} of the new classes {fresh.after} are right.")
        if known.n:
            said.append(
                f"Of {known.n} of the classes it knew {known.after} are right, {known.before} "
                "before."
            )
    if kept is not None:
        said.append(
            f"Of {kept.n} cells kept from its own training {kept.after} are right, {kept.before} "
            "before."
        )
    elif not known.n:
        said.append(
            f"No held-out {_ONE[unit]} is of a class it knew, so what it forgot is not measured."
        )
    if unannotated:
        said.append(
            f"Of {unannotated['n']:.0f} unannotated cells {100 * unannotated['as_before']:.0f} % "
            f"keep their class, {100 * unannotated['of_new_classes']:.0f} % are now of a new one."
        )
    return " ".join(said)
