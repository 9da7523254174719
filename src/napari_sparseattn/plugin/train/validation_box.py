"""Cross-validation: how many folds, start, and what was found."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QWidget,
)

from ..core.status import explain
from ..widgets.base import Follower, label_for
from ..widgets.rich import WrappedLabel
from .plots import LearningCurve
from .validating import Validating

__all__ = ["ValidationBox"]

_FEWEST, _MOST = 3, 20


class ValidationBox(Follower):
    """Asks for cross-validation, and shows what it gave."""

    def __init__(self, validating: Validating, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.validating = validating
        self.folds = QSpinBox(self)
        self.folds.setRange(_FEWEST, _MOST)
        self.folds.setValue(validating.folds)
        self.folds.setToolTip(
            "So many trainings, each tested on images that it has not seen. Cells of one image, "
            "and slides of one group, are never on both sides."
        )
        self.curve = QCheckBox("Would more annotation help?", self)
        self.curve.setToolTip(
            "Learns from a quarter and half of the images too, which takes up to three times as "
            "long, and says what twice as many may give."
        )
        self.start = QPushButton("Cross-validate", self)
        self.start.setToolTip(
            "Says how good fine-tuning on your annotations is, on images it has not seen. No "
            "model is made."
        )
        self.cancel = QPushButton("Cancel", self)
        self.bar = QProgressBar(self)
        self.found = WrappedLabel("", self)
        self.plot = LearningCurve(self)
        self.save = QPushButton("Save predictions…", self)
        self.save.setToolTip(
            "Saves a CSV of what was said of every image by the model that had not seen it, and "
            "the figures beside it as JSON."
        )
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        grid.addWidget(label_for(self.folds, "Folds"), 0, 0)
        grid.addWidget(self.folds, 0, 1)
        wide = (self.curve, self.start, self.cancel, self.bar, self.found, self.plot, self.save)
        for row, widget in enumerate(wide, 1):
            grid.addWidget(widget, row, 0, 1, 2)
        self.folds.valueChanged.connect(self._choose)
        self.curve.toggled.connect(self._choose)
        self.start.clicked.connect(self._start)
        self.cancel.clicked.connect(self._cancel)
        self.save.clicked.connect(self._choose_file)
        self.follow(validating.changed, self._show)
        self.follow(validating.tuning.survey_changed, self._show)
        self.follow(validating.tuning.state_changed, self._show)
        self._show()

    def _choose(self, _: object = None) -> None:
        self.validating.folds = self.folds.value()
        self.validating.curve = self.curve.isChecked()

    def _start(self) -> None:
        self.validating.start()

    def _cancel(self) -> None:
        self.validating.cancel()

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save predictions", "cross-validation.csv", "Table (*.csv)"
        )
        if path:
            try:
                self.validating.save(Path(path).with_suffix(".csv"))
            except OSError as error:
                self.validating.tuning.session.status.notify(explain(error), "error")

    def _show(self, _: object = None) -> None:
        validating = self.validating
        working, result = validating.working, validating.result
        self.start.setVisible(not working)
        self.start.setEnabled(validating.tuning.survey.enough and not validating.tuning.working)
        for widget in (self.cancel, self.bar):
            widget.setVisible(working)
        reports = validating.reports
        self.bar.setRange(0, reports[-1].total if reports else 1)
        self.bar.setValue(reports[-1].done if reports else 0)
        self.bar.setFormat(validating.stage)
        for shown in (self.found, self.save):
            shown.setVisible(result is not None)
        notes = () if result is None else result.result["notes"]
        self.found.setText("" if result is None else "\n".join((result.sentence, *notes)))
        points = [] if result is None else result.result["learning_curve"]
        self.plot.setVisible(bool(points))
        self.plot.set_points(
            [
                (each["n_groups"], each["figures"]["accuracy"], *each["intervals"]["accuracy"])
                for each in points
            ],
            None if result is None else result.result["with_twice_as_many_groups"],
        )
