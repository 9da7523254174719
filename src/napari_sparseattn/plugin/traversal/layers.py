"""A TNet's traversal as layers: crops, their tree, the candidates, what was not read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...evidence import Traversal
from ...inference.fields import FieldPrediction
from ..core.layers import OverlayChoice, Overlays, Role, copied_transform, marked, move
from ..core.messages import share_text
from ..core.sources import shape_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Shapes

    from ...inference.prediction import Prediction

__all__ = [
    "MOST_DRAWN",
    "TRAVERSAL_ROLES",
    "TraversalLayers",
    "crop_at",
    "drawn_crops",
    "level_colours",
]

#: Overlays that only a traversal has.
TRAVERSAL_ROLES: tuple[Role, ...] = ("unread", "candidates", "tree", "crops")

#: So many that speak for the class, and against it; more boxes cannot be told apart at once.
_EACH_WAY = 2
#: At least so many, where all speak one way.
_LEAST = 3
#: More boxes and numbers than these cannot be told apart by anybody.
MOST_DRAWN = 40
#: Height and width of the plate behind a number, as shares of the longer side of what was
#: looked at: it holds the number where all of that is in view.
_PLATE = (0.03, 0.1)
#: The thinnest edge that is seen then, as such a share too.
_THINNEST = 1 / 500
#: Shapes are slow in napari: 10 000 lines take seconds.
_MOST_LINES = 120
_MOST_MASK_SIDE = 512
_NAMES: dict[Role, str] = {
    "crops": "crops",
    "tree": "crop tree",
    "candidates": "candidates",
}
_FOR, _AGAINST = (0.84, 0.19, 0.15), (0.13, 0.40, 0.67)
_CHOSEN = "#ffffff"
_SELECTED = "#00d5ff"
_SELECTED_RGB = (0.0, 0.835, 1.0)
_GREY = {1: (0.5, 0.5, 0.5, 0.75), None: (0.0, 0.0, 0.0, 0.0)}
Colours = npt.NDArray[np.float64]


def level_colours(n_levels: int) -> tuple[str, ...]:
    """Return one ``#rrggbb`` per level: the whole in grey, details from violet to yellow."""
    from napari.utils.colormaps import ensure_colormap

    places = np.linspace(0.25, 0.9, max(n_levels - 1, 1))
    details = np.rint(255 * np.asarray(ensure_colormap("plasma").map(places)))[:, :3].astype(int)
    return ("#8c8c8c", *(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in details))[:n_levels]


def drawn_crops(
    traversal: Traversal, shown_class: int, every: bool = False
) -> npt.NDArray[np.intp]:
    """Return the crops that are drawn, largest share first; the whole is none of them.

    Parameters
    ----------
    traversal : Traversal
        What was looked at.
    shown_class : int
        Whose shares count.
    every : bool
        All that can be told apart, not only the two that speak most for the class and the two
        that speak most against it (three, where all speak one way).
    """
    share = traversal.evidence_for(shown_class)
    order = 1 + np.argsort(-np.abs(share[1:]), kind="stable")
    if every:
        return order[:MOST_DRAWN]
    for_it, against = order[share[order] > 0], order[share[order] <= 0]
    few = {*for_it[:_EACH_WAY].tolist(), *against[:_EACH_WAY].tolist()}
    for crop in order.tolist():
        if len(few) < _LEAST:
            few.add(crop)
    return order[np.isin(order, list(few))]


def crop_at(traversal: Traversal, place: tuple[float, float]) -> int | None:
    """Return the smallest crop below the root around a place.

    Parameters
    ----------
    traversal : Traversal
        What was looked at.
    place : (float, float)
        Row and column in image pixels, whose centres are whole numbers.
    """
    top, left, height, width = traversal.on_image(traversal.boxes).T
    row, column = place[0] + 0.5, place[1] + 0.5
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    inside[0] = False
    if not inside.any():
        return None
    return int(np.argmin(np.where(inside, height, np.inf)))


class TraversalLayers:
    """Draws traversals; each part is brought up to date only when it is shown.

    Parameters
    ----------
    overlays : Overlays
        The layers.
    """

    def __init__(self, overlays: Overlays) -> None:
        self._overlays = overlays

    def show(
        self,
        source: Image,
        index: Sequence[int],
        prediction: Prediction,
        choice: OverlayChoice,
        shown_class: int | None = None,
        selected: int | None = None,
        every: bool = False,
    ) -> None:
        """Draw crops, tree and candidates on an image, and grey what was not read.

        Parameters
        ----------
        source : napari.layers.Image
            The image that was traversed, or that holds the cell that was.
        index : sequence of int
            The plane, for stacks.
        prediction : Prediction
            Whose evidence is a `Traversal`.
        choice : OverlayChoice
            What to show.
        shown_class : int, optional
            The class whose shares colour the crops; by default the most
            probable one.
        selected : int, optional
            The crop to highlight, whose candidates are shown; by default none,
            and those of the root.
        every : bool
            Draw more than the few crops that speak most, see `drawn_crops`.
        """
        traversal = prediction.evidence
        assert isinstance(traversal, Traversal)
        shown = prediction.index if shown_class is None else shown_class

        def place(image: Image) -> dict[str, Any]:
            return copied_transform(image, index=index)

        self._show_unread(source, index, prediction, traversal, choice)
        self._show_shapes(
            source, "candidates", _candidates(traversal, selected, source.ndim), place, choice
        )
        self._show_shapes(source, "tree", _tree(traversal, shown, source.ndim), place, choice)
        crops = _crops(traversal, shown, selected, source.ndim, shape_of(source), every)
        self._show_shapes(source, "crops", crops, place, choice)

    def _show_shapes(
        self,
        source: Image,
        role: Role,
        drawing: dict[str, Any],
        place: Callable[[Image], dict[str, Any]],
        choice: OverlayChoice,
    ) -> None:
        layer = self._overlays.layer(source, role)
        if layer is None:

            def make(image: Image) -> Layer:
                return _shapes_layer(image, role, drawing, place(image))

            self._overlays.offer(source, role, make, choice.of(role))
            return
        placed = place(source)

        def update(shapes: Shapes) -> None:
            kind = drawing["shape_type"]
            shapes.data = [(corners, kind) for corners in drawing["data"]]
            if not drawing["data"]:
                # What stopped at the first look has no crops to colour.
                move(shapes, placed)
                return
            shapes.features = drawing["features"]
            shapes.edge_width = list(drawing["edge_width"])
            shapes.edge_color = drawing["edge_color"]
            shapes.face_color = drawing["face_color"]
            if "text" in drawing:
                shapes.text.color = drawing["text"]["color"]
            move(shapes, placed)

        self._overlays.update_layer(layer, update, choice.of(role))

    def _show_unread(
        self,
        source: Image,
        index: Sequence[int],
        prediction: Prediction,
        traversal: Traversal,
        choice: OverlayChoice,
    ) -> None:
        mask, origin, steps, what = _unread(prediction, traversal)
        mask = mask.reshape((1,) * len(index) + mask.shape)
        name = f"[{source.name}] {what}"

        def place(image: Image) -> dict[str, Any]:
            return copied_transform(image, origin, steps, index)

        layer = self._overlays.layer(source, "unread")
        if layer is None:

            def make(image: Image) -> Layer:
                from napari.layers import Labels

                return Labels(
                    mask,
                    name=name,
                    colormap=_GREY,
                    opacity=1.0,
                    metadata=marked("unread"),
                    **place(image),
                )

            self._overlays.offer(source, "unread", make, choice.unread)
            return
        placed = place(source)

        def update(labels: Labels) -> None:
            labels.data, labels.name = mask, name
            move(labels, placed)

        self._overlays.update_layer(layer, update, choice.unread)


def _shapes_layer(
    source: Image, role: Role, drawing: dict[str, Any], place: dict[str, Any]
) -> Layer:
    from napari.layers import Shapes

    return Shapes(
        ndim=source.ndim,
        name=f"[{source.name}] {_NAMES[role]}",
        opacity=1.0,
        metadata=marked(role),
        **drawing,
        **place,
    )


def _crops(
    traversal: Traversal,
    shown_class: int,
    selected: int | None,
    ndim: int,
    shape: tuple[int, int],
    every: bool = False,
) -> dict[str, Any]:
    """Rectangles in the colour of their share's sign, and one number on each: its share."""
    share = traversal.evidence_for(shown_class).astype(np.float64)
    which = drawn_crops(traversal, shown_class, every)
    if selected is not None:
        which = np.append(which[which != selected], selected)
    if not len(which):
        none: list[int] = []
        features = dict.fromkeys(("crop", "level", "rank", "share", "text"), none)
        return {**_empty(), "features": features}
    inside = _inside(traversal, shape)
    span, boxes = float(inside[0, 2:].max()), inside[which]
    # Large ones first, or they would cover the small; what is picked out on top of all.
    order = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
    if selected is not None:
        order = np.append(order[order != len(which) - 1], len(which) - 1)
    which, boxes = which[order], boxes[order]
    colours = np.where(share[which, None] > 0, _FOR, _AGAINST)
    edges = np.column_stack([colours, np.ones(len(which))])
    sides = np.maximum(boxes[:, 2], boxes[:, 3])
    width = np.maximum(_edge_width(sides), np.minimum(span * _THINNEST, sides / 6))
    if selected is not None:
        edges[-1, :3], width[-1] = _SELECTED_RGB, 2.0 * width[-1]
    n = len(which)
    order = np.argsort(-np.abs(share[which]), kind="stable")
    plates = _number_plates(boxes, order, shape, np.array(_PLATE) * span)
    # A number stands on a rectangle of its own: its text is in the middle, and seen on any tissue.
    number = [share_text(float(value)) for value in share[which]]
    clear = np.zeros((n, 4))
    dark = np.column_stack([0.55 * colours, np.full(n, 0.85)])
    twice = np.concatenate([which, which])
    return {
        "data": _rectangles(np.concatenate([boxes, plates]), ndim),
        "shape_type": "rectangle",
        "edge_color": np.concatenate([edges, clear]),
        "edge_width": np.concatenate([width, np.zeros(n)]),
        "face_color": np.concatenate([_share_colours(traversal, share)[which], dark]),
        "features": {
            "crop": twice + 1,
            "level": traversal.level[twice],
            "rank": traversal.rank[twice] + 1,
            "share": share[twice],
            "text": [""] * n + number,
        },
        "text": {"string": "{text}", "anchor": "center", "color": "white", "size": 11},
    }


def _inside(traversal: Traversal, shape: tuple[int, int]) -> Colours:
    """Boxes (N, 4) on the image, cut where they reach over its edge, or over the cell's crop."""
    boxes = _clip(traversal.boxes, traversal.shape)
    return _clip(traversal.on_image(boxes), shape)


def _clip(boxes: Colours, shape: tuple[int, int]) -> Colours:
    first = np.clip(boxes[:, :2], 0, shape)
    last = np.clip(boxes[:, :2] + boxes[:, 2:], 0, shape)
    return np.concatenate([first, last - first], axis=1)


def _number_plates(
    boxes: Colours, order: npt.NDArray[np.intp], shape: tuple[int, int], plate: Colours
) -> npt.NDArray[np.float64]:
    """Where the number of each box stands: in it, or beside it where it is small, over no other.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) top, left, height, width.
    order : numpy.ndarray
        (n,) which box chooses first.
    shape : (int, int)
        Of the image.
    plate : numpy.ndarray
        (2,) height and width of a plate.

    Returns
    -------
    numpy.ndarray
        (n, 4) top, left, height, width of the plates, inside the image.
    """
    steps = np.stack(np.meshgrid(*2 * [np.arange(-1.0, 2.0)], indexing="ij"), axis=-1)
    steps = steps.reshape(-1, 2)[[4, 1, 7, 3, 5, 0, 2, 6, 8]]
    found = np.zeros((len(boxes), 4))
    taken: list[npt.NDArray[np.float64]] = []
    for box in order:
        middle, half = boxes[box, :2] + boxes[box, 2:] / 2, boxes[box, 2:] / 2
        within = middle + 0.6 * steps * half
        around = [middle + steps[1:] * (half + (away + 0.6) * plate) for away in (0, 1, 2)]
        parts = [within, *around] if (boxes[box, 2:] >= 2 * plate).all() else [*around, within]
        options = np.clip(np.concatenate(parts), plate / 2, np.array(shape) - plate / 2)
        best = 0
        if taken:
            apart = (np.abs(options[:, None] - np.array(taken)) / plate).max(axis=2).min(axis=1)
            free = np.flatnonzero(apart >= 1)
            best = int(free[0]) if len(free) else int(np.argmax(apart))
        taken.append(options[best])
        found[box] = *(options[best] - plate / 2), *plate
    return found


def _share_colours(traversal: Traversal, share: Colours) -> Colours:
    """Red for the class and blue against it, the stronger the more opaque.

    Crops that others were found in are clear: colours on colours would not tell
    whose they are. The table has their shares.
    """
    alpha = 0.3 * np.abs(share) / max(float(np.abs(share[1:]).max(initial=0)), 1e-12)
    alpha[traversal.parent[1:]] = alpha[0] = 0
    return np.column_stack([np.where(share[:, None] > 0, _FOR, _AGAINST), alpha])


def _tree(traversal: Traversal, shown_class: int, ndim: int) -> dict[str, Any]:
    """Lines from the middle of each crop's parent to its own."""
    share = np.abs(traversal.evidence_for(shown_class))
    which = np.sort(np.argsort(-share, kind="stable")[:_MOST_LINES])
    which = which[traversal.parent[which] >= 0]
    boxes = traversal.on_image(_clip(traversal.boxes, traversal.shape))
    middles = boxes[:, :2] + boxes[:, 2:] / 2 - 0.5
    lines = np.zeros((len(which), 2, ndim))
    lines[:, 0, -2:], lines[:, 1, -2:] = middles[traversal.parent[which]], middles[which]
    colours = level_colours(traversal.n_levels)
    return {
        "data": list(lines),
        "shape_type": "line",
        "edge_color": [colours[i] for i in traversal.level[which]] or _SELECTED,
        "edge_width": 0.7 * _edge_width(_sides(traversal))[which] if len(which) else 1.0,
        "face_color": "transparent",
        "features": {"level": traversal.level[which]},
    }


def _candidates(traversal: Traversal, selected: int | None, ndim: int) -> dict[str, Any]:
    """Where a crop's children could have been, coloured by their probability.

    Candidates overlap, so each is drawn as its middle part, which none other covers.
    """
    parent = 0 if selected is None else selected
    if parent not in traversal.searched:
        parent = int(traversal.parent[parent])
    (rows,) = np.nonzero(traversal.searched == parent)
    if not len(rows):
        return _empty()
    boxes = traversal.on_image(traversal.candidates[rows[0]])
    relative, chosen = traversal.relative_probability[rows[0]], traversal.chosen[rows[0]]
    n = math.isqrt(len(boxes))
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    step = np.array([middles[n, 0] - middles[0, 0], middles[1, 1] - middles[0, 1]])
    tiles = np.column_stack([middles - step / 2, np.tile(step, (len(boxes), 1))])
    from napari.utils.colormaps import ensure_colormap

    faces = ensure_colormap("viridis").map(relative / max(2.0, float(relative.max())))
    faces[:, 3] = 0.5
    order = np.argsort(chosen, kind="stable")
    return {
        "data": [_rectangles(tiles, ndim)[i] for i in order],
        "shape_type": "rectangle",
        "edge_color": [_CHOSEN if chosen[i] else "#00000000" for i in order],
        "edge_width": np.where(chosen[order], step.min() / 14, step.min() / 60),
        "face_color": faces[order],
        "features": {
            "p·n²": relative[order],
            "chosen": chosen[order],
            "text": [f"{value:.2f}" for value in relative[order]],
        },
        "text": {"string": "{text}", "anchor": "center", "color": "white", "size": 9},
    }


def _empty() -> dict[str, Any]:
    return {
        "data": [],
        "shape_type": "rectangle",
        "edge_color": _SELECTED,
        "edge_width": 1.0,
        "face_color": "transparent",
        "features": {"p·n²": [], "chosen": [], "text": []},
        "text": {"string": "{text}", "anchor": "center", "color": "white", "size": 9},
    }


def _unread(
    prediction: Prediction, traversal: Traversal
) -> tuple[npt.NDArray[np.uint8], tuple[float, float], tuple[float, float], str]:
    """A mask (rows, columns), the place of its first pixel, its steps, and what it shows.

    Of a slide, the tiles that were not decoded. Whatever is in memory was read
    whole for the first crop; there, what no other crop shows.
    """
    reading = prediction.reading if isinstance(prediction, FieldPrediction) else None
    if reading is not None and len(reading.levels) > 1:
        n = next((n for n, tiles in enumerate(reading.used) if tiles), 0)
        at = reading.levels[n]
        mask = reading.unread_mask(n).astype(np.uint8)
        steps = (at.tile[0] * at.downsample, at.tile[1] * at.downsample)
        origin = ((steps[0] - 1) / 2, (steps[1] - 1) / 2)
        return mask, origin, steps, f"unread at {at.downsample:g}×"
    step = max(1, -(-max(traversal.shape) // _MOST_MASK_SIDE))
    mask = (traversal.finest_level(step) == 0).astype(np.uint8)
    top, left, side, _ = traversal.on_image(np.array([0.0, 0.0, step, step]))
    origin = (float(top + side / 2 - 0.5), float(left + side / 2 - 0.5))
    return mask, origin, (float(side), float(side)), "not looked at closely"


def _sides(traversal: Traversal) -> Colours:
    """Side of every crop in image pixels."""
    sides: Colours = traversal.on_image(traversal.boxes)[:, 2]
    return sides


def _edge_width(sides: Colours) -> Colours:
    """Thinner for smaller crops, but less so than they are smaller: they are to be seen too."""
    width: Colours = sides.max() / 260 * (sides / sides.max()) ** 0.9
    return width


def _rectangles(boxes: Colours, ndim: int) -> list[Colours]:
    """Corners (4, ndim) in image pixels, whose centres are whole numbers."""
    top, left, height, width = (boxes[:, i] for i in range(4))
    corners = np.zeros((len(boxes), 4, ndim))
    corners[..., -2] = np.stack([top, top, top + height, top + height], axis=1) - 0.5
    corners[..., -1] = np.stack([left, left + width, left + width, left], axis=1) - 0.5
    return list(corners)
