"""All classified cells: a table in step with the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFileDialog,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from ...export.tables import write_csv
from ...inference.prediction import Predictions
from ...metrics import whole_percent
from ..core.messages import counted
from ..widgets.base import Follower
from ..widgets.rich import breakable, rich
from .task import CellTask

__all__ = ["CellsModel", "TableBox"]

_EMPTY = "Classify all fills this table. Click a row to go to its cell."


_SIZE_TIP = "Square root of the area of the box around what was found of the cell."
_TIPS = {
    "id": "The cell's number, or its value in your Labels layer.",
    "class": "The most probable class.",
    "prob.": (
        "Probability of that class: the column confidence of the CSV. Of blood cells it is the "
        "lower the more unlike the model's own cells they are."
    ),
    "size, px": _SIZE_TIP,
    "size, µm": _SIZE_TIP,
    "mass, pg": "Dry mass: optical path difference summed over the cell, over 0.19 µm³/pg.",
    "unlike": (
        "How unlike the cells the model was trained on: above 1 it is farther from every class "
        "than all but a few of them, and may be none of these classes."
    ),
    "evid.": (
        "How much sooner the probability falls where the model's own selection is removed first; "
        "random is 0. Measured under Faithfulness per cell."
    ),
}


#: What the numbers of a column need room for, where that is not "+0.000".
_WIDEST = {"prob.": "100%", "unlike": "10.0", "mass, pg": "1000"}


class CellsModel(QAbstractTableModel):
    """A Qt model on `Predictions`; sorting permutes rows and copies nothing."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.predictions: Predictions | None = None
        self.colours: tuple[str, ...] = ()
        self._order: npt.NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._row_of: npt.NDArray[np.intp] = self._order
        self._columns: list[tuple[str, npt.NDArray[Any], str]] = []
        self._class: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._only_flagged = False

    def set_predictions(self, predictions: Predictions | None, colours: tuple[str, ...]) -> None:
        """Show other cells, in their own order."""
        self.beginResetModel()
        self.predictions, self.colours = predictions, colours
        self._columns = [] if predictions is None else _columns(predictions)
        self._class = np.empty(0, np.int64) if predictions is None else predictions.class_index
        self._set_order(np.arange(0 if predictions is None else len(predictions)))
        self.endResetModel()

    @property
    def n_flagged(self) -> int:
        """Cells unlike those the model knows; 0 where that was not measured."""
        flags = None if self.predictions is None else self.predictions.flagged
        return 0 if flags is None else int(flags.sum())

    def show_flagged(self, only: bool) -> None:
        """Show the cells unlike those the model knows and no others, or all."""
        if only == self._only_flagged:
            return
        self.beginResetModel()
        self._only_flagged = only
        self._set_order(np.arange(0 if self.predictions is None else len(self.predictions)))
        self.endResetModel()

    def cell(self, row: int) -> int:
        """Return the index of the cell in a row."""
        return int(self._order[row])

    def row(self, cell: int) -> int:
        """Return the row that shows a cell; -1 where none does."""
        return int(self._row_of[cell]) if cell < len(self._row_of) else -1

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of cells."""
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self._columns)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's name."""
        if orientation != Qt.Orientation.Horizontal or section >= len(self._columns):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self._columns[section][0]
        return _TIPS[self._columns[section][0]] if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell of the table shows."""
        if not index.isValid():
            return None
        cell = self.cell(index.row())
        name, values, form = self._columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            value = values[cell].item()
            if value != value:
                return "–"
            return whole_percent(value) if form == "%" else format(value, form).replace("_", " ")
        if role == Qt.ItemDataRole.DecorationRole and name == "class":
            kind = int(self._class[cell])
            return QColor(self.colours[kind]) if kind >= 0 else None
        if role == Qt.ItemDataRole.TextAlignmentRole and name != "class":
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; equal values keep the cells' order."""
        if not 0 <= column < len(self._columns):
            return
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        cells = [self.cell(index.row()) for index in before]
        values = self._columns[column][1]
        ranks = np.unique(values, return_inverse=True)[1]
        if order == Qt.SortOrder.DescendingOrder:
            ranks = -ranks
        self._set_order(np.argsort(ranks, kind="stable"))
        # Without this, Qt's selection would stay at the row and move to another cell.
        after = [
            self.index(self.row(cell), index.column())
            for cell, index in zip(cells, before, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _set_order(self, order: npt.NDArray[np.intp]) -> None:
        self._row_of = np.full_like(order, -1)
        flags = None if self.predictions is None else self.predictions.flagged
        if self._only_flagged and flags is not None:
            order = order[flags[order]]
        self._order = order
        self._row_of[order] = np.arange(len(order))


class TableBox(Follower):
    """The table, the number of cells per class, and their export."""

    #: Whether the model classifies cells.
    wanted = Signal(bool)

    def __init__(self, cells: CellTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cells = cells
        self.model = CellsModel(self)
        self.table = QTableView(self)
        self.table.setModel(self.model)
        self.table.setSortingEnabled(True)
        self.table.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(22)
        self.table.setShowGrid(False)
        self.table.setMinimumHeight(120)
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.flagged = QCheckBox(self)
        self.flagged.setToolTip(
            "Shows the cells that the model flags as unlike those it was trained on, and no "
            "others. They may be none of its classes."
        )
        self.counts = QLabel(self)
        self.counts.setWordWrap(True)
        self.export = QPushButton("Export CSV…", self)
        self.export.setToolTip(
            "One row per cell: place, size, class, all probabilities, and what was measured."
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.empty, self.counts, self.flagged):
            column.addWidget(widget)
        column.addWidget(self.table, 1)
        column.addWidget(self.export)
        self._selecting = False
        self._gone_to: int | None = None
        self.table.selectionModel().currentRowChanged.connect(self._move_to)
        self.table.clicked.connect(self._go_to)
        self.table.activated.connect(self._go_again)
        self.export.clicked.connect(self._choose_file)
        self.flagged.toggled.connect(self._show_flagged)
        self.follow(cells.results_changed, self.show_results)
        self.follow(cells.selected_changed, self.select)
        self.follow(cells.parts.selection.model_changed, self._show_wanted)
        self.show_results(cells.results)

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(self.cells.parts.advice.cells)

    def show_results(self, predictions: Predictions | None) -> None:
        """Fill the table."""
        colours = self.cells.result_colours
        # A new model of rows has no current one; that is no wish of the user's.
        self.flagged.setChecked(False)
        self._selecting = True
        self.model.set_predictions(predictions, colours)
        self._selecting = False
        there, unlike = predictions is not None, self.model.n_flagged
        self.flagged.setText(f"Only those unlike what it knows ({unlike})")
        self.flagged.setVisible(unlike > 0)
        self.empty.setVisible(not there)
        for widget in (self.counts, self.table, self.export):
            widget.setVisible(there)
        if predictions is None:
            return
        most_first = sorted(
            zip(predictions.counts().items(), colours, strict=True), key=lambda x: -x[0][1]
        )
        self.counts.setText(
            f"<b>{counted(len(predictions), 'cell')}:</b> "
            + " &nbsp;".join(
                f"<span style='color:{colour}'>■</span>&nbsp;{_shown(name)}&nbsp;{n}"
                for (name, n), colour in most_first
                if n
            )
            + self._name_others(predictions)
        )
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setMinimumSectionSize(20)
        # Fitted to their contents, the numbers would leave no room for the class.
        metrics = header.fontMetrics()
        for i in range(self.model.columnCount()):
            title = str(self.model.headerData(i, Qt.Orientation.Horizontal))
            widest = _WIDEST.get(title, "+0.000")
            header.resizeSection(i, max(map(metrics.horizontalAdvance, (title, widest))) + 12)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)

    def _name_others(self, predictions: Predictions) -> str:
        """Say how many of the cells are most likely none of the classes."""
        card, alike = self.cells.parts.selection.card, predictions.none_of_these
        n = 0 if alike is None else int(alike.sum())
        if not n or card is None or card.novelty is None:
            return ""
        are = "is" if n == 1 else "are"
        return f"<br>{n} of them {are} more like {rich(card.novelty.others_text)}"

    def select(self, cell: int | None) -> None:
        """Select the row of a cell, or none."""
        self._selecting = True
        if cell is None or self.model.row(cell) < 0:
            self.table.clearSelection()
        elif self.table.currentIndex().row() != (row := self.model.row(cell)):
            self.table.setCurrentIndex(self.model.index(row, 0))
            self.table.scrollTo(self.model.index(row, 0))
        else:
            self.table.selectRow(row)
        self._selecting = False

    def _show_flagged(self, only: bool) -> None:
        # A new model of rows has no current one; that is no wish of the user's.
        self._selecting = True
        self.model.show_flagged(only)
        results, chosen = self.model.predictions, self.cells.selected
        ids = [] if results is None else results.cells.ids.tolist()
        self.select(ids.index(chosen) if chosen in ids else None)

    def _move_to(self, index: QModelIndex, _: QModelIndex | None = None) -> None:
        """Follow the arrow keys; what the session has picked out is there already."""
        if index.isValid() and not self._selecting:
            self._gone_to = self.model.cell(index.row())
            self.cells.click_cell(self._gone_to)

    def _go_to(self, index: QModelIndex) -> None:
        """Go to the cell of a row, unless the row's becoming the current one has done that."""
        gone, self._gone_to = self._gone_to, None
        if gone != self.model.cell(index.row()):
            self.cells.click_cell(self.model.cell(index.row()))

    def _go_again(self, index: QModelIndex) -> None:
        """Go to the cell of a row by Enter or a double click, also from elsewhere in the image."""
        self._gone_to = None
        self.cells.click_cell(self.model.cell(index.row()))

    def _choose_file(self) -> None:
        if self.model.predictions is None:
            return
        image = self.cells.parts.selection.image
        name = "cells" if image is None else image.name
        path, _ = QFileDialog.getSaveFileName(self, "Export CSV", f"{name}.csv", "Tables (*.csv)")
        if not path:
            return
        try:
            write_csv(self.model.predictions, path)
        except OSError as error:
            self.cells.parts.status.notify(f"The table could not be written: {error}", "error")
        else:
            self.cells.parts.status.notify(
                f"{counted(len(self.model.predictions), 'cell')} written to {path}."
            )


def _columns(predictions: Predictions) -> list[tuple[str, npt.NDArray[Any], str]]:
    cells = predictions.cells
    scale = cells.pixel_size
    size = cells.diameters if scale is None else cells.diameters * scale
    columns: list[tuple[str, npt.NDArray[Any], str]] = [
        ("id", cells.ids, "d"),
        ("class", np.array(predictions.labels, dtype=str), "s"),
        ("prob.", predictions.confidence.astype(np.float64), "%"),
        ("size, px" if scale is None else "size, µm", size, ".1f"),
    ]
    if predictions.novelty is not None and (predictions.novelty > 1).any():
        columns.append(("unlike", predictions.novelty.astype(np.float64), ".1f"))
    mass = predictions.measures.get("dry_mass_pg")
    if mass is not None and np.isfinite(mass).any():
        columns.append(("mass, pg", mass, ".0f"))
    gain = predictions.measures.get("evidence_gain")
    if gain is not None and np.isfinite(gain).any():
        columns.append(("evid.", gain, "+.2f"))
    return columns


def _shown(name: str) -> str:
    """Return a class's name as rich text that can wrap."""
    return rich(breakable(name.replace("_", " ")))
