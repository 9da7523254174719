"""Layers of comparisons: a second model's selection, and the image twice, side by side."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...evidence import PixelSelection, Traversal
from ..core.layers import (
    OverlayLayers,
    copied_transform,
    marked,
    move,
    update_boxes,
    within_image,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

__all__ = ["COLOUR", "CompareLayers", "CompareRole"]

CompareRole = Literal["compared image", "compared selection"]
_ROLES: tuple[CompareRole, ...] = ("compared image", "compared selection")
#: Orange: in none of the maps, and not the magenta of what-ifs.
COLOUR = "#ff9d2e"
_MOST_ATTENTION = 3.0
_MOST_CROPS = 100


class CompareLayers(OverlayLayers[CompareRole]):
    """Layers of comparisons in one viewer, by image; the user's own are not touched.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    ended : callable
        Called when the user has ended what is side by side, by the grid's
        button or by deleting the second picture.
    """

    def __init__(self, viewer: ViewerModel, ended: Callable[[], None]) -> None:
        super().__init__(viewer, lambda _role, _shown: None)
        self._ended = ended
        self._before: dict[str, Any] | None = None
        self._beside: weakref.ref[Image] | None = None
        self._arranging = False

    # -- the second's selection

    def show(self, source: Image, index: Sequence[int], evidence: object, name: str) -> None:
        """Show what the second model selected; nothing of other kinds of evidence."""
        if isinstance(evidence, PixelSelection):
            self._show_pixels(source, index, evidence, name)
        elif isinstance(evidence, Traversal):
            self._show_crops(source, index, evidence, name)
        else:
            self.remove(source, ("compared selection",))
        self._arrange()

    def hide(self, source: Image) -> None:
        """Take away what the second model selected."""
        self.remove(source, ("compared selection",))

    def _show_pixels(
        self, source: Image, index: Sequence[int], evidence: PixelSelection, name: str
    ) -> None:
        from napari.layers import Image
        from napari.utils.colormaps import Colormap

        frame = evidence.frame
        place = copied_transform(source, frame.origin, frame.scale, index)
        values = within_image(source, frame, evidence.fine_map())
        values = values.reshape((1,) * len(index) + (frame.size, frame.size))
        layer: Layer | None = self.layer(source, "compared selection")
        if isinstance(layer, Image):
            layer.data, layer.name = values, name
            move(layer, place)
            layer.visible = True
            return
        self.remove(source, ("compared selection",))
        colours = Colormap([(0.55, 0.25, 0.0), (1.0, 0.62, 0.18), (1.0, 0.92, 0.7)], name="second")
        made = Image(
            values,
            name=name,
            colormap=colours,
            contrast_limits=(0.0, _MOST_ATTENTION),
            opacity=0.6,
            metadata=marked("compared selection"),
            **place,
        )
        self.add_layer(source, "compared selection", made)

    def _show_crops(self, source: Image, index: Sequence[int], way: Traversal, name: str) -> None:
        from napari.layers import Shapes

        boxes = way.on_image(np.asarray(way.boxes, np.float64))[1:][:_MOST_CROPS]
        layer: Layer | None = self.layer(source, "compared selection")
        if not len(boxes) or not isinstance(layer, Shapes):
            self.remove(source, ("compared selection",))
        if not len(boxes):
            return
        corners = np.zeros((len(boxes), 4, source.ndim))
        corners[..., : len(index)] = index
        top, left, height, width = boxes.T - np.array([[0.5], [0.5], [0], [0]])
        corners[..., -2] = np.stack([top, top, top + height, top + height], axis=1)
        corners[..., -1] = np.stack([left, left + width, left + width, left], axis=1)
        thickness, place = float(width.max()) / 90, copied_transform(source)
        if isinstance(layer, Shapes):
            update_boxes(layer, list(corners), COLOUR, thickness)
            layer.name, layer.visible = name, True
            move(layer, place)
            return
        made = Shapes(
            list(corners),
            shape_type="rectangle",
            name=name,
            edge_color=COLOUR,
            face_color="transparent",
            edge_width=thickness,
            metadata=marked("compared selection"),
            **place,
        )
        self.add_layer(source, "compared selection", made)

    # -- side by side

    @property
    def side_by_side(self) -> bool:
        """Whether the image is shown twice."""
        return self._before is not None

    def put_side_by_side(self, source: Image) -> None:
        """Show an image twice in napari's grid, the second with the second's selection."""
        viewer = self._viewer()
        if viewer is None or self.side_by_side:
            return
        from napari.layers import Layer

        # The same data, not a copy of it.
        data, state, kind = source.as_layer_data_tuple()
        named = {"name": f"{source.name} · second model", "metadata": marked("compared image")}
        twin = Layer.create(data, {**state, **named, "visible": True}, kind)
        grid = viewer.canvas.grid
        self._before = {name: getattr(grid, name) for name in ("enabled", "stride", "shape")}
        self._beside = weakref.ref(source)
        self.add_layer(source, "compared image", twin)
        self._arrange()
        for signal, slot in self._listening(viewer):
            signal.connect(slot)
        # Half of the canvas each: what is in view stays in view.
        viewer.scene.camera.zoom /= 2

    def put_back(self) -> None:
        """Show the image once, and the grid as it was."""
        viewer, before, self._before = self._viewer(), self._before, None
        source = None if self._beside is None else self._beside()
        if viewer is None or before is None:
            return
        for signal, slot in self._listening(viewer):
            signal.disconnect(slot)
        if source is not None:
            self.remove(source, ("compared image",))
        else:
            self.remove_everywhere(("compared image",))
        for name in ("stride", "shape", "enabled"):
            setattr(viewer.canvas.grid, name, before[name])
        viewer.scene.camera.zoom *= 2

    def _listening(self, viewer: ViewerModel) -> list[tuple[Any, Callable[..., None]]]:
        layers = viewer.layers.events
        return [
            (layers.inserted, self._arrange),
            (layers.removed, self._follow_removal),
            (layers.reordered, self._arrange),
            (viewer.canvas.grid.events.enabled, self._follow_grid),
        ]

    def _arrange(self, _: object = None) -> None:
        """Keep the second picture and its selection together, after all others."""
        viewer, source = self._viewer(), None if self._beside is None else self._beside()
        if viewer is None or source is None or not self.side_by_side or self._arranging:
            return
        self._arranging = True
        try:
            mine = [x for x in (self.layer(source, role) for role in _ROLES) if x is not None]
            if list(viewer.layers)[-len(mine) :] != mine:
                for layer in mine:
                    viewer.layers.move(viewer.layers.index(layer), len(viewer.layers))
            grid = viewer.canvas.grid
            grid.stride, grid.shape = len(viewer.layers) - len(mine), (1, 2)
            grid.enabled = True
        finally:
            self._arranging = False

    def _follow_removal(self, _: object = None) -> None:
        source = None if self._beside is None else self._beside()
        viewer = self._viewer()
        if viewer is None or self._arranging:
            return
        if source is None or source not in viewer.layers or not self.layer(source, _ROLES[0]):
            self._ended()
        else:
            self._arrange()

    def _follow_grid(self, _: object = None) -> None:
        viewer = self._viewer()
        if viewer is not None and not viewer.canvas.grid.enabled and not self._arranging:
            if self._before is not None:
                self._before["enabled"] = False
            self._ended()
