"""A menu that copies what gives a result again: Python, a command, a methods paragraph."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QApplication, QHBoxLayout, QMenu, QPushButton, QWidget

from ..widgets.base import Follower
from .copying import Copying

if TYPE_CHECKING:
    from ..session import Session
    from .recipes import What

__all__ = ["CopyButton"]

_ACTIONS: tuple[tuple[What, str, str], ...] = (
    ("python", "As Python script", "The lines that give the same table again."),
    ("command", "As command", "What to type in a terminal for the same table."),
    ("methods", "As methods paragraph", "Versions, model, settings and references, for a paper."),
)


class CopyButton(Follower):
    """Copies results as what gives them again; shown where there is one.

    Parameters
    ----------
    session : Session
        Of the viewer.
    parent : QWidget, optional
        The box.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        assert session.viewer is not None
        self.copying = Copying.of(session.viewer)
        self.copying.attach()
        self.button = QPushButton("Copy", self)
        self.button.setToolTip(
            "Copies the script, the command or the methods paragraph of what is shown, to the "
            "clipboard."
        )
        self.menu = QMenu(self)
        self.menu.setToolTipsVisible(True)
        self.menu.aboutToShow.connect(self.fill)
        self.button.setMenu(self.menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button)
        self.follow(self.copying.changed, self.show_results)
        self.follow(self.copying.copied, self._to_clipboard)
        self.show_results()

    def release(self) -> None:
        """Stop following."""
        super().release()
        self.copying.detach()

    def show_results(self) -> None:
        """Show itself where there is something to copy."""
        self.setVisible(bool(self.copying.things()))

    def fill(self) -> None:
        """List the results, each with what it can be copied as."""
        self.menu.clear()
        for number, thing in enumerate(self.copying.things()):
            title = self.menu.addAction(thing.title)
            title.setEnabled(False)
            for what, text, tip in _ACTIONS:
                action = self.menu.addAction(f"  {text}", partial(self._copy, what, number))
                action.setToolTip(tip)

    def _copy(self, what: What, number: int, checked: bool = False) -> None:
        self.copying.copy(what, number)

    def _to_clipboard(self, text: str) -> None:
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(text)
