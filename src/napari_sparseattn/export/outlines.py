"""Outlines of classified cells, for formats that hold polygons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..images.fields.cells import Cells

__all__ = ["area", "box_ring", "cell_rings"]

Ring = npt.NDArray[np.float64]
#: Less than one pixel's diamond; only rounding is below.
_LEAST_AREA = 0.25


def cell_rings(cells: Cells, index: int) -> list[Ring]:
    """Return the outlines of one cell.

    Of a cell with a label image, those of its pixels, by
    `skimage.measure.find_contours`: corners of pixels are cut by half a pixel,
    holes are filled, and several pieces are several rings. Of others, the box.

    Parameters
    ----------
    cells : Cells
        The cells.
    index : int
        Which.

    Returns
    -------
    list of numpy.ndarray
        (n, 2) float64 (x, y) in pixels with a pixel's top left corner at its
        index, not closed; at least one ring.
    """
    if cells.labels is None:
        return [box_ring(cells.boxes[index] + 0.5)]
    top, left, bottom, right = np.rint(cells.boxes[index] + 0.5).astype(int)
    # One pixel around it, outside of the image too, closes every contour.
    mask = np.zeros((bottom - top + 2, right - left + 2), dtype=np.float32)
    mask[1:-1, 1:-1] = cells.labels[top:bottom, left:right] == cells.ids[index]
    rings = [ring for ring in _contours(mask) if _signed_area(ring) >= _LEAST_AREA]
    # From the padding, and from centres at whole numbers to corners.
    shift = np.array([left - 0.5, top - 0.5])
    return [ring + shift for ring in rings] or [box_ring(cells.boxes[index] + 0.5)]


def box_ring(box: npt.ArrayLike) -> Ring:
    """Return the corners (4, 2) (x, y) of a box ``row0, col0, row1, col1``."""
    top, left, bottom, right = np.asarray(box, dtype=np.float64).tolist()
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def area(ring: Ring) -> float:
    """Return the area inside of a ring in pixels."""
    return abs(_signed_area(ring))


def _contours(mask: npt.NDArray[np.float32]) -> list[Ring]:
    """Rings (x, y); those around pixels have a positive area, those around holes a negative."""
    from skimage.measure import find_contours

    found = find_contours(mask, 0.5, fully_connected="high", positive_orientation="low")
    return [_drop_straight(ring[:, ::-1]) for ring in found]


def _drop_straight(closed: Ring) -> Ring:
    """Leave out corners that lie on the line between their neighbours, and the closing one."""
    after = closed[1:] - closed[:-1]
    before = np.concatenate([after[-1:], after[:-1]])
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return closed[:-1][np.abs(turns) > 1e-9]


def _signed_area(ring: Ring) -> float:
    # np.roll would take longer than all the rest.
    x, y = ring.T
    inner = np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])
    return float(inner + x[-1] * y[0] - x[0] * y[-1]) / 2
