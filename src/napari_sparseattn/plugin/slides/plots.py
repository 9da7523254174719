"""Small pictures painted with Qt: signed bars, and how few patches hold how much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..core.messages import share_text
from ..widgets.axes import AXIS_COLOUR, Axes, Plot

__all__ = ["ConcentrationCurve", "SignedBars"]

_ROW_HEIGHT = 20
_FOR, _AGAINST = QColor("#d6604d"), QColor("#4393c3")
_CURVE = QColor("#2f86c8")
_CURVE_HEIGHT = 84


class SignedBars(QWidget):
    """Numbers as bars to the right of a line where they are positive, else to the left."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[tuple[str, float]] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_rows(self, rows: list[tuple[str, float]]) -> None:
        """Show (name, number)."""
        self.rows = rows
        self.setAccessibleDescription(
            "; ".join(f"{name}: {share_text(value)}" for name, value in rows)
        )
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room the rows need."""
        return QSize(200, _ROW_HEIGHT * len(self.rows))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height: rows are not cut."""
        return QSize(100, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the rows."""
        if not self.rows:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        metrics = painter.fontMetrics()
        left = max(metrics.horizontalAdvance(name) for name, _ in self.rows) + 10.0
        right = metrics.horizontalAdvance("−00.00") + 6.0
        half = max(10.0, (self.width() - left - right) / 2)
        zero, most = left + half, max(abs(value) for _, value in self.rows) or 1.0
        for i, (name, value) in enumerate(self.rows):
            top = i * _ROW_HEIGHT
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(_FOR if value > 0 else _AGAINST)
            length = half * abs(value) / most
            start = zero if value > 0 else zero - length
            painter.drawRect(QRectF(start, top + 5, length, _ROW_HEIGHT - 10))
            painter.setPen(ink)
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(2, top, left, _ROW_HEIGHT), middle, name)
            painter.drawText(
                QRectF(self.width() - right, top, right - 2, _ROW_HEIGHT),
                middle | Qt.AlignmentFlag.AlignRight,
                share_text(value),
            )
        painter.setPen(QPen(AXIS_COLOUR, 1))
        painter.drawLine(QPointF(zero, 2), QPointF(zero, _ROW_HEIGHT * len(self.rows) - 2))
        painter.end()


class ConcentrationCurve(Plot):
    """The share of the attention that the most attended patches hold, over their number.

    The number is drawn in powers of ten; a dotted line shows the share if
    all patches got the same.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_CURVE_HEIGHT, 100, parent)
        self.total = 1
        self.chosen = 1
        self.numbers: npt.NDArray[np.int64] = np.array([1])
        self.shares: npt.NDArray[np.float64] = np.array([1.0])

    def set_curve(
        self, numbers: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], total: int
    ) -> None:
        """Show the shares, 0 to 1, of so many patches, rising, of `total`."""
        self.numbers, self.shares, self.total = numbers, shares, total
        self.update()

    def set_chosen(self, number: int) -> None:
        """Mark one number of patches."""
        self.chosen = number
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw axes, the dotted line, the curve and the mark."""
        painter, ink = self.begin()
        metrics = painter.fontMetrics()
        left, bottom = metrics.horizontalAdvance("100 %") + 8.0, self.height() - metrics.height()
        frame = QRectF(left, 5, self.width() - left - 12.0, bottom - 9.0)
        axes = Axes(painter, frame, (0, np.log10(max(self.total, 2))), (0, 1), ink)
        powers = range(len(str(self.total)))
        numbers = [(float(power), f"{10**power:,}".replace(",", "\u2009")) for power in powers]
        axes.draw(numbers, [(0, "0 %"), (1, "100 %")])
        x = np.log10(np.maximum(self.numbers, 1))
        dotted = QPen(AXIS_COLOUR, 1.2, Qt.PenStyle.DotLine)
        axes.draw_curve(x, self.numbers / max(self.total, 1), dotted)
        axes.draw_curve(x, self.shares, QPen(_CURVE, 1.8))
        share = float(np.interp(self.chosen, self.numbers, self.shares))
        axes.draw_dot(np.log10(max(self.chosen, 1)), share, _FOR, 4.0)
        painter.end()
