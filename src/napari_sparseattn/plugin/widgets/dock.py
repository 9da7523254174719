"""The dock "Sparse attention": puts the widgets together and opens the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget
from superqt import QCollapsible

from ..jobs import Jobs
from ..messages import Message
from ..session import Session
from .actions_box import ActionsBox
from .base import SessionWidget
from .image_box import ImageBox
from .model_box import ModelBox
from .result_box import ResultBox
from .table_box import TableBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["MessageLine", "SparseAttentionDock"]

_STYLE = """
QLabel#hint { color: #e5b567; }
QLabel#card { padding: 4px; border-left: 2px solid #6c7a89; }
QCollapsible > QPushButton, QCollapsible > QPushButton:checked {
    background: transparent; border: none; border-top: 1px solid #6c7a89;
    border-radius: 0; padding: 5px 2px; font-weight: bold; text-align: left;
}
QPushButton#clicking:checked { background-color: #2f6f9f; color: white; }
QLabel#message { padding: 5px; border-left: 3px solid #6c7a89; }
QLabel#message[level="warning"] { border-left-color: #e5b567; }
QLabel#message[level="error"] { border-left-color: #ff6b6b; }
"""


class MessageLine(SessionWidget):
    """What goes on, what went wrong, what to do next."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self.label = QLabel(self)
        self.label.setObjectName("message")
        self.label.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.label)
        self.follow(session.message_changed, self.show_message)
        self.show_message(session.message)

    def show_message(self, message: Message) -> None:
        """Show one message."""
        self.label.setText(message.text)
        self.label.setProperty("level", message.level)
        # Qt looks at properties in a style sheet only when told to.
        self.label.style().unpolish(self.label)
        self.label.style().polish(self.label)


class SparseAttentionDock(QWidget):
    """Classify cells and see the pixels that decided.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self.jobs = Jobs(self.session)
        self.setStyleSheet(_STYLE)
        self.setMinimumWidth(340)
        inner = QWidget(self)
        self.image_box = ImageBox(self.session, inner)
        self.model_box = ModelBox(self.session, self.jobs, inner)
        self.actions_box = ActionsBox(self.session, inner)
        self.result_box = ResultBox(self.session, inner)
        self.table_box = TableBox(self.session, inner)
        self.message_line = MessageLine(self.session, self)
        self._parts: list[SessionWidget] = [
            self.image_box,
            self.model_box,
            self.actions_box,
            self.result_box,
            self.table_box,
            self.message_line,
        ]
        self._lay_out(inner)
        self._docked = False
        self._closed = False
        self.session.attach()
        # The window takes its docks with it without closing them one by one.
        # Bound to the jobs and session, not to self: self is being destroyed.
        jobs, session = self.jobs, self.session
        self._end = _End(jobs, session, self._parts)
        self.destroyed.connect(self._end)
        self.model_box.start()

    def _lay_out(self, inner: QWidget) -> None:
        column = QVBoxLayout(inner)
        column.setContentsMargins(2, 2, 2, 2)
        column.setSpacing(4)
        for box in (self.image_box, self.model_box, self.actions_box):
            column.addWidget(box)
        for title, box in (("Result", self.result_box), ("Cells", self.table_box)):
            section = QCollapsible(title, inner)
            section.setDuration(0)
            section.addWidget(box)
            section.expand(animate=False)
            section.layout().setContentsMargins(0, 0, 0, 0)
            section.content().layout().setContentsMargins(2, 0, 2, 4)
            column.addWidget(section)
        column.addStretch(1)
        scroll = QScrollArea(self)
        scroll.setWidgetResizable(True)
        # Nothing here needs more width than the dock has; boxes elide instead.
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.addWidget(scroll, 1)
        outer.addWidget(self.message_line)

    def event(self, event: QEvent) -> bool:
        """Close down when napari takes the widget out of its dock."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                self._end()
                QTimer.singleShot(0, self.deleteLater)
        return bool(super().event(event))


class _End:
    """Ends the work and the listening, once."""

    def __init__(self, jobs: Jobs, session: Session, parts: list[SessionWidget]) -> None:
        self._jobs, self._session, self._parts = jobs, session, parts
        self._done = False

    def __call__(self, _: object = None) -> None:
        if self._done:
            return
        self._done = True
        for part in self._parts:
            part.release()
        self._jobs.close()
        self._session.detach()
