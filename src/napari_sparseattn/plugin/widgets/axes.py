"""Axes of a small plot: lines, numbers and curves, painted with Qt."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["AXIS_COLOUR", "Axes", "Plot"]

#: 3 : 1 with the ground in napari's dark and in its light theme, as all colours of curves have.
AXIS_COLOUR = QColor("#78838f")


class Axes:
    """A frame in a widget, and the numbers that it stands for.

    Parameters
    ----------
    painter : QPainter
        Draws on the widget.
    frame : QRectF
        Where the curves are; numbers stand below and to the left of it.
    x, y : (float, float)
        Numbers at the left and right, and at the bottom and top.
    ink : QColor
        Of the numbers.
    """

    def __init__(
        self,
        painter: QPainter,
        frame: QRectF,
        x: tuple[float, float],
        y: tuple[float, float],
        ink: QColor,
    ) -> None:
        self._painter, self._frame, self._x, self._y, self._ink = painter, frame, x, y, ink

    def point(self, x: float, y: float) -> QPointF:
        """Return the place of a point; those outside are put on the frame."""
        frame, across, up = self._frame, _share(x, self._x), _share(y, self._y)
        return QPointF(frame.left() + frame.width() * across, frame.bottom() - frame.height() * up)

    def draw(
        self, x_ticks: Iterable[tuple[float, str]], y_ticks: Iterable[tuple[float, str]]
    ) -> None:
        """Draw both axes with numbers in words; a faint line for each along y."""
        painter, frame, metrics = self._painter, self._frame, self._painter.fontMetrics()
        faint, height = QColor(AXIS_COLOUR), metrics.height()
        faint.setAlphaF(0.35)
        align = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value, text in y_ticks:
            y = self.point(self._x[0], value).y()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
            painter.setPen(self._ink)
            painter.drawText(QRectF(0, y - height / 2, frame.left() - 4, height), align, text)
        painter.setPen(self._ink)
        most = painter.window().width() - 1.0
        for value, text in x_ticks:
            width = metrics.horizontalAdvance(text)
            x = min(self.point(value, self._y[0]).x() - width / 2, most - width)
            painter.drawText(QPointF(x, frame.bottom() + metrics.ascent() + 1), text)
        painter.setPen(QPen(AXIS_COLOUR, 1))
        painter.drawLine(frame.bottomLeft(), frame.bottomRight())
        painter.drawLine(frame.bottomLeft(), frame.topLeft())

    def draw_curve(self, xs: Iterable[float], ys: Iterable[float], pen: QPen) -> None:
        """Draw a line through points."""
        self._painter.setPen(pen)
        self._painter.setBrush(Qt.BrushStyle.NoBrush)
        points = [self.point(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        self._painter.drawPolyline(QPolygonF(points))

    def draw_dot(self, x: float, y: float, colour: QColor, radius: float) -> None:
        """Draw a filled circle of so many screen pixels."""
        self._painter.setPen(Qt.PenStyle.NoPen)
        self._painter.setBrush(colour)
        self._painter.drawEllipse(self.point(x, y), radius, radius)


class Plot(QWidget):
    """A plot of a fixed height, as wide as there is room.

    Parameters
    ----------
    height, least_width : int
        Screen pixels.
    """

    def __init__(self, height: int, least_width: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(height)
        self.setMinimumWidth(least_width)

    def begin(self) -> tuple[QPainter, QColor]:
        """Return a painter in a small font, and the colour of words."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() - 1))
        painter.setFont(font)
        return painter, self.palette().color(self.foregroundRole())

    def draw_title(self, painter: QPainter, title: str) -> None:
        """Draw a line of words at the top, cut where there is no room."""
        metrics = painter.fontMetrics()
        shown = metrics.elidedText(title, Qt.TextElideMode.ElideRight, self.width() - 4)
        painter.drawText(QPointF(2, metrics.ascent()), shown)


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return (min(max(value, low), high) - low) / max(high - low, 1e-12)
