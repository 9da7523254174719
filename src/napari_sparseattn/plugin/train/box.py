"""Fine-tune: a count of what is annotated, start, pause, cancel, and progress."""

from __future__ import annotations

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QProgressBar,
    QPushButton,
    QWidget,
)

from ...training.runs.requests import Survey
from ...training.runs.runs import Epoch
from ..core.messages import counted, time_left
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.rich import WrappedLabel, rich
from .session import FineTuning

__all__ = ["TrainBox", "TrainOptionsBox"]

_TICK_MS = 500
_SHOWN_HINTS = 2

_LAYERS = (
    (
        "automatic",
        "auto",
        (
            "All layers from 100 cells per class on, else the last one, beside cells that the "
            "model keeps of its own training."
        ),
    ),
    (
        "last layer only",
        "head",
        "Takes a second; forgets the least, where the model keeps cells of its own training.",
    ),
    (
        "last layers only",
        "backbone",
        "Faster; the model looks at the same pixels as before.",
    ),
    ("all", "none", "Slower; learns more from many cells, and may forget more."),
)
_TIMES = (
    ("until it stops improving (early stopping)", None),
    ("about 1 min", 60.0),
    ("about 5 min", 300.0),
    ("about 20 min", 1200.0),
)


class TrainBox(Follower):
    """Starts, pauses and ends training, and shows how far it is."""

    def __init__(self, tuning: FineTuning, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tuning = tuning
        self.survey = WrappedLabel("", self)
        self.hints = WrappedLabel("", self)
        self.hints.setObjectName("hint")
        self.start = QPushButton("Fine-tune", self)
        self.start.setToolTip(
            "Trains the model in use on your annotations. You can go on working, and the old model "
            "stays in use until you choose the new one."
        )
        self.resume_run = QPushButton("Resume training", self)
        self.pause = QPushButton("Pause", self)
        self.pause.setToolTip("Pauses training; nothing is lost.")
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Ends training now and keeps the best model so far.")
        self.bar = QProgressBar(self)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 4, 0, 4)
        grid.addWidget(self.survey, 0, 0, 1, 2)
        grid.addWidget(self.hints, 1, 0, 1, 2)
        grid.addWidget(self.resume_run, 2, 0, 1, 2)
        grid.addWidget(self.start, 3, 0, 1, 2)
        grid.addWidget(self.pause, 4, 0)
        grid.addWidget(self.cancel, 4, 1)
        grid.addWidget(self.bar, 5, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._show_left)
        self.start.clicked.connect(self._start)
        self.resume_run.clicked.connect(self._resume_run)
        self.pause.clicked.connect(self._pause_or_resume)
        self.cancel.clicked.connect(self._cancel)
        self.follow(tuning.state_changed, self._show_state)
        self.follow(tuning.epoch_added, self._show_epoch)
        self.follow(tuning.survey_changed, self._show_survey)
        self._show_survey(tuning.survey)
        self._show_state()

    def _start(self) -> None:
        self.tuning.start()

    def _resume_run(self) -> None:
        self.tuning.resume_interrupted()

    def _cancel(self) -> None:
        self.tuning.cancel()

    def _pause_or_resume(self) -> None:
        if self.tuning.state == "paused":
            self.tuning.resume()
        else:
            self.tuning.pause()

    def _show_survey(self, survey: Survey) -> None:
        working = self.tuning.working
        self.survey.setText(survey.text or "Choose a model in the dock Sparse attention first.")
        shown = list(survey.hints[:_SHOWN_HINTS])
        more = len(survey.hints) - len(shown)
        if more > 0:
            shown.append(f"… and {more} more: see the tooltip.")
        self.hints.setText("\n".join(shown))
        self.hints.setToolTip(rich("\n".join(survey.hints)))
        self.hints.setVisible(bool(shown) and not working)
        self.start.setEnabled(survey.enough)
        self._show_interrupted()

    def _show_interrupted(self) -> None:
        run = self.tuning.interrupted
        self.resume_run.setVisible(run is not None and not self.tuning.working)
        if run is not None:
            self.resume_run.setToolTip(
                rich(
                    f"The training of '{run.name}' was interrupted after "
                    f"{counted(run.epochs_done, 'epoch')}, and is resumed from there. Fine-tune "
                    "starts over instead."
                )
            )

    def _show_state(self, _: str = "") -> None:
        tuning = self.tuning
        state, working = tuning.state, tuning.working
        self.start.setVisible(not working)
        self.hints.setVisible(bool(self.hints.text()) and not working)
        for widget in (self.pause, self.cancel, self.bar):
            widget.setVisible(working)
        self.pause.setText("Resume" if state == "paused" else "Pause")
        self.pause.setEnabled(state in ("training", "paused"))
        self.cancel.setEnabled(state != "stopping")
        self._show_interrupted()
        if working:
            self._timer.start()
        else:
            self._timer.stop()
        self._show_epoch()

    def _show_epoch(self, _: Epoch | None = None) -> None:
        tuning = self.tuning
        done = tuning.epochs[-1].epoch if tuning.epochs else 0
        # Not Qt's moving bar while nothing is known: painting it would cost training more
        # than it tells.
        self.bar.setRange(0, max(tuning.epochs_total, 1))
        self.bar.setValue(done)
        self._show_left()

    def _show_left(self) -> None:
        """Show how far it is, in the bar: a label would have the dock laid out anew each time."""
        tuning = self.tuning
        total, seconds = tuning.epochs_total, tuning.seconds_left
        shown = tuning.stage
        if total and seconds is not None:
            shown = f"epoch {tuning.epochs[-1].epoch} of {total}, at most {time_left(seconds)}"
        elif total and tuning.state == "paused":
            shown = f"paused after epoch {tuning.epochs[-1].epoch} of {total}"
        if shown != self.bar.format():
            self.bar.setFormat(shown)


class TrainOptionsBox(Follower):
    """Options whose defaults suit."""

    def __init__(self, tuning: FineTuning, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tuning = tuning
        self.times = shrinkable(QComboBox(self))
        self.times.setToolTip("Training ends earlier by itself when it stops improving.")
        for text, seconds in _TIMES:
            self.times.addItem(text, seconds)
        self.layers = shrinkable(QComboBox(self))
        self.layers.setToolTip("Which layers of the model are trained.")
        for index, (text, freeze, tip) in enumerate(_LAYERS):
            self.layers.addItem(text, freeze)
            self.layers.setItemData(index, tip, 3)  # Qt.ToolTipRole
        self.devices = shrinkable(QComboBox(self))
        self.devices.setToolTip("Device for training; automatic is the one that the model uses.")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        rows = (("Time", self.times), ("Layers", self.layers), ("Device", self.devices))
        for row, (text, box) in enumerate(rows):
            grid.addWidget(label_for(box, text), row, 0)
            grid.addWidget(box, row, 1)
        self.times.activated.connect(self._choose)
        self.layers.activated.connect(self._choose)
        self.devices.activated.connect(self._choose)
        self.follow(tuning.session.selection.model_changed, self._show_devices)
        self._show_devices()

    def _choose(self, _: int = 0) -> None:
        self.tuning.set_choices(
            seconds=self.times.currentData(),
            freeze=self.layers.currentData(),
            device=self.devices.currentData(),
        )

    def _show_devices(self, _: object = None) -> None:
        model = self.tuning.session.selection.model
        self.devices.clear()
        self.devices.addItem("automatic", "auto")
        for device in () if model is None else model.devices:
            self.devices.addItem(device, device)
        self.devices.setCurrentIndex(max(0, self.devices.findData(self.tuning.choices.device)))
        self.times.setCurrentIndex(max(0, self.times.findData(self.tuning.choices.seconds)))
        self.layers.setCurrentIndex(max(0, self.layers.findData(self.tuning.choices.freeze)))
