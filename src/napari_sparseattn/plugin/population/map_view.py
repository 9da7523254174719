"""The map itself: a point per cell, drawn at once; a click picks one, a lasso many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QContextMenuEvent,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
    QResizeEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from ...card import readable_name
from ...metrics import whole_percent
from ..cells.shown import ShownCells
from ..widgets.inks import ink as ink_of
from .filter_bar import UNCLASSIFIED_COLOUR

__all__ = ["MapView", "draw_points", "inside_polygon"]

_SIDE = 14
_LEAST = QSize(160, 110)
_REACH = 9.0
#: Points are drawn so much larger than they are shown, and so get smooth edges; not of many.
_FINE, _MANY = 2, 5_000
#: More cells than these are picked: dots take the place of rings.
_MOST_RINGS = 400
_RING, _CURRENT = QColor("#ffffff"), QColor("#00d5ff")
_FAINT = np.array((128, 128, 128, 60), np.uint8)
_STILL = 5.0


class MapView(QWidget):
    """Points in the colours of their classes; those that are not shown elsewhere are faint.

    Signals
    -------
    picked : (numpy.ndarray, bool)
        Rows inside a lasso, and whether they are added to those picked before.
    gone_to : int
        A row was clicked, or reached by a key.
    """

    picked = Signal(object, bool)
    gone_to = Signal(int)
    menu_wanted = Signal(object)

    def __init__(self, shown: ShownCells, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown = shown
        self.places: npt.NDArray[np.float32] | None = None
        self.words = ""
        self.axes = ("", "")
        #: Middle, in the map's own numbers, and screen pixels per one of them; None for all.
        self._centre: npt.NDArray[np.float64] | None = None
        self._zoom = 1.0
        self._image: QImage | None = None
        self._picked: QImage | None = None
        self._lasso: list[QPointF] = []
        self._pan: QPointF | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("Map of cells")

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a little room."""
        return _LEAST

    # -- what is shown

    def set_places(
        self, places: npt.NDArray[np.float32] | None, words: str, axes: tuple[str, str]
    ) -> None:
        """Show a map (N, 2), or say in its place why there is none."""
        if places is not self.places:
            self._centre = None
        self.places, self.words, self.axes = places, words, axes
        self.redraw()

    def redraw(self) -> None:
        """Draw the points anew: they are others, or shown differently."""
        self._image = self._picked = None
        self.update()

    def show_picked(self) -> None:
        """Mark the cells that are picked."""
        row, results = self.shown.current, self.shown.results
        if row is not None and results is not None:
            n = len(self.shown.picked)
            more = f"; {n} cells are picked" if n > 1 else ""
            self.setAccessibleDescription(f"{self._facts(row)}{more}")
        self._picked = None
        self.update()

    def points(self) -> npt.NDArray[np.float64]:
        """Return where each cell is on the widget (N, 2), x and y; NaN where it has no place."""
        if self.places is None or len(self.places) != self.shown.total:
            return np.full((self.shown.total, 2), np.nan)
        centre, scale = self._view()
        moved = (self.places - centre) * (scale, -scale)
        found: npt.NDArray[np.float64] = moved + np.array((self.width() / 2, self.height() / 2))
        return found

    def _view(self) -> tuple[npt.NDArray[np.float64], float]:
        """Return the middle of what is seen, and the scale."""
        assert self.places is not None
        known = self.places[np.isfinite(self.places).all(1)].astype(np.float64)
        if not len(known):
            return np.zeros(2), 1.0
        low, high = known.min(0), known.max(0)
        span = np.maximum(high - low, 1e-9)
        room = np.array((self.width(), self.height()), float) - 2 * _SIDE
        fitted = float((np.maximum(room, 20) / span).min())
        if self._centre is None:
            return (low + high) / 2, fitted
        return self._centre, fitted * self._zoom

    def row_at(self, at: QPointF) -> int | None:
        """Return the cell at a place of the widget: the nearest of those that are shown."""
        rows = self.shown.rows
        if not len(rows) or self.places is None:
            return None
        away = np.hypot(*(self.points()[rows] - (at.x(), at.y())).T)
        away[np.isnan(away)] = np.inf
        nearest = int(away.argmin())
        return int(rows[nearest]) if away[nearest] <= _REACH else None

    def _facts(self, row: int) -> str:
        results = self.shown.results
        assert results is not None
        share = float(results.confidence[row])
        name = readable_name(self.shown.class_of(row)) or "not classified"
        known = f"{name} {whole_percent(share)}" if share == share else name
        given = self.shown.annotated.get(row)
        more = "" if given is None else f", annotated: {readable_name(given)}"
        return f"Cell {results.cells.ids[row]}: {known}{more}"

    # -- drawing

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Draw anew."""
        super().resizeEvent(event)
        self.redraw()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw points, what is picked, and the lasso."""
        painter = QPainter(self)
        ink = self.palette().color(self.foregroundRole())
        if self.places is None:
            painter.setPen(ink)
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.rect().adjusted(20, 4, -20, -4), int(flags), self.words)
            painter.end()
            return
        if self._image is None:
            self._image = self._draw()
        painter.drawImage(self.rect(), self._image)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_picked(painter, ink)
        self._draw_axes(painter, ink)
        if len(self._lasso) > 1:
            painter.setPen(QPen(ink, 1.5, Qt.PenStyle.DashLine))
            painter.setBrush(QColor(229, 181, 103, 40))
            painter.drawPolygon(QPolygonF(self._lasso))
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(ink, 1, Qt.PenStyle.DotLine))
            painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _draw(self) -> QImage:
        """Return all points as a picture; what is not shown elsewhere faint and below."""
        shown, points = self.shown, self.points()
        palette = np.array(
            [QColor(colour).getRgb() for colour in (*shown.colours, UNCLASSIFIED_COLOUR)], np.uint8
        )
        results = shown.results
        index = np.zeros(0, np.int64) if results is None else results.class_index
        colours = palette[index]
        rest = np.ones(len(points), bool)
        rest[shown.rows] = False
        colours[rest] = _FAINT
        order = np.concatenate([np.flatnonzero(rest), shown.rows]).astype(np.intp)
        fine = _FINE if len(points) <= _MANY else 1
        radius = 3.0 if len(points) <= 3000 else 2.2
        drawn = draw_points(
            points[order] * fine, colours[order], (self.height() * fine, self.width() * fine),
            radius * fine,
        )  # fmt: skip
        image = _image_of(drawn)
        if fine == 1:
            return image
        return image.scaled(self.size(), transformMode=Qt.TransformationMode.SmoothTransformation)

    def _draw_picked(self, painter: QPainter, ink: QColor) -> None:
        picked = self.shown.picked
        points = self.points()
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(ink, 1.5))
        there = points[picked]
        there = there[np.isfinite(there).all(1)]
        if len(there) <= _MOST_RINGS:
            for x, y in there:
                painter.drawEllipse(QPointF(x, y), 4.5, 4.5)
        else:
            # Rings of thousands say nothing, and drawn anew with every mouse move take long.
            if self._picked is None:
                colours = np.full((len(there), 4), QColor(ink).getRgb(), np.uint8)
                self._picked = _image_of(
                    draw_points(there, colours, (self.height(), self.width()), 1.2)
                )
            painter.drawImage(0, 0, self._picked)
        current = self.shown.current
        if current is not None and current < len(points) and np.isfinite(points[current]).all():
            painter.setPen(QPen(_CURRENT, 2.5))
            painter.drawEllipse(QPointF(*points[current]), 7, 7)
            painter.setPen(QPen(ink, 1.5))
            painter.drawEllipse(QPointF(*points[current]), 9, 9)

    def _draw_axes(self, painter: QPainter, ink: QColor) -> None:
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() - 1))
        painter.setFont(font)
        painter.setPen(QColor(ink_of(self, "muted")))
        across, up = self.axes
        metrics = painter.fontMetrics()
        at = self.width() - metrics.horizontalAdvance(across) - 6
        painter.drawText(QPointF(at, self.height() - 5), across)
        painter.drawText(QPointF(5, metrics.ascent() + 3), up)

    # -- mouse and keys

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Begin a lasso, or move the map with the middle button, or with Alt."""
        if self.places is None:
            return
        alt = event.modifiers() & Qt.KeyboardModifier.AltModifier
        if event.button() == Qt.MouseButton.MiddleButton or alt:
            self._pan = event.position()
        elif event.button() == Qt.MouseButton.LeftButton:
            self._lasso = [event.position()]

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the lasso, or move the map."""
        at = event.position()
        if self._pan is not None:
            centre, scale = self._view()
            moved = at - self._pan
            self._hold(centre - np.array((moved.x(), -moved.y())) / scale)
            self._pan = at
        elif self._lasso:
            self._lasso.append(at)
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Pick what is inside the lasso, or the cell that was clicked."""
        self._pan = None
        lasso, self._lasso = self._lasso, []
        if event.button() != Qt.MouseButton.LeftButton or not lasso:
            return
        add = bool(
            event.modifiers()
            & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier)
        )
        corners = np.array([(each.x(), each.y()) for each in lasso])
        if np.ptp(corners, axis=0).max() < _STILL:
            row = self.row_at(event.position())
            if row is None and not add:
                self.picked.emit(np.empty(0, np.intp), False)
            elif row is not None and add:
                self.picked.emit(np.array([row], np.intp), True)
            elif row is not None:
                self.gone_to.emit(row)
        else:
            rows = self.shown.rows
            self.picked.emit(rows[inside_polygon(self.points()[rows], corners)], add)
        self.update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Show the whole map."""
        self._lasso = []
        self._centre, self._zoom = None, 1.0
        self.redraw()

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        """Zoom about the mouse."""
        if self.places is None:
            return
        self.zoom(1.2 ** (event.angleDelta().y() / 120), event.position())
        event.accept()

    def zoom(self, by: float, at: QPointF) -> None:
        """Zoom about a place of the widget."""
        centre, scale = self._view()
        offset = np.array((at.x() - self.width() / 2, self.height() / 2 - at.y()))
        there = centre + offset / scale
        before, self._zoom = self._zoom, min(max(self._zoom * by, 1.0), 200.0)
        if self._zoom == 1.0:
            self._centre = None
            self.redraw()
        else:
            self._hold(there - offset / (scale * self._zoom / before))

    def _hold(self, centre: npt.NDArray[np.float64]) -> None:
        self._centre = centre
        self.redraw()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:  # noqa: N802 - Qt's name
        """Offer the classes for what is picked."""
        row = self.row_at(QPointF(event.pos()))
        if row is not None and row not in self.shown.picked:
            self.shown.pick((row,), row)
        if len(self.shown.picked):
            self.menu_wanted.emit(event.globalPos())

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Go to the next point in a direction, pick more or all; + and − zoom."""
        ways = {
            Qt.Key.Key_Left: (-1.0, 0.0),
            Qt.Key.Key_Right: (1.0, 0.0),
            Qt.Key.Key_Up: (0.0, -1.0),
            Qt.Key.Key_Down: (0.0, 1.0),
        }
        key, middle = Qt.Key(event.key()), QPointF(self.width() / 2, self.height() / 2)
        if key in ways and self.places is not None:
            row = self._towards(np.array(ways[key]))
            if row is not None and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                self.shown.pick(np.union1d(self.shown.picked, [row]).astype(np.intp), row)
            elif row is not None:
                self.gone_to.emit(row)
        elif key == Qt.Key.Key_A and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.picked.emit(self.shown.rows, False)
        elif key == Qt.Key.Key_Menu and len(self.shown.picked):
            self.menu_wanted.emit(self.mapToGlobal(middle.toPoint()))
        elif (
            key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus) and self.places is not None
        ):
            self.zoom(1 / 1.2 if key == Qt.Key.Key_Minus else 1.2, middle)
        elif key == Qt.Key.Key_Escape:
            self.picked.emit(np.empty(0, np.intp), False)
        else:
            super().keyPressEvent(event)

    def _towards(self, way: npt.NDArray[np.float64]) -> int | None:
        """Return the nearest cell in a direction from the current one; the first without one."""
        rows, current = self.shown.rows, self.shown.current
        points = self.points()
        if not len(rows):
            return None
        if current is None or not np.isfinite(points[current]).all():
            return int(rows[0])
        apart = points[rows] - points[current]
        along = apart @ way
        aside = np.abs(apart @ way[::-1])
        cost = np.where((along > 0.5) & (aside <= along), np.hypot(along, 2 * aside), np.inf)
        cost[np.isnan(cost)] = np.inf
        nearest = int(cost.argmin())
        return int(rows[nearest]) if np.isfinite(cost[nearest]) else None

    def event(self, event: QEvent) -> bool:
        """Say which cell is under the mouse."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            row = self.row_at(QPointF(event.pos()))
            if row is None:
                QToolTip.hideText()
            else:
                QToolTip.showText(event.globalPos(), self._facts(row), self)
            return True
        return bool(super().event(event))


def _image_of(drawn: npt.NDArray[np.uint8]) -> QImage:
    """Return a picture (H, W, 4), premultiplied, as Qt's, with memory of its own."""
    height, width = drawn.shape[:2]
    stored = QImage.Format.Format_RGBA8888_Premultiplied
    return QImage(drawn.data, width, height, 4 * width, stored).copy()


def draw_points(
    points: npt.NDArray[np.float64],
    colours: npt.NDArray[np.uint8],
    shape: tuple[int, int],
    radius: float,
) -> npt.NDArray[np.uint8]:
    """Draw discs, the last on top.

    Parameters
    ----------
    points : numpy.ndarray
        (N, 2) x and y in pixels; those that are not finite are left out.
    colours : numpy.ndarray
        (N, 4) uint8 RGBA.
    shape : (int, int)
        Height and width.
    radius : float
        Of a disc, in pixels.

    Returns
    -------
    numpy.ndarray
        (H, W, 4) uint8 RGBA with premultiplied alpha.
    """
    height, width = shape
    drawn = np.zeros((height, width, 4), np.uint8)
    known = np.isfinite(points).all(1)
    at = np.rint(points[known]).astype(np.int64)
    alpha = colours[known, 3:].astype(np.uint16)
    ink = (colours[known].astype(np.uint16) * alpha // 255).astype(np.uint8)
    ink[:, 3] = colours[known, 3]
    packed = np.ascontiguousarray(ink).view(np.uint32)[:, 0]
    flat = drawn.view(np.uint32).reshape(-1)
    reach = int(np.ceil(radius))
    steps = np.arange(-reach, reach + 1)
    down, right = np.meshgrid(steps, steps, indexing="ij")
    disc = np.hypot(down, right) <= radius
    # By cell, and not by pixel of the disc: who is drawn later lies on top as a whole.
    inside = (
        (at[:, 0] >= reach) & (at[:, 0] < width - reach)
        & (at[:, 1] >= reach) & (at[:, 1] < height - reach)
    )  # fmt: skip
    offsets = (down[disc] * width + right[disc]).astype(np.int64)
    where = (at[inside, 1] * width + at[inside, 0])[:, None] + offsets
    flat[where.reshape(-1)] = np.repeat(packed[inside], len(offsets))
    return drawn


def inside_polygon(
    points: npt.NDArray[np.float64], corners: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which points (N, 2) lie within a closed polygon (K, 2), by even and odd crossings."""
    x, y = points.T
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if ay == by:
            continue
        crosses = (ay > y) != (by > y)
        inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside
