"""Masks as polygons, which a person can edit, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["outlines", "rasterise"]

Polygon = npt.NDArray[np.float64]
# Corners of masks are cut by half a pixel; simplifying by less keeps pixels.
_SIMPLIFIED = 0.7
# Simplified holes may touch the outline they lie in.
_INSIDE = 0.95


def outlines(mask: npt.NDArray[np.bool_], least_area: float = 4.0) -> list[Polygon]:
    """Return outlines (n, 2) (y, x) in pixels with corners at whole numbers, largest first.

    Holes are outlines too, which lie inside of another.
    """
    from skimage.measure import approximate_polygon, find_contours

    found = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        # From centres at whole numbers and the padding, to corners.
        polygon = approximate_polygon(contour - 0.5, _SIMPLIFIED)[:-1]
        area = _area(polygon)
        if len(polygon) >= 3 and area >= least_area:
            found.append((area, np.clip(polygon, 0, mask.shape)))
    found.sort(key=lambda pair: -pair[0])
    return [polygon for _, polygon in found]


def rasterise(shape: tuple[int, int], polygons: Sequence[npt.ArrayLike]) -> npt.NDArray[np.bool_]:
    """Return the mask of polygons; one that lies inside of another is a hole in it.

    Polygons that cross are united. A polygon inside of a hole is filled again.

    Raises
    ------
    ValueError
        If a polygon has fewer than three corners, or values that are no numbers.
    """
    from skimage.draw import polygon as inside

    tables = [_check(polygon) for polygon in polygons]
    tables.sort(key=lambda table: -_area(table))
    mask = np.zeros(shape, np.bool_)
    for index, table in enumerate(tables):
        depth = sum(_lies_in(table, larger) for larger in tables[:index])
        rows, columns = inside(table[:, 0] - 0.5, table[:, 1] - 0.5, shape)
        mask[rows, columns] = depth % 2 == 0
    return mask


def _check(polygon: npt.ArrayLike) -> Polygon:
    table = np.asarray(polygon, np.float64)
    if table.ndim != 2 or table.shape[1] != 2 or len(table) < 3 or not np.isfinite(table).all():
        raise ValueError(
            f"a polygon needs at least three corners (y, x), got an array {table.shape}; remove "
            "it or draw it again"
        )
    return table


def _lies_in(inner: Polygon, outer: Polygon) -> bool:
    from skimage.measure import points_in_poly

    low, high = outer.min(axis=0) - 1, outer.max(axis=0) + 1
    if (inner.min(axis=0) < low).any() or (inner.max(axis=0) > high).any():
        return False
    return bool(points_in_poly(inner, outer).mean() >= _INSIDE)


def _area(polygon: Polygon) -> float:
    y, x = polygon.T
    return float(abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2)
