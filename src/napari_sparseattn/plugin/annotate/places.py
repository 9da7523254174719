"""Going to what is annotated, in whichever image of the project it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...training.data.annotations import ImageRecord
from ..core.sources import file_of
from ..opening import open_files
from .context import Context
from .files import AnnotationFiles

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...training.data.annotations import Annotation

__all__ = ["Move", "Places", "move_at_once"]

#: So many diameters of a cell are shown around it, or so many pixels where that is unknown.
_AROUND = 12.0
_PIXELS_AROUND = 400.0

#: Moves a viewer's camera to a row and column of the world, with so many pixels per unit of it.
Move = Callable[["ViewerModel", tuple[float, float], float], None]


def move_at_once(viewer: ViewerModel, centre: tuple[float, float], zoom: float) -> None:
    """Move a viewer's camera without a flight."""
    viewer.scene.camera.center = (0.0, *centre)
    viewer.scene.camera.zoom = zoom


@dataclasses.dataclass(frozen=True, eq=False)
class _Way:
    """Where to go once an image is open."""

    image: ImageRecord
    annotation: Annotation | None
    then: Callable[[], object] | None
    move: Move
    around: float


class Places:
    """Brings places of the project's images into view; opens images that are not open.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.
    files : AnnotationFiles
        Knows which layer shows which image.
    """

    def __init__(self, context: Context, files: AnnotationFiles) -> None:
        self._context, self._files = context, files
        self._awaited: _Way | None = None

    def go(
        self,
        image: ImageRecord,
        annotation: Annotation | None,
        then: Callable[[], object] | None = None,
        move: Move = move_at_once,
        around: float = _AROUND,
    ) -> bool:
        """Bring an annotation to the middle of the view.

        Parameters
        ----------
        image : ImageRecord
            What it is of.
        annotation : Annotation or None
            Where to go; None, and one of an image as a whole, brings the image into view.
        then : callable, optional
            Called when it is there.
        move : callable, optional
            Moves the camera; by default `move_at_once`.
        around : float
            So many diameters of a cell are to be seen.

        Returns
        -------
        bool
            Whether it is there; False where the image is being opened first, or cannot be.
        """
        layer = self._layer_of(image)
        if layer is None:
            self._open(_Way(image, annotation, then, move, around))
            return False
        self._show(layer, annotation, move, around)
        if then is not None:
            then()
        return True

    def _layer_of(self, image: ImageRecord) -> Image | None:
        for layer in self._context.session.selection.images():
            found = self._files.of(layer)
            if found is not None and found.record.hash == image.hash:
                return layer
            # It may be open without having been looked at yet.
            if found is None and image.path and file_of(layer) == image.path:
                return layer
        return None

    def _open(self, way: _Way) -> None:
        viewer, image = self._context.session.viewer, way.image
        if viewer is None or not image.path or not Path(image.path).exists():
            self._context.notify(
                f"'{image.name or image.hash[:8]}' is not open, and not where it was. Open it, "
                "then click again.",
                "warning",
            )
            return
        if self._awaited is None:
            self._context.changed.connect(self._go_on)
        self._awaited = way
        open_files(viewer, [image.path], self._context.notify)

    def _go_on(self, _: object = None) -> None:
        """Go on when the annotations of the image that is being opened are there."""
        if self._awaited is None:
            return
        way = self._awaited
        if self._layer_of(way.image) is not None:
            self._awaited = None
            self._context.changed.disconnect(self._go_on)
            self.go(way.image, way.annotation, way.then, way.move, way.around)

    def _show(self, layer: Image, annotation: Annotation | None, move: Move, around: float) -> None:
        session, viewer = self._context.session, self._context.session.viewer
        if viewer is None:
            return
        session.selection.set_image(layer)
        layer.visible = True
        centre = None if annotation is None else annotation.centre
        if annotation is None or centre is None:
            viewer.fit_to_view()
            return
        ahead = layer.ndim - 2
        world = layer.data_to_world((*(annotation.t, annotation.z)[:ahead], *centre))
        for axis, value in enumerate(world[:-2]):
            viewer.dims.set_point(viewer.dims.ndim - len(world) + axis, value)
        across = _across(annotation, around) * abs(float(layer.scale[-1]))
        # Closer only: who looks closely at cells goes on doing so.
        zoom = max(viewer.scene.camera.zoom, min(viewer.canvas.size) / max(across, 1e-9))
        if annotation.kind == "region":
            # Of a large region all is to be seen.
            zoom = min(zoom, min(viewer.canvas.size) / max(across, 1e-9))
        move(viewer, (float(world[-2]), float(world[-1])), zoom)


def _across(annotation: Annotation, around: float) -> float:
    """Return how many pixels of the image are to be seen around an annotation."""
    if annotation.kind == "region":
        outline = annotation.outline
        return 2 * float((outline.max(axis=0) - outline.min(axis=0)).max())
    if annotation.diameter_px:
        return around * annotation.diameter_px
    return _PIXELS_AROUND
