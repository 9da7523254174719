"""Which of the classified cells are shown, in which order, and which of them are picked.

Table, gallery and map follow this, and change nothing but this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...card import readable_name
from ...inference.prediction import Predictions
from .columns import Column, columns_of

__all__ = ["CellFilter", "ShownCells"]

Rows = npt.NDArray[np.intp]
_NO_ROWS: Rows = np.empty(0, np.intp)


@dataclasses.dataclass(frozen=True)
class CellFilter:
    """What cells must have in common to be shown.

    Parameters
    ----------
    classes : frozenset of str or None
        Names of the classes, as results have them, ``""`` for not classified; None for all.
    text : str
        Part of a class's name, or the beginning of a number.
    confidence : (float, float)
        Least and highest probability.
    flagged : bool
        Whether only those unlike what the model knows.
    among : frozenset of int or None
        Rows; None for all.
    """

    classes: frozenset[str] | None = None
    text: str = ""
    confidence: tuple[float, float] = (0.0, 1.0)
    flagged: bool = False
    among: frozenset[int] | None = None


class ShownCells:
    """The rows of one image's results that are shown.

    Attributes
    ----------
    results : Predictions or None
        All classified cells.
    colours : tuple of str
        One per class of the results.
    filter : CellFilter
        What is shown of them; see `set_filter`.
    sorting : (str, bool)
        Key of the column they are sorted by, and whether the highest come
        first; no key for the cells' own order.
    annotated : mapping of int to str
        Classes that cells were given, by row.
    columns : tuple of Column
        What the table has.
    picked : numpy.ndarray
        Rows that are picked, ascending.
    current : int or None
        The one of them that was picked last.
    """

    #: Other cells are shown, or in another order, or with other columns.
    changed = Signal()
    #: Other cells are picked.
    picked_changed = Signal()

    def __init__(self) -> None:
        self.results: Predictions | None = None
        self.colours: tuple[str, ...] = ()
        self.filter = CellFilter()
        self.sorting: tuple[str, bool] = ("", False)
        self.annotated: Mapping[int, str] = {}
        self.columns: tuple[Column, ...] = ()
        self.picked: Rows = _NO_ROWS
        self.current: int | None = None
        self._index: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: Rows | None = _NO_ROWS
        self._places: Rows = _NO_ROWS

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def total(self) -> int:
        """How many cells there are."""
        return 0 if self.results is None else len(self.results)

    @property
    def rows(self) -> Rows:
        """The rows that are shown, in order."""
        if self._rows is None:
            shown = self.passing()
            order = self._order()
            self._rows = order[shown[order]]
            self._places = np.full(self.total, -1, np.intp)
            self._places[self._rows] = np.arange(len(self._rows))
        return self._rows

    def place(self, row: int) -> int:
        """Return the place among `rows` of a row; -1 where it is not shown."""
        return int(self._places[row]) if len(self.rows) and row < len(self._places) else -1

    def places(self, rows: Rows) -> Rows:
        """Return the places of those of some rows that are shown."""
        if not len(self.rows):
            return _NO_ROWS
        found = self._places[rows]
        return found[found >= 0]

    @property
    def narrowed(self) -> bool:
        """Whether not all cells are asked for."""
        return self.filter != CellFilter()

    @property
    def n_flagged(self) -> int:
        """Cells unlike those the model knows; 0 where that was not measured."""
        flags = None if self.results is None else self.results.flagged
        return 0 if flags is None else int(flags.sum())

    def column(self, key: str) -> Column | None:
        """Return a column, or None where there is none."""
        return next((each for each in self.columns if each.key == key), None)

    def colour(self, row: int) -> str | None:
        """Return the colour of a row's class; None where it was not classified."""
        index = -1 if self.results is None else int(self._index[row])
        return None if index < 0 else self.colours[index]

    def class_of(self, row: int) -> str:
        """Return the name of a row's class; nothing where it was not classified."""
        index = -1 if self.results is None else int(self._index[row])
        return "" if index < 0 or self.results is None else self.results.class_names[index]

    # -- changing it

    def set_results(self, results: Predictions | None, colours: tuple[str, ...]) -> None:
        """Show other cells; what is asked of them stays where only columns were added."""
        before = self.results
        same = before is not None and results is not None
        same = same and before.probabilities is results.probabilities  # type: ignore[union-attr]
        self.results, self.colours = results, colours
        self._index = np.empty(0, np.int64) if results is None else results.class_index
        if not same:
            self.filter, self.annotated = CellFilter(), {}
            self.picked, self.current = _NO_ROWS, None
        self._make_columns()
        self.changed.emit()
        if not same:
            self.picked_changed.emit()

    def set_annotated(self, annotated: Mapping[int, str]) -> None:
        """Say which classes cells were given, by row."""
        if dict(annotated) != dict(self.annotated):
            self.annotated = dict(annotated)
            self._make_columns()
            self.changed.emit()

    def set_filter(self, **changes: Any) -> None:
        """Show other cells; `changes` are those of `CellFilter`."""
        wanted = dataclasses.replace(self.filter, **changes)
        if wanted != self.filter:
            self.filter = wanted
            self._rows = None
            self.changed.emit()

    def show_all(self) -> None:
        """Show all cells."""
        self.set_filter(**dataclasses.asdict(CellFilter()))

    def sort(self, key: str, *, descending: bool = False) -> None:
        """Sort by a column; by none for the cells' own order."""
        wanted = (key, descending) if self.column(key) is not None else ("", False)
        if wanted != self.sorting:
            self.sorting = wanted
            self._rows = None
            self.changed.emit()

    def pick(self, rows: Iterable[int] | Rows, current: int | None = None) -> None:
        """Pick cells; `current` is by default the first of them."""
        found = np.unique(np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), np.intp))
        if current is None and len(found):
            current = self.current if self.current in found else int(found[0])
        if not np.array_equal(found, self.picked) or current != self.current:
            self.picked, self.current = found, current
            self.picked_changed.emit()

    def follow(self, row: int | None) -> None:
        """Take note that a cell was picked out in the image, or none."""
        if row is None:
            self.pick(())
        elif row in self.picked:
            self.pick(self.picked, row)
        else:
            self.pick((row,), row)

    # -- within

    def passing(self, *, confidence: bool = True) -> npt.NDArray[np.bool_]:
        """(N,) which cells pass the filter; without `confidence`, whatever their probability."""
        results, asked = self.results, self.filter
        if results is None:
            return np.empty(0, bool)
        passed = np.ones(len(results), bool)
        names = np.array([*results.class_names, ""], dtype=str)
        if asked.classes is not None:
            passed &= np.isin(names, list(asked.classes))[self._index]
        if asked.text.strip():
            passed &= self._find(asked.text.strip(), names)
        if asked.flagged and results.flagged is not None:
            passed &= results.flagged
        if asked.among is not None:
            chosen = np.zeros(len(results), bool)
            chosen[list(asked.among)] = True
            passed &= chosen
        if confidence and asked.confidence != (0.0, 1.0):
            low, high = asked.confidence
            # float32 against what a person reads off an axis.
            passed &= (results.confidence >= low - 1e-6) & (results.confidence <= high + 1e-6)
        return passed

    def _find(self, text: str, names: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
        assert self.results is not None
        wanted = text.casefold()
        if text.isdigit():
            ids = self.results.cells.ids.astype(str)
            return np.asarray(np.char.startswith(ids, text))
        hits = np.array([wanted in readable_name(name).casefold() for name in names])
        found: npt.NDArray[np.bool_] = hits[self._index]
        for row, label in self.annotated.items():
            found[row] |= wanted in readable_name(label).casefold()
        return found

    def _order(self) -> Rows:
        column = self.column(self.sorting[0])
        if column is None:
            return np.arange(self.total)
        return column.order(descending=self.sorting[1])

    def _make_columns(self) -> None:
        self._rows = None
        self.columns = () if self.results is None else columns_of(self.results, self.annotated)
        if self.column(self.sorting[0]) is None:
            self.sorting = ("", False)
