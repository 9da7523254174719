"""Which kinds of cells there can be in the image: a button that opens a list to tick."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QMenu, QPushButton, QVBoxLayout, QWidget, QWidgetAction

from ..session import Session
from ..widgets.base import Follower

__all__ = ["KindsButton"]

_TIP = (
    "Which kinds of cells there can be in this image. A kind that cannot occur gets probability "
    "0, and the others share the rest."
)


class KindsButton(Follower):
    """Chooses the classes that cells of the image can be of, for all that is asked from then on.

    The list stays open while it is ticked; what is ticked counts once it closes.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.boxes: dict[str, QCheckBox] = {}
        self.button = QPushButton(self)
        # Long names of classes may not make the dock wider.
        self.button.setMinimumWidth(80)
        self.button.setAccessibleName("Kinds of cells that can be there")
        self.menu = QMenu(self.button)
        self.button.setMenu(self.menu)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.button)
        self.menu.aboutToShow.connect(self._fill)
        self.menu.aboutToHide.connect(self._take)
        selection = session.selection
        for signal in (
            selection.settings_changed, selection.image_changed, selection.model_changed,
        ):  # fmt: skip
            self.follow(signal, self._show)
        self._show()

    def _show(self, _: object = None) -> None:
        selection = self.session.selection
        card = selection.card
        self.button.setEnabled(card is not None)
        if card is None:
            return
        chosen, every = selection.settings.classes_of(card), card.class_names
        self.button.setText(
            f"all {len(every)}" if chosen is None else f"{len(chosen)} of {len(every)}"
        )
        names = "" if chosen is None else f"\n\nNow: {', '.join(map(_shown, chosen))}."
        self.button.setToolTip(_TIP + names)

    def _fill(self) -> None:
        """List the classes, ticked as they count now."""
        self.menu.clear()
        self.boxes = {}
        selection = self.session.selection
        card = selection.card
        if card is None:
            return
        chosen = selection.settings.classes_of(card)
        listed = QWidget(self.menu)
        column = QVBoxLayout(listed)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(4)
        for name in card.class_names:
            box = self.boxes[name] = QCheckBox(_shown(name), listed)
            box.setChecked(chosen is None or name in chosen)
            column.addWidget(box)
        every = QPushButton("Tick all", listed)
        every.setToolTip("Every kind of the list can occur.")
        every.clicked.connect(self._tick_all)
        column.addWidget(every)
        action = QWidgetAction(self.menu)
        action.setDefaultWidget(listed)
        self.menu.addAction(action)

    def _tick_all(self) -> None:
        for box in self.boxes.values():
            box.setChecked(True)

    def _take(self) -> None:
        """Let what is ticked count."""
        selection = self.session.selection
        image, card = selection.image, selection.card
        if image is None or card is None or tuple(self.boxes) != card.class_names:
            return
        ticked = tuple(name for name, box in self.boxes.items() if box.isChecked())
        if not ticked:
            self.session.status.notify(
                "At least one kind must be possible: nothing was changed.", "warning"
            )
            return
        classes = None if len(ticked) == len(self.boxes) else ticked
        if classes != selection.settings.classes_of(card):
            selection.set_settings(image, classes=classes)


def _shown(name: str) -> str:
    return name.replace("_", " ")
