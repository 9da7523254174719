"""Cells as layers: selected pixels, the frame of the clicked cell, rings around all cells."""

from __future__ import annotations

import textwrap
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...card import readable_name
from ...evidence import CropFrame, PixelSelection
from ...metrics import whole_percent
from ..core.layers import (
    ROLES,
    OverlayChoice,
    Overlays,
    Role,
    copied_transform,
    marked,
    move,
    outline,
    outline_layer,
    update_outline,
    within_image,
)

if TYPE_CHECKING:
    from napari.layers import Image, Layer, Points
    from napari.utils.colormaps import Colormap

    from ...images.fields.cells import Cells
    from ...inference.prediction import Prediction, Predictions

__all__ = ["SELECTION_ROLES", "CellLayers"]

#: Overlays that only a SparseAttnNet's selection has.
SELECTION_ROLES: tuple[Role, ...] = ("attention", "pixels")

_NAMES: dict[Role, str] = {
    "attention": "attention map",
    "pixels": "selected pixels",
    "cells": "cells",
    "frame": "clicked cell",
}
#: Fine attention is shown up to this multiple of a uniform share.
_MOST_ATTENTION = 3.0
_UNCLASSIFIED = "#9e9e9e"
#: Rings lie around what was found, not on it: on a dark nucleus few colours are told apart.
_RING, _RING_WIDTH = 1.25, 0.03
#: Of a line of the class on the image.
_LETTERS = 16
#: A colour bar costs as much as half a layer: first the answer is drawn.
_AFTER_MS = 100


class CellLayers:
    """Draws what is known of cells.

    Parameters
    ----------
    overlays : Overlays
        The layers.
    later : callable, optional
        Calls something after some milliseconds; by default at once.
    """

    def __init__(
        self,
        overlays: Overlays,
        later: Callable[[int, Callable[[], None]], None] = lambda _, call: call(),
    ) -> None:
        self._overlays, self._later = overlays, later

    def show_class(
        self,
        source: Image,
        index: Sequence[int],
        prediction: Prediction,
        colours: Sequence[str],
        choice: OverlayChoice,
    ) -> None:
        """Show the class of a clicked cell on its frame; of what has none, no frame.

        Parameters
        ----------
        source : napari.layers.Image
            The image it was cut from.
        index : sequence of int
            The plane, for stacks.
        prediction : Prediction
            With its evidence.
        colours : sequence of str
            One per class.
        choice : OverlayChoice
            What to show. A hidden overlay is brought up to date when shown.
        """
        frame = getattr(prediction.evidence, "frame", None)
        if frame is None:
            self._overlays.blank(source, [role for role in ROLES if role != "frame"])
            return
        name = readable_name(prediction.label)
        text = f"{name} {whole_percent(prediction.confidence)}"
        # In lines: of a cell seen from afar, the frame is hardly wider than a word.
        text = "\n".join(textwrap.wrap(text, _LETTERS, break_long_words=False))
        self._show_frame(source, index, frame, text, colours[prediction.index], choice)

    def show_selection(
        self, source: Image, index: Sequence[int], evidence: PixelSelection, choice: OverlayChoice
    ) -> None:
        """Show the pixels a class was read from, and how the crop was scored to choose them."""
        shape = (1,) * len(index) + evidence.coarse.shape

        def place(image: Image) -> dict[str, Any]:
            return copied_transform(image, evidence.frame.origin, evidence.frame.scale, index)

        maps: dict[Role, npt.NDArray[np.float32]] = {
            "attention": evidence.coarse,
            "pixels": evidence.fine_map(),
        }
        for role, values in maps.items():
            inside = within_image(source, evidence.frame, values).reshape(shape)
            self._show_map(source, role, inside, place, choice)

    def show_cells(
        self,
        source: Image,
        index: Sequence[int],
        predictions: Predictions,
        colours: Sequence[str],
        choice: OverlayChoice,
    ) -> None:
        """Show all classified cells as rings in their class's colour."""
        palette = [*colours, _UNCLASSIFIED]
        edge = np.array(palette)[predictions.class_index]
        features = {
            "id": predictions.cells.ids,
            "class": predictions.labels,
            "confidence": predictions.confidence,
        }
        data = _with_index(predictions.cells, index)
        size = predictions.cells.diameters
        place = copied_transform(source)
        layer = self._overlays.layer(source, "cells")
        if layer is None:
            layer = self._add_cells(source, data, size, edge, features, place)
        else:
            points: Points = layer
            self._overlays.update_layer(layer, lambda _: None, True)
            points.selected_data = set()
            points.data = data
            points.size = size * _RING
            points.features = features
            points.border_color = edge
            move(points, place)
        self._overlays.set_visible(layer, choice.cells)

    def select_cell(self, source: Image, index: int | None) -> None:
        """Highlight one of the rings."""
        points: Points | None = self._overlays.layer(source, "cells")
        if points is not None and (index is None or index < len(points.data)):
            points.selected_data = set() if index is None else {index}

    def _show_map(
        self,
        source: Image,
        role: Role,
        values: npt.NDArray[np.float32],
        place: Callable[[Image], dict[str, Any]],
        choice: OverlayChoice,
    ) -> None:
        layer = self._overlays.layer(source, role)
        if layer is None:

            def make(image: Image) -> Layer:
                # A copy: it is overwritten in place, and evidence must not change.
                made = _map_layer(image, role, values.copy(), place(image))
                self._later(_AFTER_MS, partial(_show_colourbar, weakref.ref(made)))
                return made

            self._overlays.offer(source, role, make, choice.of(role))
            return
        placed = place(source)

        def update(image: Image) -> None:
            # In place, as setting `data` makes the viewer measure all layers anew.
            if image.data.shape != values.shape:
                image.data = values.copy()
            else:
                np.copyto(image.data, values)
            if not move(image, placed):
                image.refresh(extent=False)

        self._overlays.update_layer(layer, update, choice.of(role))

    def _show_frame(
        self,
        source: Image,
        index: Sequence[int],
        frame: CropFrame,
        text: str,
        colour: str,
        choice: OverlayChoice,
    ) -> None:
        side = frame.side
        corner = (frame.row - side / 2, frame.column - side / 2)
        place = copied_transform(source, corner, 1.0, index)
        drawn = outline(source, side, colour, text, corner)
        layer = self._overlays.layer(source, "frame")
        if layer is None:
            layer = outline_layer(source, "frame", _NAMES["frame"], drawn, place)
            self._overlays.add_layer(source, "frame", layer)
            self._overlays.set_visible(layer, choice.frame)
            return
        self._overlays.update_layer(
            layer, lambda points: update_outline(points, drawn, place), choice.frame
        )

    def _add_cells(
        self,
        source: Image,
        data: npt.NDArray[np.float64],
        size: npt.NDArray[np.float64],
        edge: npt.NDArray[np.str_],
        features: dict[str, Any],
        place: dict[str, Any],
    ) -> Layer:
        from napari.layers import Points

        layer = Points(
            data,
            ndim=source.ndim,
            name=f"[{source.name}] {_NAMES['cells']}",
            size=size * _RING if len(size) else 10,
            face_color="transparent",
            border_color=edge if len(edge) else _UNCLASSIFIED,
            border_width=_RING_WIDTH,
            features=features,
            metadata=marked("cells"),
            **place,
        )
        return self._overlays.add_layer(source, "cells", layer)


def _map_layer(
    source: Image, role: Role, values: npt.NDArray[np.float32], place: dict[str, Any]
) -> Layer:
    from napari.layers import Image

    pixels = role == "pixels"
    layer = Image(
        values,
        name=f"[{source.name}] {_NAMES[role]}",
        colormap=_attention_colours() if pixels else "magma",
        contrast_limits=(0.0, _MOST_ATTENTION if pixels else 1.0),
        opacity=0.6,
        metadata=marked(role),
        **place,
    )
    layer.colorbar.box = True
    layer.colorbar.size = (12, 90)
    return layer


def _show_colourbar(layer: Callable[[], Layer | None]) -> None:
    """Show a layer's colour bar, unless the layer has gone."""
    found = layer()
    if found is not None:
        found.colorbar.visible = True


def _attention_colours() -> Colormap:
    """Return viridis without its violet end, which looks like a stained nucleus."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    upper = ensure_colormap("viridis").map(np.linspace(0.4, 1.0, 64))
    return Colormap(upper, name="attention")


def _with_index(cells: Cells, index: Sequence[int]) -> npt.NDArray[np.float64]:
    ahead = np.tile(np.asarray(index, dtype=np.float64), (len(cells), 1))
    return np.hstack([ahead.reshape(len(cells), len(index)), cells.centres])
