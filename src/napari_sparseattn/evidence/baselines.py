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
    "dark_relevance",
    "edge_relevance",
    "random_like",
    "random_regions",
    "rank",
    "stable_order",
    "tiled_mean",
]

#: What evidence is held against, in this order.
BASELINES = ("random", "edges", "centre", "dark", "dark blurred")

#: Width of random regions, as a share of the image's longer side.
_GRAIN = 1 / 16
#: Width of the blur of darkness, as a share of the longer side.
_DARK_BLUR = 1 / 16

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


def random_like(
    relevance: npt.NDArray[np.floating],
    shape: tuple[int, int],
    cells: npt.NDArray[np.int64],
    seed: int,
    count: int,
) -> Relevance:
    """Draw maps by lot that are as coarse or as fine as another one.

    A map of large patches removes other things than scattered pixels do,
    whatever it shows, so a map is held against random ones of its own grain:
    its values become those of a normal distribution, rank by rank, and keep
    their power spectrum while the phases are drawn (Theiler et al. 1992,
    "Testing for nonlinearity in time series: the method of surrogate data").
    A map that is itself random cannot be told from those.

    Parameters
    ----------
    relevance : numpy.ndarray
        (n,), the map.
    shape : (int, int)
        Rows and columns of the grid that it lies on.
    cells : numpy.ndarray
        (n,) int64, ``row * columns + column`` of each value; other places of
        the grid count as ordinary ones.
    seed : int
        Of the phases.
    count : int
        How many.

    Returns
    -------
    numpy.ndarray
        (count, n) float32.
    """
    n = len(relevance)
    places = np.empty(n, np.int64)
    places[rank(relevance, seed)] = np.arange(n)[::-1]
    grid = np.zeros(shape[0] * shape[1])
    # Normal quantiles by a logistic, which is near enough for a spectrum.
    share = (places + 0.5) / n
    grid[cells] = np.log(share / (1 - share))
    spectrum = np.abs(np.fft.rfft2(grid.reshape(shape)))
    noise = np.random.default_rng(seed).standard_normal((count, *shape))
    phases = np.fft.rfft2(noise)
    drawn = np.fft.irfft2(spectrum * phases / np.maximum(np.abs(phases), 1e-12), shape)
    found: Relevance = drawn.reshape(count, -1)[:, cells].astype(np.float32)
    return found


def dark_relevance(
    image: npt.NDArray[np.float32], *, absorbs: bool = True
) -> tuple[Relevance, Relevance]:
    """How dark each pixel is, and its surroundings: stained cells are darker than the rest.

    Parameters
    ----------
    image : numpy.ndarray
        (C, H, W) float32.
    absorbs : bool
        Whether cells are darker than their background; where they delay light
        they are brighter in a phase image, and brightness is taken.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        (H, W) float32 each: of the pixels, and blurred by a sixteenth of the longer side.
    """
    mean = image.mean(axis=0)
    dark: Relevance = (-mean if absorbs else mean).astype(np.float32)
    return dark, smooth(dark, _DARK_BLUR * max(dark.shape))


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
    return lot[stable_order(-values)]


def stable_order(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return what a stable argsort of (n,) values does, in a third of the time.

    numpy's other sort is vectorised; what is tied is then put in order by its place.
    """
    order, n = np.argsort(values), len(values)
    ascending = values[order]
    before, after = ascending[:-1], ascending[1:]
    apart = (before != after) & ~(np.isnan(before) & np.isnan(after))
    group = np.zeros(n, np.int64)
    np.cumsum(apart, out=group[1:])
    found: npt.NDArray[np.int64] = np.sort(group * n + order) % max(n, 1)
    return found


def tiled_mean(values: npt.NDArray[np.floating] | npt.NDArray[np.bool_], side: int) -> Relevance:
    """Mean over tiles of `side` x `side` of (H, W); the last may be smaller."""
    height, width = values.shape
    down, across = np.arange(0, height, side), np.arange(0, width, side)
    total = np.add.reduceat(np.add.reduceat(values.astype(np.float64), down, 0), across, 1)
    rows = np.minimum(down + side, height) - down
    columns = np.minimum(across + side, width) - across
    mean: Relevance = (total / np.outer(rows, columns)).astype(np.float32)
    return mean
