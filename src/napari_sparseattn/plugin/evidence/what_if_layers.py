"""Layers of what-if questions: the drawn region, the crops to move, the selection afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...evidence import PixelSelection, Traversal
from ..core.layers import (
    OverlayLayers,
    copied_transform,
    marked,
    move,
    outline_ellipse,
    update_boxes,
    within_image,
)
from .what_if_requests import Region, crop_middles

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points, Shapes
    from napari.utils.colormaps import Colormap

__all__ = ["WhatIfLayers", "WhatIfRole"]

WhatIfRole = Literal["what-if outlines", "what-if paint", "what-if crops", "what-if selection"]
_SELECTION: tuple[WhatIfRole, ...] = ("what-if selection",)
#: Magenta: in none of the maps, and readable on stained and grey cells.
_COLOUR = "#ff00c8"
_MOST_ATTENTION = 3.0
_MOST_PAINTED = 2**26
_MOST_CORNERS = 400


class WhatIfLayers(OverlayLayers[WhatIfRole]):
    """The layers of what-if questions in one viewer, by image.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer, lambda _role, _shown: None)

    # -- drawing

    def outlines(self, source: Image, index: Sequence[int], *, make: bool) -> Shapes | None:
        """Return the layer to lasso in; made if there is none and `make`."""
        found: Shapes | None = self.layer(source, "what-if outlines")
        if found is not None or not make:
            return found
        from napari.layers import Shapes

        layer = Shapes(
            ndim=source.ndim,
            name=f"{source.name} · what if",
            edge_color=_COLOUR,
            face_color=f"{_COLOUR}30",
            edge_width=max(0.5, min(_plane_shape(source)) / 400),
            metadata=marked("what-if outlines"),
            **copied_transform(source),
        )
        made: Shapes = self.add_layer(source, "what-if outlines", layer)
        return made

    def paint(self, source: Image, index: Sequence[int], *, make: bool) -> Labels | None:
        """Return the layer to paint in; None where the image is too large for one."""
        found: Labels | None = self.layer(source, "what-if paint")
        if found is not None or not make:
            return found
        ahead, (height, width) = len(index), _plane_shape(source)
        if height * width > _MOST_PAINTED:
            return None
        from napari.layers import Labels

        layer = Labels(
            np.zeros((1,) * ahead + (height, width), dtype=np.uint8),
            name=f"{source.name} · what if (painted)",
            opacity=0.35,
            colormap={None: "transparent", 1: _COLOUR},
            metadata=marked("what-if paint"),
            **copied_transform(source, index=index),
        )
        layer.brush_size = max(3, round(min(height, width) / 60))
        made: Labels = self.add_layer(source, "what-if paint", layer)
        return made

    def region(self, source: Image) -> Region:
        """Return what is drawn on an image now, as a copy."""
        shapes, labels = self.outlines(source, (), make=False), self.paint(source, (), make=False)
        found = []
        if shapes is not None:
            for corners, kind in zip(shapes.data, shapes.shape_type, strict=True):
                if kind in ("line", "path"):
                    continue
                outline = corners[:, -2:]
                outline = outline_ellipse(outline) if kind == "ellipse" else outline
                found.append(np.array(outline, np.float64))
        painted = None
        if labels is not None:
            plane = np.asarray(labels.data).reshape(labels.data.shape[-2:])
            painted = plane > 0
        if painted is not None and not painted.any():
            painted = None
        return Region(tuple(found), painted)

    def set_region(self, source: Image, index: Sequence[int], region: Region) -> None:
        """Draw a region again, in place of what is drawn."""
        shapes = self.outlines(source, index, make=bool(region.outlines))
        if shapes is not None:
            shapes.data = []
            ahead = np.asarray(index, np.float64)
            rings = [np.hstack([np.tile(ahead, (len(ring), 1)), ring]) for ring in region.outlines]
            if rings:
                shapes.add_polygons(rings, edge_color=_COLOUR, face_color=f"{_COLOUR}30")
        labels = self.paint(source, index, make=region.painted is not None)
        if labels is not None:
            data = np.zeros(labels.data.shape, np.uint8)
            if region.painted is not None:
                data[...] = region.painted
            labels.data = data

    def show_crops(self, source: Image, index: Sequence[int], way: Traversal) -> Points:
        """Show a point in the middle of each crop that can be dragged elsewhere."""
        from napari.layers import Points

        self.remove(source, ("what-if crops",))
        middles = crop_middles(way)[1:]
        ahead = np.tile(np.asarray(index, np.float64), (len(middles), 1))
        sides = way.on_image(np.asarray(way.boxes, np.float64))[:, 2]
        layer = Points(
            np.hstack([ahead.reshape(len(middles), len(index)), middles]),
            ndim=source.ndim,
            name=f"{source.name} · crops to move",
            size=max(1.0, float(sides.min()) / 5),
            face_color=_COLOUR,
            border_color="white",
            features={"crop": np.arange(2, len(middles) + 2)},
            text={"string": "{crop}", "color": "white", "size": 9},
            metadata=marked("what-if crops"),
            **copied_transform(source),
        )
        made: Points = self.add_layer(source, "what-if crops", layer)
        return made

    # -- the selection afterwards

    def show_selection(self, source: Image, index: Sequence[int], evidence: Any) -> None:
        """Show the model's selection after a change; nothing of a slide's patches."""
        if isinstance(evidence, PixelSelection):
            frame = evidence.frame
            place = copied_transform(source, frame.origin, frame.scale, index)
            values = within_image(source, frame, evidence.fine_map())
            values = values.reshape((1,) * len(index) + (frame.size, frame.size))
            self._show_pixels(source, values, place)
        elif isinstance(evidence, Traversal):
            self._show_boxes(source, index, evidence)
        else:
            self.remove(source, _SELECTION)

    def _show_pixels(
        self, source: Image, values: npt.NDArray[np.float32], place: dict[str, Any]
    ) -> None:
        from napari.layers import Image

        layer: Layer | None = self.layer(source, "what-if selection")
        if isinstance(layer, Image):
            layer.data = values
            move(layer, place)
            layer.visible = True
            return
        self.remove(source, _SELECTION)
        made = Image(
            values,
            name=f"[{source.name}] selected, what if",
            colormap=_make_colormap(),
            contrast_limits=(0.0, _MOST_ATTENTION),
            opacity=0.6,
            metadata=marked("what-if selection"),
            **place,
        )
        self.add_layer(source, "what-if selection", made)

    def _show_boxes(self, source: Image, index: Sequence[int], way: Traversal) -> None:
        from napari.layers import Shapes

        layer: Layer | None = self.layer(source, "what-if selection")
        ahead, corners = np.asarray(index, np.float64), []
        for top, left, height, width in way.on_image(np.asarray(way.boxes, np.float64))[1:]:
            box = np.array([(0, 0), (0, width), (height, width), (height, 0)])
            box += (top - 0.5, left - 0.5)
            corners.append(np.hstack([np.tile(ahead, (4, 1)).reshape(4, len(index)), box]))
        drawn = bool(corners) and 4 * len(corners) <= _MOST_CORNERS
        if not drawn or not isinstance(layer, Shapes):
            self.remove(source, _SELECTION)
        if not drawn:
            return
        width = float(np.ptp(np.concatenate(corners)[:, -1])) / 120
        place = copied_transform(source)
        if isinstance(layer, Shapes):
            update_boxes(layer, corners, _COLOUR, width)
            layer.visible = True
            move(layer, place)
            return
        made = Shapes(
            corners,
            shape_type="rectangle",
            name=f"[{source.name}] crops, what if",
            edge_color=_COLOUR,
            face_color="transparent",
            edge_width=width,
            metadata=marked("what-if selection"),
            **place,
        )
        self.add_layer(source, "what-if selection", made)

    def hide_selection(self, source: Image) -> None:
        """Take the selection after a change away."""
        self.remove(source, _SELECTION)


def _make_colormap() -> Colormap:
    from napari.utils.colormaps import Colormap

    return Colormap([(0.6, 0.0, 0.45), (1.0, 0.0, 0.78), (1.0, 0.8, 0.95)], name="what if")


def _plane_shape(source: Image) -> tuple[int, int]:
    data = source.data[0] if source.multiscale else source.data
    height, width = data.shape[source.ndim - 2 : source.ndim]
    return int(height), int(width)
