"""A crop twice: as the image has it, and as the model read it."""

from __future__ import annotations

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from ...evidence import Traversal
from ..widgets.picture import pixmap
from .closeups import MOST_SIDE, CloseUp

__all__ = ["CloseUpBox", "PixelView"]

_LEAST = 64
_READ_SIDE = 104
_WAITING = "reading…"


class PixelView(QWidget):
    """Shows a picture as large as fits, enlarged pixel by pixel; a click shows it larger.

    Parameters
    ----------
    most : int
        Largest side in screen pixels, also when enlarged.
    parent : QWidget, optional
        What it lies in.
    """

    def __init__(self, most: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._most = most
        self._picture = QPixmap()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setMinimumSize(_LEAST, _LEAST)
        self.setMaximumSize(most, most)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)

    @property
    def picture(self) -> QPixmap:
        """What is shown; null where nothing is."""
        return self._picture

    def set_picture(self, picture: QPixmap | None) -> None:
        """Show another picture, or none."""
        self._picture = QPixmap() if picture is None else picture
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size wanted where there is room."""
        side = min(self._most, 2 * _READ_SIDE)
        return QSize(side, side)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Show the picture at its own size, until the next click elsewhere."""
        if not self._picture.isNull():
            self.enlarge()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Do by Space or Enter what a click does."""
        keys = (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if event.key() in keys and not self._picture.isNull():
            self.enlarge()
        else:
            super().keyPressEvent(event)

    def enlarge(self) -> QLabel:
        """Open a small window with the picture, pixel by pixel, tiny ones enlarged."""
        large = QLabel(self, Qt.WindowType.Popup)
        large.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        width, height = self._picture.width(), self._picture.height()
        times = max(1, self._most // max(width, height))
        large.setPixmap(self._picture.scaled(times * width, times * height))
        large.adjustSize()
        large.move(self.mapToGlobal(self.rect().topLeft()) - large.rect().topRight())
        large.show()
        return large

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the picture into the top left."""
        if self._picture.isNull():
            return
        painter = QPainter(self)
        width, height = self._picture.width(), self._picture.height()
        factor = min(self.width() / width, self.height() / height)
        # Reduced pixels are averaged; enlarged ones stay the squares they are.
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, factor < 1)
        target = QRectF(0, 0, width * factor, height * factor)
        painter.drawPixmap(target, self._picture, QRectF(self._picture.rect()))
        painter.end()


class CloseUpBox(QWidget):
    """What the image has of a crop, beside what the model read of it, with captions."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.native = PixelView(MOST_SIDE, self)
        self.native.setToolTip(
            "The crop at the resolution of the image itself, for you to judge; the model saw only "
            "the picture beside it. Click to see it pixel by pixel."
        )
        self.native.setAccessibleName("The crop in the image")
        self.read = PixelView(_READ_SIDE, self)
        self.read.setAccessibleName("The crop as the model read it")
        self.read.setFixedSize(_READ_SIDE, _READ_SIDE)
        self.read.setToolTip("The crop as the model read it: all that it saw of this place.")
        self.native_caption, self.read_caption = QLabel(self), QLabel(self)
        for caption in (self.native_caption, self.read_caption):
            caption.setWordWrap(True)
            caption.setFixedWidth(_READ_SIDE)
            caption.setAlignment(Qt.AlignmentFlag.AlignTop)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 2, 0, 0)
        grid.setVerticalSpacing(2)
        top = Qt.AlignmentFlag.AlignTop
        grid.addWidget(self.native, 0, 0, 3, 1)
        grid.addWidget(self.read, 0, 1, top)
        grid.addWidget(self.read_caption, 1, 1, top)
        grid.addWidget(self.native_caption, 2, 1, top)
        grid.setColumnStretch(0, 1)
        grid.setRowStretch(2, 1)

    def show_read(self, picture: QPixmap | None, traversal: Traversal) -> None:
        """Show what the model read of a crop."""
        self.read.set_picture(picture)
        self.read_caption.setText(f"↑ read by the model: {traversal.base} × {traversal.base} px")

    def show_native(self, close_up: CloseUp | None, waiting: bool) -> None:
        """Show what the image has of the crop, or that it is still being read."""
        if close_up is None:
            self.native.set_picture(None)
            self.native_caption.setText(_WAITING if waiting else "")
            return
        self.native.set_picture(pixmap(close_up.picture))
        self.native_caption.setText(_about(close_up))


def _about(close_up: CloseUp) -> str:
    height, width = close_up.picture.shape[:2]
    if close_up.reduction <= 1:
        said = f"← in the image: {width} × {height} px, full resolution"
    else:
        _, _, high, wide = close_up.request.box
        said = (
            f"← in the image: {wide:.0f} × {high:.0f} px, shown {close_up.reduction:.3g}× reduced"
        )
    if close_up.unreadable:
        said += f"; {100 * close_up.unreadable:.2g} % unreadable (grey)"
    return said
