"""Which cells to annotate next: those the model is unsure of, and unlike each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["suggest", "uncertainty"]

#: Candidates beyond this many are the most uncertain ones: each pick looks at all of them.
_MOST_CANDIDATES = 20_000


def suggest(
    probabilities: npt.NDArray[np.floating[Any]],
    features: npt.NDArray[np.floating[Any]] | None = None,
    n: int = 20,
    *,
    annotated: npt.NDArray[np.floating[Any]] | None = None,
) -> npt.NDArray[np.int64]:
    """Rank cells by what their annotation would teach.

    One after the other, the cell is taken whose `uncertainty` times its
    distance to the nearest one taken (or annotated) is the largest: alike
    doubtful cells are asked about once, and an unknown class is met early.
    Margin sampling joined with the greedy k-centres of Sener & Savarese 2018.

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, C), of the cells that nobody annotated.
    features : numpy.ndarray, optional
        (N, D), what the head reads of each, see `head_features`; by default
        the square roots of the probabilities (Hellinger's distance).
    n : int
    annotated : numpy.ndarray, optional
        (M, D) features of the cells that are annotated.

    Returns
    -------
    numpy.ndarray
        (min(n, N),) int64 indices, the most wanted first, without repeats.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    shapes = probabilities.shape, None if features is None else features.shape
    if probabilities.ndim != 2 or (features is not None and len(features) != len(probabilities)):
        raise ValueError(f"expected probabilities (N, C) and features (N, D), got {shapes}")
    doubt = uncertainty(probabilities)
    rows = np.argsort(-doubt, kind="stable")[:_MOST_CANDIDATES]
    places = np.sqrt(probabilities) if features is None else np.asarray(features, np.float64)
    places, doubt = places[rows], doubt[rows]
    if features is not None:
        # Each feature counts alike, whatever its unit.
        places = places / np.maximum(places.std(axis=0), 1e-9)
    nearest = np.full(len(rows), np.inf)
    if annotated is not None and features is not None:
        scale = np.maximum(np.asarray(features, np.float64)[rows].std(axis=0), 1e-9)
        for place in np.asarray(annotated, np.float64) / scale:
            nearest = np.minimum(nearest, _distances(places, place))
    picked: list[int] = []
    for _ in range(min(n, len(rows))):
        wanted = doubt if np.isinf(nearest).all() else (doubt + 1e-9) * nearest
        if picked:
            wanted[picked] = -1.0
        best = int(wanted.argmax())
        picked.append(best)
        nearest = np.minimum(nearest, _distances(places, places[best]))
    return np.asarray(rows[picked], dtype=np.int64)


def uncertainty(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """One minus the lead (N,) of the most probable class over the second, 0 to 1."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    top = np.partition(np.asarray(probabilities, np.float64), -2, axis=1)
    doubt: npt.NDArray[np.float64] = 1 - (top[:, -1] - top[:, -2])
    return doubt


def _distances(
    places: npt.NDArray[np.float64], place: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    distances: npt.NDArray[np.float64] = np.sqrt(np.square(places - place).sum(axis=1))
    return distances
