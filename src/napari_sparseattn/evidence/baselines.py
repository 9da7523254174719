"""Evidence that costs nothing: what a model's own has to be better than.

Adebayo et al. 2018, "Sanity checks for saliency maps", found maps that are
mostly edges; cells lie in the middle of their crops; and any order removes
something. So none of these look at the model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .fills import smooth

__all__ = [
    "BASELINES",
    "centre_relevance",
    "edge_relevance",
    "random_regions",
    "rank",
    "tiled_mean",
]

#: What evidence is held against, in this order.
BASELINES = ("random", "edges", "centre")

#: Width of random regions, as a share of the image's longer side.
_GRAIN = 1 / 16

Relevance = npt.NDArray[np.float32]


def random_regions(shape: tuple[int, int], seed: int, grain: float = _GRAIN) -> Relevance:
    """Smooth noise, whose highest places form regions rather than scattered pixels.

    Scattered pixels are easily filled from their neighbours, whatever they
    show; regions are the fairer match for a selection that has regions.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    seed : int
        Of the noise.
    grain : float
        Width of its blur as a share of the longer side; 0 for scattered pixels.

    Returns
    -------
    numpy.ndarray
        (rows, columns) float32.
    """
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return smooth(noise, grain * max(shape)) if grain else noise


def edge_relevance(image: npt.NDArray[np.float32]) -> Relevance:
    """Magnitude of the Sobel gradient, of all channels together.

    Parameters
    ----------
    image : numpy.ndarray
        (C, H, W) float32.

    Returns
    -------
    numpy.ndarray
        (H, W) float32.
    """
    p = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    columns = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    down, across = rows[:, 2:] - rows[:, :-2], columns[..., 2:] - columns[..., :-2]
    magnitude: Relevance = np.sqrt((down**2 + across**2).sum(axis=0)) / np.float32(8)
    return magnitude


def centre_relevance(shape: tuple[int, int]) -> Relevance:
    """Nearness to the middle, 1 there, falling with the distance."""
    y, x = ((np.arange(length) + 0.5) / length * 2 - 1 for length in shape)
    near: Relevance = (1 - np.hypot(y[:, None], x)).astype(np.float32)
    return near


def rank(relevance: npt.NDArray[np.floating], seed: int = 0) -> npt.NDArray[np.int64]:
    """Order places, most relevant first; ties are drawn by lot.

    A tie in raster order would favour the image's top.

    Parameters
    ----------
    relevance : numpy.ndarray
        (n,); not-a-number counts as least relevant.
    seed : int
        Of the lot.

    Returns
    -------
    numpy.ndarray
        (n,) int64.
    """
    lot = np.random.default_rng(seed).permutation(len(relevance))
    values = np.nan_to_num(relevance.astype(np.float64)[lot], nan=-np.inf)
    return lot[np.argsort(-values, kind="stable")].astype(np.int64)


def tiled_mean(values: npt.NDArray[np.floating] | npt.NDArray[np.bool_], side: int) -> Relevance:
    """Mean over tiles of `side` x `side` of (H, W); the last may be smaller."""
    height, width = values.shape
    down, across = np.arange(0, height, side), np.arange(0, width, side)
    total = np.add.reduceat(np.add.reduceat(values.astype(np.float64), down, 0), across, 1)
    rows = np.minimum(down + side, height) - down
    columns = np.minimum(across + side, width) - across
    mean: Relevance = (total / np.outer(rows, columns)).astype(np.float32)
    return mean
