"""Maps of what a model looked at, on one grid, a few rows at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..evidence import PixelSelection, PyramidAttention, Traversal
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .overlay import selection_window
from .request import Export

__all__ = ["HeatMaps", "heat_maps"]

#: A TNet's map has no more places along its longer side.
_MOST_PLACES = 2048
_MOST_PIXELS = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMaps:
    """Maps on one grid, of which a few rows are made at a time.

    Parameters
    ----------
    names : tuple of str
        One per map.
    shape : (int, int)
        Rows and columns.
    read : callable
        From the first row and the one after the last to (maps, rows, columns)
        float32, NaN where a map says nothing.
    scale : float
        Pixels of the full resolution per place of the grid.
    translate : (float, float)
        Centre of place (0, 0) in pixels, with pixel centres at integers.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    read: Callable[[int, int], npt.NDArray[np.float32]]
    scale: float
    translate: tuple[float, float]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        data: npt.NDArray[np.float32],
        scale: float,
        translate: tuple[float, float],
    ) -> HeatMaps:
        """Take maps (maps, rows, columns) that are there already."""
        shape = (data.shape[1], data.shape[2])
        return cls(tuple(names), shape, lambda first, stop: data[:, first:stop], scale, translate)


def heat_maps(export: Export) -> HeatMaps:
    """Return the maps that a result holds; `read` makes those of cells anew each time.

    Of a slide, attention per level in multiples of uniform, coarser levels
    repeated onto the finest's grid, and the probability per patch. Of a TNet's
    field, the finest level at which a place was seen, and what the finest crop
    there says for the class. Of cells the probability of their class, and,
    where the evidence was kept, the attention of the selected pixels in
    multiples of uniform, and the score of all pixels.
    """
    result = export.result
    if isinstance(result, SlidePrediction):
        return _of_slide(result.attention, result.class_names)
    if isinstance(result, FieldPrediction):
        return _of_field(result)
    assert isinstance(result, Predictions)
    return _of_cells(result, export.shape)


def _of_slide(seen: PyramidAttention, class_names: Sequence[str]) -> HeatMaps:
    rows, columns = (seen.cells.max(axis=0) + 1).tolist()
    names, maps = [], []
    places = tuple(seen.cells.T)
    for number, level in enumerate(seen.levels):
        grid = np.full((rows, columns), np.nan, np.float32)
        grid[places] = seen.patch_weights(number) * np.float32(len(level))
        names.append(f"attention, cells of {level.factor} patches (x uniform)")
        maps.append(grid)
    if seen.patch_probabilities is not None:
        names.append(f"probability of {class_names[1]}")
        maps.append(seen.probability_grid())
    (scale, _), translate = seen.probability_placement()
    return HeatMaps.of(names, np.stack(maps), scale, translate)


def _of_field(result: FieldPrediction) -> HeatMaps:
    way = result.traversal
    step = max(1, -(-max(way.shape) // _MOST_PLACES))
    seen = way.finest_level(step).astype(np.float32)
    said = np.full(seen.shape, np.nan, np.float32)
    evidence = way.evidence_for(result.index)
    for (top, left, height, width), value in zip(way.boxes, evidence, strict=True):
        # As in `finest_level`: centres of places count, finer crops overwrite.
        first = np.ceil(np.array([top, left]) / step - 0.5).clip(0).astype(int)
        last = np.ceil(np.array([top + height, left + width]) / step - 0.5).clip(0).astype(int)
        said[first[0] : last[0], first[1] : last[1]] = value
    names = ("finest level seen", f"evidence for {result.label} (logit)")
    middle = (step - 1) / 2
    return HeatMaps.of(names, np.stack([seen, said]), float(step), (middle, middle))


def _of_cells(result: Predictions, shape: tuple[int, int]) -> HeatMaps:
    if shape[0] * shape[1] > _MOST_PIXELS:
        raise ValueError(
            f"maps of {shape[0]} x {shape[1]} pixels do not fit the memory; export cells of so "
            "large an image as GeoJSON"
        )
    parts: list[tuple[str, Callable[[int, int, int], npt.NDArray[np.float32]]]] = []
    parts.append(("probability of the class", _chances(result)))
    evidence = [item for item in result.evidence if isinstance(item, PixelSelection)]
    if evidence:
        fine = [(item, item.fine_map) for item in evidence]
        score = [(item, functools.partial(getattr, item, "coarse")) for item in evidence]
        parts.append(("selected pixels (x uniform)", _selections(fine, shape)))
        parts.append(("score of all pixels", _selections(score, shape)))
    ways = [item for item in result.evidence if isinstance(item, Traversal)]
    if ways:
        parts.append(("finest level seen", _traversals(ways)))

    def read(first: int, stop: int) -> npt.NDArray[np.float32]:
        made = [make(first, stop, shape[1])[np.newaxis] for _, make in parts]
        return made[0] if len(made) == 1 else np.concatenate(made)

    return HeatMaps(tuple(name for name, _ in parts), shape, read, 1.0, (0.0, 0.0))


def _chances(result: Predictions) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    cells, confidence = result.cells, result.confidence
    boxes = np.rint(cells.boxes + 0.5).astype(int).clip(0)

    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for i in np.flatnonzero((boxes[:, 0] < stop) & (boxes[:, 2] > first)).tolist():
            top, left, bottom, right = boxes[i].tolist()
            rows, columns = slice(max(top, first), min(bottom, stop)), slice(left, right)
            window = band[rows.start - first : rows.stop - first, columns]
            if cells.labels is None:
                window[...] = confidence[i]
            else:
                window[cells.labels[rows, columns] == cells.ids[i]] = confidence[i]
        return band

    return make


def _selections(
    items: Sequence[tuple[PixelSelection, Callable[[], npt.NDArray[np.float32]]]],
    shape: tuple[int, int],
) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    """From crops and what to draw of each."""
    placed = [(selection_window(item, shape), values) for item, values in items]

    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for place, values in placed:
            if place is None:
                continue
            (tall, wide), rows, columns = place
            low, high = max(tall.start, first), min(tall.stop, stop)
            if low >= high:
                continue
            window = band[low - first : high - first, wide]
            drawn = values()[np.ix_(rows[low - tall.start : high - tall.start], columns)]
            # Where crops overlap, the higher counts.
            np.fmax(window, drawn, out=window)
        return band

    return make


def _traversals(
    ways: Sequence[Traversal],
) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for way in ways:
            for level, box in zip(way.level, way.on_image(way.boxes), strict=True):
                top, left = np.ceil(box[:2] - 0.5).clip(0).astype(int).tolist()
                bottom, right = np.ceil(box[:2] + box[2:] - 0.5).clip(0).astype(int).tolist()
                if top < stop and bottom > first:
                    window = band[max(top - first, 0) : bottom - first, left:right]
                    np.fmax(window, np.float32(level), out=window)
        return band

    return make
