"""The cells whose evidence holds most and least, as pictures; a click goes there."""

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

from ..core.messages import time_left
from ..slides.gallery_box import PatchList
from ..train.plots import dimmed
from ..traversal.close_up import pixmap
from ..widgets.base import Follower, shrinkable
from .agreement_requests import MeasuredCell
from .agreement_session import Agreement
from .words import signed

__all__ = ["AgreementBox"]

_EMPTY = (
    "Classify all cells, then Measure all: the cells whose evidence holds most and least appear "
    "here."
)
_EACH, _TWO_WALLS = 8, 2
_ALL = "all classes"


class AgreementBox(Follower):
    """Measures all cells, and shows both ends of their ranking."""

    #: Whether the model classifies cells.
    wanted = Signal(bool)

    def __init__(self, agreement: Agreement, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.agreement = agreement
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.measure = QPushButton("Measure all", self)
        self.measure.setToolTip(
            "Measures the evidence of each classified cell, about a second of one processor core "
            "per cell. It can be stopped and gone on with; the table and its exports get columns."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops; cells measured so far are kept.")
        self.bar = QProgressBar(self)
        self.bar.setTextVisible(True)
        self.classes = shrinkable(QComboBox(self))
        self.classes.setToolTip("Whose cells are ranked.")
        self.said = QLabel(self)
        self.said.setWordWrap(True)
        self.summary = QLabel(self)
        self.summary.setWordWrap(True)
        self.summary.setToolTip(
            "Mean over the cells, with its 95 % bootstrap interval: how much sooner the "
            "probability falls where the model's own selection goes first. Random is 0."
        )
        self.most, self.least = PatchList(self), PatchList(self)
        self.most.setAccessibleName("Cells whose evidence holds most")
        self.least.setAccessibleName("Cells whose evidence holds least")
        self.titles = (QLabel("Evidence holds most", self), QLabel("Evidence holds least", self))
        self._lay_out()
        self.measure.clicked.connect(agreement.measure_all)
        self.cancel.clicked.connect(agreement.cancel)
        self.classes.activated.connect(self._show_walls)
        for wall in (self.most, self.least):
            wall.itemClicked.connect(self._picked)
        self.follow(agreement.changed, self.show_cells)
        self.follow(agreement.session.selected_changed, self._select)
        self.follow(agreement.session.model_changed, self._show_wanted)
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
        column.addWidget(self.said)
        column.addWidget(self.classes)
        column.addWidget(self.summary)
        for title, wall in zip(self.titles, (self.most, self.least), strict=True):
            title.setToolTip("Bright where the model looked. Click a cell to go there.")
            column.addWidget(title)
            column.addWidget(wall)

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(not self.agreement.session.spanning)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Make the pictures only once somebody looks."""
        super().showEvent(event)
        self.show_cells()

    def show_cells(self) -> None:
        """Show how far the measurement is, and what there is of it."""
        agreement = self.agreement
        progress, cells = agreement.progress, agreement.cells()
        why_not = agreement.why_not()
        self.empty.setVisible(bool(why_not) and not cells)
        self.empty.setText(why_not or _EMPTY)
        results = agreement.session.results
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
        self.said.setText(agreement.message)
        self.said.setVisible(bool(agreement.message))
        for shown in (self.classes, self.summary, *self.titles, self.most, self.least):
            shown.setVisible(bool(cells))
        self._show_classes(cells)
        self._show_walls()

    def _show_classes(self, cells: dict[int, MeasuredCell]) -> None:
        names = sorted({cell.found.label for cell in cells.values()})
        if [self.classes.itemData(i) for i in range(self.classes.count())] == ["", *names]:
            return
        chosen = self.classes.currentData()
        self.classes.clear()
        for name in ("", *names):
            self.classes.addItem(name.replace("_", " ") or _ALL, name)
        self.classes.setCurrentIndex(max(0, self.classes.findData(chosen)))

    def _show_walls(self, _: int = 0) -> None:
        if not self.isVisible():
            return
        agreement, label = self.agreement, self.classes.currentData() or ""
        rows, cells = agreement.ranked(label), agreement.cells()
        found = agreement.of_class(label)
        if found is not None:
            self.summary.setText(f"{len(found)} cells: {found.verdict()}.")
        # No cell stands at both ends.
        number = min(_EACH, -(-len(rows) // _TWO_WALLS))
        ends = (rows[:number], rows[number:][::-1][:_EACH])
        for wall, chosen in zip((self.most, self.least), ends, strict=True):
            if wall.patches() == chosen:
                continue
            wall.set_patches(chosen, [_tip(cells[row]) for row in chosen])
            for row in chosen:
                cell = cells[row]
                picture = dimmed(cell.picture, cell.selected, len(cell.picture))
                wall.set_picture(row, pixmap(picture))

    def _select(self, row: int | None) -> None:
        for wall in (self.most, self.least):
            wall.select(row)

    def _picked(self, item: QListWidgetItem) -> None:
        self.agreement.session.click_cell(item.data(Qt.ItemDataRole.UserRole))


def _tip(cell: MeasuredCell) -> str:
    name = cell.found.label.replace("_", " ")
    own = cell.found.orders[cell.found.own[0]].gain
    return (
        f"{name}, {100 * cell.found.probability:.0f} %: {signed(own)} to random. Click to go there."
    )
