"""Curves of a probability while content goes or comes, painted with Qt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..widgets.picture import nice_ticks

__all__ = ["COLOURS", "CurveLegend", "ShareCurves"]

#: Okabe and Ito's colours, told apart by the colour-blind: the model's own order, then baselines.
COLOURS = {"own": "#56b4e9", "random": "#8c98a6", "edges": "#e69f00", "centre": "#cc79a7"}
_AXIS = QColor("#8c98a6")
_HEIGHT, _LEAST_WIDTH = 132, 110
_MOST_TICKS = 3
_OTHER = "#009e73"

Line = tuple[str, npt.NDArray[np.float64]]


def colour_of(name: str, first: bool) -> QColor:
    """Return the colour of an order's line; `first` is the model's own."""
    return QColor(COLOURS["own"] if first else COLOURS.get(name, _OTHER))


def pen_of(name: str, first: bool) -> QPen:
    """Return the pen of an order's line: random is dotted, the model's own is thick."""
    pen = QPen(colour_of(name, first), 2.2 if first else 1.3)
    if name.startswith("random"):
        pen.setStyle(Qt.PenStyle.DotLine)
    return pen


class ShareCurves(QWidget):
    """A probability over the share of the content, one line per order, the model's own first.

    Parameters
    ----------
    title, axis : str
        What was done, and what is counted along x.
    """

    def __init__(self, title: str, axis: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title, self.axis = title, axis
        self.shares: npt.NDArray[np.float64] = np.array([0.0, 1.0])
        self.lines: list[Line] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(_LEAST_WIDTH)
        self.setFixedHeight(_HEIGHT)

    def set_curves(self, shares: npt.NDArray[np.float64], lines: Sequence[Line]) -> None:
        """Show (name, probabilities) at the shares, both 0 to 1; the model's own first."""
        self.shares, self.lines = shares, list(lines)
        told = (f"{name} {100 * np.trapezoid(values, shares):.0f} %" for name, values in lines)
        self.setAccessibleDescription(f"{self.title}; mean probability: {', '.join(told)}")
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size wanted where there is room."""
        return QSize(160, _HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw title, axes with numbers, and lines, the model's own on top."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() - 1))
        painter.setFont(font)
        metrics, ink = painter.fontMetrics(), self.palette().color(self.foregroundRole())
        line = metrics.height()
        left = metrics.horizontalAdvance("100 %") + 6.0
        frame = QRectF(left, line + 6, self.width() - left - 10.0, self.height() - 3 * line - 10.0)
        painter.setPen(ink)
        title = metrics.elidedText(self.title, Qt.TextElideMode.ElideRight, self.width())
        painter.drawText(QPointF(2, metrics.ascent()), title)
        axis = metrics.elidedText(self.axis, Qt.TextElideMode.ElideLeft, self.width())
        right = max(2.0, self.width() - metrics.horizontalAdvance(axis) - 4.0)
        painter.drawText(QPointF(right, self.height() - metrics.descent() - 1.0), axis)
        self._draw_axes(painter, frame)
        for i in reversed(range(len(self.lines))):
            name, values = self.lines[i]
            painter.setPen(pen_of(name, i == 0))
            painter.drawPolyline(
                QPolygonF(
                    QPointF(
                        frame.left() + frame.width() * float(x),
                        frame.bottom() - frame.height() * min(max(float(y), 0.0), 1.0),
                    )
                    for x, y in zip(self.shares, values, strict=True)
                )
            )
        painter.end()

    def _draw_axes(self, painter: QPainter, frame: QRectF) -> None:
        metrics, ink = painter.fontMetrics(), self.palette().color(self.foregroundRole())
        faint, line = QColor(_AXIS), metrics.height()
        faint.setAlphaF(0.35)
        align = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value in nice_ticks(0, 100, _MOST_TICKS):
            y = frame.bottom() - frame.height() * value / 100
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
            painter.setPen(ink)
            place = QRectF(0, y - line / 2, frame.left() - 4, line)
            painter.drawText(place, align, f"{value:g} %" if value == 100 else f"{value:g}")
            x = frame.left() + frame.width() * value / 100
            text = f"{value:g}"
            x -= metrics.horizontalAdvance(text) / 2
            painter.drawText(QPointF(x, frame.bottom() + metrics.ascent() + 1), text)
        painter.setPen(QPen(_AXIS, 1))
        painter.drawLine(frame.bottomLeft(), frame.bottomRight())
        painter.drawLine(frame.bottomLeft(), frame.topLeft())


class CurveLegend(QWidget):
    """Which line is of which order."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.names: list[tuple[str, str]] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_names(self, names: Sequence[tuple[str, str]]) -> None:
        """Show (order, name in words); the model's own first."""
        self.names = list(names)
        self.setAccessibleDescription(", ".join(shown for _, shown in names))
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room for one line of text."""
        return QSize(200, self.fontMetrics().height() + 4)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height."""
        return QSize(100, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the samples and names."""
        painter = QPainter(self)
        metrics, left = painter.fontMetrics(), 2.0
        for i, (name, shown) in enumerate(self.names):
            painter.setPen(pen_of(name, i == 0))
            middle = self.height() / 2
            painter.drawLine(QPointF(left, middle), QPointF(left + 14, middle))
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.drawText(QPointF(left + 18, middle + metrics.ascent() / 2 - 1), shown)
            left += metrics.horizontalAdvance(shown) + 30
        painter.end()
