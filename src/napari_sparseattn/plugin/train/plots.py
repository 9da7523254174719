"""Small pictures of training, painted with Qt: curves, confusion matrix, and watched cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from ...card import readable_name
from ..core.messages import counted
from ..widgets.axes import AXIS_COLOUR, Axes, Plot
from ..widgets.picture import nice_ticks
from ..widgets.rich import rich

__all__ = ["ConfusionMatrix", "LearningCurve", "TrainingCurve", "WatchedCells"]

_LINES = (AXIS_COLOUR, QColor("#2f86c8"))
_BEST = QColor("#b5780f")
_HEIGHT, _LEAST_WIDTH = 124, 120
_MOST_TICKS_X, _MOST_TICKS_Y, _TICK_ROOM = 6, 3, 34
_GAP = 4
_RIGHT, _WRONG, _CHOSEN = QColor("#009e73"), QColor("#d55e00"), QColor("#e5b567")
_LEAST_FIELD, _MOST_FIELD, _SWATCH = 18, 34, 8
_MOST_NAME = 110

_STEPS = {
    Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
}  # fmt: skip

Values = Sequence[float | None]


class TrainingCurve(Plot):
    """One or two lines over the epochs, with numbers at the axes.

    Parameters
    ----------
    title : str
        Of the plot, with the unit.
    lines : sequence of str
        Names of the lines; the second is drawn in colour.
    top : float, optional
        The highest number of the axis; by default that of the data.
    """

    def __init__(
        self, title: str, lines: Sequence[str], parent: QWidget | None = None, *,
        top: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_HEIGHT, _LEAST_WIDTH, parent)
        self.title, self.lines, self.top = title, tuple(lines), top
        self.values: dict[str, Values] = {}
        self.epochs, self.best = 1, 0

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
        last = (f"{name} {column[-1]:.3g}" for name, column in self.values.items()
                if column and column[-1] is not None)  # fmt: skip
        self.setAccessibleDescription(f"{self.title}: {', '.join(last)}")
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
        painter, ink = self.begin()
        metrics = painter.fontMetrics()
        line = metrics.height()
        frame = QRectF(
            _TICK_ROOM, 2 * line + 8, self.width() - _TICK_ROOM - 8, self.height() - 3 * line - 12
        )
        painter.setPen(ink)
        self.draw_title(painter, self.title)
        self._draw_names(painter, line, ink)
        axes = Axes(painter, frame, (1, max(self.epochs, 2)), self.limits, ink)
        most = max(2, int(frame.width() // (metrics.horizontalAdvance("00") + 14)))
        marks = nice_ticks(0, self.epochs, min(most, _MOST_TICKS_X))
        whole = [v for v in marks if v >= 1 and v == int(v)] or [1, self.epochs]
        axes.draw(
            [(v, f"{v:g}") for v in whole],
            [(v, f"{v:g}") for v in nice_ticks(*self.limits, _MOST_TICKS_Y)],
        )
        for name, colour in zip(self.lines, self._colours(), strict=True):
            self._draw_line(axes, self.values.get(name, ()), colour)
        painter.end()

    def _colours(self) -> tuple[QColor, ...]:
        return _LINES[2 - len(self.lines) :]

    def _draw_names(self, painter: QPainter, line: int, ink: QColor) -> None:
        metrics, left = painter.fontMetrics(), 2.0
        for name, colour in zip(self.lines, self._colours(), strict=True):
            if len(self.lines) > 1:
                painter.setPen(QPen(colour, 2))
                middle = line + metrics.height() / 2
                painter.drawLine(QPointF(left, middle), QPointF(left + 10, middle))
                painter.setPen(ink)
                painter.drawText(QPointF(left + 13, line + metrics.ascent()), name)
                left += metrics.horizontalAdvance(name) + 22

    def _draw_line(self, axes: Axes, column: Values, colour: QColor) -> None:
        points = {i: value for i, value in enumerate(column, 1) if value is not None}
        axes.draw_curve(points.keys(), points.values(), QPen(colour, 1.8))
        if len(points) == 1:
            axes.draw_dot(*next(iter(points.items())), colour, 2.5)
        if self.best in points and colour is _LINES[-1]:
            axes.draw_dot(self.best, points[self.best], _BEST, 4.0)


class LearningCurve(Plot):
    """Accuracy by how many groups were learned from, with intervals, and what twice may give."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_HEIGHT, _LEAST_WIDTH, parent)
        self.points: tuple[tuple[float, float, float, float], ...] = ()
        self.twice: Mapping[str, Any] | None = None

    def set_points(
        self,
        points: Sequence[tuple[float, float, float, float]],
        twice: Mapping[str, Any] | None = None,
    ) -> None:
        """Show points: groups, accuracy, and its lowest and highest; 0 to 1.

        Parameters
        ----------
        points : sequence of tuple
            Fewest groups first.
        twice : mapping, optional
            ``accuracy`` and ``interval`` to be expected of twice the most groups.
        """
        self.points, self.twice = tuple(points), twice if points else None
        self.setAccessibleDescription(
            "; ".join(f"{n:.0f} groups: {100 * each:.0f} %" for n, each, _, _ in self.points)
        )
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw title, axes, points with their intervals, and the open one to be expected."""
        painter, ink = self.begin()
        painter.setPen(ink)
        self.draw_title(painter, "accuracy by groups learned from (hollow: expected)")
        if not self.points:
            painter.end()
            return
        line = painter.fontMetrics().height()
        room = _TICK_ROOM + 14
        frame = QRectF(room, line + 8, self.width() - room - 14, self.height() - 2 * line - 12)
        last = self.points[-1][0] * (2 if self.twice else 1)
        lowest = min(low for _, _, low, _ in self.points)
        bottom = np.floor(10 * max(0.0, lowest - 0.02)) / 10
        axes = Axes(painter, frame, (0, last * 1.06), (bottom, 1), ink)
        marks = [n for n, _, _, _ in self.points] + ([last] if self.twice else [])
        axes.draw(
            [(n, f"{n:.0f}") for n in marks],
            [(v, f"{100 * v:.0f} %") for v in (bottom, (bottom + 1) / 2, 1)],
        )
        axes.draw_curve([n for n, *_ in self.points], [v for _, v, *_ in self.points],
                        QPen(_LINES[-1], 1.8))  # fmt: skip
        for n, value, low, high in self.points:
            axes.draw_curve([n, n], [low, high], QPen(_LINES[-1], 1.2))
            axes.draw_dot(n, value, _LINES[-1], 3.0)
        if self.twice:
            low, high = self.twice["interval"]
            axes.draw_curve([last, last], [low, high], QPen(_BEST, 1.2, Qt.PenStyle.DashLine))
            axes.draw_dot(last, self.twice["accuracy"], _BEST, 3.0)
        painter.end()


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
        self.setAccessibleName("Confusion matrix")

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
        """Mark a field, and emit `picked`."""
        self.chosen = (row, column)
        self.update()
        self.picked.emit(self.names[row], self.names[column])

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Pick the field that is pressed."""
        found = self.field_at(event.position().x(), event.position().y())
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            self.choose(*found)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Go from field to field, and pick it."""
        step = _STEPS.get(Qt.Key(event.key()))
        n = len(self.names)
        if step is None or not n:
            super().keyPressEvent(event)
            return
        row, column = self.chosen or (0, 0)
        if self.chosen is not None:
            row, column = (
                min(max(at + by, 0), n - 1) for at, by in zip((row, column), step, strict=True)
            )
        self.choose(row, column)

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
                QToolTip.showText(event.globalPos(), rich(self._describe(row, column)), self)
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
            text = metrics.elidedText(
                readable_name(name), Qt.TextElideMode.ElideRight, int(left) - _SWATCH - 10
            )
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

    def _describe(self, row: int, column: int) -> str:
        count = int(self.counts[row, column])
        cells = counted(count, "cell")
        press = " Click to list them." if count else ""
        yours, called = (readable_name(self.names[i]) for i in (row, column))
        return f"{cells} of your '{yours}' that it calls '{called}'.{press}"

    def _top(self) -> float:
        return float(self.fontMetrics().height() + 2 * _SWATCH + 4)

    def _frame(self) -> QRectF:
        metrics, n = self.fontMetrics(), max(len(self.names), 1)
        names = max(
            (metrics.horizontalAdvance(readable_name(name)) for name in self.names), default=0
        )
        left = min(names, _MOST_NAME) + _SWATCH + 14.0
        width = min(self.width() - left - 2, 1.6 * _MOST_FIELD * n)
        return QRectF(left, self._top(), width, self.height() - self._top() - 2)


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
        shown = metrics.elidedText(self.caption, Qt.TextElideMode.ElideRight, self.width() - 4)
        painter.drawText(QPointF(2, metrics.ascent()), shown)
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
