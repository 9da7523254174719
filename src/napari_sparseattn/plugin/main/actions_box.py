"""Classify all, what comes next, and how far that is."""

from __future__ import annotations

from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QPushButton, QWidget

from ..core.docks import open_training
from ..core.messages import time_left
from ..core.parts import Ask
from ..core.status import Progress
from ..session import Session
from ..widgets.base import Follower
from ..widgets.frame import mark_next
from ..widgets.rich import breakable

__all__ = ["ActionsBox"]

_CROPS_TIP = (
    "Classify the image as a whole: the model looks at it coarsely, and closely only where that "
    "decides."
)
_PATCHES_TIP = (
    "Classify the image as a whole: tissue is found, cut into patches, and the model attends to "
    "all of them at once."
)


class ActionsBox(Follower):
    """The things to do; those that fit image and model.

    The one to do next stands out.

    Attributes
    ----------
    clicking : QPushButton
        Turns click-to-classify off and on; it stands elsewhere in the dock.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.clicking = QPushButton("Click to classify", self)
        self.clicking.setObjectName("clicking")
        self.clicking.setCheckable(True)
        self.clicking.setChecked(session.selection.clicking)
        self.clicking.setToolTip(
            "While this is on, a click on a cell classifies it; a drag moves the view."
        )
        self.all = QPushButton("Classify all", self)
        self.all.setToolTip("Classify every cell of the image that is shown.")
        self.field = QPushButton("Classify field", self)
        self.train = QPushButton("Annotate and train…", self)
        self.train.setToolTip(
            "Opens a dock to give cells, regions or slides your own classes, and to fine-tune the "
            "model on them."
        )
        self.cancel = QPushButton("Cancel", self)
        self.bar = QProgressBar(self)
        self.left = QLabel(self)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 4, 0, 4)
        grid.addWidget(self.all, 0, 0, 1, 2)
        grid.addWidget(self.field, 1, 0, 1, 2)
        grid.addWidget(self.bar, 2, 0)
        grid.addWidget(self.left, 2, 1)
        grid.addWidget(self.cancel, 3, 0, 1, 2)
        grid.addWidget(self.train, 4, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        self.clicking.toggled.connect(session.selection.set_clicking)
        self.all.clicked.connect(self._classify_all)
        self.field.clicked.connect(self._classify_field)
        self.cancel.clicked.connect(self._cancel)
        self.train.clicked.connect(self._open_training)
        self.follow(session.selection.clicking_changed, self._show_clicking)
        self.follow(session.status.progress_changed, self._show_progress)
        for signal in (
            session.selection.model_changed, session.selection.image_changed,
            session.selection.settings_changed, session.cells.results_changed,
            session.answer_changed,
        ):  # fmt: skip
            self.follow(signal, self._enable)
        self._show_progress()
        self._enable()

    def _enable(self, _: object = None) -> None:
        selection, advice = self.session.selection, self.session.advice
        # What is pressed while the model is being loaded begins once it is there.
        ready = selection.model is not None or selection.loading
        there = ready and selection.image is not None
        on_slide = selection.on_slide
        # A slide's cells are not looked for; pressing it would only say so.
        self.all.setEnabled(there and not (on_slide and bool(advice.no_cells)))
        nothing_yet = self.session.cells.results is None and self.session.answer is None
        self.train.setVisible(not nothing_yet)
        new = there and nothing_yet and not advice.reconstruct
        mark_next(self.all, new and advice.cells)
        mark_next(self.field, new and advice.whole and not advice.cells)
        self.field.setText("Classify slide" if on_slide else "Classify field")
        self.field.setToolTip(_CROPS_TIP if advice.cells else _PATCHES_TIP)
        self.field.setEnabled(there)
        self._show_fitting(self.session.status.running)
        if not self.session.status.running:
            self._show_loading()

    def _show_loading(self) -> None:
        """Show that the model is being loaded, for as long as it is."""
        loading = self.session.selection.loading
        for widget in (self.bar, self.left):
            widget.setVisible(loading)
        if loading:
            self.bar.setRange(0, 0)
            card = self.session.card_to_be
            name = "the model" if card is None else breakable(card.name)
            self.left.setText(f"loading {name}")

    def _show_clicking(self, on: bool) -> None:
        self.clicking.setChecked(on)

    def _classify_all(self) -> None:
        self._ask("all")

    def _classify_field(self) -> None:
        self._ask("whole")

    def _ask(self, what: Ask) -> None:
        if self.session.selection.loading:
            self.session.ask_all()
        else:
            self.session.task.ask(what)

    def _open_training(self) -> None:
        if self.session.viewer is not None:
            open_training(self.session.viewer)

    def _cancel(self) -> None:
        self.session.status.cancel()

    def _show_fitting(self, busy: bool) -> None:
        """Show what the model can be asked for."""
        advice = self.session.advice
        self.clicking.setEnabled(advice.cells)
        self.all.setVisible(not busy and advice.cells)
        self.field.setVisible(not busy and advice.whole)

    def _show_progress(self, _: object = None) -> None:
        # As it is now: while others are told, Qt may work, and the work may have ended.
        work = self.session.status.work
        progress: Progress | None = None if work is None else work.progress()
        busy = progress is not None
        self._show_fitting(busy)
        self.cancel.setVisible(busy)
        # The stages of a slide have bars of their own.
        for widget in (self.bar, self.left):
            widget.setVisible(busy and not self.session.slides.in_stages)
        if progress is None:
            self._show_loading()
            return
        # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        self.bar.setFormat(f"{progress.done} of {progress.total} {progress.what}")
        left = progress.seconds_left
        self.left.setText("" if left is None else time_left(left))
