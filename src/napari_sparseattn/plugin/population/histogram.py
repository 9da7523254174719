"""How many cells have which probability; a drag over it shows only those."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..widgets.axes import AXIS_COLOUR

__all__ = ["Histogram"]

_BINS = 20
_HEIGHT, _LEAST_WIDTH = 34, 150
_SIDE = 6
_KEPT, _LEFT_OUT = QColor("#3584c4"), QColor("#7d8794")
_TIP = (
    "How many cells have which probability. Drag over it to show only those between; a click "
    "shows one bar's; a double click, or Esc, all. Arrow keys move the lower end, with Shift the "
    "upper."
)


class Histogram(QWidget):
    """Bars of probabilities from 0 to 1, and the range that is shown.

    Signals
    -------
    chosen : (float, float)
        The user has chosen a range.
    """

    chosen = Signal(float, float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.counts: npt.NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.range = (0.0, 1.0)
        self._from: float | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setToolTip(_TIP)
        self.setAccessibleName("Probability of the cells")
        self.setCursor(Qt.CursorShape.SplitHCursor)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a little room."""
        return QSize(_LEAST_WIDTH, _HEIGHT + self.fontMetrics().height())

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same."""
        return self.sizeHint()

    def set_values(self, values: npt.NDArray[np.float32]) -> None:
        """Count probabilities (N,); NaN are left out."""
        inside = values[np.isfinite(values)]
        bins = np.minimum((inside * _BINS).astype(np.int64), _BINS - 1)
        self.counts = np.bincount(bins, minlength=_BINS)
        self.update()

    def set_range(self, low: float, high: float) -> None:
        """Show which range is chosen."""
        self.range = (low, high)
        self.setAccessibleDescription(f"{low:.0%} to {high:.0%} are shown")
        self.update()

    # -- mouse and keys

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Begin a range."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._from = self._share(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the range as it would be."""
        if self._from is not None:
            self.range = self._between(self._from, self._share(event.position().x()))
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Choose the range."""
        if self._from is not None:
            low, high = self._between(self._from, self._share(event.position().x()))
            self._from = None
            self.chosen.emit(low, high)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Choose all."""
        self._from = None
        self.chosen.emit(0.0, 1.0)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Move an end by one bar."""
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()), 0)
        low, high = (round(end * _BINS) for end in self.range)
        if event.key() == Qt.Key.Key_Escape:
            low, high = 0, _BINS
        elif not step:
            super().keyPressEvent(event)
            return
        elif event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            high = min(max(high + step, low + 1), _BINS)
        else:
            low = max(min(low + step, high - 1), 0)
        self.chosen.emit(low / _BINS, high / _BINS)

    def _between(self, one: float, other: float) -> tuple[float, float]:
        """Return whole bars: both ends' and those between."""
        low, high = sorted((one, other))
        first, last = int(low * _BINS), min(int(high * _BINS), _BINS - 1)
        return min(first, _BINS - 1) / _BINS, (last + 1) / _BINS

    def _share(self, x: float) -> float:
        return float(min(max((x - _SIDE) / max(self.width() - 2 * _SIDE, 1), 0.0), 1.0))

    # -- drawing

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw bars, in colour where they are shown."""
        painter = QPainter(self)
        ink = self.palette().color(self.foregroundRole())
        low, high = self.range
        floor, width = float(_HEIGHT), (self.width() - 2 * _SIDE) / _BINS
        # Most cells are sure: the few others would not be seen beside them.
        heights = np.sqrt(self.counts / max(int(self.counts.max()), 1)) * (floor - 3)
        for i, height in enumerate(heights):
            middle = (i + 0.5) / _BINS
            colour = _KEPT if low <= middle <= high else _LEFT_OUT
            if height > 0:
                bar = QRectF(_SIDE + i * width + 0.5, floor - max(height, 1.5), width - 1, height)
                painter.fillRect(bar, colour)
        painter.setPen(QPen(AXIS_COLOUR, 1))
        painter.drawLine(QPointF(_SIDE, floor), QPointF(self.width() - _SIDE, floor))
        if self.range != (0.0, 1.0):
            painter.setPen(QPen(ink, 1.5))
            for end in self.range:
                x = _SIDE + end * (self.width() - 2 * _SIDE)
                painter.drawLine(QPointF(x, 1), QPointF(x, floor))
        self._draw_words(painter, ink)
        painter.end()

    def _draw_words(self, painter: QPainter, ink: QColor) -> None:
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() - 1.5))
        painter.setFont(font)
        painter.setPen(ink)
        low, high = self.range
        words = QRectF(_SIDE, _HEIGHT + 1, self.width() - 2 * _SIDE, painter.fontMetrics().height())
        for share, align in (
            (low, Qt.AlignmentFlag.AlignLeft),
            (high, Qt.AlignmentFlag.AlignRight),
        ):
            painter.drawText(words, align, f"{share:.0%}")
        painter.drawText(words, Qt.AlignmentFlag.AlignHCenter, "probability")
