"""How far the overview of the chosen slide is, while one is being made."""

from __future__ import annotations

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget

from ..session import Session
from ..slides.overviews import Overviews
from ..widgets.base import Follower

__all__ = ["OverviewBar"]


class OverviewBar(Follower):
    """A bar with a button that cancels; hidden while there is nothing to wait for."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.overviews = None if session.viewer is None else Overviews.of(session.viewer)
        self.bar = QProgressBar(self)
        self.bar.setFormat("Overview: %p %")
        self.bar.setToolTip(
            "The file holds no smaller versions of this slide. They are made once, and kept in the "
            "cache; you can go on meanwhile."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops making the overview. The slide stays open.")
        self.cancel.clicked.connect(self._cancel)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel)
        if self.overviews is not None:
            self.follow(self.overviews.changed, self._show_progress)
        self.follow(session.selection.image_changed, self._show_progress)
        self._show_progress()

    def _show_progress(self, _: object = None) -> None:
        image = self.session.selection.image
        found = None if self.overviews is None else self.overviews.progress_of(image)
        self.setVisible(found is not None)
        if found is not None:
            # A range of nothing would show as busy for ever.
            self.bar.setRange(0, max(found.total, 1))
            self.bar.setValue(found.done)

    def _cancel(self) -> None:
        image = self.session.selection.image
        if self.overviews is not None and image is not None:
            self.overviews.cancel(image)
            self.session.status.notify(
                f"The overview of '{image.name}' was not finished: it stays as far as it is until "
                "the slide is opened again.",
                "warning",
            )
