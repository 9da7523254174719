"""Keys that work in the canvas, in the layer list and in the lists of our docks."""

from __future__ import annotations

from collections.abc import Callable, Collection

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QComboBox,
    QMainWindow,
    QWidget,
)

from .canvas import CANVAS

__all__ = ["KeyFilter"]

#: By the names of their classes: napari keeps both to itself.
_ON_LAYERS = (CANVAS, "QtLayerList")
#: What takes no text, so that a key pressed there is meant for what is looked at.
_NO_TEXT = (QAbstractItemView, QAbstractButton, QAbstractSlider, QComboBox)


class KeyFilter(QObject):
    """Calls back for keys, wherever in the window a hand rests while it works with the image.

    Keys typed into text are left alone, and those that a text does not take reach neither us nor
    napari.

    Parameters
    ----------
    keys : collection of str
        As Qt writes them, e.g. ``"1"`` or ``"Ctrl+Z"``.
    pressed : callable
        Called with the key and whether it was pressed in the canvas or the
        layer list; returns False to leave it to napari.
    parent : QWidget
        As long as it is there, keys are watched.
    """

    def __init__(
        self, keys: Collection[str], pressed: Callable[[str, bool], bool], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._keys, self._pressed = frozenset(keys), pressed
        self._docks: set[int] = set()
        self._on = True

    def stop(self) -> None:
        """Leave all keys alone from now on."""
        self._on = False

    def watch_window(self, window: QWidget) -> None:
        """Watch the canvas and the layer list of a napari window."""
        if isinstance(window, QMainWindow):
            for widget in window.findChildren(QWidget):
                if type(widget).__name__ in _ON_LAYERS:
                    widget.installEventFilter(self)

    def watch_dock(self, dock: QWidget) -> None:
        """Watch one of our docks, with all that it has by now."""
        self._docks.add(id(dock))
        dock.installEventFilter(self)
        for kind in _NO_TEXT:
            for widget in dock.findChildren(kind):
                if not (isinstance(widget, QComboBox) and widget.isEditable()):
                    widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Take keys that are ours before Qt or napari does."""
        if not self._on or not isinstance(event, QKeyEvent):
            return False
        kind = event.type()
        if kind not in (QEvent.Type.KeyPress, QEvent.Type.ShortcutOverride):
            return False
        key = _name(event)
        if key not in self._keys or not isinstance(watched, QWidget):
            return False
        if watched.window().windowType() == Qt.WindowType.Popup:
            # An open list of choices.
            return False
        if kind == QEvent.Type.ShortcutOverride:
            # Comes again as a key that is pressed.
            event.accept()
            return True
        if id(watched) in self._docks:
            # A text has not taken it.
            return True
        return self._pressed(key, type(watched).__name__ in _ON_LAYERS)


def _name(event: QKeyEvent) -> str:
    modifiers = event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
    sequence = QKeySequence(int(modifiers.value) | int(event.key()))
    return str(sequence.toString(QKeySequence.SequenceFormat.PortableText))
