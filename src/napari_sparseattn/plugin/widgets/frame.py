"""What the docks share: look, message line, folding sections, an orderly end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from psygnal import SignalInstance
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap, QResizeEvent, QShowEvent
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from ...crash import watch_for_crashes
from ..core.docks import dock_of
from ..core.preferences import keep_section, preferences
from ..core.status import Message
from .base import Follower
from .canvas import guard_canvases
from .focus_ring import FocusRing
from .help import PAGES, HelpButton
from .inks import INKS, is_dark
from .keys import KeyFilter
from .rich import WrappedLabel, rich
from .tab_order import order_tabs

__all__ = ["DockFrame", "MessageLine", "Notifier", "Section", "dock_of", "mark_next", "section"]

#: `%(edge)s` and the like are `inks.INKS` for the theme.
_STYLE = """
QPushButton { border: 1px solid transparent; padding: 3px; }
QToolButton { border: 1px solid %(edge)s; border-radius: 2px; padding: 3px; }
QPushButton:checked, QToolButton:checked { border-color: %(text)s; }
QComboBox, QAbstractSpinBox, QLineEdit, QTextEdit, QPlainTextEdit { border: 1px solid %(edge)s; }
QAbstractSpinBox QLineEdit, QComboBox QLineEdit { border: none; }
QLineEdit QToolButton { border: none; padding: 0; }
QLineEdit, QAbstractSpinBox { placeholder-text-color: %(placeholder)s; }
QCheckBox::indicator, QRadioButton::indicator:unchecked { border: 1px solid %(edge)s; }
QSlider::handle:horizontal { background-color: %(edge)s; }
QAbstractItemView::item:selected {
    border-top: 1px solid %(text)s; border-bottom: 1px solid %(text)s;
}
QLabel#hint { padding-left: 5px; border-left: 3px solid #e5b567; }
QLabel#card { padding: 4px; border-left: 2px solid #6c7a89; }
QLabel#simulated { padding-left: 5px; border-left: 3px solid #e5b567; font-weight: bold; }
QCollapsible > QPushButton, QCollapsible > QPushButton:checked {
    background: transparent; border: none; border-top: 1px solid #6c7a89;
    border-radius: 0; padding: 5px 2px; font-weight: bold; text-align: left;
}
QPushButton#clicking:checked, QPushButton#shown:checked {
    background-color: #2f6f9f; color: white;
}
QPushButton[next="true"]:enabled {
    background-color: #2f6f9f; color: white; font-weight: bold;
}
QLabel#message { padding: 5px; border-left: 3px solid #6c7a89; }
QLabel#message[level="warning"] { border-left-color: #e5b567; }
QLabel#message[level="error"] { border-left-color: #ff6b6b; }
"""


#: Qt's largest height: no limit.
_ANY_HEIGHT = 16_777_215
#: Longer messages would make the window taller than the screen; the rest is in the tooltip.
_MOST_TEXT = 500


class Notifier(Protocol):
    """Something that says one line at a time."""

    @property
    def message(self) -> Message:
        """What was said last."""
        ...

    @property
    def message_changed(self) -> SignalInstance:
        """Emitted with each message."""
        ...


class MessageLine(Follower):
    """What goes on, what went wrong, what to do next."""

    def __init__(self, notifier: Notifier, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.label = WrappedLabel("", self)
        self.label.setObjectName("message")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.label)
        self.follow(notifier.message_changed, self.show_message)
        self.show_message(notifier.message)

    def show_message(self, message: Message) -> None:
        """Show one message."""
        long = len(message.text) > _MOST_TEXT
        self.label.setText(f"{message.text[:_MOST_TEXT].rstrip()} …" if long else message.text)
        self.label.setToolTip(rich(message.text) if long else "")
        self.label.setProperty("level", message.level)
        # Qt looks at properties in a style sheet only when told to.
        self.label.style().unpolish(self.label)
        self.label.style().polish(self.label)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Keep room for all lines."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        # A wrapped text of more lines does not always get their height. The
        # old minimum would count as the height that is wanted.
        self.label.setMinimumHeight(0)
        self.label.setMinimumHeight(max(0, self.label.heightForWidth(self.width())))


class DockFrame(QWidget):
    """A dock of followers that ends their work when it is closed.

    Parameters
    ----------
    notifier : Notifier
        What its message line shows.
    """

    def __init__(self, notifier: Notifier) -> None:
        super().__init__()
        watch_for_crashes()
        self._dark: bool | None = None
        self.ring = FocusRing(self)
        self._dressing = QTimer(self)
        self._dressing.setSingleShot(True)
        self._dressing.setInterval(0)
        self._dressing.timeout.connect(self._follow_theme)
        self._follow_theme()
        self.setMinimumWidth(340)
        self.message_line = MessageLine(notifier, self)
        self._docked = False
        self._placed = False
        self._end: _End | None = None

    def lay_out(
        self, inner: QWidget, widgets: Iterable[QWidget], below: Iterable[QWidget] = ()
    ) -> None:
        """Put widgets below each other in `inner`, and that in a scroll area.

        What is `below` it is in sight however small the window is.
        """
        column = QVBoxLayout(inner)
        column.setContentsMargins(2, 2, 2, 2)
        column.setSpacing(4)
        for widget in widgets:
            column.addWidget(widget)
        column.addStretch(1)
        scroll = QScrollArea(self)
        scroll.setWidgetResizable(True)
        # Nothing here needs more width than the dock has; boxes elide instead.
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        # What it holds takes the Tab key; the area itself has nothing to do.
        scroll.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        scroll.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.addWidget(scroll, 1)
        for widget in (*below, self.message_line):
            outer.addWidget(widget)

    def end_with(self, parts: list[Follower], *stops: Callable[[], None]) -> None:
        """Release the parts and call `stops`, in order, when the dock goes."""
        # The window takes its docks with it without closing them one by one.
        # Bound to what has to stop, not to self: self is being destroyed.
        self._end = _End([*parts, self.message_line], stops)
        self.destroyed.connect(self._end)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Share the place of the other dock of ours, when shown first."""
        super().showEvent(event)
        self._follow_theme()
        order_tabs(self)
        if not self._placed:
            self._placed = True
            guard_canvases(self.window())
            for keys in self.window().findChildren(KeyFilter):
                keys.watch_dock(self)
            # Only after napari has put the dock where it wants it.
            QTimer.singleShot(0, self._join_others)

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802 - Qt's name
        """Follow napari's theme."""
        super().changeEvent(event)
        if event is not None and event.type() in (
            QEvent.Type.StyleChange,
            QEvent.Type.PaletteChange,
        ):
            # Once all of the window is dressed.
            self._dressing.start()

    def _follow_theme(self) -> None:
        dark = is_dark(self)
        if dark is self._dark:
            return
        self._dark = dark
        self.setStyleSheet(_STYLE % {name: each[0 if dark else 1] for name, each in INKS.items()})
        for part in self.findChildren(Follower):
            part.show_theme()

    def focusNextPrevChild(self, forward: bool) -> bool:  # noqa: N802 - Qt's name
        """Go on in the order in which the dock is read, as it is laid out by now."""
        order_tabs(self)
        self.ring.by_tab = True
        moved = super().focusNextPrevChild(forward)
        self.ring.by_tab = False
        return bool(moved)

    def placed_in(self, dock: QDockWidget) -> None:
        """Take note of the dock that holds this; for subclasses."""

    def _join_others(self) -> None:
        window = self.window()
        mine = dock_of(self)
        if mine is None or not isinstance(window, QMainWindow):
            return
        self.placed_in(mine)
        for other in window.findChildren(DockFrame):
            theirs = dock_of(other)
            if theirs is not None and theirs is not mine and type(other) is type(self):
                # Opened by another name, as napari's menu and scripts do: one is enough.
                theirs.destroyOnClose()
                continue
            if theirs is not None and theirs is not mine and theirs.isVisible():
                # Below each other, both would be too short.
                window.tabifyDockWidget(theirs, mine)
                mine.raise_()
                return

    def event(self, event: QEvent) -> bool:
        """Close down when napari takes the widget out of its dock."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                if self._end is not None:
                    self._end()
                QTimer.singleShot(0, self.deleteLater)
        return bool(super().event(event))


class _End:
    """Ends the work and the listening, once."""

    def __init__(self, parts: list[Follower], stops: Iterable[Callable[[], None]]) -> None:
        self._parts, self._stops = parts, tuple(stops)
        self._done = False

    def __call__(self, _: object = None) -> None:
        if self._done:
            return
        self._done = True
        for part in self._parts:
            part.release()
        for stop in self._stops:
            stop()


def _arrow(symbol: str) -> QIcon:
    """Paint a symbol in a grey that shows on dark and light; superqt's is black."""
    pixmap = QPixmap(32, 32)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    font = painter.font()
    font.setPixelSize(30)
    painter.setFont(font)
    painter.setPen(QColor("#78838f"))
    painter.drawText(pixmap.rect(), Qt.AlignmentFlag.AlignCenter, symbol)
    painter.end()
    return QIcon(pixmap)


class Section(QCollapsible):
    """Lets its content grow: it keeps the height that its content had when it was opened.

    What is folded away is hidden, so that no key reaches it either.
    """

    def __init__(self, title: str, parent: QWidget) -> None:
        super().__init__(title, parent, _arrow("▾"), _arrow("▸"))
        self.content().setVisible(False)
        self.help: HelpButton | None = None
        self._explained = True
        if title in PAGES:
            header = self.toggleButton()
            self.help = HelpButton(title, header)
            row = QHBoxLayout(header)
            row.setContentsMargins(0, 0, 4, 0)
            row.addStretch(1)
            row.addWidget(self.help)
        self.toggled.connect(self._show_content)
        self._show_content(False)

    def explain(self, on: bool) -> None:
        """Offer help only where there is something to explain."""
        self._explained = on
        self._show_content(self.isExpanded())

    def _show_content(self, on: bool) -> None:
        self.content().setVisible(on)
        if self.help is not None:
            self.help.setVisible(on and self._explained)

    def event(self, event: QEvent) -> bool:
        """Follow the content, which asks for a new layout when it changes."""
        if event.type() == QEvent.Type.LayoutRequest and self.isExpanded():
            self.content().setMaximumHeight(_ANY_HEIGHT)
        return bool(super().event(event))


def section(
    title: str, content: QWidget, parent: QWidget, *, open_: bool = True, key: str = ""
) -> Section:
    """Return a section that folds, with its content in it.

    Where the documentation explains it (`help.PAGES`), an open one has a "?" that leads there.

    Parameters
    ----------
    title : str
        Shown above it.
    content, parent : QWidget
        What it holds, and what it lies in.
    open_ : bool
        Whether it begins open.
    key : str
        Under which the preferences remember whether the user has it open; empty where they
        do not.
    """
    made = Section(title, parent)
    made.setDuration(0)
    made.addWidget(content)
    if key:
        open_ = preferences().sections.get(key, open_)
        # Only what the user folds is a wish: what is opened for somebody is none.
        made.toggleButton().clicked.connect(lambda: keep_section(key, made.isExpanded()))
    if open_:
        made.expand(animate=False)
    made.layout().setContentsMargins(0, 0, 0, 0)
    made.content().layout().setContentsMargins(2, 0, 2, 4)
    return made


def mark_next(button: QWidget, on: bool) -> None:
    """Make a button stand out as the one to press next, or let it be as the others."""
    if bool(button.property("next")) == on:
        return
    button.setProperty("next", on)
    # Qt looks at properties in a style sheet only when told to.
    button.style().unpolish(button)
    button.style().polish(button)
