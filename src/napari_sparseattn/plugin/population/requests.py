"""Pictures of cells, what a model looks at in one, and the map of all: asked for and made."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...evidence import CropFrame, PixelSelection, Traversal
from ...images.fields.crops import cut_crops
from ...inference.cell_map import CellMap, MapMethod
from ..core.models import Model
from ..core.pictures import dim_unselected
from ..core.sources import PlaneRef

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = [
    "EvidenceRequest",
    "Look",
    "MapRequest",
    "PicturesRequest",
    "cut_picture",
    "draw_evidence",
    "make_map",
    "stream_pictures",
]

Picture = npt.NDArray[np.uint8]
#: Pictures that are handed on together: few enough to come at once, and to stop between.
_TOGETHER = 12
_BOX = (255, 176, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """How cells of one plane are cut and coloured.

    Parameters
    ----------
    plane : PlaneRef
        The image.
    side : float
        Of the square around a cell, in image pixels.
    limits : (float, float)
        Values that get the first and the last colour, as `to_float` gives them.
    colours : numpy.ndarray or None
        (256, 3) uint8 for images of one channel; None for colour.
    """

    plane: PlaneRef
    side: float
    limits: tuple[float, float]
    colours: npt.NDArray[np.uint8] | None

    @classmethod
    def of(cls, layer: Image, plane: PlaneRef, side: float) -> Look:
        """Return how a layer shows its values now."""
        if layer.rgb:
            return cls(plane, side, (0.0, 1.0), None)
        low, high = (float(value) for value in layer.contrast_limits)
        kind = np.dtype(plane.data.dtype)
        whole = float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
        table = np.asarray(layer.colormap.map(np.linspace(0, 1, 256)))[:, :3]
        limits = (low / whole, max(high / whole, low / whole + 1e-12))
        return cls(plane, side, limits, np.rint(255 * table).astype(np.uint8))

    def same_as(self, other: Look | None) -> bool:
        """Whether pictures cut so look alike."""
        return (
            other is not None
            and self.plane.data is other.plane.data
            and (self.plane.index, self.side, self.limits)
            == (other.plane.index, other.side, other.limits)
            and np.array_equal(self.colours, other.colours)  # type: ignore[arg-type]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PicturesRequest:
    """Cut some cells: rows of the results, their centres (N, 2), and the pictures' side."""

    look: Look
    rows: tuple[int, ...]
    centres: npt.NDArray[np.float64]
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceRequest:
    """Ask what a model looks at in one cell."""

    look: Look
    row: int
    centre: tuple[float, float]
    size: int
    model: Model
    locations: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class MapRequest:
    """Lay out the cells of one run by their states (N, D)."""

    probabilities: npt.NDArray[np.float32]
    states: npt.NDArray[np.float16]
    method: MapMethod
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


def stream_pictures(request: PicturesRequest) -> Iterator[list[tuple[int, Picture]]]:
    """Cut pictures, a few at a time; closing the iterator stops the work."""
    part: list[tuple[int, Picture]] = []
    for row, centre in zip(request.rows, request.centres, strict=True):
        part.append((row, cut_picture(request.look, centre, request.size)))
        if len(part) == _TOGETHER:
            yield part
            part = []
    if part:
        yield part


def cut_picture(look: Look, centre: npt.ArrayLike, size: int) -> Picture:
    """Return a cell as it is shown in the viewer: (size, size, 3).

    Only the window around it is read, of whatever the image is.
    """
    values = _cut(look, centre, size)
    if look.colours is None:
        shown = np.rint(255 * np.clip(values[..., :3], 0, 1)).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(shown, (size, size, 3)))
    low, high = look.limits
    level = np.clip((values[..., 0] - low) / (high - low), 0, 1)
    picture: Picture = look.colours[np.rint(255 * level).astype(np.intp)]
    return picture


def draw_evidence(request: EvidenceRequest) -> tuple[int, Picture]:
    """Return a row, and its cell with what the model did not look at darkened.

    Of a TNet the crops that it looked at are framed.
    """
    from ...device import computing
    from ...inference.cells import look_at_crops

    model, look = request.model, request.look
    bundle = model.with_locations(request.locations)
    card = bundle.card
    crop = _cut(look, request.centre, card.crop.size)[..., : len(card.channels)]
    row, column = request.centre
    frame = CropFrame(row, column, look.side, card.crop.size)
    with computing(model.device, model.precision):
        (evidence,) = look_at_crops(crop[None], [frame], bundle, model.device)
    picture = cut_picture(look, request.centre, request.size)
    if isinstance(evidence, PixelSelection):
        return request.row, dim_unselected(picture, evidence.indices, card.crop.size)
    return request.row, _frame_crops(picture, evidence)


def make_map(request: MapRequest) -> CellMap | None:
    """Lay out cells; None if it was stopped."""
    from ...inference.cell_map import map_states
    from ...inference.map_process import map_in_process

    known = np.isfinite(request.probabilities).all(axis=1).reshape(-1)
    states = request.states[known]
    found = (
        map_states(states, "pca")
        if request.method == "pca"
        else map_in_process(states, request.method, 0, request.stop)
    )
    if found is None:
        return None
    places = np.full((len(known), 2), np.nan, np.float32)
    places[known] = found.places
    return dataclasses.replace(found, places=places)


def _cut(look: Look, centre: npt.ArrayLike, size: int) -> npt.NDArray[np.float32]:
    """Return the square around a place (size, size, C), as `cut_crops` of the whole image does."""
    row, column = np.asarray(centre, np.float64)
    plane, reach = look.plane, look.side / 2 + look.side / size + 2
    height, width = plane.data.shape[len(plane.index) :][:2]
    (top, bottom), (left, right) = _window(row, reach, height), _window(column, reach, width)
    window: Any = np.asarray(plane.data[(*plane.index, slice(top, bottom), slice(left, right))])
    crops = cut_crops(window, [(row - top, column - left)], look.side, size)
    return crops.reshape(crops.shape[1:])


def _window(at: float, reach: float, length: int) -> tuple[int, int]:
    """Return first and end of the pixels of a line that are read around a place.

    Beyond the line's ends they are reflected: what is reflected must be there too.
    """
    low, high = int(np.floor(at - reach)), int(np.ceil(at + reach)) + 1
    first = min(max(low, 0), length - 1, max(2 * length - high - 1, 0))
    return first, max(min(high, length), min(1 - low, length), first + 1)


def _frame_crops(picture: Picture, evidence: Traversal) -> Picture:
    drawn, scale = picture.copy(), len(picture) / max(evidence.shape)
    for top, left, height, width in np.rint(evidence.boxes[1:] * scale).astype(int):
        last = len(drawn) - 1
        a, b = min(top + height, last), min(left + width, last)
        drawn[top : a + 1, [left, b]] = _BOX
        drawn[[top, a], left : b + 1] = _BOX
    return drawn
