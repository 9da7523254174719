"""The report of fine-tuning: a verdict, figures before and after, and every held-out cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...card import readable_name
from ...metrics import Report, whole_percent
from ..core.messages import counted
from ..widgets.base import Follower
from ..widgets.rich import FittedLabel, breakable, rich
from .plots import ConfusionMatrix
from .session import FineTuning

if TYPE_CHECKING:
    from ...training.tune.fine_tune import FineTuneReport
    from ...training.tune.report import HeldOutCell

__all__ = ["ReportBox"]

_EDGES = {"better": "#009e73", "worse": "#d55e00", "too little data": "#8c98a6"}
_ICON, _ROWS, _MOST_LISTED = 40, 4, 300
_PRESS = "Click a field to list its cells; click a cell to go to it."


class ReportBox(Follower):
    """The verdict, whether to use the new model, and the figures behind it."""

    #: Whether there is a report.
    wanted = Signal(bool)

    def __init__(self, tuning: FineTuning, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tuning = tuning
        self.verdict = _Text(self)
        self.notes = _Text(self)
        self.use = QPushButton("Use new model", self)
        self.use.setToolTip("Classifies with the new model from now on; the old one is kept too.")
        self.keep = QPushButton("Keep old model", self)
        self.keep.setToolTip("Keeps using the old model. The new one stays in the list of models.")
        self.save = QPushButton("Save report…", self)
        self.save.setToolTip("Saves the report as HTML and as JSON.")
        self.figures = _Text(self)
        self.classes = _Text(self)
        self.matrix = ConfusionMatrix(self)
        self.matrix.setToolTip(_PRESS)
        self.listed = _Text(self)
        self.cells = QListWidget(self)
        self.cells.setIconSize(QSize(_ICON, _ICON))
        self.cells.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.cells.setAccessibleName("Held-out cells")
        self.cells.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.cells.setWordWrap(True)
        self.cells.setToolTip("Click a cell to see it in its image, which is opened if need be.")
        self._lay_out()
        self.use.clicked.connect(self._use)
        self.keep.clicked.connect(self._keep)
        self.save.clicked.connect(self._choose_file)
        self.matrix.picked.connect(self._list)
        for by in (self.cells.itemClicked, self.cells.itemActivated):
            by.connect(self._go_to)
        self.follow(tuning.outcome.changed, self.show_report)
        self.show_report(tuning.outcome.report)

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.verdict)
        row = QHBoxLayout()
        for button in (self.use, self.keep):
            row.addWidget(button)
        column.addLayout(row)
        # Beside the others it would not fit a narrow dock.
        column.addWidget(self.save)
        for widget in (self.notes, self.figures, self.classes, self.matrix, self.listed):
            column.addWidget(widget)
        column.addWidget(self.cells)

    def show_report(self, report: FineTuneReport | None) -> None:
        """Fill everything, or hide it."""
        self.wanted.emit(report is not None)
        tuning = self.tuning
        for button in (self.use, self.keep):
            button.setVisible(tuning.outcome.to_decide)
        if report is None:
            return
        edge = _EDGES[report.verdict]
        self.verdict.setStyleSheet(f"padding: 5px; border-left: 4px solid {edge};")
        self.verdict.setText(_show(report.sentence))
        before = () if tuning.prepared is None else tuning.prepared.run.notes
        notes = dict.fromkeys((*report.notes, *before))
        self.notes.setText("<br>".join(_show(note) for note in notes))
        self.notes.setVisible(bool(notes))
        self.figures.setText(_figures(report))
        measured = report.after is not None
        for widget in (self.classes, self.matrix, self.listed):
            widget.setVisible(measured)
        self.cells.hide()
        self.cells.clear()
        self.listed.setText(_PRESS)
        if report.after is not None:
            colours = self._colours(report)
            self.classes.setText(_per_class(report, report.after, colours))
            self.matrix.set_counts(report.after.confusion, report.class_names, colours)

    def _colours(self, report: FineTuneReport) -> tuple[str, ...]:
        known = dict(self.tuning.annotating.classes.project.classes())
        trained = self.tuning.outcome.trained
        if trained is not None:
            known |= dict(zip(report.class_names, trained.colours, strict=False))
        return tuple(known.get(name, "#8c98a6") for name in report.class_names)

    def _list(self, label: str, predicted: str) -> None:
        cells = self.tuning.outcome.held_out_cells(label, predicted)
        self.cells.clear()
        self.cells.setVisible(bool(cells))
        if not cells:
            text = (
                f"No held-out '{readable_name(label)}' is classified as "
                f"'{readable_name(predicted)}'. {_PRESS}"
            )
            self.listed.setText(_show(text))
            return
        correct = " (correct)" if label == predicted else ""
        self.listed.setText(
            _show(
                f"{counted(len(cells), 'cell')} of your class '{readable_name(label)}', classified "
                f"as '{readable_name(predicted)}'{correct}, most confident first:"
            )
        )
        for cell in cells[:_MOST_LISTED]:
            self.cells.addItem(self._item(cell))
        self.cells.setFixedHeight((_ICON + 6) * min(len(cells), _ROWS) + 6)

    def _item(self, cell: HeldOutCell) -> QListWidgetItem:
        text = (
            f"{readable_name(cell.after)} {whole_percent(cell.probability)}; "
            f"before: {readable_name(cell.before)}"
        )
        item = QListWidgetItem(text)
        item.setData(Qt.ItemDataRole.UserRole, cell)
        prepared = self.tuning.prepared
        picture = None if prepared is None else prepared.pictures.get(cell.id)
        if picture is not None:
            pixels = np.ascontiguousarray(picture)
            height, width, _ = pixels.shape
            form = QImage.Format.Format_RGB888
            image = QImage(pixels.tobytes(), width, height, 3 * width, form).copy()
            item.setIcon(QIcon(QPixmap.fromImage(image)))
        item.setToolTip("Click to go to this cell.")
        return item

    def _go_to(self, item: QListWidgetItem) -> None:
        self.tuning.outcome.go_to(item.data(Qt.ItemDataRole.UserRole))

    def _use(self) -> None:
        self.tuning.outcome.use()

    def _keep(self) -> None:
        self.tuning.outcome.keep_old()

    def _choose_file(self) -> None:
        trained = self.tuning.outcome.trained
        name = "report" if trained is None else trained.path.stem
        path, _ = QFileDialog.getSaveFileName(self, "Save report", f"{name}.html", "Page (*.html)")
        if path:
            self.tuning.outcome.save_report(Path(path))


class _Text(FittedLabel):
    """Rich text that can be copied."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)


def _show(text: str) -> str:
    """Return text as rich text that is never wider than its place."""
    return rich(breakable(text))


def _figures(report: FineTuneReport) -> str:
    """Accuracy and calibration, before and after."""
    rows = []
    parts = (
        ("known classes", report.known),
        ("new classes", report.fresh),
        ("all", report.all_cells),
        ("own training", report.kept),
    )
    for name, paired in parts:
        if paired is not None and paired.n:
            rows.append((f"correct, {name} ({paired.n})", _share(paired.before, paired.n),
                         _share(paired.after, paired.n)))  # fmt: skip
    if report.before is not None and report.after is not None:
        rows.append(("calibration error", f"{report.before.ece:.3f}",
                     f"{report.after.ece:.3f}"))  # fmt: skip
    rows.append(("temperature", "", f"{report.temperature:.2f}"))
    kept = f"epoch {report.best_epoch}" if report.best_epoch else "the fitted last layer"
    rows.append(("weights", "", kept))
    head = (
        "<tr><th align='left'>held-out cells</th><th align='right'>before</th>"
        "<th align='right'>after</th></tr>"
    )
    body = "".join(
        f"<tr><td>{_show(name)}</td><td align='right'>{before}</td>"
        f"<td align='right'>{after}</td></tr>"
        for name, before, after in rows
    )
    return f"<table width='100%' cellpadding='2'>{head}{body}</table>"


def _per_class(report: FineTuneReport, after: Report, colours: tuple[str, ...]) -> str:
    """Precision, recall and F1 of each class that is held out; F1 also before."""
    rows = []
    for name, colour in zip(report.class_names, colours, strict=True):
        of = after.per_class[name]
        if not of.support:
            continue
        before = report.before.per_class[name].f1 if report.before is not None else None
        known = name in report.old_class_names
        cells = (of.precision, of.recall, of.f1)
        shown = "".join(f"<td align='right'>{100 * v:.0f}</td>" for v in cells)
        old = f"{100 * before:.0f}" if before is not None and known else "new"
        rows.append(
            f"<tr><td><span style='color:{colour}'>■</span>&nbsp;{_show(readable_name(name))}</td>"
            f"<td align='right'>{of.support}</td>{shown}<td align='right'>{old}</td></tr>"
        )
    head = (
        "<tr><th align='left'>class, %</th><th align='right'>n</th><th align='right'>prec.</th>"
        "<th align='right'>recall</th><th align='right'>F1</th>"
        "<th align='right'>F1 before</th></tr>"
    )
    return f"<table width='100%' cellpadding='2'>{head}{''.join(rows)}</table>"


def _share(right: int, n: int) -> str:
    return f"{right} ({whole_percent(right / n)})"
