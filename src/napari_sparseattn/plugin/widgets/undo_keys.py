"""Ctrl+Z in our docks, in the canvas and in the layer list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QWidget

from ..core.sources import is_own, is_picture
from ..core.undo import UNDO_KEYS, Undo
from .keys import KeyFilter

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["UndoKeys"]


class UndoKeys(QObject):
    """Undoes what was done last, wherever in a dock or on its canvas the keys are pressed.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        What is undone in.
    dock : QWidget
        As long as it is there, keys are watched.
    """

    def __init__(self, viewer: ViewerModel, dock: QWidget) -> None:
        super().__init__(dock)
        self._undo = Undo.of(viewer)
        self._keys = KeyFilter(UNDO_KEYS, self._press, dock)
        dock.installEventFilter(self)

    def stop(self) -> None:
        """Leave the keys alone from now on."""
        self._keys.stop()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Watch the window of the dock, once it is in one."""
        if event is not None and event.type() == QEvent.Type.Show and isinstance(watched, QWidget):
            self._keys.watch_window(watched.window())
            self._keys.watch_dock(watched)
        return False

    def _press(self, key: str, on_layers: bool) -> bool:
        viewer = self._undo.viewer
        if viewer is None:
            return False
        active = viewer.layers.selection.active
        if on_layers and active is not None:
            bound = {str(each) for each in (*active.keymap, *viewer.keymap)}
            # Who paints or draws takes back strokes with napari's own undo.
            mine = (is_own(active) or is_picture(active)) and not _paints(active)
            if key in bound or not (mine or active.mode == "pan_zoom"):
                return False
        return self._undo.press(key)


def _paints(layer: object) -> bool:
    from napari.layers import Labels

    return isinstance(layer, Labels) and str(layer.mode) != "pan_zoom"
