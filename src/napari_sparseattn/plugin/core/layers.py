"""Layers of ours on the user's images: one per image and role, updated in place."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .sources import METADATA_KEY, shape_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Points, Shapes

    from ...evidence import CropFrame

_ELLIPSE_CORNERS = 64

__all__ = [
    "ROLES",
    "Outline",
    "OverlayChoice",
    "OverlayLayers",
    "Overlays",
    "Role",
    "copied_transform",
    "marked",
    "move",
    "outline",
    "outline_ellipse",
    "outline_layer",
    "readable_on",
    "update_boxes",
    "update_outline",
    "within_image",
]

#: Points along each side of an outline: enough to look like a line.
_DOTS = 100
#: Where a text is repeated for its halo, in rows and columns; in the end the text itself.
_HALO = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)]
#: One step of the halo is this part of the frame's side: a pixel or two of the screen.
_HALO_SHARE = 260
#: Of 255: a mean above which an image counts as bright.
_BRIGHT = 110
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
    tree: bool = False
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
        #: What is hidden is made once it is shown: a layer costs napari a tenth of a second.
        self._unmade: weakref.WeakKeyDictionary[Image, dict[RoleT, Callable[[Image], Layer]]] = (
            weakref.WeakKeyDictionary()
        )
        self._setting = False
        #: Where each image lay when its layers were last placed on it.
        self._placed: weakref.WeakKeyDictionary[Image, npt.NDArray[np.float64]] = (
            weakref.WeakKeyDictionary()
        )
        #: Layers of which there is nothing to show; kept, as removing them costs more.
        self._blank: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._toggling: Layer | None = None

    def layer(self, source: Image, role: RoleT) -> Layer | None:
        """Return the overlay of an image, if the user has not removed it."""
        viewer, layer = self._viewer(), self._layers.get(source, {}).get(role)
        return (
            layer if viewer is not None and layer is not None and layer in viewer.layers else None
        )

    def source_of(self, layer: Layer) -> Image | None:
        """Return the image that a layer belongs to; None of one that is not, or no longer, ours."""
        for source, layers in self._layers.items():
            if any(each is layer for each in layers.values()):
                return source
        return None

    def remove(self, source: Image, roles: Iterable[RoleT]) -> None:
        """Take overlays of an image out of the viewer."""
        viewer = self._viewer()
        for role in roles:
            layer = self.layer(source, role)
            self._layers.get(source, {}).pop(role, None)
            self._unmade.get(source, {}).pop(role, None)
            if layer is not None and viewer is not None:
                viewer.layers.remove(layer)

    def remove_everywhere(self, roles: Iterable[RoleT]) -> None:
        """Take overlays of all images out of the viewer."""
        wanted = tuple(roles)
        for source in {*self._layers, *self._unmade}:
            self.remove(source, wanted)

    def blank(self, source: Image, keep: Iterable[RoleT] = ()) -> None:
        """Hide the overlays of an image, whatever is chosen, until they are updated."""
        kept = set(keep)
        for role, layer in self._layers.get(source, {}).items():
            if role not in kept:
                self._late.pop(layer, None)
                self.set_visible(layer, False)
                self._blank.add(layer)
        for role in [role for role in self._unmade.get(source, {}) if role not in kept]:
            del self._unmade[source][role]

    def forget(self, source: Image) -> None:
        """Take all overlays of an image out of the viewer."""
        self.remove(source, list(self._layers.get(source, {})))
        self._layers.pop(source, None)
        self._unmade.pop(source, None)

    def offer(
        self, source: Image, role: RoleT, make: Callable[[Image], Layer], shown: bool
    ) -> None:
        """Add a layer that there is not yet, or let that wait until it is to be shown.

        Parameters
        ----------
        source : napari.layers.Image
            The image that it lies on.
        role : str
            What it is.
        make : callable
            Given the image, returns the layer, placed where the image lies by then. Not
            to hold the image itself, which would keep that alive.
        shown : bool
            Whether it is to be shown now.
        """
        waiting = self._unmade.setdefault(source, {})
        if shown:
            waiting.pop(role, None)
            self.add_layer(source, role, make(source))
        else:
            waiting[role] = make

    def update_layer(self, layer: Layer, update: Callable[[Any], None], shown: bool) -> None:
        """Bring a layer up to date, or let that wait until it is shown."""
        self._blank.discard(layer)
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

    def _move_along(self, event: Any) -> None:
        """Let the layers of an image go where it goes."""
        source: Image = event.source
        before, now = self._placed[source], _to_world(source)
        if np.allclose(before, now):
            return
        self._placed[source] = now
        for role in list(self._layers.get(source, {})):
            layer = self.layer(source, role)
            if layer is None:
                continue
            if (update := self._late.pop(layer, None)) is not None:
                update(layer)
            on_image = np.linalg.solve(before, _to_world(layer))
            steps, origin = np.diag(on_image)[-3:-1], on_image[:-1, -1]
            step = (float(steps[0]), float(steps[1]))
            place, index = [float(v) for v in origin[-2:]], [int(v) for v in origin[:-2]]
            move(layer, copied_transform(source, place, step, index))

    def _visible_changed(self, event: Any) -> None:
        layer: Layer = event.source
        if self._setting:
            return
        if layer in self._blank:
            self.set_visible(layer, False)
            return
        if layer.visible and (update := self._late.pop(layer, None)) is not None:
            update(layer)
        self._toggling = layer
        self._on_visible(layer.metadata[METADATA_KEY]["overlay"], layer.visible)
        self._toggling = None

    def add_layer(self, source: Image, role: RoleT, layer: Layer) -> Layer:
        """Put a layer into the viewer; the user's selection stays."""
        viewer = self._viewer()
        assert viewer is not None
        mine = self._layers.setdefault(source, {})
        mine[role] = layer
        if source not in self._placed:
            self._placed[source] = _to_world(source)
            for name in ("scale", "translate", "rotate", "shear", "affine"):
                getattr(source.events, name).connect(self._move_along)
        with _kept_selection(viewer):
            viewer.add_layer(layer)
        # A weak connection: napari keeps bound methods by weak reference.
        layer.events.visible.connect(self._visible_changed)
        return layer


class Overlays(OverlayLayers[Role]):
    """The overlays whose kinds the user chooses with an `OverlayChoice`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    on_visible : callable
        Called with an image, a role and whether the user has just shown or
        hidden that in the layer list.
    """

    def __init__(
        self, viewer: ViewerModel, on_visible: Callable[[Image, Role, bool], None]
    ) -> None:
        super().__init__(viewer, self._toggle)
        self._toggled = on_visible

    def apply(self, choice: OverlayChoice, source: Image) -> None:
        """Show and hide the overlays of an image."""
        for role, make in list(self._unmade.get(source, {}).items()):
            if choice.of(role):
                self.offer(source, role, make, True)
                self._stack(source, role)
        for role, layer in self._layers.get(source, {}).items():
            self.set_visible(layer, choice.of(role) and layer not in self._blank)

    def _stack(self, source: Image, role: Role) -> None:
        """Put an overlay that came late below those that lie above its kind."""
        viewer, layer = self._viewer(), self.layer(source, role)
        above = [self.layer(source, other) for other in ROLES[ROLES.index(role) + 1 :]]
        there = [one for one in above if one is not None]
        if viewer is not None and layer is not None and there:
            lowest = min(viewer.layers.index(one) for one in there)
            if lowest < viewer.layers.index(layer):
                viewer.layers.move(viewer.layers.index(layer), lowest)

    def _toggle(self, role: Role, shown: bool) -> None:
        layer = self._toggling
        for source, layers in list(self._layers.items()):
            if layers.get(role) is layer:
                self._toggled(source, role, shown)


def _to_world(layer: Layer) -> npt.NDArray[np.float64]:
    """Return the matrix (n + 1, n + 1) from a layer's pixels to the world."""
    n = layer.ndim
    start = np.asarray(layer.data_to_world(np.zeros(n)))
    matrix = np.eye(n + 1)
    matrix[:n, n] = start
    for axis, unit in enumerate(np.eye(n)):
        matrix[:n, axis] = np.asarray(layer.data_to_world(unit)) - start
    return matrix


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

    A layer that only goes elsewhere is drawn there, but the viewer is not told: it would measure
    all layers anew, for a layer that lies on its image whose range it knows.

    Returns whether any was, which refreshes the layer too.
    """
    different = [
        name
        for name in ("scale", "translate", "rotate", "shear")
        if not np.allclose(getattr(layer, name), place[name])
    ]
    turned = not np.allclose(layer.affine.affine_matrix, place["affine"].affine_matrix)
    named = [name for name in ("units", "axis_labels") if getattr(layer, name) != place[name]]
    if different == ["translate"] and not turned and not named:
        # Its refresh draws it in its new place.
        with layer.events.translate.blocker():
            layer.translate = place["translate"]
        return True
    for name in different:
        setattr(layer, name, place[name])
    if turned:
        layer.affine = place["affine"]
    for name in named:
        setattr(layer, name, place[name])
    return bool(different or turned or named)


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """A square's outline as points, of which the last carries a text, on a halo of its own.

    napari draws no outlined text: the points before the last carry the same text in a colour
    that stands out from it, each a little aside.

    Not as a shape: on Mesa, napari 0.9 dies of points that are added after a
    Shapes layer was removed (scripts/napari_shapes_crash.py).
    """

    data: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]
    colour: str
    ink: npt.NDArray[np.float64]
    halo: npt.NDArray[np.float64]
    text: tuple[str, ...]
    anchor: str

    @property
    def inks(self) -> npt.NDArray[np.float64]:
        """RGBA of each point's text (n, 4)."""
        inks = np.tile(self.halo, (len(self.text), 1))
        inks[-1] = self.ink
        return inks


def within_image(
    source: Image, frame: CropFrame, values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return a crop's values (size, size) with NaN where the crop reaches over the image's edge."""
    keep = [
        (at >= -0.5) & (at < length - 0.5)
        for at, length in zip(
            frame.to_image(np.arange(frame.size)[:, None]).T, shape_of(source), strict=True
        )
    ]
    return np.where(np.outer(*keep), values, np.float32(np.nan))


def outline(
    source: Image,
    side: float,
    colour: str,
    text: str = "",
    corner: tuple[float, float] | None = None,
) -> Outline:
    """Return the outline of a square of a side in pixels, from (0, 0) on; its corners first.

    With the place of its corner in the image's pixels, none of it lies outside of the image, and
    its text runs towards the image's middle: names are longer than small frames are wide.
    """
    steps = np.linspace(0, side, _DOTS, endpoint=False)
    low, high = np.zeros(_DOTS), np.full(_DOTS, side)
    rows = np.stack([low, steps, high, side - steps], axis=1).ravel()
    columns = np.stack([steps, high, side - steps, low], axis=1).ravel()
    left, upper = True, True
    if corner is not None:
        height, width = shape_of(source)
        left = corner[1] + side / 2 <= width / 2
        upper = corner[0] + side / 2 <= height / 2
        rows = rows.clip(-0.5 - corner[0], height - 0.5 - corner[0])
        columns = columns.clip(-0.5 - corner[1], width - 0.5 - corner[1])
    data = np.zeros((4 * _DOTS + len(_HALO), source.ndim))
    data[: 4 * _DOTS, -2], data[: 4 * _DOTS, -1] = rows, columns
    # The corners come first: upper left, upper right, lower right, lower left.
    at = data[(0 if left else 1) if upper else (3 if left else 2), -2:]
    data[4 * _DOTS :, -2:] = at + np.array(_HALO) * side / _HALO_SHARE
    ink, halo = readable_on(source, colour)
    texts = (*[""] * (4 * _DOTS), *[text] * len(_HALO))
    # Below the corner in the upper half of the image, above it in the lower one.
    anchor = f"{'lower' if upper else 'upper'}_{'left' if left else 'right'}"
    # What carries text alone is no dot.
    sizes = np.repeat([side / 90, 0.0], [4 * _DOTS, len(_HALO)])
    return Outline(data, sizes, colour, ink, halo, texts, anchor)


def outline_layer(
    source: Image, role: str, name: str, drawn: Outline, place: dict[str, Any]
) -> Points:
    """Return a layer that shows an outline."""
    from napari.layers import Points

    mark = marked(role)
    mark[METADATA_KEY]["colour"] = drawn.colour
    return Points(
        drawn.data,
        ndim=source.ndim,
        name=f"[{source.name}] {name}",
        size=drawn.size,
        face_color=drawn.colour,
        # From afar the border is all there is, however narrow.
        border_color=drawn.colour,
        symbol="square",
        border_width=0,
        opacity=1.0,
        features={"text": drawn.text},
        text={"string": "{text}", "anchor": drawn.anchor, "color": drawn.inks, "size": 13},
        metadata=mark,
        **place,
    )


def update_outline(points: Points, drawn: Outline, place: dict[str, Any]) -> None:
    """Bring a layer that shows an outline up to date, and have it drawn once."""
    mine = points.metadata[METADATA_KEY]
    recoloured = mine.get("colour") != drawn.colour
    # With each of these napari would draw all points, and for most of them measure all layers.
    with points.events.blocker_all():
        if points.data.shape != drawn.data.shape or not np.allclose(points.data, drawn.data):
            points.data = drawn.data
        if not np.array_equal(points.size, drawn.size):
            points.size = drawn.size
        points.features = {"text": drawn.text}
        if recoloured:
            mine["colour"] = drawn.colour
            points.face_color = points.border_color = drawn.colour
    if str(points.text.anchor) != drawn.anchor:
        points.text.anchor = drawn.anchor
    if recoloured:
        points.text.color = drawn.inks
    # Draws all of it.
    if not move(points, place):
        points.refresh()


def update_boxes(
    shapes: Shapes, corners: Sequence[npt.NDArray[np.float64]], colour: str, width: float
) -> None:
    """Bring a layer of clear rectangles (4, n axes) with edges of a colour up to date."""
    shapes.data = [(box, "rectangle") for box in corners]
    shapes.edge_color, shapes.face_color = colour, "transparent"
    shapes.edge_width = [width] * len(corners)


def readable_on(
    source: Image, colour: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a class's colour, darkened where the image is bright, and that of its halo.

    Both RGBA, 0 to 1. The halo is as bright as the image is: it covers what is not, such as a
    nucleus on a bright ground, and stands out from the text.
    """
    from napari.utils.colormaps.standardize_color import transform_color

    thumbnail = np.asarray(source.thumbnail, dtype=np.float64)
    drawn = thumbnail[..., 3] > 0
    light = thumbnail[drawn][:, :3].mean() if drawn.any() else 0.0
    rgba: npt.NDArray[np.float64] = transform_color(colour)[0].astype(np.float64)
    bright = light > _BRIGHT
    rgba[:3] *= 0.6 if bright else 1.0
    halo = np.array([1.0, 1.0, 1.0, 0.8] if bright else [0.0, 0.0, 0.0, 0.8])
    return rgba, halo


def outline_ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the outline of an ellipse from the four corners around it."""
    centre = corners.mean(axis=0)
    down, right = (corners[3] - corners[0]) / 2, (corners[1] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    outline: npt.NDArray[np.float64] = centre + np.cos(angle) * right + np.sin(angle) * down
    return outline
