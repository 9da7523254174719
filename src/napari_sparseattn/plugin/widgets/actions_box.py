"""Click to classify, classify all, and how far that is."""

from __future__ import annotations

from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QPushButton, QWidget

from ..messages import Progress, time_left
from ..session import Session
from .base import SessionWidget

__all__ = ["ActionsBox"]


class ActionsBox(SessionWidget):
    """The things to do; those that fit image and model."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self.clicking = QPushButton("Click to classify", self)
        self.clicking.setObjectName("clicking")
        self.clicking.setCheckable(True)
        self.clicking.setChecked(session.clicking)
        self.clicking.setToolTip(
            "While this is on, a click on a cell classifies it; a drag moves the view."
        )
        self.all = QPushButton("Classify all", self)
        self.all.setToolTip("Classify every cell of the image that is shown.")
        self.field = QPushButton("Classify field", self)
        self.field.setToolTip(
            "Classify the image as a whole: the model looks at it coarsely, and closely only "
            "where that decides."
        )
        self.cancel = QPushButton("Cancel", self)
        self.bar = QProgressBar(self)
        self.left = QLabel(self)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 4, 0, 4)
        grid.addWidget(self.clicking, 0, 0)
        grid.addWidget(self.all, 0, 1)
        grid.addWidget(self.cancel, 0, 1)
        grid.addWidget(self.field, 1, 0, 1, 2)
        grid.addWidget(self.bar, 2, 0)
        grid.addWidget(self.left, 2, 1)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        self.clicking.toggled.connect(session.set_clicking)
        self.all.clicked.connect(self._classify_all)
        self.field.clicked.connect(self._classify_field)
        self.cancel.clicked.connect(self._cancel)
        self.follow(session.clicking_changed, self._show_clicking)
        self.follow(session.progress_changed, self._show_progress)
        for signal in (session.model_changed, session.image_changed):
            self.follow(signal, self._enable)
        self._show_progress(Progress() if session.running else None)
        self._enable()

    def _enable(self, _: object = None) -> None:
        session = self.session
        there = session.model is not None and session.image is not None
        # A slide's cells are not looked for; pressing it would only say so.
        self.all.setEnabled(there and not (session.on_slide and bool(session.no_cells_here())))
        self.field.setText("Classify slide" if session.on_slide else "Classify field")
        self.field.setEnabled(there)
        self.field.setVisible(session.traversing and not session.running)

    def _show_clicking(self, on: bool) -> None:
        self.clicking.setChecked(on)

    def _classify_all(self) -> None:
        self.session.classify_all()

    def _classify_field(self) -> None:
        self.session.classify_field()

    def _cancel(self) -> None:
        self.session.cancel_run()

    def _show_progress(self, progress: Progress | None) -> None:
        busy = progress is not None
        self.all.setVisible(not busy)
        self.field.setVisible(not busy and self.session.traversing)
        for widget in (self.cancel, self.bar, self.left):
            widget.setVisible(busy)
        if progress is None:
            return
        # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        self.bar.setFormat(f"{progress.done} of {progress.total} {progress.what}")
        left = progress.seconds_left
        self.left.setText("" if left is None else time_left(left))
