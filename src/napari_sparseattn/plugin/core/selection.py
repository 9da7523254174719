"""What is chosen in one viewer: image, scale, cells, model, overlays."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...images.fields.cells import Method, knows_platelets
from .advice import ImageFacts
from .layers import OverlayChoice
from .models import Model
from .preferences import preferences
from .sources import (
    CellSource,
    ImageSettings,
    PlaneRef,
    cell_source,
    displayed_plane,
    guess_settings,
    is_cell_source,
    is_picture,
    is_simulated,
    shape_of,
    slide_of,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ...card import Card
    from ...images.fields.cells import Cells
    from ...inference.prediction import Predictions

__all__ = ["ImageRecord", "Results", "Selection"]

#: What of a layer changes where its cells are.
_CELL_EVENTS = (
    "data", "labels_update", "paint", "size", "scale", "translate", "rotate", "shear", "affine",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The cells that the last run over an image classified, and the colours of the classes.

    `request` is what was asked; None of results that were read from a file.
    """

    plane: PlaneRef
    predictions: Predictions
    colours: tuple[str, ...]
    request: Any = None


@dataclasses.dataclass
class ImageRecord:
    """What is known of one image; forgotten together with the layer.

    Parameters
    ----------
    settings : ImageSettings
        Modality and pixel size.
    cells : Cells or None
        The cells of the plane that `cells_key` stands for.
    cells_key : hashable
        What the cells were found in and by.
    results : Results or None
        The last run over all cells.
    """

    settings: ImageSettings
    cells: Cells | None = None
    cells_key: Hashable = None
    results: Results | None = None


class Selection:
    """The user's choices in one viewer, which is held weakly.

    Attributes
    ----------
    generation : int
        Grows with every click and every change that makes answers outdated.
    model_is_chosen : bool
        Whether the user chose the model; one that was not may be changed to
        fit the image.
    loading : bool
        Whether a model is being loaded.
    """

    images_changed = Signal()
    #: The image or the model is another: what was shown is outdated. Before any other signal.
    outdated = Signal()
    image_changed = Signal(object)
    settings_changed = Signal(object)
    modality_changed = Signal()
    #: An image has other settings: what was found with the old ones is outdated.
    unsettled = Signal(object)
    model_changed = Signal(object)
    overlays_changed = Signal(object)
    clicking_changed = Signal(bool)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.image: Image | None = None
        self.cell_layer: Layer | None = None
        self.cell_method: Method = "auto"
        self.model: Model | None = None
        self.loading = False
        self.model_is_chosen = False
        self.choice = preferences().overlays
        self.generation = 0
        self._clicking = True
        self._records: weakref.WeakKeyDictionary[Image, ImageRecord] = weakref.WeakKeyDictionary()

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

    def is_open(self, layer: Layer) -> bool:
        """Tell whether a layer is in the viewer."""
        viewer = self.viewer
        return viewer is not None and layer in viewer.layers

    # -- the image

    def images(self) -> list[Image]:
        """Return the image layers that can be classified."""
        viewer = self.viewer
        return [] if viewer is None else [x for x in viewer.layers if is_picture(x)]

    def set_image(self, layer: Image | None) -> None:
        """Choose the image to classify."""
        if layer is self.image:
            return
        self.generation += 1
        self.image = layer
        if layer is not None and layer not in self._records:
            layer.events.data.connect(self._change_data)
            for event in (layer.events.scale, layer.events.units, layer.events.affine):
                event.connect(self._change_scale)
        self.outdated.emit()
        self.image_changed.emit(layer)
        self.settings_changed.emit(self.settings)

    def record_of(self, layer: Image) -> ImageRecord:
        """Return what is known of an image; made from what the layer says the first time."""
        found = self._records.get(layer)
        if found is None:
            found = self._records[layer] = ImageRecord(guess_settings(layer))
        return found

    @property
    def record(self) -> ImageRecord:
        """What is known of the chosen image; nothing without one."""
        return ImageRecord(ImageSettings()) if self.image is None else self.record_of(self.image)

    @property
    def settings(self) -> ImageSettings:
        """Modality and scale of the chosen image."""
        return self.record.settings

    def settings_of(self, layer: Image) -> ImageSettings:
        """Return modality and scale of an image."""
        return self.record_of(layer).settings

    def set_settings(self, layer: Image, **changes: Any) -> None:
        """Change what is known about an image: modality, pixel_size, origin, classes.

        Raises
        ------
        ValueError
            If the pixel size is not a positive number.
        """
        size = changes.get("pixel_size")
        if size is not None and not (math.isfinite(size) and size > 0):
            raise ValueError(f"The pixel size must be a positive number of µm, not {size}.")
        record = self.record_of(layer)
        new = dataclasses.replace(record.settings, **changes)
        if new == record.settings:
            return
        if changes.keys() != {"classes"}:
            record.cells = None  # they may be others, where a class is not
        record.settings = new
        self.unsettled.emit(layer)
        if layer is self.image:
            self.generation += 1
            self.settings_changed.emit(new)
            if "modality" in changes:
                self.modality_changed.emit()

    @property
    def on_slide(self) -> bool:
        """Whether the image is a slide that is read as it is looked at."""
        return self.image is not None and slide_of(self.image) is not None

    @property
    def facts(self) -> ImageFacts | None:
        """What can be known of the chosen image without reading it."""
        image = self.image
        if image is None:
            return None
        settings, slide = self.settings, slide_of(image)
        shape = shape_of(image) if slide is None else slide.shape
        # Alpha is no channel to a model.
        channels = 3 if image.rgb else 1
        return ImageFacts(
            image.name, settings.modality, channels, shape, settings.pixel_size,
            on_slide=slide is not None, simulated=is_simulated(image),
        )  # fmt: skip

    # -- its cells

    def cell_layers(self) -> list[Layer]:
        """Return the user's layers that can say where the cells are."""
        viewer = self.viewer
        return [] if viewer is None else [x for x in viewer.layers if is_cell_source(x)]

    def set_cell_layer(self, layer: Layer | None, method: Method = "auto") -> None:
        """Choose a Labels or Points layer that says where cells are; None finds them.

        How they are found is `method` of `find_cells`.
        """
        if layer is self.cell_layer and method == self.cell_method:
            return
        self.generation += 1
        self.cell_layer, self.cell_method = layer, method
        if layer is not None:
            for name in _CELL_EVENTS:
                if name in layer.events.emitters:
                    layer.events.emitters[name].connect(self._edit_cell_layer)
        self._forget_cells()

    def ask_fields(self, image: Image) -> dict[str, Any]:
        """Return what every question about cells of the chosen image says.

        Raises
        ------
        SourceError
            If the view, or the layer that says where the cells are, cannot be used.
        """
        assert self.viewer is not None
        plane = displayed_plane(self.viewer, image)
        key = self._cells_key(plane)
        record = self.record_of(image)
        cells = record.cells if record.cells_key == key else None
        source = CellSource()
        if cells is None:
            source = cell_source(self.cell_layer, image, plane)
            if source.kind == "find":
                source = CellSource(method=self.cell_method, platelets=self._with_platelets)
        return {
            "generation": self.generation,
            "layer": image,
            "plane": plane,
            "settings": self.settings,
            "model": self.model,
            "source": source,
            "cells": cells,
            "cells_key": key,
            "given": "" if self.cell_layer is None else self.cell_layer.name,
            "method": self.cell_method,
        }

    def keep_cells(self, layer: Image, plane: PlaneRef, key: Hashable, cells: Cells) -> None:
        """Keep the cells of a plane of an image, if they would be looked for alike now."""
        if layer is self.image and key == self._cells_key(plane):
            record = self.record_of(layer)
            record.cells, record.cells_key = cells, key

    def cells_at(self, layer: Image, key: Hashable) -> Cells | None:
        """Return the cells kept under a key."""
        record = self.record_of(layer)
        return record.cells if record.cells_key == key else None

    def _cells_key(self, plane: PlaneRef) -> tuple[Any, ...]:
        settings = dataclasses.replace(self.settings, classes=None)
        by = (id(self.cell_layer), self.cell_method, self._with_platelets)
        return (id(plane.data), plane.index, settings, *by)

    @property
    def _with_platelets(self) -> bool:
        card = self.card
        return card is not None and knows_platelets(
            card.class_names, self.settings.classes_of(card)
        )

    def _forget_cells(self) -> None:
        for record in self._records.values():
            record.cells = None

    # -- the model, and what is shown

    @property
    def card(self) -> Card | None:
        """The card of the chosen model."""
        return None if self.model is None else self.model.bundle.card

    def set_model(self, model: Model | None, *, loading: bool = False) -> None:
        """Choose a model that has been loaded, or none while one is being loaded."""
        self.generation += 1
        self.model, self.loading = model, loading
        self.outdated.emit()
        self.model_changed.emit(model)

    def set_choice(self, choice: OverlayChoice) -> None:
        """Choose which overlays are shown, now and after the next click."""
        if choice != self.choice:
            self.choice = choice
            self.overlays_changed.emit(choice)

    @property
    def clicking(self) -> bool:
        """Whether a click on a cell classifies it."""
        return self._clicking

    def set_clicking(self, on: bool) -> None:
        """Turn click-to-classify on or off."""
        if on != self._clicking:
            self._clicking = on
            self.clicking_changed.emit(on)

    # -- what the layers tell

    def _change_data(self, event: Any) -> None:
        self.record_of(event.source).cells = None
        if event.source is self.image:
            self.generation += 1

    def _change_scale(self, event: Any) -> None:
        settings = self.settings_of(event.source)
        if settings.origin == "user":
            return
        guessed = guess_settings(event.source)
        if "layer" in (guessed.origin, settings.origin):
            self.set_settings(event.source, pixel_size=guessed.pixel_size, origin=guessed.origin)

    def _edit_cell_layer(self, event: Any) -> None:
        if event.source is self.cell_layer:
            self._forget_cells()
