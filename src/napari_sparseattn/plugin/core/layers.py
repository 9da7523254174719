"""Layers of ours on the user's images: one per image and role, updated in place."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .sources import METADATA_KEY

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

_ELLIPSE_CORNERS = 64

__all__ = [
    "ROLES",
    "OverlayChoice",
    "OverlayLayers",
    "Overlays",
    "Role",
    "copied_transform",
    "marked",
    "move",
    "outline_ellipse",
    "readable_on",
]

RoleT = TypeVar("RoleT", bound=str)
Role = Literal["unread", "attention", "pixels", "candidates", "tree", "crops", "cells", "frame"]

#: Kinds of overlay, in the order they are stacked.
ROLES: tuple[Role, ...] = (
    "unread", "attention", "pixels", "candidates", "tree", "crops", "cells", "frame",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OverlayChoice:
    """Which overlays the user wants to see; kept from click to click."""

    attention: bool = False
    pixels: bool = True
    cells: bool = True
    frame: bool = True
    crops: bool = True
    tree: bool = True
    candidates: bool = False
    unread: bool = False

    def of(self, role: Role) -> bool:
        """Return whether one kind of overlay is wanted."""
        return bool(getattr(self, role))


def copied_transform(
    source: Image,
    origin: Sequence[float] = (0.0, 0.0),
    step: float | tuple[float, float] = 1.0,
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
    step : float or (float, float)
        The source's pixels per pixel of the new layer, along y and x.
    index : sequence of int
        Position along the axes before y and x; missing last ones are 0.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels, for a
        layer of as many axes as the source.
    """
    from napari.utils.transforms import Affine

    steps = np.ones(source.ndim)
    steps[-2:] = step
    before = [*index, *[0] * (source.ndim - 2 - len(index))]
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
        "translate": np.asarray(physical([*before, *origin])),
        "rotate": source.rotate,
        "shear": source.shear,
        "affine": source.affine,
        "units": source.units,
        "axis_labels": source.axis_labels,
    }


class OverlayLayers(Generic[RoleT]):
    """Layers of one viewer by image and role; the user's own layers are not touched.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    on_visible : callable
        Called with a role and whether the user has just shown or hidden it
        in the layer list.
    """

    def __init__(self, viewer: ViewerModel, on_visible: Callable[[RoleT, bool], None]) -> None:
        self._viewer = weakref.ref(viewer)
        self._on_visible = on_visible
        self._layers: weakref.WeakKeyDictionary[Image, dict[RoleT, Layer]] = (
            weakref.WeakKeyDictionary()
        )
        self._late: weakref.WeakKeyDictionary[Layer, Callable[[Any], None]] = (
            weakref.WeakKeyDictionary()
        )
        self._setting = False

    def layer(self, source: Image, role: RoleT) -> Layer | None:
        """Return the overlay of an image, if the user has not removed it."""
        viewer, layer = self._viewer(), self._layers.get(source, {}).get(role)
        return (
            layer if viewer is not None and layer is not None and layer in viewer.layers else None
        )

    def remove(self, source: Image, roles: Iterable[RoleT]) -> None:
        """Take overlays of an image out of the viewer."""
        viewer = self._viewer()
        for role in roles:
            layer = self.layer(source, role)
            self._layers.get(source, {}).pop(role, None)
            if layer is not None and viewer is not None:
                viewer.layers.remove(layer)

    def remove_everywhere(self, roles: Iterable[RoleT]) -> None:
        """Take overlays of all images out of the viewer."""
        wanted = tuple(roles)
        for source in list(self._layers):
            self.remove(source, wanted)

    def update_layer(self, layer: Layer, update: Callable[[Any], None], shown: bool) -> None:
        """Bring a layer up to date, or let that wait until it is shown."""
        if shown:
            self._late.pop(layer, None)
            update(layer)
        else:
            # Hidden layers cost as much to update as shown ones. The update is
            # handed the layer later: holding it here would keep it alive.
            self._late[layer] = update
        self.set_visible(layer, shown)

    def set_visible(self, layer: Layer, shown: bool) -> None:
        """Show or hide a layer, without taking that for a wish of the user's."""
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

    def add_layer(self, source: Image, role: RoleT, layer: Layer) -> Layer:
        """Put a layer into the viewer; the user's selection stays."""
        viewer = self._viewer()
        assert viewer is not None
        mine = self._layers.setdefault(source, {})
        mine[role] = layer
        with _kept_selection(viewer):
            viewer.add_layer(layer)
        # A weak connection: napari keeps bound methods by weak reference.
        layer.events.visible.connect(self._visible_changed)
        return layer


class Overlays(OverlayLayers[Role]):
    """The overlays whose kinds the user chooses with an `OverlayChoice`."""

    def apply(self, choice: OverlayChoice) -> None:
        """Show and hide the overlays of all images."""
        for layers in list(self._layers.values()):
            for role, layer in layers.items():
                self.set_visible(layer, choice.of(role))


@contextmanager
def _kept_selection(viewer: ViewerModel) -> Iterator[None]:
    """Adding a layer selects it; the user's selection stays instead."""
    selected, active = set(viewer.layers.selection), viewer.layers.selection.active
    yield
    viewer.layers.selection = selected
    viewer.layers.selection.active = active


def marked(role: str) -> dict[str, Any]:
    """Return the metadata that make a layer one of ours."""
    return {METADATA_KEY: {"overlay": role}}


def move(layer: Layer, place: dict[str, Any]) -> bool:
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


def readable_on(source: Image, colour: str) -> npt.NDArray[np.float64]:
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


def outline_ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the outline of an ellipse from the four corners around it."""
    centre = corners.mean(axis=0)
    down, right = (corners[3] - corners[0]) / 2, (corners[1] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    outline: npt.NDArray[np.float64] = centre + np.cos(angle) * right + np.sin(angle) * down
    return outline
