"""Small pictures of training, painted with Qt: curves over epochs, and what is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..widgets.picture import nice_ticks

__all__ = ["TrainingCurve", "WatchedCells", "dimmed"]

_LINES = (QColor("#8c98a6"), QColor("#56b4e9"))
_AXIS, _BEST = QColor("#8c98a6"), QColor("#e5b567")
_HEIGHT, _LEAST_WIDTH = 124, 120
_MOST_TICKS_Y, _TICK_ROOM = 3, 34
_GAP, _DIM = 4, 0.25

Values = Sequence[float | None]


class TrainingCurve(QWidget):
    """One or two lines over the epochs, with numbers at the axes.

    Parameters
    ----------
    title : str
        What is drawn, with its unit.
    lines : sequence of str
        What the lines are of; the second is drawn in colour.
    top : float, optional
        The highest number of the axis; by default that of the data.
    """

    def __init__(
        self, title: str, lines: Sequence[str], parent: QWidget | None = None, *,
        top: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self.title, self.lines, self.top = title, tuple(lines), top
        self.values: dict[str, Values] = {}
        self.epochs, self.best = 1, 0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(_HEIGHT)
        self.setMinimumWidth(_LEAST_WIDTH)

    def set_values(self, values: Mapping[str, Values], epochs: int, best: int = 0) -> None:
        """Show a number per epoch, from the first on; None where there is none.

        Parameters
        ----------
        values : mapping of str to sequence
            By the names of the lines.
        epochs : int
            Of the whole run.
        best : int
            The epoch to mark; 0 for none.
        """
        self.values = {name: tuple(values.get(name, ())) for name in self.lines}
        longest = max((len(column) for column in self.values.values()), default=0)
        self.epochs, self.best = max(epochs, longest, 1), best
        told = (f"{name} {column[-1]:.3g}" for name, column in self.values.items()
                if column and column[-1] is not None)  # fmt: skip
        self.setAccessibleDescription(f"{self.title}: {', '.join(told)}")
        self.update()

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest number of the axis."""
        known = [v for column in self.values.values() for v in column if v is not None]
        top = self.top if self.top is not None else 1.05 * max(known, default=0.0)
        top = top if top > 0 else 1.0
        return 0.0, top

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw title, axes, numbers and lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() - 1))
        painter.setFont(font)
        line = painter.fontMetrics().height()
        frame = QRectF(
            _TICK_ROOM, 2 * line + 8, self.width() - _TICK_ROOM - 8, self.height() - 3 * line - 12
        )
        self._draw_words(painter, line)
        self._draw_axes(painter, frame, line)
        for name, colour in zip(self.lines, self._colours(), strict=True):
            self._draw_line(painter, frame, self.values.get(name, ()), colour)
        painter.end()

    def _colours(self) -> tuple[QColor, ...]:
        return _LINES[2 - len(self.lines) :]

    def _draw_words(self, painter: QPainter, line: int) -> None:
        metrics = painter.fontMetrics()
        painter.setPen(self.palette().color(self.foregroundRole()))
        title = metrics.elidedText(self.title, Qt.TextElideMode.ElideRight, self.width() - 4)
        painter.drawText(QPointF(2, metrics.ascent()), title)
        left = 2.0
        if len(self.lines) > 1:
            for name, colour in zip(self.lines, self._colours(), strict=True):
                painter.setPen(QPen(colour, 2))
                middle = line + metrics.height() / 2
                painter.drawLine(QPointF(left, middle), QPointF(left + 10, middle))
                painter.setPen(self.palette().color(self.foregroundRole()))
                painter.drawText(QPointF(left + 13, line + metrics.ascent()), name)
                left += metrics.horizontalAdvance(name) + 22

    def _draw_axes(self, painter: QPainter, frame: QRectF, line: int) -> None:
        metrics, ink = painter.fontMetrics(), self.palette().color(self.foregroundRole())
        low, high = self.limits
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value in nice_ticks(low, high, _MOST_TICKS_Y):
            y = self._y(frame, value)
            faint = QColor(_AXIS)
            faint.setAlphaF(0.35)
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
            painter.setPen(ink)
            place = QRectF(0, y - line / 2, frame.left() - 4, line)
            painter.drawText(place, right, f"{value:g}")
        painter.setPen(QPen(_AXIS, 1))
        painter.drawLine(frame.bottomLeft(), frame.bottomRight())
        painter.drawLine(frame.bottomLeft(), frame.topLeft())
        painter.setPen(ink)
        most = max(2, int(frame.width() // (metrics.horizontalAdvance("00") + 14)))
        marks = [v for v in nice_ticks(0, self.epochs, min(most, 6)) if v >= 1 and v == int(v)]
        for value in marks or [1, self.epochs]:
            text = f"{value:g}"
            x = self._x(frame, value) - metrics.horizontalAdvance(text) / 2
            painter.drawText(QPointF(x, frame.bottom() + metrics.ascent() + 2), text)

    def _draw_line(self, painter: QPainter, frame: QRectF, column: Values, colour: QColor) -> None:
        points = [
            QPointF(self._x(frame, i), self._y(frame, value))
            for i, value in enumerate(column, 1)
            if value is not None
        ]
        painter.setPen(QPen(colour, 1.8))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPolyline(QPolygonF(points))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        if len(points) == 1:
            painter.drawEllipse(points[0], 2.5, 2.5)
        shown = [i for i, value in enumerate(column, 1) if value is not None]
        if self.best in shown and colour is _LINES[-1]:
            painter.setBrush(_BEST)
            painter.drawEllipse(points[shown.index(self.best)], 4.0, 4.0)

    def _x(self, frame: QRectF, epoch: float) -> float:
        return float(frame.left() + frame.width() * (epoch - 1) / max(self.epochs - 1, 1))

    def _y(self, frame: QRectF, value: float) -> float:
        low, high = self.limits
        share = (min(max(value, low), high) - low) / max(high - low, 1e-12)
        return float(frame.bottom() - share * frame.height())


class WatchedCells(QWidget):
    """A few held-out cells side by side, bright where the model looks."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.pictures: list[npt.NDArray[np.uint8]] = []
        self.caption = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_pictures(self, pictures: list[npt.NDArray[np.uint8]], caption: str = "") -> None:
        """Show pictures (s, s, 3) below a line of text."""
        if len(pictures) != len(self.pictures):
            self.updateGeometry()
        self.pictures, self.caption = pictures, caption
        self.setAccessibleDescription(caption)
        self.update()

    def hasHeightForWidth(self) -> bool:  # noqa: N802 - Qt's name
        """Say that the width decides."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802 - Qt's name
        """Return the side of one picture, and a line."""
        return int(self._side(width) + self.fontMetrics().height() + _GAP)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room for one row."""
        return QSize(300, self.heightForWidth(max(self.width(), 300)))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height."""
        return QSize(100, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the row."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        side, metrics = self._side(self.width()), painter.fontMetrics()
        painter.setPen(self.palette().color(self.foregroundRole()))
        told = metrics.elidedText(self.caption, Qt.TextElideMode.ElideRight, self.width() - 4)
        painter.drawText(QPointF(2, metrics.ascent()), told)
        top = metrics.height() + _GAP
        for i, picture in enumerate(self.pictures):
            height, width, _ = picture.shape
            pixels = np.ascontiguousarray(picture).tobytes()
            image = QImage(pixels, width, height, 3 * width, QImage.Format.Format_RGB888)
            painter.drawImage(QRectF(i * (side + _GAP), top, side, side), image)
        painter.end()

    def _side(self, width: int) -> float:
        n = max(len(self.pictures), 4)
        return min(96.0, (width - (n - 1) * _GAP) / n)


def dimmed(
    picture: npt.NDArray[np.uint8], pixels: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.uint8]:
    """Darken a picture where a model does not look.

    Parameters
    ----------
    picture : numpy.ndarray
        (s, s, 3) uint8.
    pixels : numpy.ndarray
        (k,) int64: ``row * size + column`` of what is looked at.
    size : int
        Side of the model's image.

    Returns
    -------
    numpy.ndarray
        (s, s, 3) uint8.
    """
    looked = np.zeros(size * size, dtype=bool)
    looked[pixels[(pixels >= 0) & (pixels < size * size)]] = True
    side = picture.shape[0]
    nearest = (np.arange(side) * size // side).astype(int)
    bright = looked.reshape(size, size)[nearest[:, None], nearest[None]]
    shown: npt.NDArray[np.uint8] = np.where(bright[..., None], picture, picture * _DIM).astype(
        np.uint8
    )
    return shown
