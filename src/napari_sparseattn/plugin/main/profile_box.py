"""Whether the colour profile in the file of the chosen image is applied."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from ..core.field_layers import profile_of
from ..session import Session
from ..widgets.base import Follower

__all__ = ["ProfileBox"]

_MOST = 24


class ProfileBox(Follower):
    """A checkbox; hidden where the file holds no profile, or one that would change nothing."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.box = QCheckBox("", self)
        self.box.clicked.connect(session.use_profile)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.box)
        self.follow(session.selection.image_changed, self._show)
        self.follow(session.selection.images_changed, self._show)
        self._show()

    def _show(self, _: object = None) -> None:
        image = self.session.selection.image
        found = None if image is None else profile_of(image)
        self.setVisible(found is not None)
        if found is None:
            return
        name, applied = found
        # A scanner's name for its profile may be long; the tooltip has all of it.
        self.box.setText(f"Colour profile: {name if len(name) <= _MOST else name[:_MOST] + '…'}")
        self.box.setToolTip(
            f"The file holds the colour profile '{name}'. With it, colours are converted to sRGB, "
            "for display and for models; without, they are as stored."
        )
        self.box.setChecked(applied)
