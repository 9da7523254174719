"""From a held-out cell of a report to its place in the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.opening import open_files

if TYPE_CHECKING:
    from napari.layers import Image

    from ...training.data.annotations import Annotation, ImageRecord
    from ..annotate.session import Annotating
    from ..core.session import Session

__all__ = ["Places"]

#: So many diameters of a cell are shown around it, or so many pixels where that is unknown.
_AROUND = 12.0
_PIXELS_AROUND = 400.0


class Places:
    """Goes to annotated cells, and opens their images where they are not open.

    Parameters
    ----------
    session : Session
        Of the viewer.
    annotating : Annotating
        Knows which layer shows which image.
    """

    def __init__(self, session: Session, annotating: Annotating) -> None:
        self._session, self._annotating = session, annotating
        self._awaited: tuple[ImageRecord, Annotation | None] | None = None

    def go_to(self, name: str) -> bool:
        """Bring an annotation to the middle of the view; return whether its image is open.

        Parameters
        ----------
        name : str
            Its id, with a colon and the number of the crop where it gave several.
        """
        found = self._find(name)
        if found is None:
            self._session.say("This annotation has been removed since.", "warning")
            return False
        image, annotation = found
        layer = self._layer_of(image)
        if layer is not None:
            self._show(layer, annotation)
            return True
        self._open(image, annotation)
        return False

    def _find(self, name: str) -> tuple[ImageRecord, Annotation | None] | None:
        wanted = name.partition(":")[0]
        for image, items in self._annotating.classes.project.annotations():
            for item in items:
                if item.id == wanted:
                    return image, item
            # Of slides, and of their patches, the name tells which.
            if name == image.name or name.rsplit(":", 2)[0] == image.name:
                return image, None
        return None

    def _layer_of(self, image: ImageRecord) -> Image | None:
        for layer in self._session.images():
            book = self._annotating.files.annotations(layer)
            if book is not None and book.image.hash == image.hash:
                return layer
            # It may be open without having been looked at yet.
            if book is None and image.path and str(layer.source.path or "") == image.path:
                return layer
        return None

    def _open(self, image: ImageRecord, annotation: Annotation | None) -> None:
        viewer = self._session.viewer
        if viewer is None or not image.path or not Path(image.path).exists():
            self._session.say(
                f"'{image.name or image.hash[:8]}' is not open, and not where it was. Open it, "
                "then click again.",
                "warning",
            )
            return
        if self._awaited is None:
            self._annotating.changed.connect(self._arrived)
        self._awaited = (image, annotation)
        open_files(viewer, [image.path], self._session.say)

    def _arrived(self, _: object = None) -> None:
        """Go on when the annotations of the image that is being opened are there."""
        if self._awaited is None:
            return
        image, annotation = self._awaited
        layer = self._layer_of(image)
        if layer is not None:
            self._awaited = None
            self._annotating.changed.disconnect(self._arrived)
            self._show(layer, annotation)

    def _show(self, layer: Image, annotation: Annotation | None) -> None:
        session, viewer = self._session, self._session.viewer
        if viewer is None:
            return
        session.set_image(layer)
        layer.visible = True
        if annotation is None or annotation.centre is None:
            viewer.fit_to_view()
            return
        ahead = layer.ndim - 2
        index = (annotation.t, annotation.z)[:ahead]
        world = layer.data_to_world((*index, *annotation.centre))
        for axis, value in enumerate(world[:-2]):
            viewer.dims.set_point(viewer.dims.ndim - len(world) + axis, value)
        camera = viewer.scene.camera
        camera.center = (0.0, *world[-2:])
        across = _AROUND * annotation.diameter_px if annotation.diameter_px else _PIXELS_AROUND
        across *= abs(float(layer.scale[-1]))
        # Closer only: who looks closely at cells goes on doing so.
        camera.zoom = max(camera.zoom, min(viewer.canvas.size) / max(across, 1e-9))
