"""A smooth way from what is in view to a place in the image."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

from qtpy.QtCore import QEasingCurve, QObject, QVariantAnimation

from ..core.view import has_window

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["Flight"]


class Flight(QVariantAnimation):
    """Moves a viewer's camera; whoever moves it meanwhile has it to himself.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    centre : (float, float)
        Row and column in the world to end at.
    zoom : float
        Screen pixels per unit of the world to end with.
    milliseconds : int
        How long it takes.
    parent : QObject, optional
        With which it goes.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        centre: tuple[float, float],
        zoom: float,
        milliseconds: int,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer = weakref.ref(viewer)
        camera = viewer.scene.camera
        self._from = (*map(float, camera.center[-2:]), float(camera.zoom))
        self._to = (*map(float, centre), float(zoom))
        self._set = self._from
        self.setStartValue(0.0)
        self.setEndValue(1.0)
        self.setDuration(milliseconds)
        self.setEasingCurve(QEasingCurve.Type.InOutCubic)
        self.valueChanged.connect(self._move)

    def _move(self, share: float) -> None:
        viewer = self._viewer()
        if viewer is None or not has_window(viewer):
            self.stop()
            return
        camera = viewer.scene.camera
        now = (*map(float, camera.center[-2:]), float(camera.zoom))
        if any(
            not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)
            for a, b in zip(now, self._set, strict=True)
        ):
            self.stop()
            return
        zoom = self._from[2] * (self._to[2] / self._from[2]) ** share
        # Seen from ever closer, the same way takes ever more of the screen: so the middle moves
        # as the inverse of the zoom does, and the goal drifts evenly to the middle of the view.
        span = 1 / self._from[2] - 1 / self._to[2]
        way = share if abs(span) < 1e-12 else (1 / self._from[2] - 1 / zoom) / span
        row, column = (a + (b - a) * way for a, b in zip(self._from[:2], self._to[:2], strict=True))
        camera.center = (0.0, row, column)
        camera.zoom = zoom
        self._set = (row, column, zoom)
