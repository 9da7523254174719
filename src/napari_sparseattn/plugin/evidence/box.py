"""Below an answer: the faithfulness of its evidence, with curves on request."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ...evidence.faithfulness import Faithfulness
from ..widgets.base import Follower
from ..widgets.inks import ink
from ..widgets.rich import FittedLabel, rich
from .plots import CurveLegend, ShareCurves
from .report_box import ReportButton
from .requests import Subject
from .session import AnswerFaithfulness
from .words import (
    ORDER_NAMES,
    about_method,
    about_unfaithful,
    compare_to_baselines,
    order_rows,
    plain_sentence,
    shown_orders,
    single_rows,
    versus_random,
)

__all__ = ["FaithfulnessBox", "FaithfulnessDetails"]

_MEASURE_TIPS: dict[Subject, str] = {
    "cell": "Replaces parts of the crop and lets the model look again, about 170 times.",
    "field": "Replaces parts of the image and lets the model look again, some hundred times; "
    "may take a minute.",
    "slide": "Drops or replaces patches and lets the model look again, some hundred times; may "
    "take minutes on a large slide.",
}
_CONTENT: dict[Subject, str] = {"cell": "% of the crop", "field": "% of the field",
                                "slide": "% of the patches"}  # fmt: skip


class FaithfulnessBox(Follower):
    """One line with the verdict; the details unfold below it."""

    def __init__(self, faithfulness: AnswerFaithfulness, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.faithfulness = faithfulness
        self.verdict = FittedLabel(self)
        self.measure = QPushButton("Measure faithfulness", self)
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops measuring; the answer stays.")
        self.curves = QPushButton("Curves…", self)
        self.curves.setCheckable(True)
        self.curves.setToolTip("Unfolds what was measured: curves, and the table of measures.")
        self.details = FaithfulnessDetails(faithfulness, self)
        row = QHBoxLayout()
        row.addWidget(self.verdict, 1)
        top = Qt.AlignmentFlag.AlignTop
        for button in (self.measure, self.cancel, self.curves):
            row.addWidget(button, 0, top)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.details)
        self.measure.clicked.connect(self._measure)
        self.cancel.clicked.connect(faithfulness.cancel)
        self.curves.toggled.connect(self._show_details)
        self.follow(faithfulness.changed, self.show_faithfulness)
        self.show_faithfulness()

    def show_theme(self) -> None:
        """Show verdict and table in the colours of napari's theme."""
        self.show_faithfulness()

    def show_faithfulness(self) -> None:
        """Show what is measured, how far it is, or how to have it measured."""
        faithfulness = self.faithfulness
        subject, found = faithfulness.subject, faithfulness.measured
        self.setVisible(subject is not None)
        if subject is None:
            return
        working = faithfulness.progress is not None
        by_button = faithfulness.can_measure and found is None
        self.measure.setVisible(by_button)
        self.measure.setToolTip(_MEASURE_TIPS[subject])
        # A cell takes a second: a button that comes and goes would only flicker.
        self.cancel.setVisible(working and subject != "cell")
        self.curves.setVisible(found is not None)
        text, tip = self._describe(subject, found)
        self.verdict.setText(text)
        self.verdict.setToolTip(rich(tip) if tip else "")
        self._show_details()

    def _describe(self, subject: Subject, found: Faithfulness | None) -> tuple[str, str]:
        if found is not None:
            sentence, good = plain_sentence(found, subject)
            colour = ink(self, "good" if good else "bad")
            dot = f"<span style='color:{colour}'>●</span>"
            tips = [versus_random(found), compare_to_baselines(found), about_method(found, subject)]
            if not good:
                tips.insert(0, about_unfaithful(subject))
            return f"{dot} {sentence}", " ".join(tip for tip in tips if tip)
        if (progress := self.faithfulness.progress) is not None:
            share = f" {100 * progress.done // progress.total} %" if progress.total else ""
            return f"Faithfulness: measuring…{share}", _MEASURE_TIPS[subject]
        if reason := self.faithfulness.why_not:
            return f"Faithfulness not measured: {rich(reason)}", ""
        return "Faithfulness", _MEASURE_TIPS[subject]

    def _measure(self) -> None:
        self.faithfulness.measure()

    def _show_details(self, _: object = None) -> None:
        found, subject = self.faithfulness.measured, self.faithfulness.subject
        shown = self.curves.isChecked() and found is not None and subject is not None
        # What was unfolded stays in place while the next cell is measured.
        waiting = self.curves.isChecked() and self.faithfulness.progress is not None
        self.details.setVisible(shown or (waiting and self.details.filled))
        self.details.setEnabled(shown)
        if shown and found is not None and subject is not None:
            self.details.show_measured(found, subject)


class FaithfulnessDetails(QWidget):
    """Curves of deletion and insertion, and the table of measures."""

    def __init__(self, faithfulness: AnswerFaithfulness, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.faithfulness = faithfulness
        self.filled = False
        self.deletion = ShareCurves("removed first", "", self)
        self.deletion.setToolTip(
            "Probability of the class while the most important parts are replaced, first to "
            "last. The sooner a line falls, the more those parts decided."
        )
        self.insertion = ShareCurves("shown first", "", self)
        self.insertion.setToolTip(
            "Probability of the class where only the most important parts are left, the others "
            "replaced. The sooner a line rises, the more those parts suffice."
        )
        self.legend = CurveLegend(self)
        # Two grids, so that the long names of one do not take the numbers' room in the other.
        self.table, self._grid = self._empty_table()
        self.others, self._other_grid = self._empty_table()
        self.automatic = QCheckBox("Measure each clicked cell", self)
        self.automatic.setToolTip("About a second of one processor core after each click.")
        self.save = ReportButton(faithfulness.session, self)
        plots = QHBoxLayout()
        plots.setSpacing(2)
        plots.addWidget(self.deletion)
        plots.addWidget(self.insertion)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 2)
        column.setSpacing(3)
        column.addLayout(plots)
        for widget in (self.legend, self.table, self.others):
            column.addWidget(widget)
        last = QHBoxLayout()
        last.addWidget(self.automatic, 1)
        last.addWidget(self.save)
        column.addLayout(last)
        self.automatic.toggled.connect(faithfulness.set_automatic)

    def show_measured(self, found: Faithfulness, subject: Subject) -> None:
        """Show other measurements."""
        self.filled = True
        orders = shown_orders(found)
        for plot, kind in ((self.deletion, "deletion"), (self.insertion, "insertion")):
            curves = {name: found.orders[name].curves for name in orders}
            plot.axis = _CONTENT[subject]
            plot.set_curves(
                curves[orders[0]].shares,
                [(name, getattr(curves[name], kind)) for name in orders],
            )
        self.legend.set_names([(name, ORDER_NAMES.get(name, name)) for name in orders])
        self._fill_tables(found)
        self.automatic.setVisible(subject == "cell")
        self.automatic.blockSignals(True)
        self.automatic.setChecked(self.faithfulness.automatic)
        self.automatic.blockSignals(False)

    def rows(self) -> list[list[str]]:
        """Return the texts of both tables, row by row."""
        found: list[list[str]] = []
        for grid in (self._grid, self._other_grid):
            for row in range(grid.rowCount()):
                items = (grid.itemAtPosition(row, i) for i in range(grid.columnCount()))
                labels = (None if item is None else item.widget() for item in items)
                texts = [label.text() for label in labels if isinstance(label, QLabel)]
                if texts:
                    found.append(texts)
        return found

    def _empty_table(self) -> tuple[QWidget, QGridLayout]:
        table = QWidget(self)
        # It must not make the dock wider than it is.
        table.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        grid = QGridLayout(table)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(2)
        grid.setVerticalSpacing(2)
        return table, grid

    def _fill_tables(self, found: Faithfulness) -> None:
        for grid in (self._grid, self._other_grid):
            while (item := grid.takeAt(0)) is not None:
                if (widget := item.widget()) is not None:
                    widget.setParent(None)
                    widget.deleteLater()
        measures, orders = order_rows(found), shown_orders(found)
        for column, (name, tip, _) in enumerate(measures, 1):
            label = self._put(self._grid, 0, column, name, tip, right=True)
            label.setStyleSheet(f"color: {ink(self, 'muted')}")
        names = ["model", *(ORDER_NAMES.get(name, name) for name in orders[1:])]
        for row, name in enumerate(names, 1):
            self._put(self._grid, row, 0, name, "What was replaced first.")
            for column, (_, tip, values) in enumerate(measures, 1):
                label = self._put(self._grid, row, column, values[row - 1], tip, right=True)
                if row == 1:
                    label.setStyleSheet("font-weight: bold")
        for row, (name, value, tip) in enumerate(single_rows(found)):
            self._put(self._other_grid, row, 0, name, tip)
            self._put(self._other_grid, row, 1, value, tip).setWordWrap(True)
        self._grid.setColumnStretch(0, 1)
        self._other_grid.setColumnStretch(1, 1)

    def _put(
        self, grid: QGridLayout, row: int, column: int, text: str, tip: str, *, right: bool = False
    ) -> QLabel:
        label = QLabel(text, grid.parentWidget())
        label.setToolTip(tip)
        if right:
            label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(label, row, column)
        return label
