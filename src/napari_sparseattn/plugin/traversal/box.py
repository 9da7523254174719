"""The crops that a TNet looked at: a table with pictures, in step with the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from ...evidence import Traversal
from ...inference.prediction import Prediction
from ..core.messages import share_text, why_stopped
from ..core.pictures import Thumbnails
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.inks import ink
from ..widgets.picture import pixmap
from ..widgets.rich import breakable, rich
from .close_up import CloseUpBox
from .layers import drawn_crops, level_colours
from .task import TraversalTask

__all__ = ["CropsModel", "TraversalBox"]

_EMPTY = "Click a cell, or classify the field: the crops that were looked at are listed here."
_ICON = 36
_COLUMNS = ("crop", "level", "rank", "share")
_TIPS = (
    "The crop as the model saw it. Double-click to go there.",
    "How deep: 0 is the whole, in the colour of its lines in the crop tree.",
    "How promising its parent's look found it: 1 is the most promising.",
    (
        "What it says for (+) or against (−) the class: its part of the class's score, less its "
        "mean over all classes. The parts of all crops add up to the answer."
    ),
)
_SORT = Qt.ItemDataRole.UserRole


class CropsModel(QAbstractTableModel):
    """A Qt model on a traversal and one class."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = parent
        self.traversal: Traversal | None = None
        self.share: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self._pictures: list[QPixmap] = []
        self._swatches: list[QPixmap] = []

    def set_traversal(
        self, traversal: Traversal | None, pictures: Thumbnails, shown_class: int
    ) -> None:
        """Show other crops."""
        self.beginResetModel()
        self.traversal = traversal
        self._pictures = [pixmap(picture) for picture in pictures]
        levels = () if traversal is None else level_colours(traversal.n_levels)
        self._swatches = [_swatch(colour) for colour in levels]
        self._set_share(shown_class)
        self.endResetModel()

    def set_class(self, shown_class: int) -> None:
        """Show the shares of another class."""
        self._set_share(shown_class)
        if self.traversal is not None:
            last = self.index(len(self.traversal) - 1, len(_COLUMNS) - 1)
            self.dataChanged.emit(self.index(0, len(_COLUMNS) - 1), last)

    def picture(self, crop: int) -> QPixmap | None:
        """Return a crop as the model saw it, where there is a picture."""
        return self._pictures[crop] if crop < len(self._pictures) else None

    def _set_share(self, shown_class: int) -> None:
        traversal = self.traversal
        self.share = (
            np.empty(0, np.float32) if traversal is None else traversal.evidence_for(shown_class)
        )

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of crops."""
        return 0 if parent is not None and parent.isValid() else len(self.share)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's name."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return _COLUMNS[section]
        return _TIPS[section] if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell of the table shows."""
        traversal = self.traversal
        if not index.isValid() or traversal is None:
            return None
        crop, column = index.row(), _COLUMNS[index.column()]
        level, share = int(traversal.level[crop]), float(self.share[crop])
        rank = int(traversal.rank[crop]) + 1
        if role == Qt.ItemDataRole.DisplayRole:
            shown = {"crop": crop + 1, "level": level, "rank": rank if crop else "–"}
            return shown.get(column, share_text(share))
        if role == _SORT:
            return {"crop": crop, "level": level, "rank": rank, "share": share}[column]
        if role == Qt.ItemDataRole.DecorationRole:
            if column == "crop" and (picture := self.picture(crop)) is not None:
                return QIcon(picture)
            return self._swatches[level] if column == "level" else None
        if role == Qt.ItemDataRole.ForegroundRole and column == "share":
            return QColor(ink(self._box, "for" if share > 0 else "against"))
        if role == Qt.ItemDataRole.TextAlignmentRole and column != "crop":
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None


class TraversalBox(Follower):
    """The table, whose shares it shows, and the crop that is picked out."""

    #: Whether there is anything to show with this model.
    wanted = Signal(bool)

    def __init__(self, crops: TraversalTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.crops = crops
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.classes = shrinkable(QComboBox(self))
        self.classes.setToolTip(
            "Class whose contributions are shown, and colour the rectangles: red (+) for it, blue "
            "(−) against it."
        )
        self.share_of = label_for(self.classes, "Share of")
        self.stopped = QLabel(self)
        self.stopped.setWordWrap(True)
        self.drawn = QLabel(self)
        self.drawn.setWordWrap(True)
        self.every = QCheckBox("Show all of them on the image", self)
        self.every.setToolTip(
            "Otherwise those that speak most: two for the class and two against it, or three where "
            "all speak one way. A click on a row of the table shows its crop, too."
        )
        self.every.setChecked(crops.every)
        self.model = CropsModel(self)
        self.sorted = QSortFilterProxyModel(self)
        self.sorted.setSourceModel(self.model)
        self.sorted.setSortRole(_SORT)
        self.table = self._make_table()
        self.facts = QLabel(self)
        self.facts.setWordWrap(True)
        self.close_up = CloseUpBox(self)
        self._lay_out()
        self.table.clicked.connect(self._picked)
        self.table.doubleClicked.connect(self._go_to)
        self.table.activated.connect(self._go_to)
        self.table.selectionModel().currentRowChanged.connect(self._follow_keys)
        self.classes.activated.connect(crops.set_shown_class)
        self.every.toggled.connect(self._show_every)
        self.follow(crops.parts.answers.changed, self.show_answer)
        self.follow(crops.crop_changed, self.show_crop)
        self.follow(crops.shown_class_changed, self._show_class)
        self.follow(crops.close_up_changed, self._show_close_up)
        self.follow(crops.parts.selection.model_changed, self._show_wanted)
        self.show_answer(crops.parts.answers.answer)

    def _make_table(self) -> QTableView:
        table = QTableView(self)
        table.setModel(self.sorted)
        table.setAccessibleName("Table of crops")
        table.setSortingEnabled(True)
        table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setIconSize(QSize(_ICON, _ICON))
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(_ICON + 4)
        table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        table.setShowGrid(False)
        table.setMinimumHeight(4 * (_ICON + 4) + _ICON)
        return table

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.addWidget(self.share_of)
        head.addWidget(self.classes, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.empty)
        column.addWidget(self.stopped)
        column.addLayout(head)
        column.addWidget(self.drawn)
        column.addWidget(self.every)
        column.addWidget(self.table, 1)
        column.addWidget(self.facts)
        column.addWidget(self.close_up)

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(self.crops.active)

    def show_answer(self, answer: Prediction | None) -> None:
        """List the crops of an answer."""
        crops = self.crops
        traversal = crops.traversal
        there = traversal is not None
        self.empty.setVisible(not there)
        for widget in (self.share_of, self.classes, self.table, self.drawn):
            widget.setVisible(there)
        self._say_drawn()
        self.model.set_traversal(traversal, crops.thumbnails, crops.shown_class)
        said = "" if answer is None else why_stopped(answer).strip()
        self.stopped.setText(said)
        self.stopped.setVisible(bool(said))
        self.classes.clear()
        if answer is not None and there:
            self.classes.addItems([name.replace("_", " ") for name in answer.class_names])
            self.classes.setCurrentIndex(crops.shown_class)
        self.show_crop(crops.crop)

    def show_crop(self, crop: int | None) -> None:
        """Select the row of a crop and show it larger."""
        for widget in (self.close_up, self.facts):
            widget.setVisible(crop is not None)
        if crop is None:
            self.table.clearSelection()
            return
        row = self.sorted.mapFromSource(self.model.index(crop, 0))
        self.table.selectRow(row.row())
        self.table.scrollTo(row)
        if self.crops.traversal is not None:
            self.close_up.show_read(self.model.picture(crop), self.crops.traversal)
        self._show_close_up()
        self._show_facts(crop)

    def _show_close_up(self) -> None:
        self.close_up.show_native(self.crops.close_up, self.crops.awaits_close_up)

    def _show_facts(self, crop: int) -> None:
        traversal, answer = self.crops.traversal, self.crops.parts.answers.answer
        if traversal is None or answer is None:
            return
        side = float(traversal.on_image(traversal.boxes)[crop, 2])
        shares = np.array([traversal.evidence_for(i)[crop] for i in range(len(answer.class_names))])
        order = np.argsort(-shares)[:3]
        size = f"{side:.0f} px wide"
        if (pixel := self.crops.parts.selection.settings.pixel_size) is not None:
            size += f" ({side * pixel:.3g} µm)"
        said = ", ".join(
            f"{share_text(shares[i])} {rich(breakable(answer.class_names[i].replace('_', ' ')))}"
            for i in order
        )
        self.facts.setText(
            f"<b>Crop {crop + 1}</b>, level {traversal.level[crop]}, {size}<br>{said}"
        )

    def _say_drawn(self) -> None:
        """Say which shares are on the image, and what the others come to: all add up."""
        traversal = self.crops.traversal
        if traversal is None:
            return
        share = traversal.evidence_for(self.crops.shown_class).astype(float)
        shown = drawn_crops(traversal, self.crops.shown_class, self.crops.every)
        rest = float(share[1:].sum() - share[shown].sum())
        left = len(share) - 1 - len(shown)
        said = f"The whole image says {share_text(float(share[0]))}"
        if len(shown):
            largest = f"the {len(shown)} largest" if left else f"all {len(shown)}"
            said += f", {largest} on it {share_text(float(share[shown].sum()))}"
        if left:
            others = "the other crop" if left == 1 else f"the other {left} crops"
            said += f", {others} {share_text(rest)}"
        self.drawn.setText(f"{said}: together {share_text(float(share.sum()))}.")

    def _show_every(self, on: bool) -> None:
        self.crops.set_every(on)
        self._say_drawn()

    def _show_class(self, index: int) -> None:
        self.classes.setCurrentIndex(index)
        self._say_drawn()
        self.model.set_class(index)

    def _follow_keys(self, index: QModelIndex, _: QModelIndex) -> None:
        # What is shown anew changes the row too; only keys do it while the table has the focus.
        if index.isValid() and self.table.hasFocus():
            self._picked(index)

    def _picked(self, index: QModelIndex) -> None:
        self.crops.select_crop(self.sorted.mapToSource(index).row())

    def _go_to(self, index: QModelIndex) -> None:
        self.crops.go_to_crop(self.sorted.mapToSource(index).row())


def _swatch(colour: str) -> QPixmap:
    made = QPixmap(12, 12)
    made.fill(QColor(colour))
    return made
