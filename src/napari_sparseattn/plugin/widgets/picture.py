"""A picture with a colour bar, painted with Qt and napari's colour maps."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QBrush, QColor, QImage, QPainter, QPaintEvent, QPen, QPixmap
from qtpy.QtWidgets import (
    QGraphicsEllipseItem,
    QGraphicsScene,
    QGraphicsView,
    QSizePolicy,
    QWidget,
)

__all__ = ["ColourBar", "Disk", "Picture", "nice_ticks", "pixmap"]

_LEVELS = 255
#: Not a number: neither the darkest nor the brightest of any map used here.
_BAD = 0xFF5A5A5A
_BAR_HEIGHT = 12
_TICK = 4
_DISK = "#ffb000"
_STEPS = {
    Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
}  # fmt: skip
_TURNS = {Qt.Key.Key_Plus: 1, Qt.Key.Key_Equal: 1, Qt.Key.Key_Minus: -1}
_OUTLINE = 0xFFFF5A36


@functools.cache
def _table(colormap: str) -> tuple[int, ...]:
    """Colours as 0xAARRGGBB: 255 levels, then the one for what is not a number."""
    from napari.utils.colormaps import ensure_colormap

    rgba = ensure_colormap(colormap).map(np.linspace(0, 1, _LEVELS))
    levels = np.rint(255 * np.asarray(rgba)).astype(int)
    return (*(int(a) << 24 | int(r) << 16 | int(g) << 8 | int(b) for r, g, b, a in levels), _BAD)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two limits, at most so many."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


class ColourBar(QWidget):
    """The colours of a picture with numbers and their unit."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.colormap = "viridis"
        self.limits = (0.0, 1.0)
        self.unit = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_scale(self, colormap: str, limits: tuple[float, float], unit: str) -> None:
        """Say what the colours stand for."""
        self.colormap, self.limits, self.unit = colormap, limits, unit
        self.setAccessibleDescription(f"{limits[0]:.4g} to {limits[1]:.4g} {unit}")
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room for the bar and a line of numbers."""
        return QSize(200, _BAR_HEIGHT + _TICK + self.fontMetrics().height() + 2)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height."""
        return QSize(100, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw bar, ticks and numbers."""
        painter = QPainter(self)
        metrics = painter.fontMetrics()
        unit_width = metrics.horizontalAdvance(self.unit + " ") + 4
        left, width = 14.0, self.width() - 28.0 - unit_width
        ramp = np.linspace(0, _LEVELS - 1, 256).astype(np.uint8)[None]
        painter.drawImage(QRectF(left, 0, width, _BAR_HEIGHT), _indexed(ramp, self.colormap))
        painter.setPen(self.palette().color(self.foregroundRole()))
        low, high = self.limits
        widest = max(metrics.horizontalAdvance(f"{v:.4g}") for v in (low, high, -1000))
        for value in nice_ticks(low, high, max(2, int(width // (widest + 8)))):
            x = left + width * (value - low) / (high - low if high > low else 1)
            painter.drawLine(QPointF(x, _BAR_HEIGHT), QPointF(x, _BAR_HEIGHT + _TICK))
            text = f"{value:g}"
            half = metrics.horizontalAdvance(text) / 2
            painter.drawText(QPointF(x - half, _BAR_HEIGHT + _TICK + metrics.ascent()), text)
        painter.drawText(QPointF(left + width + 8, _BAR_HEIGHT - 1), self.unit)
        painter.end()


class Disk(QGraphicsEllipseItem):
    """A circle outlined in screen pixels, whatever the zoom."""

    def __init__(self, *, faint: bool = False) -> None:
        super().__init__()
        pen = QPen(QColor(_DISK), 1.0 if faint else 2.0)
        pen.setCosmetic(True)
        if faint:
            pen.setStyle(Qt.PenStyle.DotLine)
        self.setPen(pen)
        self.setBrush(QBrush(Qt.BrushStyle.NoBrush))

    def place(self, row: float, column: float, radius: float) -> None:
        """Move to pixel coordinates."""
        self.setRect(column - radius, row - radius, 2 * radius, 2 * radius)


class Picture(QGraphicsView):
    """An array shown in colour; tells where it is pressed, and of the wheel.

    Signals
    -------
    picked : (float, float)
        Row and column, while the left button is down.
    turned : int
        Steps of the wheel, or of the keys + and −.
    stepped : (int, int)
        Rows and columns by which an arrow key moves what was picked.
    """

    picked = Signal(float, float)
    turned = Signal(int)
    stepped = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setScene(QGraphicsScene(self))
        self._pixels = self.scene().addPixmap(QPixmap())
        self._pixels.setTransformationMode(Qt.TransformationMode.SmoothTransformation)
        self._outline = self.scene().addPixmap(QPixmap())
        self.shape = (0, 0)
        self.pickable = False
        self.setFrameShape(QGraphicsView.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        for policy in (self.setHorizontalScrollBarPolicy, self.setVerticalScrollBarPolicy):
            policy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(120)
        self.setFixedHeight(260)

    def set_values(
        self, values: npt.NDArray[Any] | None, colormap: str, limits: tuple[float, float]
    ) -> None:
        """Show an array (H, W) between two limits, or nothing."""
        if values is None:
            self._pixels.setPixmap(QPixmap())
            self._outline.setPixmap(QPixmap())
            self.shape = (0, 0)
            return
        self._pixels.setPixmap(QPixmap.fromImage(_indexed(_levels(values, limits), colormap)))
        height, width = values.shape
        self.shape = (height, width)
        self.setSceneRect(0, 0, width, height)
        self._fit()

    def set_outline(self, mask: npt.NDArray[np.bool_] | None) -> None:
        """Draw the border of a mask (H, W) over the picture, or none."""
        if mask is None:
            self._outline.setPixmap(QPixmap())
            return
        edge = np.zeros(mask.shape, np.uint32)
        rows, columns = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
        edge[1:][rows] = edge[:, 1:][columns] = _OUTLINE
        image = QImage(
            edge.tobytes(), mask.shape[1], mask.shape[0], QImage.Format.Format_ARGB32
        ).copy()
        self._outline.setPixmap(QPixmap.fromImage(image))

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the picture to the new size."""
        super().resizeEvent(event)
        self._fit()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Tell where the picture is pressed."""
        self._pick(event)

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Tell where the picture is dragged to."""
        self._pick(event)

    def set_pickable(self, on: bool) -> None:
        """Say whether a place can be picked; only then do keys come here."""
        self.pickable = on
        policy = Qt.FocusPolicy.StrongFocus if on else Qt.FocusPolicy.NoFocus
        self.setFocusPolicy(policy)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Move what is picked by arrow keys, by more with Shift; tell of + and −."""
        key = Qt.Key(event.key())
        far = 10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        if self.pickable and key in _STEPS:
            down, right = _STEPS[key]
            self.stepped.emit(far * down, far * right)
        elif self.pickable and key in _TURNS:
            self.turned.emit(_TURNS[key])
        else:
            # What QGraphicsView does with keys is to scroll, and there is nothing to scroll.
            event.ignore()

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Tell of the wheel, where that means something; else scroll the dock."""
        if not self.pickable:
            event.ignore()
            return
        self.turned.emit(1 if event.angleDelta().y() > 0 else -1)
        event.accept()

    def _pick(self, event: Any) -> None:
        if self.pickable and event.buttons() & Qt.MouseButton.LeftButton:
            at = self.mapToScene(event.pos())
            self.picked.emit(at.y(), at.x())

    def _fit(self) -> None:
        if self.shape[0]:
            self.fitInView(self.sceneRect(), Qt.AspectRatioMode.KeepAspectRatio)


def _levels(values: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = limits
    scale = (_LEVELS - 1) / (high - low) if high > low else 0.0
    bad = ~np.isfinite(values)
    scaled = np.clip((np.where(bad, low, values) - low) * scale, 0, _LEVELS - 1)
    levels: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    levels[bad] = _LEVELS
    return levels


def _indexed(levels: npt.NDArray[np.uint8], colormap: str) -> QImage:
    height, width = levels.shape
    image = QImage(levels.tobytes(), width, height, width, QImage.Format.Format_Indexed8).copy()
    image.setColorTable(list(_table(colormap)))
    return image


def pixmap(picture: npt.NDArray[np.uint8]) -> QPixmap:
    """Return a picture (H, W, 3) for Qt."""
    height, width, _ = picture.shape
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy())
