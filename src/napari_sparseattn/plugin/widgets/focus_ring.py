"""A ring around what keys work on, in one of our docks."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QPoint, QRect, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QApplication, QScrollArea, QWidget

from .inks import is_dark

__all__ = ["FocusRing"]

_BRIGHT, _DARK = QColor("#ffffff"), QColor("#000000")
#: Around a widget, in screen pixels, where there is room.
_OUTSIDE = 2
_MOVING = (
    QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Show, QEvent.Type.Hide,
    QEvent.Type.ParentChange,
)  # fmt: skip


class FocusRing(QWidget):
    """Lies around what has the focus in a dock, unless the mouse has put it there.

    napari's themes do not tell what has it. The ring is bright and dark: it stands out from
    whatever lies below, pictures included.

    Parameters
    ----------
    dock : QWidget
        One of our docks.
    """

    def __init__(self, dock: QWidget) -> None:
        super().__init__(dock)
        self._dock = dock
        self._around: QWidget | None = None
        self._watched: list[QWidget] = []
        #: While Tab moves the focus: whatever the mouse did last, it was not the mouse.
        self.by_tab = False
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.hide()
        # Qt ends this with the ring, which goes with the dock.
        QApplication.instance().focusChanged.connect(self._follow)

    @property
    def around(self) -> QWidget | None:
        """What it lies around."""
        return self._around

    def _follow(self, _: QWidget | None, now: QWidget | None) -> None:
        # Who presses sees where; a click is no wish to go on by keys.
        by_mouse = not self.by_tab and QApplication.mouseButtons() != Qt.MouseButton.NoButton
        self._let_go()
        if now is not None and not by_mouse and self._dock.isAncestorOf(now):
            self._put_around(now)

    def _let_go(self) -> None:
        for widget in self._watched:
            widget.removeEventFilter(self)
        self._watched, self._around = [], None
        self.hide()

    def _put_around(self, widget: QWidget) -> None:
        self._around = widget
        home: QWidget = widget
        # Not in the widget's own parent, which may go, and would take the ring with it.
        while home is not self._dock and not _scrolls(home):
            self._watched.append(home)
            home.installEventFilter(self)
            home = home.parentWidget()
        if self.parentWidget() is not home:
            self.setParent(home)
        self._fit()

    def _fit(self) -> None:
        widget, home = self._around, self.parentWidget()
        if widget is None or not (widget is home or home.isAncestorOf(widget)):
            return
        lies = QRect(widget.mapTo(home, QPoint(0, 0)), widget.size())
        margins = (-_OUTSIDE, -_OUTSIDE, _OUTSIDE, _OUTSIDE)
        self.setGeometry(lies.adjusted(*margins).intersected(home.rect()))
        self.setVisible(widget.isVisible())
        self.raise_()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Go where it goes."""
        if event is not None and event.type() in _MOVING:
            self._fit()
        return False

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw the ring, on dark the bright line outside."""
        painter = QPainter(self)
        outer, inner = (_BRIGHT, _DARK) if is_dark(self._dock) else (_DARK, _BRIGHT)
        painter.setPen(QPen(outer, 2, join=Qt.PenJoinStyle.MiterJoin))
        painter.drawRect(self.rect().adjusted(1, 1, -1, -1))
        painter.setPen(QPen(inner, 1))
        painter.drawRect(self.rect().adjusted(2, 2, -3, -3))
        painter.end()


def _scrolls(widget: QWidget) -> bool:
    """Whether a widget is what a scroll area moves."""
    area = widget.parentWidget()
    area = None if area is None else area.parentWidget()
    return isinstance(area, QScrollArea) and area.widget() is widget
