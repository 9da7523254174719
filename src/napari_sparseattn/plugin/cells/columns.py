"""The columns of the table of cells: what they hold, how it is written, and in which order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...card import readable_name
from ...inference.prediction import Predictions
from ...metrics import whole_percent

__all__ = ["ANNOTATED", "CLASS", "CONFIDENCE", "EVIDENCE", "NOVELTY", "Column", "columns_of"]

CLASS, CONFIDENCE, NOVELTY, EVIDENCE, ANNOTATED = (
    "class", "confidence", "novelty", "evidence_gain", "annotated",
)  # fmt: skip
_SIZE_TIP = "Square root of the area of the box around what was found of the cell."
_TIPS = {
    "id": "The cell's number, or its value in your Labels layer.",
    CLASS: "The most probable class.",
    CONFIDENCE: (
        "Probability of that class: the column confidence of the CSV. Of blood cells it is the "
        "lower the more unlike the model's own cells they are."
    ),
    "size": _SIZE_TIP,
    "dry_mass_pg": "Dry mass: optical path difference summed over the cell, over 0.19 µm³/pg.",
    NOVELTY: (
        "How unlike the cells the model was trained on: above 1 it is farther from every class "
        "than all but a few of them, and may be none of these classes."
    ),
    EVIDENCE: (
        "How much sooner the probability falls where the model's own selection is removed first; "
        "random is 0. Measured under Faithfulness per cell."
    ),
    ANNOTATED: "The class that you have given the cell.",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column: a value of each of N cells.

    Parameters
    ----------
    key : str
        Which it is, also where the words for it change.
    title : str
        What stands above it.
    values : numpy.ndarray
        (N,) numbers or text; NaN and "" where a cell has none.
    form : str
        How a value is written: ``"%"``, ``"s"``, or as `format` takes it.
    """

    key: str
    title: str
    values: npt.NDArray[Any]
    form: str

    @property
    def tip(self) -> str:
        """What it means."""
        return _TIPS[self.key]

    @property
    def is_text(self) -> bool:
        """Whether it holds words."""
        return self.form == "s"

    def text(self, cell: int) -> str:
        """Return what is shown of a cell."""
        return self._write(self.values[cell].item())

    def plain(self, cell: int) -> str:
        """Return what is copied of a cell: numbers as spreadsheets read them."""
        value = self.values[cell].item()
        if self.is_text or isinstance(value, int):
            return str(value)
        return "" if value != value else f"{value:.6g}"

    @functools.cached_property
    def longest(self) -> str:
        """The longest of what is shown."""
        if not len(self.values):
            return ""
        if self.is_text:
            # As numpy keeps text, the width of the array is that of the longest.
            return self._write(max(np.unique(self.values).tolist(), key=len))
        finite = self.values[np.isfinite(self.values)]
        ends = (finite.min(), finite.max()) if len(finite) else ()
        return max((self._write(value.item()) for value in ends), key=len, default="–")

    def order(self, *, descending: bool) -> npt.NDArray[np.intp]:
        """Return all cells, sorted; equal ones in their own order, those without a value last."""
        ranks = self._ranks
        return np.argsort(np.where(ranks < 0, len(ranks), -ranks if descending else ranks),
                          kind="stable")  # fmt: skip

    @functools.cached_property
    def _ranks(self) -> npt.NDArray[np.int64]:
        """(N,) place of each value among the different ones; -1 for none."""
        ranks = np.unique(self.values, return_inverse=True)[1].astype(np.int64)
        missing = self.values == "" if self.is_text else np.isnan(self.values)
        return np.where(missing, -1, ranks)

    def _write(self, value: Any) -> str:
        if self.is_text:
            return readable_name(value)
        if value != value:
            return "–"
        return whole_percent(value) if self.form == "%" else format(value, self.form)


def columns_of(predictions: Predictions, annotated: Mapping[int, str]) -> tuple[Column, ...]:
    """Return the columns that there is something to show in.

    Parameters
    ----------
    predictions : Predictions
        Of N cells.
    annotated : mapping of int to str
        Classes that cells were given, by row.
    """
    cells, scale = predictions.cells, predictions.cells.pixel_size
    size = cells.diameters if scale is None else cells.diameters * scale
    columns = [
        Column("id", "id", cells.ids, "d"),
        Column(CLASS, "class", np.array(predictions.labels, dtype=str), "s"),
        Column(CONFIDENCE, "probability", predictions.confidence.astype(np.float64), "%"),
        Column("size", "size, px" if scale is None else "size, µm", size, ".1f"),
    ]
    if predictions.novelty is not None and (predictions.novelty > 1).any():
        novelty = predictions.novelty.astype(np.float64)
        columns.append(Column(NOVELTY, "unlike", novelty, ".1f"))
    for key, title, form in (("dry_mass_pg", "mass, pg", ".0f"), (EVIDENCE, "evidence", "+.2f")):
        values = predictions.measures.get(key)
        if values is not None and np.isfinite(values).any():
            columns.append(Column(key, title, values, form))
    if annotated:
        labels = np.full(len(predictions), "", dtype=object)
        labels[list(annotated)] = list(annotated.values())
        columns.append(Column(ANNOTATED, "annotated", labels.astype(str), "s"))
    return tuple(columns)
