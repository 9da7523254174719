"""What-if questions: draw a region, ask, and compare before with after."""

from __future__ import annotations

import math

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from ...evidence import PyramidAttention, Traversal
from ...inference.what_if import WhatIf
from ...metrics import whole_percent
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.inks import ink
from ..widgets.rich import WrappedLabel, rich
from .report_box import ReportButton
from .what_if_session import AnsweredWhatIf, WhatIfSession
from .words import with_sign

__all__ = ["WhatIfBox", "before_and_after"]

_EMPTY = (
    "Click a cell, or classify a field or slide. Then draw around a part of it and see what the "
    "model says without it."
)
_HEADS = ("", "change", "class", "prob.", "kept")
_TIPS = (
    "Number of the question.",
    "The change, and of what share of the content. Click a row to see its selection again.",
    "The class afterwards.",
    "Probability of the class that the model gave first, before and after.",
    "Intersection over union of the selection before and after.",
)
_WORDS = {
    "remove": "removed",
    "keep": "kept only",
    "look": "looked here",
    "move": "moved",
}
_ROW, _MOST_ROWS, _CLASSES = 22, 6, 4
_LEVELS_ACROSS = 3
#: Letters of a class's name that leave room for the numbers.
_LONGEST = 14


class WhatIfBox(Follower):
    """Tools to draw with, questions, and the list of answers."""

    def __init__(self, what_ifs: WhatIfSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what_ifs = what_ifs
        self.empty = WrappedLabel(_EMPTY, self)
        self.body = QWidget(self)
        self._make_tools()
        self._make_questions()
        self._make_answers()
        self._lay_out()
        self.follow(what_ifs.changed, self.show_what_ifs)
        self.show_what_ifs()

    # -- making

    def _make_tools(self) -> None:
        self.lasso = self._button("Lasso", "Draw around a part of the image, mouse held down.")
        self.paint = self._button("Paint", "Paint over a part of the image with a brush.")
        self.clear = self._button("Clear", "Forget what is drawn, and classify by clicks again.")
        self.fill = shrinkable(QComboBox(self.body))
        self.fill.setToolTip(
            "Replacement for what is removed. An effect that holds with several replacements comes "
            "from what was removed."
        )
        self.lasso.clicked.connect(lambda: self.what_ifs.draw("lasso"))
        self.paint.clicked.connect(lambda: self.what_ifs.draw("paint"))
        self.clear.clicked.connect(self.what_ifs.clear)
        self.fill.activated.connect(self._set_fill)

    def _make_questions(self) -> None:
        self.remove = self._button("Remove", "Replaces the region.")
        self.keep = self._button("Keep only", "Replaces everything but the region.")
        self.look = self._button(
            "Look here",
            "Makes the model look at the region: it keeps the pixels there first, or moves its "
            "nearest crop there. The image stays unchanged.",
        )
        self.move = self._button(
            "Move crops by hand",
            "Shows a point in the middle of each crop. Drag one, and its crop is read there.",
        )
        self.levels = QWidget(self.body)
        self._levels_grid = QGridLayout(self.levels)
        self._levels_grid.setContentsMargins(0, 0, 0, 0)
        self.level_boxes: list[QCheckBox] = []
        self.without = self._button("Leave out levels", "Leaves out the levels that are ticked.")
        self.remove.clicked.connect(lambda: self.what_ifs.ask("remove"))
        self.keep.clicked.connect(lambda: self.what_ifs.ask("keep"))
        self.look.clicked.connect(lambda: self.what_ifs.ask("look"))
        self.move.clicked.connect(self.what_ifs.move_crops)
        self.without.clicked.connect(self._ask_without)

    def _make_answers(self) -> None:
        self.message = WrappedLabel(parent=self.body)
        self.table = QTableWidget(0, len(_HEADS), self.body)
        self.table.setHorizontalHeaderLabels(list(_HEADS))
        for column, tip in enumerate(_TIPS):
            self.table.horizontalHeaderItem(column).setToolTip(tip)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(_ROW)
        self.table.setShowGrid(False)
        self.table.setAccessibleName("What-if questions")
        header = self.table.horizontalHeader()
        header.setMinimumSectionSize(18)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.compared = QLabel(self.body)
        self.compared.setTextFormat(Qt.TextFormat.RichText)
        # A table does not wrap: it must not make the dock wider than it is.
        self.compared.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.compared.setToolTip(
            "Before and after: probability, and how the score (logit) moved "
            "relative to the mean of all classes."
        )
        self.before = self._button("As it was", "Shows the model's own answer again.")
        self.undo = self._button("Undo", "Takes the last answer off the list.")
        self.redo = self._button("Redo", "Puts the answer that was undone last back.")
        self.save = ReportButton(self.what_ifs.session, self.body)
        for by in (self.table.cellClicked, self.table.cellActivated):
            by.connect(self._show_row)
        self.before.clicked.connect(lambda: self.what_ifs.show(None))
        self.undo.clicked.connect(self.what_ifs.undo)
        self.redo.clicked.connect(self.what_ifs.redo)

    def _button(self, text: str, tip: str) -> QPushButton:
        button = QPushButton(text, self.body)
        button.setToolTip(tip)
        return button

    def _lay_out(self) -> None:
        column = QVBoxLayout(self.body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        filling = QHBoxLayout()
        filling.addWidget(label_for(self.fill, "replaced by"))
        filling.addWidget(self.fill, 1)
        for row in (
            (self.lasso, self.paint, self.clear), filling, (self.remove, self.keep, self.look),
            (self.move,), (self.levels,), (self.without,), (self.message,), (self.compared,),
            (self.table,), (self.before, self.undo, self.redo), (self.save,),
        ):  # fmt: skip
            if isinstance(row, QHBoxLayout):
                column.addLayout(row)
                continue
            line = QHBoxLayout()
            line.setSpacing(4)
            for widget in row:
                line.addWidget(widget)
            column.addLayout(line)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.empty)
        outer.addWidget(self.body)

    # -- showing

    def show_theme(self) -> None:
        """Show the answers in the colours of napari's theme."""
        self.show_what_ifs()

    def show_what_ifs(self) -> None:
        """Show the questions that can be asked, and the answers."""
        what_ifs = self.what_ifs
        there, entries = what_ifs.rerunner() is not None, what_ifs.entries
        self.empty.setVisible(not there)
        self.body.setVisible(there or bool(entries) or what_ifs.can_redo)
        evidence = what_ifs.evidence
        slide = isinstance(evidence, PyramidAttention)
        for button in (self.remove, self.keep, self.look, self.move, self.without):
            button.setEnabled(what_ifs.can_ask)
        self.look.setVisible(not slide)
        self.paint.setVisible(not slide)
        self.move.setVisible(isinstance(evidence, Traversal) and len(evidence) > 1)
        self._show_levels(what_ifs.level_names)
        self._show_fills()
        self.message.setText(what_ifs.message)
        shown = what_ifs.shown
        # What the comparison says need not be said twice.
        repeated = shown is not None and what_ifs.message == shown.found.summary()
        self.message.setVisible(bool(what_ifs.message) and not repeated)
        self._show_entries(entries)

    def _show_levels(self, names: list[str]) -> None:
        for widget in (self.levels, self.without):
            widget.setVisible(bool(names))
        if [box.text() for box in self.level_boxes] == names:
            return
        for box in self.level_boxes:
            self._levels_grid.removeWidget(box)
            box.deleteLater()
        self.level_boxes = []
        for i, name in enumerate(names):
            box = QCheckBox(name, self.levels)
            box.setToolTip(f"Level {i}: places {name} wide.")
            self._levels_grid.addWidget(box, i // _LEVELS_ACROSS, i % _LEVELS_ACROSS)
            self.level_boxes.append(box)

    def _show_fills(self) -> None:
        fills = self.what_ifs.fills
        if [self.fill.itemData(i) for i in range(self.fill.count())] != list(fills):
            self.fill.clear()
            for name, text in fills.items():
                self.fill.addItem(text, name)
        self.fill.setCurrentIndex(max(0, self.fill.findData(self.what_ifs.fill)))

    def _show_entries(self, entries: list[AnsweredWhatIf]) -> None:
        shown = self.what_ifs.shown
        self.table.setRowCount(len(entries))
        for row, entry in enumerate(entries):
            for column, text in enumerate(_cells_of(entry)):
                item = QTableWidgetItem(text)
                item.setToolTip(rich(entry.found.summary()))
                if column > 2:
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.table.setItem(row, column, item)
        number = next((i for i, entry in enumerate(entries) if entry is shown), None)
        if number is None:
            self.table.clearSelection()
        else:
            self.table.selectRow(number)
            self.table.scrollToItem(self.table.item(number, 0))
        self.table.setVisible(bool(entries))
        header = self.table.horizontalHeader().sizeHint().height()
        self.table.setFixedHeight(header + _ROW * min(max(len(entries), 1), _MOST_ROWS) + 4)
        self.compared.setVisible(shown is not None)
        self.compared.setText(
            "" if shown is None else before_and_after(shown.found, ink(self, "muted"))
        )
        self.before.setVisible(bool(entries))
        self.save.setVisible(bool(entries))
        self.before.setEnabled(shown is not None)
        self.undo.setVisible(bool(entries) or self.what_ifs.can_redo)
        self.redo.setVisible(self.undo.isVisibleTo(self.body))
        self.undo.setEnabled(bool(entries))
        self.redo.setEnabled(self.what_ifs.can_redo)

    # -- acting

    def _set_fill(self, index: int) -> None:
        self.what_ifs.set_fill(self.fill.itemData(index))

    def _ask_without(self) -> None:
        ticked = tuple(i for i, box in enumerate(self.level_boxes) if box.isChecked())
        self.what_ifs.ask_without_levels(ticked)

    def _show_row(self, row: int, _: int) -> None:
        entries = self.what_ifs.entries
        if row < len(entries):
            self.what_ifs.show(entries[row])


def _cells_of(entry: AnsweredWhatIf) -> tuple[str, ...]:
    found, index = entry.found, entry.found.before.index
    what = _WORDS.get(found.question, found.question)
    if found.question == "levels":
        what = f"no level {', '.join(map(str, entry.request.levels))}"
    elif found.share and found.question != "move":
        # Of what is kept, the share that is left.
        share = 1 - found.share if found.question == "keep" else found.share
        what += f" {100 * share:.2g} %"
    same = found.selection_overlap
    return (
        str(entry.number),
        what,
        found.after.label.replace("_", " "),
        (
            f"{_percent(found.before.probabilities[index])} → "
            f"{_percent(found.after.probabilities[index])} %"
        ),
        "–" if math.isnan(same) else f"{100 * same:.0f} %",
    )


def _percent(share: float) -> str:
    # 99.6 % is not 100 %.
    return whole_percent(float(share)).rstrip("%")


def before_and_after(found: WhatIf, muted: str) -> str:
    """Return both answers side by side as an HTML table: the classes that matter in either."""
    most = np.maximum(found.before.probabilities, found.after.probabilities)
    grey = f"style='color:{muted}'"
    rows = [
        (
            f"<td {grey}>class&nbsp;&nbsp;</td><td align='right' {grey}>before&nbsp;&nbsp;</td>"
            f"<td align='right' {grey}>after&nbsp;&nbsp;</td><td align='right' {grey}>score</td>"
        )
    ]
    for i in np.argsort(-most, kind="stable")[:_CLASSES]:
        name = found.before.class_names[i].replace("_", " ")
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        name = rich(name).replace(" ", "&nbsp;")
        bold = "font-weight:bold" if i in (found.before.index, found.after.index) else ""
        numbers = (
            f"{100 * found.before.probabilities[i]:.1f}&nbsp;%",
            f"{100 * found.after.probabilities[i]:.1f}&nbsp;%",
            with_sign(float(found.change[i])),
        )
        cells = "".join(f"<td align='right'>{text}&nbsp;&nbsp;</td>" for text in numbers)
        rows.append(f"<td style='{bold}'>{name}&nbsp;&nbsp;</td>{cells}")
    same = found.selection_overlap
    stayed = "" if math.isnan(same) else f"<br>Pixels selected both times: {100 * same:.0f}&nbsp;%."
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>{stayed}"
