"""Regions with holes as one ring: the holes hang on it by seams that are walked twice.

So every count of corners, every test whether a point is inside, and every picture of such a
ring leaves its holes out, whether or not it knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["join_rings", "split_rings"]

Ring = npt.NDArray[np.float64]


def join_rings(outer: Ring, holes: Sequence[Ring] = ()) -> Ring:
    """Return an outline and its holes as one ring.

    Parameters
    ----------
    outer : numpy.ndarray
        (N, 2) corners, not closed.
    holes : sequence of numpy.ndarray
        (M, 2) corners of each hole, not closed.

    Returns
    -------
    numpy.ndarray
        (N + 1 + M + 1 + ..., 2): the outline, its first corner again, the first hole, its
        first corner again, and so on; without holes the outline as it is.
    """
    if not len(holes):
        return outer
    start, first = _nearest(outer, holes[0])
    outer = np.roll(outer, -start, axis=0)
    parts = [outer]
    for number, hole in enumerate(holes):
        if _turn(hole) == _turn(outer):
            # The other way round, so that its area counts against that of the outline.
            hole = hole[::-1]
            first = len(hole) - 1 - first
        begin = first if number == 0 else _nearest(outer[:1], hole)[1]
        turned = np.roll(hole, -begin, axis=0)
        parts += [outer[:1], turned, turned[:1]]
    return np.concatenate(parts)


def split_rings(ring: Ring) -> list[Ring]:
    """Return the outline and the holes that a ring was joined of.

    A ring without seams, or one whose seams have been pulled apart, is returned as it is.

    Parameters
    ----------
    ring : numpy.ndarray
        (N, 2) corners.

    Returns
    -------
    list of numpy.ndarray
        (M, 2) each, not closed; first the outline.
    """
    end = _next_same(ring, 0)
    if end is None:
        return [ring]
    rings, at = [ring[:end]], end + 1
    while at < len(ring):
        end = _next_same(ring, at)
        if end is None:
            return [ring]
        rings.append(ring[at:end])
        at = end + 1
        if at < len(ring):
            if not np.array_equal(ring[at], ring[0]):
                return [ring]
            at += 1
    return rings if all(len(each) >= 3 for each in rings) else [ring]


def _turn(ring: Ring) -> bool:
    """Whether a ring turns one way; the area is counted from its first corner on."""
    y, x = (ring - ring[0]).T
    return bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0)


def _next_same(ring: Ring, at: int) -> int | None:
    """Return the next corner that lies where one lies."""
    found = np.flatnonzero((ring[at + 1 :] == ring[at]).all(axis=1))
    return at + 1 + int(found[0]) if len(found) else None


def _nearest(first: Ring, second: Ring) -> tuple[int, int]:
    """Return which corners of two rings are nearest to each other."""
    from scipy.spatial import cKDTree

    distance, index = cKDTree(second).query(first)
    start = int(np.argmin(distance))
    return start, int(index[start])
