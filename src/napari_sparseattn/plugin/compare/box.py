"""Comparison with a second model: of the shown answer, and of all cells."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from ...inference.compare import Comparison
from ...metrics import whole_percent
from ..core.messages import time_left
from ..evidence.words import with_sign
from ..widgets.base import LABEL_WIDTH, Follower, label_for, shrinkable
from ..widgets.inks import ink
from ..widgets.rich import WrappedLabel, rich
from .session import Compare

__all__ = ["CompareBox", "compare_answers"]

_SAME = "the same model"
_MOST_ROWS, _LONGEST = 7, 16
_TIPS = {
    "sparse-attn-net": ("pixels", "Pixels that the second model keeps of each crop."),
    "tnet": ("crops", "Crops on the first level of the second model."),
}


class CompareBox(Follower):
    """Chooses the second model, and shows both answers and where all cells differ."""

    def __init__(self, compare: Compare, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.compare = compare
        self._make_choices()
        self._make_buttons()
        self._make_answers()
        self._lay_out()
        session = compare.session
        self.follow(compare.changed, self.show_all)
        for signal in (
            session.selection.model_changed,
            session.models.changed,
            session.selection.settings_changed,
        ):
            self.follow(signal, self._show_choices)
        self._show_choices()
        self.show_all()

    # -- making

    def _make_choices(self) -> None:
        self.models = shrinkable(QComboBox(self))
        self.models.setToolTip(
            "The second model: another for this kind of image, or the same with another setting."
        )
        self.number = QSpinBox(self)
        self.number_name = label_for(self.number, "")
        self.number.setKeyboardTracking(False)
        self.number.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.number.setSpecialValueText("as trained")
        self.models.activated.connect(self._choose_model)
        self.number.valueChanged.connect(self.compare.set_number)

    def _make_buttons(self) -> None:
        self.ask = QPushButton("Compare", self)
        self.ask.setToolTip("Lets the second model classify the cell or field that is shown, too.")
        self.ask_all = QPushButton("Compare all", self)
        self.ask_all.setToolTip(
            "Lets both classify all cells of the table, and tells how often they agree."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops comparing; what is shown stays.")
        self.beside = QCheckBox("Side by side", self)
        self.beside.setToolTip(
            "Shows the image twice, each with its own model's overlay. Cells that are clicked are "
            "then compared by themselves. Nothing of your layers is changed."
        )
        self.bar = QProgressBar(self)
        self.ask.clicked.connect(self.compare.compare)
        self.ask_all.clicked.connect(self.compare.compare_all)
        self.cancel.clicked.connect(self.compare.cancel)
        self.beside.clicked.connect(self.compare.set_side_by_side)

    def _make_answers(self) -> None:
        self.message = WrappedLabel(parent=self)
        self.answers = QLabel(self)
        self.answers.setTextFormat(Qt.TextFormat.RichText)
        # A table does not wrap: it must not make the dock wider than it is.
        self.answers.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.answers.setToolTip(
            "IoU: intersection over union of the pixels that the two models select. Spearman "
            "correlation: of their attention maps; 1 is the same order, 0 unrelated."
        )
        self.summary = WrappedLabel(parent=self)
        self.summary.setToolTip("Share of the cells with its 95 % Wilson interval.")
        self.differing = QListWidget(self)
        self.differing.setToolTip(
            "Cells that got different classes, most confident first. Click to go there."
        )
        self.differing.setAccessibleName("Cells on which the two models differ")
        self.differing.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.differing.setTextElideMode(Qt.TextElideMode.ElideRight)
        for by in (self.differing.itemClicked, self.differing.itemActivated):
            by.connect(self._go_to)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.addWidget(label_for(self.models, "With"), 0, 0)
        grid.addWidget(self.models, 0, 1)
        grid.addWidget(self.number_name, 1, 0)
        grid.addWidget(self.number, 1, 1)
        buttons, working = QHBoxLayout(), QHBoxLayout()
        for widget in (self.ask, self.ask_all, self.beside):
            buttons.addWidget(widget, 0 if widget is self.beside else 1)
        working.addWidget(self.bar, 1)
        working.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for row in (grid, buttons, working):
            column.addLayout(row)
        for widget in (self.message, self.answers, self.summary, self.differing):
            column.addWidget(widget)

    # -- showing

    def _show_choices(self, _: object = None) -> None:
        names = self.compare.names
        if [self.models.itemData(i) for i in range(self.models.count())] != ["", *names]:
            self.models.clear()
            for name in ("", *names):
                self.models.addItem(name or _SAME, name)
        self._show_choice()

    def _show_choice(self) -> None:
        compare = self.compare
        self.models.setCurrentIndex(max(0, self.models.findData(compare.second.name)))
        tip = _TIPS.get(compare.kind)
        for widget in (self.number_name, self.number):
            widget.setVisible(tip is not None)
        if tip is None:
            return
        self.number_name.setText(tip[0])
        self.number.setToolTip(f"{tip[1]} At the lowest value: as many as it was trained with.")
        tnet = compare.kind == "tnet"
        self.number.blockSignals(True)
        self.number.setRange(0, compare.most)
        self.number.setSingleStep(1 if tnet else max(1, compare.most // 64))
        self.number.setValue(compare.second.crops if tnet else compare.second.k)
        self.number.blockSignals(False)

    def show_theme(self) -> None:
        """Show the answers in the colours of napari's theme."""
        self.show_all()

    def show_all(self) -> None:
        """Show the choices, and the answers."""
        compare = self.compare
        self._show_choice()
        why_not = compare.why_not()
        self.ask.setEnabled(not why_not and not compare.working)
        self.ask_all.setEnabled(not compare.why_not_all() and not compare.working)
        self.beside.setEnabled(compare.session.selection.image is not None)
        self.beside.setChecked(compare.side_by_side)
        progress = compare.progress
        for widget in (self.bar, self.cancel):
            widget.setVisible(progress is not None)
        if progress is not None:
            # Without a total the bar moves to and fro.
            self.bar.setRange(0, progress.total)
            self.bar.setValue(progress.done)
            left = f", {time_left(progress.seconds_left)}" if progress.seconds_left else ""
            self.bar.setFormat(f"%v of %m{left}")
        nothing = compare.one is None and compare.every is None and not compare.working
        text = compare.message or (why_not if nothing else "")
        self.message.setText(text)
        self.message.setVisible(bool(text))
        self.answers.setVisible(compare.one is not None)
        if compare.one is not None:
            self.answers.setText(
                compare_answers(compare.one, ink(self, "muted"), ink(self, "second"))
            )
        self._show_all_cells(compare.every)

    def _show_all_cells(self, found: Comparison | None) -> None:
        self.summary.setVisible(found is not None)
        rows = [] if found is None else found.differing
        self.differing.setVisible(bool(rows))
        if found is None:
            return
        text = f"All cells: {found.summary()[0].lower()}{found.summary()[1:]}"
        if not math.isnan(found.mean_overlap):
            text += f". Selected by both, in the mean: {_percent(found.mean_overlap)}"
        self.summary.setText(f"{text}.")
        self.differing.clear()
        for row in rows:
            sides = [
                f"{_short(labels[row])} {whole_percent(float(p[row].max()))}"
                for labels, p in zip(found.labels, found.probabilities, strict=True)
            ]
            item = QListWidgetItem(f"{found.ids[row]}: {sides[0]}  |  {sides[1]}")
            item.setData(Qt.ItemDataRole.UserRole, row)
            self.differing.addItem(item)
        row_height = max(self.differing.sizeHintForRow(0), 1)
        self.differing.setFixedHeight(row_height * min(len(rows), _MOST_ROWS) + 6)

    # -- acting

    def _choose_model(self, index: int) -> None:
        self.compare.choose(self.models.itemData(index))

    def _go_to(self, item: QListWidgetItem) -> None:
        self.compare.session.cells.click_cell(item.data(Qt.ItemDataRole.UserRole))


def compare_answers(found: Comparison, muted: str, second_ink: str) -> str:
    """Return two answers side by side as an HTML table."""
    grey = f"style='color:{muted}'"
    heads = ("in use", f"<span style='color:{second_ink}'>second</span>")
    (first,), (second,) = found.labels
    same = first == second
    bold = "" if same else "style='font-weight:bold'"
    chances = [f"{100 * float(p[0].max()):.1f}&nbsp;%" for p in found.probabilities]
    rows = [
        f"<td></td>{''.join(f'<td {grey}>{head}&nbsp;&nbsp;</td>' for head in heads)}",
        f"<td {grey}>class&nbsp;&nbsp;</td>"
        + "".join(f"<td {bold}>{rich(_short(name))}&nbsp;&nbsp;</td>" for name in (first, second)),
        f"<td {grey}>prob.&nbsp;&nbsp;</td>" + "".join(f"<td>{text}</td>" for text in chances),
    ]
    lines = ["The same class." if same else "Different classes."]
    if not found.shared_classes:
        lines = ["The models share no class names."]
    if not math.isnan(found.overlap[0]):
        lines.append(f"Of the pixels that either selected, both did: {_percent(found.overlap[0])}.")
    if not math.isnan(found.correlation[0]):
        lines.append(f"Agreement of their maps: {with_sign(float(found.correlation[0]))}.")
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{table}</table>{'<br>'.join(lines)}"


def _short(name: str) -> str:
    name = name.replace("_", " ")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"
