"""One annotated image in a viewer: its book, and the layers that show it."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...training.data.annotations import AnnotationBook, ImageRecord
from ...training.data.project import Project
from ..core.layers import OverlayLayers, copied_transform, marked, move
from .layers import CellMirror, RegionMirror
from .mirror import CLASS, Look

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

__all__ = ["AnnotationShelf", "Sheet", "SheetKind"]

SheetKind = Literal["cells", "regions", "next"]

_NAMES: dict[SheetKind, str] = {
    "cells": "annotations",
    "regions": "regions",
    "next": "next to annotate",
}
_CANDIDATE = "#00d5ff"
_RING, _WIDTH = 1.15, 0.12


class AnnotationShelf(OverlayLayers[str]):
    """The layers of annotations of one viewer; adding one keeps the user's selection."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer, lambda role, shown: None)

    def point_at(self, source: Image, place: npt.NDArray[np.float64], size: float) -> None:
        """Mark one place of an image; the layer may be removed at any time."""
        from napari.layers import Points

        layer: Points | None = self.layer(source, "next")
        if layer is None:
            layer = Points(
                place[None],
                ndim=source.ndim,
                size=size,
                symbol="square",
                face_color="transparent",
                border_color=_CANDIDATE,
                border_width=0.06,
                **copied_transform(source),
            )
            self.add(source, "next", layer)
            return
        layer.data = place[None]
        layer.size = size

    def add(self, source: Image, kind: SheetKind, layer: Layer) -> Layer:
        """Put a layer on top of an image's others."""
        layer.metadata = marked(f"annotated {kind}")
        layer.name = f"{source.name} · {_NAMES[kind]}"
        return self.add_layer(source, kind, layer)


class Sheet:
    """The annotations of one image.

    Parameters
    ----------
    record : ImageRecord
        What they are of.
    image : napari.layers.Image
        The layer that shows it; held weakly.
    project : Project
        Where the book is made, when it is needed first.
    shelf : AnnotationShelf
        Where the layers go.
    look : Look
        Colours and sizes.
    failed : callable
        Called with the error of a change that could not be saved.
    opened : callable
        Called with the book when it has been opened.
    """

    def __init__(
        self,
        record: ImageRecord,
        image: Image,
        project: Project,
        shelf: AnnotationShelf,
        look: Look,
        failed: Callable[[Exception], None],
        opened: Callable[[AnnotationBook], None],
    ) -> None:
        self.record, self.project = record, project
        self.cells: CellMirror | None = None
        self.regions: RegionMirror | None = None
        self._image = weakref.ref(image)
        self._shelf, self._look = shelf, look
        self._failed, self._opened = failed, opened
        self._book: AnnotationBook | None = None

    @property
    def image(self) -> Image | None:
        """The image layer, or None after it is gone."""
        return self._image()

    def lie_on(self, image: Image) -> None:
        """Take another layer of the same pixels for the image."""
        self._image = weakref.ref(image)

    @property
    def book(self) -> AnnotationBook | None:
        """The book, or None as long as there is nothing in it."""
        return self._book

    def writing(self) -> AnnotationBook:
        """Return the book, and make it if there is none yet."""
        return self._book or self.take(self.project.book(self.record))

    def take(self, book: AnnotationBook) -> AnnotationBook:
        """Use a book that has been opened."""
        self._book = book
        self._opened(book)
        return book

    def note_scale(self, pixel_size: float | None) -> None:
        """Keep the µm per pixel of the image with its annotations."""
        if pixel_size is None or pixel_size == self.record.pixel_size:
            return
        self.record = dataclasses.replace(self.record, pixel_size=pixel_size)
        if self._book is not None and self._book.writable:
            self._book.note_image(self.record)

    def layers(self) -> list[Layer]:
        """Return the layers that show the annotations."""
        return [mirror.layer for mirror in (self.cells, self.regions) if mirror is not None]

    def show(self) -> None:
        """Make the layers that there is something to put in."""
        kinds = {item.kind for item in self._book or ()}
        if "cell" in kinds:
            self.cell_layer()
        if "region" in kinds:
            self.region_layer()

    def cell_layer(self) -> CellMirror | None:
        """Return the layer of the cells, made if it is not there."""
        image = self.image
        if self.cells is None and image is not None:
            from napari.layers import Points

            layer = Points(
                np.empty((0, image.ndim)),
                ndim=image.ndim,
                features={CLASS: np.empty(0, dtype=object)},
                size=self._look.diameter * _RING,
                face_color="transparent",
                border_width=_WIDTH,
                **copied_transform(image),
            )
            self.cells = CellMirror(layer, self.writing(), self._look, self._failed)
            self._shelf.add(image, "cells", layer)
        return self.cells

    def region_layer(self) -> RegionMirror | None:
        """Return the layer of the regions, made if it is not there."""
        image = self.image
        if self.regions is None and image is not None:
            from napari.layers import Shapes

            layer = Shapes(
                None,
                ndim=image.ndim,
                features={CLASS: np.empty(0, dtype=object)},
                edge_width=max(1.0, self._look.diameter / 15),
                opacity=1.0,
                **copied_transform(image),
            )
            self.regions = RegionMirror(layer, self.writing(), self._look, self._failed)
            self._shelf.add(image, "regions", layer)
        return self.regions

    def follow_image(self) -> None:
        """Lie where the image lies."""
        if self.image is not None:
            place: dict[str, Any] = copied_transform(self.image)
            for layer in self.layers():
                move(layer, place)

    def forget(self, layer: Layer) -> None:
        """Take note that a layer is no longer in the viewer."""
        if self.cells is not None and layer is self.cells.layer:
            self.cells.release()
            self.cells = None
        if self.regions is not None and layer is self.regions.layer:
            self.regions.release()
            self.regions = None

    def close(self) -> None:
        """Stop following the layers, and let others write the book."""
        for layer in self.layers():
            self.forget(layer)
        if self._book is not None:
            self._book.close()
