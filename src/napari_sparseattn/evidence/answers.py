"""What a model said before and after a question, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..reprs import short_repr
from .kinds import PixelSelection
from .pyramid_attention import PyramidAttention
from .traversal import Traversal

__all__ = ["Answer", "Evidence", "WhatIf"]

Evidence = PixelSelection | Traversal | PyramidAttention


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a model said.

    Parameters
    ----------
    class_names : tuple of str
        The C classes.
    logits : numpy.ndarray
        (C,) float64.
    probabilities : numpy.ndarray
        (C,) float64, at the bundle's temperature.
    evidence : PixelSelection, Traversal, PyramidAttention or None
        What was looked at; None where patches were dropped, whose attention
        is of other cells.
    """

    class_names: tuple[str, ...]
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    evidence: Evidence | None

    @property
    def index(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.class_names[self.index]

    @property
    def margins(self) -> npt.NDArray[np.float64]:
        """(C,) logit of each class less the mean of all: what adding a constant leaves."""
        centred: npt.NDArray[np.float64] = self.logits - self.logits.mean()
        return centred


@dataclasses.dataclass(frozen=True, eq=False)
class WhatIf:
    """A question that was put to a model, and both answers.

    Parameters
    ----------
    question : str
        ``"remove"``, ``"keep"``, ``"look"``, ``"move"`` or ``"levels"``.
    fill : str
        What stood in for removed content; empty where none was removed.
    share : float
        Share of the content that was removed, or looked at by force.
    before, after : Answer
        Of the model.
    selection_overlap : float
        Intersection over union of what it selected before and after; NaN
        where the two cannot be compared.
    """

    __repr__ = short_repr

    question: str
    fill: str
    share: float
    before: Answer
    after: Answer
    selection_overlap: float

    @property
    def class_changed(self) -> bool:
        """Whether the most probable class is another one."""
        return self.before.index != self.after.index

    @property
    def change(self) -> npt.NDArray[np.float64]:
        """(C,) change of each class's logit, relative to the mean of all classes."""
        moved: npt.NDArray[np.float64] = self.after.margins - self.before.margins
        return moved

    def summary(self) -> str:
        """Return one line for people."""
        i = self.before.index
        first, last = (100 * answer.probabilities[i] for answer in (self.before, self.after))
        text = f"{self.before.label} {first:.1f} % → {last:.1f} %, its logit {self.change[i]:+.2f}"
        if self.class_changed:
            best = 100 * self.after.probabilities[self.after.index]
            text += f"; now {self.after.label} ({best:.1f} %)"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        known = None if np.isnan(self.selection_overlap) else self.selection_overlap
        return {
            "kind": "what-if",
            "question": self.question,
            "fill": self.fill,
            "share": self.share,
            "class_names": list(self.before.class_names),
            "before": _numbers(self.before),
            "after": _numbers(self.after),
            "change": self.change.round(6).tolist(),
            "class_changed": self.class_changed,
            "selection_overlap": known,
        }


def _numbers(answer: Answer) -> dict[str, Any]:
    return {
        "class": answer.label,
        "logits": answer.logits.round(6).tolist(),
        "probabilities": answer.probabilities.round(6).tolist(),
    }
