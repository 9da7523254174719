"""Keeps napari's canvas from dying when layers are removed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QWidget

__all__ = ["CANVAS", "guard_canvases"]

#: Name of the class of napari's canvas in a window.
CANVAS = "CanvasBackendDesktop"
_GUARDED = "napari-sparseattn guarded"


def guard_canvases(window: QWidget) -> None:
    """Let the canvas of a window be the one that OpenGL works on while a layer is removed.

    napari 0.9 frees what the layer had on the graphics card at once, also where
    another widget, or none, is current then: with Mesa it dies of that when the
    next layer is drawn.

    Parameters
    ----------
    window : QWidget
        napari's main window; of others nothing is done.
    """
    viewer = getattr(getattr(window, "_qt_viewer", None), "viewer", None)
    if viewer is None:
        return
    for canvas in window.findChildren(QWidget):
        if type(canvas).__name__ == CANVAS and not canvas.property(_GUARDED):
            canvas.setProperty(_GUARDED, True)
            viewer.layers.events.removing.connect(_Current(canvas))


class _Current:
    """Makes a canvas current, as long as it is there."""

    def __init__(self, canvas: Any) -> None:
        self._canvas: Callable[[], Any] = weakref.ref(canvas)

    def __call__(self, event: object = None) -> None:
        canvas = self._canvas()
        if canvas is None:
            return
        try:
            canvas.makeCurrent()
        except RuntimeError:  # Qt's part of it is gone
            self._canvas = lambda: None
