"""A map of cells: their states in two dimensions, so that what a model sees alike lies near."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .prediction import Predictions

__all__ = ["CellMap", "MapMethod", "map_cells", "map_states", "reduce_states", "umap_is_installed"]

#: How states become two numbers each.
MapMethod = Literal["pca", "umap"]

States = npt.NDArray[np.floating[Any]]
#: UMAP is given so many axes, those with most of the spread; more only cost time.
_AXES = 50
_NEIGHBOURS = 15
_INSTALL = 'install it with: pip install "napari-sparseattn[umap]"'


@dataclasses.dataclass(frozen=True, eq=False)
class CellMap:
    """Where N cells lie on a map.

    Parameters
    ----------
    places : numpy.ndarray
        (N, 2) float32, x and y; NaN of cells that were not classified. The
        unit of both is that of the states; of UMAP's it means nothing.
    method : {"pca", "umap"}
        How it was made.
    shares : (float, float) or None
        Of PCA: which share of the variance of all states each axis shows, 0 to 1.
    """

    places: npt.NDArray[np.float32]
    method: MapMethod
    shares: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.places)


def map_cells(predictions: Predictions, method: MapMethod = "pca", *, seed: int = 0) -> CellMap:
    """Lay cells out by what the model's last layer read of each.

    The network is not run again: `classify_cells` keeps these states.

    Parameters
    ----------
    predictions : Predictions
        Of `classify_cells` or `iter_cells`, not read from a file.
    method : {"pca", "umap"}
        The two directions of the largest spread, or UMAP (McInnes et al. 2018),
        which keeps neighbours together and needs the package ``umap-learn``.
    seed : int
        Of UMAP's draw; PCA has none.

    Returns
    -------
    CellMap
        A row per cell.

    Raises
    ------
    ValueError
        If there are no states, too few cells, or no such method.
    ImportError
        If UMAP is not installed; the message says how.
    """
    if predictions.states is None:
        raise ValueError(
            "These results hold no states of the cells, as those read from files do not: classify "
            "the cells again."
        )
    known = ~np.isnan(predictions.probabilities).any(axis=1)
    found = map_states(predictions.states[known], method, seed=seed)
    places = np.full((len(predictions), 2), np.nan, np.float32)
    places[known] = found.places
    return dataclasses.replace(found, places=places)


def map_states(states: States, method: MapMethod = "pca", *, seed: int = 0) -> CellMap:
    """Lay out states (N, D), all finite; see `map_cells`."""
    if method not in get_args(MapMethod):
        raise ValueError(f"a map is made by {' or '.join(get_args(MapMethod))}, not by '{method}'")
    if method == "pca":
        scores, shares = _principal(states, 2)
        return CellMap(scores, "pca", (float(shares[0]), float(shares[1])))
    if not umap_is_installed():
        raise ImportError(f"UMAP needs the package umap-learn; {_INSTALL}")
    if len(states) < 5:
        raise ValueError(f"UMAP needs at least 5 cells, there are {len(states)}: use pca")
    from umap import UMAP

    axes, _ = _principal(states, min(_AXES, states.shape[1]))
    neighbours = min(_NEIGHBOURS, len(states) - 1)
    # Few points have no spectrum to begin with.
    begin = "spectral" if len(states) > 2 * _NEIGHBOURS else "random"
    made = UMAP(n_neighbors=neighbours, init=begin, random_state=seed, n_jobs=1)
    return CellMap(np.asarray(made.fit_transform(axes), np.float32), "umap")


def reduce_states(states: npt.NDArray[np.float16], width: int) -> npt.NDArray[np.float16]:
    """Return states (N, D) on the `width` axes of their largest spread: (N, width) float16.

    A map by PCA of these is that of all; one by UMAP is nearly.
    """
    if states.shape[1] <= width:
        return states
    return _principal(states, width)[0].astype(np.float16)


def umap_is_installed() -> bool:
    """Whether maps can be made by UMAP; it is not imported for this."""
    return importlib.util.find_spec("umap") is not None


def _principal(states: States, n: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return states on their first n axes (N, n), and the shares of their variance."""
    wide = max(n, states.shape[1])
    if not len(states):
        return np.empty((0, n), np.float32), np.zeros(n)
    values = states.astype(np.float32)
    values -= values.mean(0, dtype=np.float64).astype(np.float32)
    square = np.zeros((wide, wide))
    square[: values.shape[1], : values.shape[1]] = (values.T @ values).astype(np.float64)
    spread, axes = np.linalg.eigh(square)
    spread, axes = np.maximum(spread[::-1][:n], 0), axes[: values.shape[1], ::-1][:, :n]
    # An axis may point either way: always the same, so that a map looks the same each time.
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(n)] < 0, -1, 1)
    total = float(np.trace(square))
    return (values @ axes.astype(np.float32)).astype(np.float32), spread / (total or 1.0)
