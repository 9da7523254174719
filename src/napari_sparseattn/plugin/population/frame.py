"""What the docks of all cells share: where they lie, and that they say only what went wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from psygnal import SignalInstance
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QResizeEvent, QShowEvent
from qtpy.QtWidgets import QDockWidget, QMainWindow, QSizePolicy, QVBoxLayout, QWidget

from ..core.status import Message, Status
from ..widgets.base import Follower
from ..widgets.frame import DockFrame, dock_of
from ..widgets.places import keep_place, note_closing, put_back
from .session import Population

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["CellsDock", "SeenFollower"]

_KEEP_MS = 500


class CellsDock(DockFrame):
    """A dock below the image, beside the others of its kind; its place is remembered.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    #: As the menu names it.
    title: ClassVar[str]
    #: In screen pixels, until the user has given it another.
    first_height: ClassVar[int] = 270
    #: Makes the box that it shows, of the population and a parent.
    make_box: ClassVar[Callable[[Population, QWidget], Follower]]
    #: Whether cells are given classes in it.
    annotates: ClassVar[bool] = True

    def __init__(self, napari_viewer: ViewerModel) -> None:
        population = self.population = Population.of(napari_viewer)
        super().__init__(population.session.status)
        self.setMinimumWidth(260)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        warnings = _OnlyWarnings(population.session.status, self.message_line)
        self._keeping = QTimer(self)
        self._keeping.setSingleShot(True)
        self._keeping.setInterval(_KEEP_MS)
        self._keeping.timeout.connect(self._keep)
        used = population.annotating if self.annotates else population.session
        used.attach()
        population.attach()
        # By the class: what it has there is called as it is, not as a method.
        self.box = type(self).make_box(population, self)
        self._hold_box()
        self.end_with([self.box, warnings], population.detach, used.detach)

    def _hold_box(self) -> None:
        """Put the box in it without a scroll area: what is in the box scrolls."""
        outer = QVBoxLayout(self)
        outer.setContentsMargins(4, 2, 4, 2)
        outer.setSpacing(2)
        outer.addWidget(self.box, 1)
        outer.addWidget(self.message_line)

    def placed_in(self, dock: QDockWidget) -> None:
        """Go where it was, or below the image."""
        note_closing(self.title, False)
        put_back(dock, self.title, "bottom", self.first_height)
        self._leave_corners(dock)
        for moved in (dock.topLevelChanged, dock.dockLocationChanged):
            moved.connect(self._keeping.start)

    @staticmethod
    def _leave_corners(dock: QDockWidget) -> None:
        """Lie below the image only: what stands beside it needs its height on a small screen."""
        window = dock.parent()
        if isinstance(window, QMainWindow):
            window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
            window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)

    def _keep(self) -> None:
        dock = dock_of(self)
        if dock is not None:
            keep_place(dock, self.title)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Remember the size once it stays."""
        super().resizeEvent(event)
        if self.isVisible():
            self._keeping.start()

    def _join_others(self) -> None:
        """Share the place of another of these docks, not that of a narrow one."""
        window, mine = self.window(), dock_of(self)
        if mine is None:
            return
        main = mine.parent()
        if not isinstance(main, QMainWindow):
            main = window
        self.placed_in(mine)
        for other in main.findChildren(CellsDock):
            theirs = dock_of(other)
            if theirs is None or theirs is mine:
                continue
            if type(other) is type(self):
                theirs.destroyOnClose()
            elif not (theirs.isFloating() or mine.isFloating()) and main.dockWidgetArea(
                theirs
            ) == main.dockWidgetArea(mine):
                main.tabifyDockWidget(theirs, mine)
                mine.raise_()
                return

    def event(self, event: QEvent) -> bool:
        """Take note of being closed by the user; the window closes without taking it out."""
        if event.type() == QEvent.Type.ParentChange and self._docked and self.parent() is None:
            self._keeping.stop()
            note_closing(self.title, True)
        return bool(super().event(event))


class SeenFollower(Follower):
    """A widget that follows only while it is seen, and catches up when it is seen again.

    Table, gallery and map often lie behind each other: what nobody sees costs nothing.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._due: dict[Callable[[], None], None] = {}

    def follow_seen(self, signal: SignalInstance, slot: Callable[[], None]) -> None:
        """Call a bound method at each signal; while this is hidden, once, when it is shown."""
        self.follow(signal, functools.partial(self.call_or_defer, slot))

    def call_or_defer(self, slot: Callable[[], None]) -> None:
        """Call a bound method now, or when this is shown."""
        if self.isVisible():
            slot()
        else:
            self._due[slot] = None

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Catch up."""
        super().showEvent(event)
        due, self._due = self._due, {}
        for slot in due:
            slot()


class _OnlyWarnings(Follower):
    """Shows a message line only while there is something to warn of: room is dear here."""

    def __init__(self, status: Status, line: QWidget) -> None:
        super().__init__(line)
        self._line = line
        self.follow(status.message_changed, self._show)
        self._show(status.message)

    def _show(self, message: Message) -> None:
        self._line.setVisible(message.level != "info")
