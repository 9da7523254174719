"""Curves of a probability while content goes or comes, painted with Qt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..widgets.axes import Axes, Plot
from ..widgets.picture import nice_ticks

__all__ = ["COLOURS", "CurveLegend", "ShareCurves"]

#: The model's own order, then baselines; as bright as each other, to stand out on dark and light.
COLOURS = {
    "own": "#2f86c8",
    "random": "#78838f",
    "edges": "#b5780f",
    "centre": "#b0609a",
    "dark": "#d55e00",
    "dark blurred": "#8a7d00",
}
#: What tells them apart without colours.
_DASHES = {
    "random": Qt.PenStyle.DotLine,
    "edges": Qt.PenStyle.DashLine,
    "centre": Qt.PenStyle.DashDotLine,
    "dark": Qt.PenStyle.SolidLine,
    "dark blurred": Qt.PenStyle.DashDotDotLine,
}
_HEIGHT, _LEAST_WIDTH = 132, 110
_MOST_TICKS = 3
_NAMES_A_LINE = 4
_OTHER = "#008f68"

Line = tuple[str, npt.NDArray[np.float64]]


def colour_of(name: str, first: bool) -> QColor:
    """Return the colour of an order's line; `first` is the model's own."""
    return QColor(COLOURS["own"] if first else COLOURS.get(name, _OTHER))


def pen_of(name: str, first: bool) -> QPen:
    """Return the pen of an order's line: the model's own is thick, others have their dashes."""
    pen = QPen(colour_of(name, first), 2.2 if first else 1.3)
    if not first:
        pen.setStyle(_DASHES.get("random" if name.startswith("random") else name, pen.style()))
    return pen


class ShareCurves(Plot):
    """A probability over the share of the content, one line per order, the model's own first.

    Parameters
    ----------
    title, axis : str
        Of the plot, and along x.
    """

    def __init__(self, title: str, axis: str, parent: QWidget | None = None) -> None:
        super().__init__(_HEIGHT, _LEAST_WIDTH, parent)
        self.title, self.axis = title, axis
        self.shares: npt.NDArray[np.float64] = np.array([0.0, 1.0])
        self.lines: list[Line] = []

    def set_curves(self, shares: npt.NDArray[np.float64], lines: Sequence[Line]) -> None:
        """Show (name, probabilities) at the shares, both 0 to 1; the model's own first."""
        self.shares, self.lines = shares, list(lines)
        means = (f"{name} {100 * np.trapezoid(values, shares):.0f} %" for name, values in lines)
        self.setAccessibleDescription(f"{self.title}; mean probability: {', '.join(means)}")
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size wanted where there is room."""
        return QSize(160, _HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw title, axes with numbers, and lines, the model's own on top."""
        painter, ink = self.begin()
        metrics = painter.fontMetrics()
        painter.setPen(ink)
        self.draw_title(painter, self.title)
        axis = metrics.elidedText(self.axis, Qt.TextElideMode.ElideLeft, self.width())
        right = max(2.0, self.width() - metrics.horizontalAdvance(axis) - 4.0)
        painter.drawText(QPointF(right, self.height() - metrics.descent() - 1.0), axis)
        line, left = metrics.height(), metrics.horizontalAdvance("100 %") + 6.0
        frame = QRectF(left, line + 6, self.width() - left - 10.0, self.height() - 3 * line - 10.0)
        axes = Axes(painter, frame, (0, 1), (0, 1), ink)
        ticks = [(value / 100, f"{value:g}") for value in nice_ticks(0, 100, _MOST_TICKS)]
        axes.draw(ticks, [(at, f"{text} %" if at == 1 else text) for at, text in ticks])
        for i in reversed(range(len(self.lines))):
            name, values = self.lines[i]
            axes.draw_curve(self.shares, values, pen_of(name, i == 0))
        painter.end()


class CurveLegend(QWidget):
    """The legend of the curves: a line and a name per order."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.names: list[tuple[str, str]] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_names(self, names: Sequence[tuple[str, str]]) -> None:
        """Show (order, name in words); the model's own first."""
        self.names = list(names)
        self.setAccessibleDescription(", ".join(shown for _, shown in names))
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room for the names in a narrow dock, some in a line."""
        lines = max(1, -(-len(self.names) // _NAMES_A_LINE))
        return QSize(200, lines * (self.fontMetrics().height() + 4))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height."""
        return QSize(100, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the samples and names."""
        painter = QPainter(self)
        metrics, left = painter.fontMetrics(), 2.0
        high = metrics.height() + 4
        for i, (name, shown) in enumerate(self.names):
            if i % _NAMES_A_LINE == 0:
                left = 2.0
            painter.setPen(pen_of(name, i == 0))
            middle = (i // _NAMES_A_LINE + 0.5) * high
            painter.drawLine(QPointF(left, middle), QPointF(left + 14, middle))
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.drawText(QPointF(left + 18, middle + metrics.ascent() / 2 - 1), shown)
            left += metrics.horizontalAdvance(shown) + 30
        painter.end()
