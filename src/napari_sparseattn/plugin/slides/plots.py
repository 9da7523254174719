"""Small pictures painted with Qt: signed bars, and how few patches hold how much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..core.messages import share_text

__all__ = ["ConcentrationCurve", "SignedBars"]

_ROW_HEIGHT = 20
_FOR, _AGAINST = QColor("#d6604d"), QColor("#4393c3")
_CURVE, _EVEN = QColor("#56b4e9"), QColor("#8c98a6")
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
        painter.setPen(QPen(_EVEN, 1))
        painter.drawLine(QPointF(zero, 2), QPointF(zero, _ROW_HEIGHT * len(self.rows) - 2))
        painter.end()


class ConcentrationCurve(QWidget):
    """The share of the attention that the most attended patches hold, over their number.

    The number is drawn in powers of ten; a dotted line shows the share if
    all patches got the same.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.total = 1
        self.chosen = 1
        self.numbers: npt.NDArray[np.int64] = np.array([1])
        self.shares: npt.NDArray[np.float64] = np.array([1.0])
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(_CURVE_HEIGHT)
        self.setMinimumWidth(100)

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
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        metrics = painter.fontMetrics()
        left = metrics.horizontalAdvance("100 %") + 8.0
        bottom = self.height() - metrics.height() - 2.0
        frame = QRectF(left, 5, self.width() - left - 12.0, bottom - 7.0)
        painter.setPen(QPen(_EVEN, 1))
        painter.drawLine(frame.bottomLeft(), frame.bottomRight())
        painter.drawLine(frame.bottomLeft(), frame.topLeft())
        self._draw_numbers(painter, frame)
        even = self.numbers / max(self.total, 1)
        painter.setPen(QPen(_EVEN, 1.2, Qt.PenStyle.DotLine))
        painter.drawPolyline(self._line(frame, even))
        painter.setPen(QPen(_CURVE, 1.8))
        painter.drawPolyline(self._line(frame, self.shares))
        share = float(np.interp(self.chosen, self.numbers, self.shares))
        at = QPointF(self._x(frame, self.chosen), frame.bottom() - share * frame.height())
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_FOR)
        painter.drawEllipse(at, 4.0, 4.0)
        painter.end()

    def _draw_numbers(self, painter: QPainter, frame: QRectF) -> None:
        metrics = painter.fontMetrics()
        painter.setPen(self.palette().color(self.foregroundRole()))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        height = metrics.height()
        for share in (0, 100):
            y = frame.bottom() - share / 100 * frame.height()
            place = QRectF(0, y - height / 2, frame.left() - 4, height)
            painter.drawText(place, right, f"{share} %")
        power = 1
        while power <= self.total:
            x, text = self._x(frame, power), f"{power:,}".replace(",", "\u2009")
            width = metrics.horizontalAdvance(text)
            x = min(max(x - width / 2, frame.left()), self.width() - width - 1.0)
            painter.drawText(QPointF(x, frame.bottom() + metrics.ascent() + 2), text)
            power *= 10

    def _x(self, frame: QRectF, number: float) -> float:
        most = max(np.log10(max(self.total, 2)), 1e-9)
        return float(frame.left() + frame.width() * np.log10(max(number, 1)) / most)

    def _line(self, frame: QRectF, shares: npt.NDArray[np.float64]) -> QPolygonF:
        most = max(np.log10(max(self.total, 2)), 1e-9)
        x = frame.left() + frame.width() * np.log10(np.maximum(self.numbers, 1)) / most
        y = frame.bottom() - shares * frame.height()
        return QPolygonF([QPointF(*at) for at in zip(x.tolist(), y.tolist(), strict=True)])
