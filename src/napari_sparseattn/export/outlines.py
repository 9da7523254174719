"""Outlines of classified cells, for formats that hold polygons."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..images.fields.cells import Cells

__all__ = ["area", "box_ring", "iter_cell_rings"]

Ring = npt.NDArray[np.float64]
Whole = npt.NDArray[np.intp]
#: Less than one pixel's diamond; only rounding is below.
_LEAST_AREA = 0.25
#: Pixels that are traced at once: small enough for a processor's cache.
_AT_ONCE = 2**18
#: Up, right, down, left, as rows and columns.
_ROWS = np.array([-1, 0, 1, 0])
_COLUMNS = np.array([0, 1, 0, -1])


def iter_cell_rings(cells: Cells) -> Iterator[list[Ring]]:
    """Give the outlines of each cell, in their order.

    Of a cell with a label image, those of its pixels, through the middles of
    the sides that they share with others, as `skimage.measure.find_contours`
    draws them: corners of pixels are cut by half a pixel, pixels that touch at
    a corner are one piece, holes are filled, and several pieces are several
    rings. Of others, the box.

    Parameters
    ----------
    cells : Cells
        The cells. Pixels of a label outside of its cell's box do not count.

    Yields
    ------
    list of numpy.ndarray
        (n, 2) float64 (x, y) in pixels with a pixel's top left corner at its
        index, not closed, clockwise on the screen; at least one ring.
    """
    if cells.labels is None:
        yield from ([box_ring(box)] for box in cells.boxes + 0.5)
        return
    height, width = cells.labels.shape
    boxes = np.rint(cells.boxes + 0.5).astype(np.intp)
    boxes = boxes.clip(0, [height, width, height, width])
    tall, wide = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).T + 2
    start = 0
    while start < len(cells):
        # As many windows, one below the other, as have room.
        most = np.maximum.accumulate(wide[start:]) * np.cumsum(tall[start:])
        stop = start + max(1, int(np.searchsorted(most, _AT_ONCE, side="right")))
        rings: list[list[Ring]] = [[] for _ in range(start, stop)]
        for index, ring in _trace_cells(cells, boxes, range(start, stop)):
            rings[index - start].append(ring)
        for index, found in enumerate(rings, start):
            yield found or [box_ring(cells.boxes[index] + 0.5)]
        start = stop


def box_ring(box: npt.ArrayLike) -> Ring:
    """Return the corners (4, 2) (x, y) of a box ``row0, col0, row1, col1``."""
    top, left, bottom, right = np.asarray(box, dtype=np.float64).tolist()
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def area(ring: Ring) -> float:
    """Return the area inside of a ring in pixels."""
    # Of so few numbers Python's own sums are the fastest.
    x, y = ring.T.tolist()
    inner = sum(map(operator.mul, x, [*y[1:], y[0]])) - sum(map(operator.mul, [*x[1:], x[0]], y))
    return abs(float(inner)) / 2


def _trace_cells(cells: Cells, boxes: Whole, chosen: range) -> Iterator[tuple[int, Ring]]:
    """Trace some cells at once; gives each ring that holds pixels with its cell's index."""
    labels = cells.labels
    assert labels is not None
    part = boxes[chosen.start : chosen.stop]
    tall = np.maximum(part[:, 2] - part[:, 0], 0) + 2
    first = np.concatenate([[0], np.cumsum(tall)])
    wide = int(np.maximum(part[:, 3] - part[:, 1], 0).max()) + 2
    # An empty line around each closes every outline.
    inside = np.zeros((first[-1], wide), np.bool_)
    numbers = cells.ids[chosen.start : chosen.stop].tolist()
    for number, (top, left, bottom, right), row in zip(
        numbers, part.tolist(), first.tolist(), strict=False
    ):
        if top < bottom and left < right:
            window = inside[row + 1 : row + 1 + bottom - top, 1 : 1 + right - left]
            np.equal(labels[top:bottom, left:right], number, out=window)
    row, column, side, starts = _trace(inside)
    if not len(row):
        return
    cell = np.searchsorted(first, row[starts], side="right") - 1
    lengths = np.diff(np.append(starts, len(row)))
    # From the empty line, and from centres at whole numbers to corners.
    x = column + np.repeat(part[cell, 1] - 0.5, lengths) + 0.5 * _COLUMNS[side]
    y = row + np.repeat(part[cell, 0] - first[cell] - 0.5, lengths) + 0.5 * _ROWS[side]
    after = np.arange(1, len(row) + 1)
    after[starts + lengths - 1] = starts
    covered = np.add.reduceat(x * y[after] - x[after] * y, starts) / 2
    points = np.stack([x, y], axis=1)
    kept = np.flatnonzero(covered >= _LEAST_AREA)
    begins, ends = starts[kept].tolist(), (starts + lengths)[kept].tolist()
    for owner, begin, end in zip((chosen.start + cell[kept]).tolist(), begins, ends, strict=True):
        yield owner, points[begin:end]


def _trace(inside: npt.NDArray[np.bool_]) -> tuple[Whole, Whole, Whole, Whole]:
    """Follow the outlines of what is inside, with the inside to the right.

    Parameters
    ----------
    inside : numpy.ndarray, shape (H, W), bool
        With an empty line around it.

    Returns
    -------
    row, column, side : numpy.ndarray
        Of the pixels' sides after which an outline turns, in its order.
    starts : numpy.ndarray
        Where in them each outline begins.
    """
    wide = inside.shape[1]
    steps = _ROWS * wide + _COLUMNS
    flat = inside.ravel()
    free = np.zeros((flat.size, 4), np.bool_)
    for side_, step in enumerate(steps.tolist()):
        others = flat[wide + step : flat.size - wide + step]
        np.greater(flat[wide:-wide], others, out=free[wide:-wide, side_])
    found = np.flatnonzero(free)
    pixel, side = found >> 2, found & 3
    number = np.empty(free.size, np.int32)
    number[found] = np.arange(len(found), dtype=np.int32)
    # To the right of the way out is the way on: into the pixel beyond, which
    # touches this one at a corner, into the one ahead, or around this one.
    on = steps[(side + 1) & 3]
    ahead = pixel + on
    beyond = ahead + steps[side]
    left = flat[beyond]
    straight = flat[ahead] & ~left
    turn = 1 - 2 * left.view(np.int8) - straight.view(np.int8)
    following = np.where(left, beyond, np.where(straight, ahead, pixel))
    after = number[following * 4 + ((side + turn) & 3)]
    # In eighths of a turn.
    heading = (2 * side + turn) & 7
    corner = np.empty(len(found), np.bool_)
    corner[after] = heading[after] != heading
    # From corner to corner, past what lies straight between them.
    kept = np.flatnonzero(corner)
    reached = after[kept]
    between = np.flatnonzero(~corner[reached])
    while len(between):
        reached[between] = after[reached[between]]
        between = between[~corner[reached[between]]]
    number[kept] = np.arange(len(kept), dtype=np.int32)
    order, starts = _order(number[reached])
    chosen = kept[order]
    row, column = np.divmod(pixel[chosen], wide)
    return row, column, side[chosen], starts


def _order(after: npt.NDArray[np.int32]) -> tuple[Whole, Whole]:
    """Put the members of rings in order, given the one that follows each.

    Returns
    -------
    order : numpy.ndarray
        Members, ring after ring, each from its least on.
    starts : numpy.ndarray
        Where in it each ring begins.
    """
    n = len(after)
    # Every round looks twice as far ahead as the one before.
    own = np.arange(n, dtype=np.int32)
    least, jump = own, after
    while not np.array_equal(lower := np.minimum(least, least[jump]), least):
        least, jump = lower, jump[jump]
    last = after == least
    left = (~last).astype(np.int32)
    jump = np.where(last, own, after)
    while (more := left[jump]).any():
        left, jump = left + more, jump[jump]
    firsts = np.flatnonzero(least == own)
    lengths = left[firsts] + 1
    ends = np.cumsum(lengths)
    begin = np.empty(n, np.intp)
    begin[firsts] = ends - 1
    order = np.empty(n, np.intp)
    order[begin[least] - left] = own
    return order, ends - lengths
