"""The dock "Annotate and train"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QScrollArea, QWidget

from ..annotate.box import AnnotateBox
from ..annotate.raters_box import RatersBox
from ..widgets.base import Follower
from ..widgets.frame import DockFrame, section
from .box import TrainBox, TrainOptionsBox
from .curves_box import CurvesBox
from .report_box import ReportBox
from .session import FineTuning
from .table_box import TableTrainingBox
from .validation_box import ValidationBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["TrainDock"]

_SETTLE_MS = 100


class TrainDock(DockFrame):
    """Annotate cells, regions or slides, fine-tune the model on them, and see what was gained.

    Or train a model anew on a table of slides.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.tuning = FineTuning.of(napari_viewer)
        self.session = self.tuning.session
        super().__init__(self.session.status)
        inner = QWidget(self)
        self.annotate_box = AnnotateBox(self.tuning.annotating, inner)
        self.raters_box = RatersBox(self.tuning.annotating.raters, inner)
        self.train_box = TrainBox(self.tuning, inner)
        self.options_box = TrainOptionsBox(self.tuning, inner)
        self.curves_box = CurvesBox(self.tuning, inner)
        self.report_box = ReportBox(self.tuning, inner)
        self.validation_box = ValidationBox(self.tuning.validating, inner)
        self.table_box = TableTrainingBox(self.tuning.tables, inner)
        parts: list[Follower] = [
            self.annotate_box, self.raters_box, self.train_box, self.options_box, self.report_box,
            self.curves_box, self.validation_box, self.table_box,
        ]  # fmt: skip
        annotate = section("Annotate", self.annotate_box, inner)
        raters = section("Several raters", self.raters_box, inner, open_=False)
        curves = section("Training", self.curves_box, inner)
        report = section("Report", self.report_box, inner)
        options = section("Options", self.options_box, inner, open_=False)
        validation = section("Cross-validation", self.validation_box, inner, open_=False)
        table = section("Train on a table of slides", self.table_box, inner, open_=False)
        boxes = [annotate, raters, self.train_box, options, validation, report, curves, table]
        self.lay_out(inner, boxes)
        curves.setVisible(bool(self.tuning.epochs))
        report.setVisible(self.tuning.outcome.report is not None)
        self.curves_box.wanted.connect(curves.setVisible)
        self.report_box.wanted.connect(report.setVisible)
        self._report = report
        self.report_box.wanted.connect(self._show_report)
        self.tuning.attach()
        self.end_with(parts, self.tuning.detach)

    def _show_report(self, there: bool) -> None:
        """Scroll to a report that has come: it may be below what is seen."""
        if there and self.tuning.outcome.to_decide:
            # Only once it has its place.
            QTimer.singleShot(_SETTLE_MS, self._scroll_to_report)

    def _scroll_to_report(self) -> None:
        area = self.findChild(QScrollArea)
        if area is not None:
            area.verticalScrollBar().setValue(self._report.y())
