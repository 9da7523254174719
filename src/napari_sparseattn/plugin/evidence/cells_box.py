"""The cells of highest and lowest faithfulness, as pictures; a click goes there."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...metrics import whole_percent
from ..core.messages import counted, time_left
from ..core.pictures import dim_unselected
from ..slides.gallery_box import PatchList
from ..widgets.base import Follower, shrinkable
from ..widgets.picture import pixmap
from ..widgets.rich import WrappedLabel, rich
from .cells_requests import MeasuredCell
from .cells_session import CellFaithfulness
from .words import removed_things, with_sign

__all__ = ["CellFaithfulnessBox"]

_EMPTY = (
    "Classify all cells, then Measure all: the cells of highest and lowest faithfulness appear "
    "here."
)
_EACH, _TWO_ENDS = 8, 2
_ALL = "all classes"


class CellFaithfulnessBox(Follower):
    """Measures all cells, and shows both ends of their ranking."""

    #: Whether the model classifies cells.
    wanted = Signal(bool)

    def __init__(self, cells: CellFaithfulness, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cells = cells
        self.empty = WrappedLabel(_EMPTY, self)
        self.measure = QPushButton("Measure all", self)
        self.measure.setToolTip(
            "Measures the faithfulness of each classified cell, about a second of one processor "
            "core per cell. It can be paused and resumed; the table and its exports get columns."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops; cells measured so far are kept.")
        self.bar = QProgressBar(self)
        self.bar.setTextVisible(True)
        self.classes = shrinkable(QComboBox(self))
        self.classes.setAccessibleName("Class to rank")
        self.classes.setToolTip("Class to rank.")
        self.message = WrappedLabel(parent=self)
        self.summary = WrappedLabel(parent=self)
        self.summary.setToolTip(
            "Mean over the cells, with its 95 % bootstrap interval: how much sooner the "
            "probability falls where the model's own selection goes first. Random is 0."
        )
        self.highest, self.lowest = PatchList(self), PatchList(self)
        self.titles = (QLabel("Highest faithfulness", self), QLabel("Lowest faithfulness", self))
        for title, pictures in zip(self.titles, (self.highest, self.lowest), strict=True):
            pictures.setAccessibleName(title.text())
        self._lay_out()
        self.measure.clicked.connect(cells.measure_all)
        self.cancel.clicked.connect(cells.cancel)
        self.classes.activated.connect(self._show_pictures)
        for pictures in (self.highest, self.lowest):
            pictures.itemClicked.connect(self._go_to)
            pictures.itemActivated.connect(self._go_to)
        self.follow(cells.changed, self.show_cells)
        self.follow(cells.session.cells.selected_changed, self._select)
        self.follow(cells.session.selection.model_changed, self._report_wanted)
        self.show_cells()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        for widget in (self.measure, self.bar, self.cancel):
            row.addWidget(widget, 1 if widget is not self.cancel else 0)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.empty)
        column.addLayout(row)
        column.addWidget(self.message)
        column.addWidget(self.classes)
        column.addWidget(self.summary)
        for title, pictures in zip(self.titles, (self.highest, self.lowest), strict=True):
            title.setToolTip("Bright where the model looked. Click a cell to go there.")
            column.addWidget(title)
            column.addWidget(pictures)

    def show_theme(self) -> None:
        """Follow napari's theme."""
        for pictures in (self.highest, self.lowest):
            pictures.show_theme()

    def _report_wanted(self, _: object = None) -> None:
        self.wanted.emit(not self.cells.session.slides.active)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Make the pictures only once somebody looks."""
        super().showEvent(event)
        self.show_cells()

    def show_cells(self) -> None:
        """Show how far the measurement is, and what there is of it."""
        progress, cells = self.cells.progress, self.cells.cells()
        why_not = self.cells.why_not()
        self.empty.setVisible(bool(why_not) and not cells)
        self.empty.setText(why_not or _EMPTY)
        results = self.cells.session.cells.results
        left = 0 if results is None else len(results) - len(cells)
        self.measure.setVisible(progress is None and not why_not and left > 0)
        self.measure.setText("Measure the others" if cells else "Measure all")
        for widget in (self.bar, self.cancel):
            widget.setVisible(progress is not None)
        if progress is not None:
            self.bar.setRange(0, progress.total)
            self.bar.setValue(progress.done)
            seconds = progress.seconds_left
            self.bar.setFormat("%v of %m" + (f", {time_left(seconds)}" if seconds else ""))
        self.message.setText(self.cells.message)
        self.message.setVisible(bool(self.cells.message))
        for shown in (self.classes, self.summary, *self.titles, self.highest, self.lowest):
            shown.setVisible(bool(cells))
        self._show_classes(cells)
        self._show_pictures()

    def _show_classes(self, cells: dict[int, MeasuredCell]) -> None:
        names = sorted({cell.found.label for cell in cells.values()})
        if [self.classes.itemData(i) for i in range(self.classes.count())] == ["", *names]:
            return
        chosen = self.classes.currentData()
        self.classes.clear()
        for name in ("", *names):
            self.classes.addItem(name.replace("_", " ") or _ALL, name)
        self.classes.setCurrentIndex(max(0, self.classes.findData(chosen)))

    def _show_pictures(self, _: int = 0) -> None:
        if not self.isVisible():
            return
        label = self.classes.currentData() or ""
        rows, cells = self.cells.rank(label), self.cells.cells()
        found = self.cells.of_class(label)
        if found is not None:
            what = removed_things(found.items[0], "cell")
            self.summary.setText(f"{counted(len(found), 'cell')}. {found.sentence(what)}.")
            self.summary.setToolTip(rich(f"By gain {found.verdict()}."))
        # No cell stands at both ends.
        number = min(_EACH, -(-len(rows) // _TWO_ENDS))
        ends = (rows[:number], rows[number:][::-1][:_EACH])
        for pictures, chosen in zip((self.highest, self.lowest), ends, strict=True):
            if pictures.patches() == chosen:
                continue
            pictures.set_patches(chosen, [_tip(cells[row]) for row in chosen])
            for row in chosen:
                cell = cells[row]
                picture = dim_unselected(cell.picture, cell.selected, len(cell.picture))
                pictures.set_picture(row, pixmap(picture))

    def _select(self, row: int | None) -> None:
        for pictures in (self.highest, self.lowest):
            pictures.select(row)

    def _go_to(self, item: QListWidgetItem) -> None:
        self.cells.session.cells.click_cell(item.data(Qt.ItemDataRole.UserRole))


def _tip(cell: MeasuredCell) -> str:
    name = cell.found.label.replace("_", " ")
    own = cell.found.orders[cell.found.own[0]].gain
    percent = whole_percent(cell.found.probability)
    return rich(f"{name}, {percent}: gain {with_sign(own)}. Click to go there.")
