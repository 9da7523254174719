"""What the boxes of the dock Sparse attention share."""

from __future__ import annotations

from qtpy.QtWidgets import QWidget

from ..session import Session
from ..widgets.base import Follower

__all__ = ["SessionWidget"]


class SessionWidget(Follower):
    """A widget that follows a session until it is released.

    Parameters
    ----------
    session : Session
        Outlives the widget, so that closing and reopening the dock is harmless.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
