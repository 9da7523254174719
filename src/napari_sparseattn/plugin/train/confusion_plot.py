"""A confusion matrix painted with Qt, whose fields can be pressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

__all__ = ["ConfusionMatrix"]

_RIGHT, _WRONG, _CHOSEN = QColor("#009e73"), QColor("#d55e00"), QColor("#e5b567")
_LEAST_FIELD, _MOST_FIELD, _SWATCH = 18, 34, 8
_MOST_NAME = 110


class ConfusionMatrix(QWidget):
    """Rows are the user's classes, columns the model's; each field says how many cells.

    Signals
    -------
    picked : (str, str)
        The user's class and the model's of the field that was pressed.
    """

    picked = Signal(str, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.names: tuple[str, ...] = ()
        self.colours: tuple[str, ...] = ()
        self.counts: npt.NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self.chosen: tuple[int, int] | None = None
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def set_counts(
        self, counts: npt.NDArray[np.int64], names: Sequence[str], colours: Sequence[str]
    ) -> None:
        """Show counts (C, C); classes of which no cell is there, or is said to be, are left out."""
        used = np.flatnonzero(counts.sum(0) + counts.sum(1)).tolist()
        self.counts = counts[np.ix_(used, used)]
        self.names = tuple(names[i] for i in used)
        self.colours = tuple(colours[i] for i in used)
        self.chosen = None
        self.setAccessibleDescription(
            "; ".join(
                f"{self.names[i]} as {self.names[j]}: {self.counts[i, j]}"
                for i, j in np.argwhere(self.counts)
            )
        )
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room for square fields."""
        rows = len(self.names)
        return QSize(300, round(self._top() + rows * _LEAST_FIELD * 1.3 + 4))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height."""
        return QSize(160, self.sizeHint().height())

    def field_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Return row and column of the field at a place in the widget."""
        frame = self._frame()
        n = len(self.names)
        if not n or not frame.contains(QPointF(x, y)):
            return None
        row = int((y - frame.top()) / frame.height() * n)
        column = int((x - frame.left()) / frame.width() * n)
        return min(row, n - 1), min(column, n - 1)

    def field_rect(self, row: int, column: int) -> QRectF:
        """Return where a field is."""
        frame, n = self._frame(), max(len(self.names), 1)
        width, height = frame.width() / n, frame.height() / n
        return QRectF(frame.left() + column * width, frame.top() + row * height, width, height)

    def choose(self, row: int, column: int) -> None:
        """Mark a field, and tell of it."""
        self.chosen = (row, column)
        self.update()
        self.picked.emit(self.names[row], self.names[column])

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Pick the field that is pressed."""
        found = self.field_at(event.position().x(), event.position().y())
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            self.choose(*found)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Show a hand over fields with cells in them."""
        found = self.field_at(event.position().x(), event.position().y())
        hand = found is not None and self.counts[found] > 0
        shape = Qt.CursorShape.PointingHandCursor if hand else Qt.CursorShape.ArrowCursor
        self.setCursor(shape)

    def event(self, event: QEvent) -> bool:
        """Say in words what a field means."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            found = self.field_at(event.pos().x(), event.pos().y())
            if found is not None:
                row, column = found
                QToolTip.showText(event.globalPos(), self._told(row, column), self)
                return True
        return bool(super().event(event))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw names and fields."""
        if not self.names:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        metrics = painter.fontMetrics()
        ink = self.palette().color(self.foregroundRole())
        painter.setPen(ink)
        painter.drawText(QPointF(2, metrics.ascent()), "rows: your class; columns: the new model's")
        left = self._frame().left()
        for i, name in enumerate(self.names):
            place = self.field_rect(i, 0)
            self._swatch(painter, QPointF(2 + _SWATCH / 2, place.center().y()), i)
            painter.setPen(ink)
            text = metrics.elidedText(name, Qt.TextElideMode.ElideRight, int(left) - _SWATCH - 10)
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(_SWATCH + 6, place.top(), left, place.height()), middle, text)
            top = self.field_rect(0, i)
            self._swatch(painter, QPointF(top.center().x(), top.top() - _SWATCH), i)
        for row in range(len(self.names)):
            for column in range(len(self.names)):
                self._draw_field(painter, row, column)
        painter.end()

    def _draw_field(self, painter: QPainter, row: int, column: int) -> None:
        place, count = self.field_rect(row, column), int(self.counts[row, column])
        total = max(int(self.counts[row].sum()), 1)
        fill = QColor(_RIGHT if row == column else _WRONG)
        fill.setAlphaF(0.15 + 0.6 * count / total if count else 0.0)
        chosen = self.chosen == (row, column)
        line = QColor("#6c7a89")
        line.setAlphaF(0.5)
        painter.setPen(QPen(_CHOSEN, 2) if chosen else QPen(line, 0.5))
        painter.setBrush(fill)
        painter.drawRect(place.adjusted(1, 1, -1, -1))
        if count:
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, str(count))

    def _swatch(self, painter: QPainter, middle: QPointF, index: int) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self.colours[index]))
        half = _SWATCH / 2
        painter.drawRect(QRectF(middle.x() - half, middle.y() - half, _SWATCH, _SWATCH))

    def _told(self, row: int, column: int) -> str:
        count = int(self.counts[row, column])
        cells = f"{count} cell{'s' * (count != 1)}"
        press = " Click to list them." if count else ""
        return f"{cells} of your '{self.names[row]}' that it calls '{self.names[column]}'.{press}"

    def _top(self) -> float:
        return float(self.fontMetrics().height() + 2 * _SWATCH + 4)

    def _frame(self) -> QRectF:
        metrics, n = self.fontMetrics(), max(len(self.names), 1)
        names = max((metrics.horizontalAdvance(name) for name in self.names), default=0)
        left = min(names, _MOST_NAME) + _SWATCH + 14.0
        width = min(self.width() - left - 2, 1.6 * _MOST_FIELD * n)
        return QRectF(left, self._top(), width, self.height() - self._top() - 2)
