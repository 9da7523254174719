"""All classified cells: a table in step with the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    QSize,
    Qt,
)
from qtpy.QtGui import QBrush, QColor, QIcon, QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QFileDialog,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from ...export.tables import as_text, write_csv
from ...inference.prediction import Predictions
from ..annotate.class_box import swatch
from ..cells.columns import ANNOTATED, CLASS
from ..cells.shown import ShownCells
from ..cells.task import CellTask
from ..core.messages import counted
from ..core.status import explain
from .filter_bar import FilterBar
from .frame import SeenFollower

__all__ = ["CellsModel", "TableBox"]

_EMPTY = (
    "Classify all, in the dock Sparse attention, fills this table. Click a row to go to its cell."
)
_ROW = 22
_SWATCH = 12
_PADDING = 18
#: More pieces than this of a selection take Qt long; the model paints them instead.
_MOST_PIECES = 200
_PICKED = QColor(61, 143, 209, 90)


class CellsModel(QAbstractTableModel):
    """A Qt model on `ShownCells`; copies nothing."""

    def __init__(self, shown: ShownCells, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown = shown
        self._icons: dict[str, QIcon] = {}
        #: Rows of the results that are painted as picked, beside Qt's selection.
        self.painted: frozenset[int] = frozenset()

    def cell(self, row: int) -> int:
        """Return the index of the cell in a row."""
        return int(self.shown.rows[row])

    def row(self, cell: int) -> int:
        """Return the row that shows a cell; -1 where none does."""
        return self.shown.place(cell)

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of cells."""
        return 0 if parent is not None and parent.isValid() else len(self.shown)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.shown.columns)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's name."""
        columns = self.shown.columns
        if orientation != Qt.Orientation.Horizontal or section >= len(columns):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return columns[section].title
        return columns[section].tip if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell of the table shows."""
        if not index.isValid():
            return None
        column = self.shown.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(self.cell(index.row()))
        if role == Qt.ItemDataRole.DecorationRole and column.key == CLASS:
            colour = self.shown.colour(self.cell(index.row()))
            return None if colour is None else self._icon(colour)
        if role == Qt.ItemDataRole.TextAlignmentRole and not column.is_text:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.BackgroundRole and self.painted:
            return QBrush(_PICKED) if self.cell(index.row()) in self.painted else None
        return None

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; equal values keep the cells' order, and none the place of the last."""
        columns = self.shown.columns
        if 0 <= column < len(columns):
            descending = order == Qt.SortOrder.DescendingOrder
            self.shown.sort(columns[column].key, descending=descending)

    def refresh(self) -> None:
        """Show other rows."""
        self.beginResetModel()
        self.endResetModel()

    def _icon(self, colour: str) -> QIcon:
        if colour not in self._icons:
            self._icons[colour] = swatch(colour)
        return self._icons[colour]


#: With Alt: by the column of the current field.
_SORTING = {
    Qt.Key.Key_Up: Qt.SortOrder.AscendingOrder,
    Qt.Key.Key_Down: Qt.SortOrder.DescendingOrder,
}


class _Table(QTableView):
    """A table whose selected rows are copied by Ctrl+C, and that Alt and arrows sort."""

    def __init__(self, box: TableBox) -> None:
        super().__init__(box)
        self._box = box
        #: That the user went to last; other rows, or another order, make Qt forget it.
        self.column = 0

    def currentChanged(self, current: QModelIndex, previous: QModelIndex) -> None:  # noqa: N802
        """Remember the column, where it is the user's."""
        super().currentChanged(current, previous)
        if current.isValid() and not self._box.showing:
            self.column = current.column()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Copy, or do what tables do."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self._box.copy()
            return
        sorting = _SORTING.get(Qt.Key(event.key()))
        if sorting is not None and event.modifiers() & Qt.KeyboardModifier.AltModifier:
            self.sortByColumn(self.column, sorting)
            return
        super().keyPressEvent(event)


class TableBox(SeenFollower):
    """The filter, the table, and the export of what it shows."""

    def __init__(self, cells: CellTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cells, self.shown = cells, cells.shown
        #: While what is picked elsewhere is shown: that is no wish of the user's here.
        self._showing = False
        self.model = CellsModel(self.shown, self)
        self.table = _Table(self)
        self.filter_bar = FilterBar(self.shown, self)
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.export = QPushButton("Export CSV…", self)
        self.export.setToolTip(
            "The cells that are shown, in this order: place, size, class, all probabilities, and "
            "what was measured. The section Export writes all cells, and other formats."
        )
        self._dress_table()
        self.filter_bar.add(self.export)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.empty)
        column.addWidget(self.filter_bar)
        column.addWidget(self.table, 1)
        self._gone_to: int | None = None
        self._columns: tuple[str, ...] = ()
        status = cells.parts.status
        self._writing = cells.parts.lanes.add(
            _write,
            given=lambda _, text: status.notify(text),
            failed=lambda _, error: status.notify(
                f"The table could not be written: {explain(error)}", "error"
            ),
            busy="queue",
        )
        selection = self.table.selectionModel()
        selection.selectionChanged.connect(self._pick)
        selection.currentRowChanged.connect(self._move_to)
        self.table.clicked.connect(self._go_to)
        self.table.activated.connect(self._go_again)
        self.export.clicked.connect(self._choose_file)
        self.follow_seen(self.shown.changed, self.refresh)
        self.follow_seen(self.shown.picked_changed, self._show_picked)
        self.refresh()

    @property
    def showing(self) -> bool:
        """Whether what is picked elsewhere is just being shown."""
        return self._showing

    def release(self) -> None:
        """Disconnect; tables that are being written are finished in silence."""
        super().release()
        self.filter_bar.release()
        self._writing.close()

    def _dress_table(self) -> None:
        table = self.table
        table.setModel(self.model)
        # Before it sorts: else it would, by the first column.
        table.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        table.setSortingEnabled(True)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)
        table.setWordWrap(False)
        table.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        table.setTextElideMode(Qt.TextElideMode.ElideNone)
        table.setIconSize(QSize(_SWATCH, _SWATCH))
        table.verticalHeader().hide()
        table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        table.verticalHeader().setDefaultSectionSize(_ROW)
        table.setShowGrid(False)
        table.setMinimumHeight(60)
        table.setAccessibleName("Table of cells")
        header = table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setMinimumSectionSize(20)
        header.setHighlightSections(False)
        # Of its own, and empty: else each column asks whether every row of it is selected.
        header.setSelectionModel(QItemSelectionModel(self.model, header))

    # -- showing

    def refresh(self) -> None:
        """Show other cells, or the same in another order."""
        shown, there = self.shown, self.shown.results is not None
        self._showing = True
        self.model.refresh()
        header = self.table.horizontalHeader()
        keys = [column.key for column in shown.columns]
        place = keys.index(shown.sorting[0]) if shown.sorting[0] in keys else -1
        order = Qt.SortOrder.DescendingOrder if shown.sorting[1] else Qt.SortOrder.AscendingOrder
        header.blockSignals(True)
        header.setSortIndicator(place, order)
        header.blockSignals(False)
        self._showing = False
        titles = tuple(f"{column.title} {column.longest}" for column in shown.columns)
        if titles != self._columns:
            self._columns = titles
            self._fit_columns()
        self.empty.setVisible(not there)
        for widget in (self.filter_bar, self.table):
            widget.setVisible(there)
        self.export.setEnabled(len(shown) > 0)
        self.export.setText("Export these…" if shown.narrowed else "Export CSV…")
        self._show_picked()

    def _fit_columns(self) -> None:
        """Give each column the width of the longest that it holds."""
        header, metrics = self.table.horizontalHeader(), self.table.fontMetrics()
        for i, column in enumerate(self.shown.columns):
            # Room for the arrow of the sorting.
            title = header.fontMetrics().horizontalAdvance(column.title) + 22
            inside = metrics.horizontalAdvance(column.longest)
            inside += _SWATCH + 8 if column.key in (CLASS, ANNOTATED) else 0
            header.resizeSection(i, max(title, inside + _PADDING))

    def _show_picked(self) -> None:
        """Select the rows that are picked, wherever that was."""
        if self._showing:
            return
        shown, selection = self.shown, self.table.selectionModel()
        pieces = _pieces(np.sort(shown.places(shown.picked)))
        self._showing = True
        wanted = QItemSelection()
        if len(pieces) <= _MOST_PIECES:
            self.model.painted = frozenset()
            last = self.model.columnCount() - 1
            for first, end in pieces:
                wanted.select(self.model.index(first, 0), self.model.index(end, last))
        else:
            self.model.painted = frozenset(shown.picked.tolist())
        selection.select(wanted, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        at = -1 if shown.current is None else shown.place(shown.current)
        if at >= 0 and self.table.currentIndex().row() != at:
            index = self.model.index(at, self.table.column)
            selection.setCurrentIndex(index, QItemSelectionModel.SelectionFlag.NoUpdate)
            self.table.scrollTo(index)
        self._showing = False
        self.table.viewport().update()

    # -- what the user does

    def _pick(self, *_: object) -> None:
        if self._showing:
            return
        self.model.painted = frozenset()
        pieces = [
            self.shown.rows[each.top() : each.bottom() + 1]
            for each in self.table.selectionModel().selection()
        ]
        rows = np.concatenate(pieces) if pieces else np.empty(0, np.intp)
        self._tell(rows)

    def _tell(self, rows: npt.NDArray[np.intp], current: int | None = None) -> None:
        """Tell the others what is picked here."""
        self._showing = True
        self.shown.pick(rows, current)
        self._showing = False

    def _move_to(self, index: QModelIndex, _: QModelIndex | None = None) -> None:
        """Follow the arrow keys; what is picked elsewhere is there already."""
        if not index.isValid() or self._showing:
            return
        cell = self.model.cell(index.row())
        if len(self.shown.picked) > 1:
            # Rows are being gathered: the image stays where it is.
            self._tell(self.shown.picked, cell)
            return
        self._gone_to = cell
        self._tell(np.array([cell]), cell)
        self.cells.click_cell(cell)

    def _go_to(self, index: QModelIndex) -> None:
        """Go to the cell of a row, unless the row's becoming the current one has done that."""
        gone, self._gone_to = self._gone_to, None
        if gone != self.model.cell(index.row()) and len(self.shown.picked) <= 1:
            self.cells.click_cell(self.model.cell(index.row()))

    def _go_again(self, index: QModelIndex) -> None:
        """Go to the cell of a row by Enter or a double click, also from elsewhere in the image."""
        self._gone_to = None
        self.cells.click_cell(self.model.cell(index.row()))

    def copy(self) -> str:
        """Put the picked rows on the clipboard, as spreadsheets take them; return that."""
        shown = self.shown
        rows = shown.rows[np.sort(shown.places(shown.picked))].tolist()
        if not rows:
            return ""
        lines = ["\t".join(column.title for column in shown.columns)]
        lines += ["\t".join(_safe(column.plain(row)) for column in shown.columns) for row in rows]
        text = "\n".join(lines) + "\n"
        QApplication.clipboard().setText(text)
        self.cells.parts.status.notify(f"{counted(len(rows), 'row')} copied.")
        return text

    def _choose_file(self) -> None:
        results = self.shown.results
        if results is None or not len(self.shown):
            return
        image = self.cells.parts.selection.image
        name = "cells" if image is None else image.name
        path, _ = QFileDialog.getSaveFileName(self, "Export CSV", f"{name}.csv", "Tables (*.csv)")
        if path:
            self._writing.ask((results.subset(self.shown.rows), path))


def _write(request: tuple[Predictions, str]) -> str:
    predictions, path = request
    write_csv(predictions, path)
    return f"{counted(len(predictions), 'cell')} written to {path}."


def _safe(value: str) -> str:
    """Return a field without tabs and breaks, which no spreadsheet takes for a formula."""
    number = value.lstrip("+-").replace(".", "", 1).replace("e-", "").replace("e+", "").isdigit()
    return value if number else str(as_text(" ".join(value.split())))


def _pieces(places: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return first and last of each run of neighbours among places in ascending order."""
    if not len(places):
        return []
    cuts = np.flatnonzero(np.diff(places) > 1)
    firsts = places[np.concatenate([[0], cuts + 1])]
    lasts = places[np.concatenate([cuts, [len(places) - 1]])]
    return [(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]
