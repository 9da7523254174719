"""A tour of a window: it points at one part after the other, and says what that is for.

napari 0.9 has a tour of its viewer (Help → Take a tour), whose parts are private; this
one behaves alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from qtpy.QtCore import QEvent, QObject, QPoint, QRect, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QKeyEvent, QKeySequence, QPainter, QPaintEvent, QRegion
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QShortcut,
    QVBoxLayout,
    QWidget,
)

__all__ = ["Tour", "TourStep"]

_WIDTH = 320
_GAP = 12
_BORDER = 3
#: Around the part that is pointed at.
_MARGIN = 4
_SHADE = QColor(0, 0, 0, 150)
_STYLE = """
QFrame#tour { background: #262930; border: 2px solid #2f6f9f; border-radius: 6px; }
QFrame#tour QLabel { color: #f0f1f2; background: transparent; }
"""


@dataclasses.dataclass(frozen=True)
class TourStep:
    """One part of the window, and what it is for.

    Parameters
    ----------
    target : callable
        Returns the widget to point at; None where it is not there, and the step is left out.
    title, text : str
        What is said; plain text.
    """

    target: Callable[[], QWidget | None]
    title: str
    text: str

    def find(self) -> QWidget | None:
        """Return the widget to point at, if it can be seen."""
        found = self.target()
        return found if found is not None and found.isVisible() else None


class Tour(QObject):
    """Goes through steps; ends with its last one, with Skip, or with Esc.

    Parameters
    ----------
    steps : sequence of TourStep
        In their order.
    window : QWidget
        The window that they are parts of.
    """

    finished = Signal()

    def __init__(self, steps: Sequence[TourStep], window: QWidget) -> None:
        super().__init__(window)
        self.steps, self.window, self.current = tuple(steps), window, -1
        self._shade = _Shade(window)
        self.said = _Said(window)
        self.said.forth.clicked.connect(self.go_forth)
        self.said.back.clicked.connect(self.go_back)
        self.said.skip.clicked.connect(self.end)
        self._escape = QShortcut(QKeySequence("Esc"), window)
        for signal in (self._escape.activated, self._escape.activatedAmbiguously):
            signal.connect(self.end)
        self._ended = False
        window.installEventFilter(self)

    def start(self) -> None:
        """Show the first step."""
        self._shade.show()
        self._shade.raise_()
        self.said.show()
        self.go_forth()

    def go_forth(self) -> None:
        """Show the next step, or end after the last."""
        self._go(1)

    def go_back(self) -> None:
        """Show the step before."""
        self._go(-1)

    def end(self) -> None:
        """Take the tour away."""
        if self._ended:
            return
        self._ended = True
        self.window.removeEventFilter(self)
        for part in (self._shade, self.said):
            part.hide()
            part.deleteLater()
        self._escape.deleteLater()
        self.finished.emit()
        self.deleteLater()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Follow the window's size."""
        if watched is self.window and event is not None and event.type() == QEvent.Type.Resize:
            # The parts get their new places only after the window has got its size.
            QTimer.singleShot(0, self._place)
        return False

    def _go(self, by: int) -> None:
        found = self.current + by
        while 0 <= found < len(self.steps) and self.steps[found].find() is None:
            found += by
        if found >= len(self.steps):
            self.end()
        elif found >= 0:
            self.current = found
            there = [n for n, step in enumerate(self.steps) if step.find() is not None]
            step = self.steps[found]
            self.said.show_step(step.title, step.text, there.index(found) + 1, len(there))
            self._place()
            self.said.forth.setFocus()

    def _place(self) -> None:
        if self._ended or self.current < 0:
            return
        target = self.steps[self.current].find()
        if target is None:
            return
        _scroll_to(target)
        # A widget may be larger than what its scroll area shows of it.
        seen = target.visibleRegion().boundingRect()
        corner = target.mapTo(self.window, seen.topLeft())
        spot = QRect(corner, seen.size()).adjusted(-_MARGIN, -_MARGIN, _MARGIN, _MARGIN)
        self._shade.setGeometry(self.window.rect())
        self._shade.point_at(spot)
        self.said.place(spot, self.window.rect())
        self._shade.raise_()
        self.said.raise_()


class _Shade(QWidget):
    """Darkens all of the window but one part; clicks go through it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._spot = QRect()

    def point_at(self, spot: QRect) -> None:
        self._spot = spot
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw the shade around the spot."""
        painter = QPainter(self)
        painter.setClipRegion(QRegion(self.rect()) - QRegion(self._spot))
        painter.fillRect(self.rect(), _SHADE)
        painter.end()


class _Said(QFrame):
    """What is said of a part, with the buttons that lead on."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("tour")
        self.setStyleSheet(_STYLE)
        self.title, self.text, self.count = QLabel(self), QLabel(self), QLabel(self)
        self.title.setStyleSheet("font-weight: bold;")
        for label in (self.title, self.text):
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setWordWrap(True)
        self.back, self.forth = QPushButton("Back", self), QPushButton("Next", self)
        self.skip = QPushButton("Skip (Esc)", self)
        row = QHBoxLayout()
        row.addWidget(self.count)
        row.addStretch(1)
        for button in (self.back, self.forth, self.skip):
            row.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 12, 12, 12)
        column.addWidget(self.title)
        column.addWidget(self.text)
        column.addLayout(row)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 - Qt's name
        """Skip the rest on Esc, also where the window's shortcut is taken by something else."""
        if event is not None and event.key() == Qt.Key.Key_Escape:
            self.skip.click()
            return
        super().keyPressEvent(event)

    def show_step(self, title: str, text: str, number: int, total: int) -> None:
        self.title.setText(title)
        self.text.setText(text)
        self.count.setText(f"{number} of {total}")
        self.back.setVisible(number > 1)
        self.skip.setVisible(number < total)
        self.forth.setText("Finish" if number == total else "Next")
        layout = self.layout()
        assert layout is not None
        layout.invalidate()
        self.setFixedWidth(max(_WIDTH, layout.minimumSize().width()))
        # The frame's border is no part of the layout.
        self.setFixedHeight(layout.heightForWidth(self.width() - 2 * _BORDER) + 2 * _BORDER)

    def place(self, spot: QRect, window: QRect) -> None:
        """Lie beside the spot where there is room, else at its edge; inside of the window."""
        left = spot.left() - self.width() - _GAP
        if left < 0:
            left = spot.right() + _GAP
        if left + self.width() > window.right():
            left = spot.center().x() - self.width() // 2
        top = min(max(spot.top(), _GAP), window.bottom() - self.height() - _GAP)
        self.move(QPoint(max(0, left), max(0, top)))


def _scroll_to(widget: QWidget) -> None:
    """Bring a widget into view in the scroll area that it lies in."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    if parent is None or (inner := parent.widget()) is None:
        return
    # Its top counts: of what is taller than the area, that is where its words begin.
    top = widget.mapTo(inner, QPoint(0, 0)).y()
    bar = parent.verticalScrollBar()
    shown = parent.viewport().height()
    if top < bar.value() or top + min(widget.height(), shown) > bar.value() + shown:
        bar.setValue(top - _GAP)
