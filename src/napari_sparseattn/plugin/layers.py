"""Evidence as layers: placed on the image it comes from, updated in place."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .sources import METADATA_KEY

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Points, Shapes
    from napari.utils.colormaps import Colormap

    from ..images.cells import Cells
    from ..inference.prediction import Prediction, Predictions

__all__ = ["ROLES", "OverlayChoice", "Overlays", "Role", "copied_transform"]

Role = Literal["attention", "pixels", "cells", "frame"]

#: Kinds of overlay, in the order they are stacked.
ROLES: tuple[Role, ...] = ("attention", "pixels", "cells", "frame")

_NAMES: dict[Role, str] = {
    "attention": "attention map",
    "pixels": "selected pixels",
    "cells": "cells",
    "frame": "clicked cell",
}
#: Fine attention is shown up to this multiple of a uniform share.
_MOST_ATTENTION = 3.0
_UNCLASSIFIED = "#9e9e9e"


@dataclasses.dataclass(frozen=True)
class OverlayChoice:
    """Which overlays the user wants to see; kept from click to click."""

    attention: bool = False
    pixels: bool = True
    cells: bool = True
    frame: bool = True

    def of(self, role: Role) -> bool:
        """Return whether one kind of overlay is wanted."""
        return bool(getattr(self, role))


def copied_transform(
    source: Image,
    origin: Sequence[float] = (0.0, 0.0),
    step: float = 1.0,
    index: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the transform of a layer that lies on a part of another.

    Parameters
    ----------
    source : napari.layers.Image
        The layer to lie on.
    origin : (float, float)
        Row and column, in the source's pixels, of the centre of the new
        layer's first pixel.
    step : float
        The source's pixels per pixel of the new layer, along y and x.
    index : sequence of int
        Position along the axes before y and x.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels, for a
        layer of as many axes as the source.
    """
    from napari.utils.transforms import Affine

    steps = np.ones(source.ndim)
    steps[-2:] = step
    physical = Affine(
        scale=source.scale,
        translate=source.translate,
        rotate=source.rotate,
        shear=source.shear,
        ndim=source.ndim,
    )
    return {
        "scale": source.scale * steps,
        # Only the physical part: the affine comes after it in the new layer too.
        "translate": np.asarray(physical([*index, *origin])),
        "rotate": source.rotate,
        "shear": source.shear,
        "affine": source.affine,
        "units": source.units,
        "axis_labels": source.axis_labels,
    }


class Overlays:
    """The overlay layers of one viewer; the user's own layers are not touched.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    on_visible : callable
        Called with a role and whether the user has just shown or hidden it
        in the layer list.
    """

    def __init__(self, viewer: ViewerModel, on_visible: Callable[[Role, bool], None]) -> None:
        self._viewer = weakref.ref(viewer)
        self._on_visible = on_visible
        self._layers: weakref.WeakKeyDictionary[Image, dict[Role, Layer]] = (
            weakref.WeakKeyDictionary()
        )
        self._late: weakref.WeakKeyDictionary[Layer, Callable[[Any], None]] = (
            weakref.WeakKeyDictionary()
        )
        self._setting = False

    def layer(self, source: Image, role: Role) -> Layer | None:
        """Return the overlay of an image, if the user has not removed it."""
        viewer, layer = self._viewer(), self._layers.get(source, {}).get(role)
        return (
            layer if viewer is not None and layer is not None and layer in viewer.layers else None
        )

    def show_prediction(
        self,
        source: Image,
        index: Sequence[int],
        prediction: Prediction,
        colours: Sequence[str],
        choice: OverlayChoice,
    ) -> None:
        """Show the clicked cell's crop, class and evidence.

        Parameters
        ----------
        source : napari.layers.Image
            The image it was cut from.
        index : sequence of int
            The plane, for stacks.
        prediction : Prediction
            With its evidence; without, nothing is drawn.
        colours : sequence of str
            One per class.
        choice : OverlayChoice
            What to show. A hidden overlay is brought up to date when shown.
        """
        evidence = prediction.evidence
        if evidence is None:
            return
        frame = evidence.frame
        place = copied_transform(source, frame.origin, frame.scale, index)
        ahead = (1,) * len(index)
        fine = evidence.fine_map().reshape(ahead + evidence.coarse.shape)
        coarse = evidence.coarse.reshape(ahead + evidence.coarse.shape)
        self._show_map(source, "attention", coarse, place, choice)
        self._show_map(source, "pixels", fine, place, choice)
        corner = (frame.row - frame.side / 2, frame.column - frame.side / 2)
        place = copied_transform(source, corner, 1.0, index)
        text = f"{prediction.label} {prediction.confidence:.0%}"
        colour = colours[prediction.index]
        self._show_frame(source, frame.side, place, text, colour, choice)

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
        layer = self.layer(source, "cells")
        if layer is None:
            layer = self._add_cells(source, data, size, edge, features, place)
        else:
            points: Points = layer
            points.selected_data = set()
            points.data = data
            points.size = size
            points.features = features
            points.border_color = edge
            _move(points, place)
        self._set_visible(layer, choice.cells)

    def select_cell(self, source: Image, index: int | None) -> None:
        """Highlight one of the rings."""
        points: Points | None = self.layer(source, "cells")
        if points is not None and (index is None or index < len(points.data)):
            points.selected_data = set() if index is None else {index}

    def apply(self, choice: OverlayChoice) -> None:
        """Show and hide the overlays of all images."""
        for layers in list(self._layers.values()):
            for role, layer in layers.items():
                self._set_visible(layer, choice.of(role))

    def _show_map(
        self,
        source: Image,
        role: Role,
        values: npt.NDArray[np.float32],
        place: dict[str, Any],
        choice: OverlayChoice,
    ) -> None:
        layer = self.layer(source, role)
        if layer is None:
            # A copy: it is overwritten in place, and evidence must not change.
            layer = self._add_map(source, role, values.copy(), place)
            self._set_visible(layer, choice.of(role))
            return

        def update(image: Image) -> None:
            # In place, as setting `data` makes the viewer measure all layers anew.
            if image.data.shape != values.shape:
                image.data = values.copy()
            else:
                np.copyto(image.data, values)
            if not _move(image, place):
                image.refresh(extent=False)

        self._update(layer, update, choice.of(role))

    def _show_frame(
        self,
        source: Image,
        side: float,
        place: dict[str, Any],
        text: str,
        colour: str,
        choice: OverlayChoice,
    ) -> None:
        corners = np.zeros((4, source.ndim))
        corners[:, -2:] = np.array([(0, 0), (0, side), (side, side), (side, 0)])
        layer = self.layer(source, "frame")
        if layer is None:
            layer = self._add_frame(source, corners, place, text, colour)
            self._set_visible(layer, choice.frame)
            return

        def update(shapes: Shapes) -> None:
            # Moving the layer is cheaper than new corners for its rectangle.
            if len(shapes.data) != 1 or not np.allclose(shapes.data[0], corners):
                shapes.data = [corners]
            _move(shapes, place)
            shapes.features = {"text": [text]}
            if shapes.metadata[METADATA_KEY].get("colour") != colour:
                shapes.metadata[METADATA_KEY]["colour"] = colour
                shapes.edge_color = colour
                shapes.text.color = _readable_on(source, colour)

        self._update(layer, update, choice.frame)

    def _update(self, layer: Layer, update: Callable[[Any], None], shown: bool) -> None:
        if shown:
            self._late.pop(layer, None)
            update(layer)
        else:
            # Hidden layers cost as much to update as shown ones. The update is
            # handed the layer later: holding it here would keep it alive.
            self._late[layer] = update
        self._set_visible(layer, shown)

    def _set_visible(self, layer: Layer, shown: bool) -> None:
        if shown and (update := self._late.pop(layer, None)) is not None:
            update(layer)
        if layer.visible != shown:
            self._setting = True
            layer.visible = shown
            self._setting = False

    def _visible_changed(self, event: Any) -> None:
        layer: Layer = event.source
        if self._setting:
            return
        if layer.visible and (update := self._late.pop(layer, None)) is not None:
            update(layer)
        self._on_visible(layer.metadata[METADATA_KEY]["overlay"], layer.visible)

    def _add_map(
        self, source: Image, role: Role, values: npt.NDArray[np.float32], place: dict[str, Any]
    ) -> Layer:
        from napari.layers import Image

        pixels = role == "pixels"
        layer = Image(
            values,
            name=f"[{source.name}] {_NAMES[role]}",
            colormap=_attention_colours() if pixels else "magma",
            contrast_limits=(0.0, _MOST_ATTENTION if pixels else 1.0),
            opacity=0.6,
            metadata=_mark(role),
            **place,
        )
        layer.colorbar.visible = layer.colorbar.box = True
        layer.colorbar.size = (12, 90)
        return self._add(source, role, layer)

    def _add_frame(
        self,
        source: Image,
        corners: npt.NDArray[np.float64],
        place: dict[str, Any],
        text: str,
        colour: str,
    ) -> Layer:
        from napari.layers import Shapes

        mark = _mark("frame")
        mark[METADATA_KEY]["colour"] = colour
        layer = Shapes(
            [corners],
            name=f"[{source.name}] {_NAMES['frame']}",
            face_color="transparent",
            edge_color=colour,
            edge_width=float(np.ptp(corners[:, -1])) / 90,
            opacity=1.0,
            features={"text": [text]},
            text={
                "string": "{text}",
                "anchor": "upper_left",
                "color": _readable_on(source, colour),
                "size": 13,
            },
            metadata=mark,
            **place,
        )
        return self._add(source, "frame", layer)

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
            size=size if len(size) else 10,
            face_color="transparent",
            border_color=edge if len(edge) else _UNCLASSIFIED,
            border_width=0.035,
            features=features,
            metadata=_mark("cells"),
            **place,
        )
        return self._add(source, "cells", layer)

    def _add(self, source: Image, role: Role, layer: Layer) -> Layer:
        viewer = self._viewer()
        assert viewer is not None
        mine = self._layers.setdefault(source, {})
        mine[role] = layer
        with _kept_selection(viewer):
            viewer.add_layer(layer)
        # A weak connection: napari keeps bound methods by weak reference.
        layer.events.visible.connect(self._visible_changed)
        return layer


def _attention_colours() -> Colormap:
    """Return viridis without its violet end, which looks like a stained nucleus."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    upper = ensure_colormap("viridis").map(np.linspace(0.4, 1.0, 64))
    return Colormap(upper, name="attention")


@contextmanager
def _kept_selection(viewer: ViewerModel) -> Iterator[None]:
    """Adding a layer selects it; the user's selection stays instead."""
    selected, active = set(viewer.layers.selection), viewer.layers.selection.active
    yield
    viewer.layers.selection = selected
    viewer.layers.selection.active = active


def _mark(role: Role) -> dict[str, Any]:
    return {METADATA_KEY: {"overlay": role}}


def _with_index(cells: Cells, index: Sequence[int]) -> npt.NDArray[np.float64]:
    ahead = np.tile(np.asarray(index, dtype=np.float64), (len(cells), 1))
    return np.hstack([ahead.reshape(len(cells), len(index)), cells.centres])


def _move(layer: Layer, place: dict[str, Any]) -> bool:
    """Set what differs: each transform that is set redraws the whole scene.

    Returns whether any was, which refreshes the layer too.
    """
    moved = False
    for name in ("scale", "translate", "rotate", "shear"):
        if not np.allclose(getattr(layer, name), place[name]):
            setattr(layer, name, place[name])
            moved = True
    if not np.allclose(layer.affine.affine_matrix, place["affine"].affine_matrix):
        layer.affine = place["affine"]
        moved = True
    for name in ("units", "axis_labels"):
        if getattr(layer, name) != place[name]:
            setattr(layer, name, place[name])
    return moved


def _readable_on(source: Image, colour: str) -> npt.NDArray[np.float64]:
    """Return a class's colour, darkened where the image is bright; RGBA, 0 to 1.

    Not black: a crop may reach over the image's edge, onto the dark canvas.
    """
    from napari.utils.colormaps.standardize_color import transform_color

    thumbnail = np.asarray(source.thumbnail, dtype=np.float64)
    drawn = thumbnail[..., 3] > 0
    light = thumbnail[drawn][:, :3].mean() if drawn.any() else 0.0
    rgba: npt.NDArray[np.float64] = transform_color(colour)[0].astype(np.float64)
    rgba[:3] *= 0.6 if light > 110 else 1.0
    return rgba
