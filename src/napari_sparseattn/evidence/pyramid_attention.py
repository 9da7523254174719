"""Where a SPAN attended on a slide, level by level, as plain data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..reprs import short_repr

__all__ = ["AttendedLevel", "MapKind", "PyramidAttention", "scale_weights"]

MapKind = Literal["raw", "relative", "percentile", "log"]

#: How far under uniform the logarithmic map goes: less is shown as this.
_LEAST_RELATIVE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class AttendedLevel:
    """What the global token attended to at one level of the pyramid.

    Where there are several global tokens, their attention is averaged.

    Parameters
    ----------
    factor : int
        Patches along each axis of a cell: 1, 2, 4, …
    cells : numpy.ndarray
        (n, 2) int32, (row, column) on this level's own padded grid.
    attention : numpy.ndarray
        (heads, n) float32; with `itself` each head sums to 1.
    itself : numpy.ndarray
        (heads,) float32: attention on the global tokens.
    contribution : numpy.ndarray
        (C,) float32: what this level added to the logits; empty where the
        levels do not add up to them.
    """

    __repr__ = short_repr

    factor: int
    cells: npt.NDArray[np.int32]
    attention: npt.NDArray[np.float32]
    itself: npt.NDArray[np.float32]
    contribution: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.cells.ndim != 2 or self.cells.shape[1] != 2:
            raise ValueError(f"cells are {self.cells.shape}, expected (n, 2)")
        expected = (len(self.itself), len(self.cells))
        if self.attention.shape != expected:
            raise ValueError(f"attention is {self.attention.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def n_heads(self) -> int:
        """Number of attention heads."""
        return len(self.itself)

    def weights(self, head: int | None = None) -> npt.NDArray[np.float32]:
        """(n,) attention per cell, of one head or averaged, summing to 1 over the cells."""
        mean = self.raw(head)
        return mean / max(float(mean.sum()), 1e-12)

    def raw(self, head: int | None = None) -> npt.NDArray[np.float32]:
        """(n,) attention per cell as the model gave it, of one head or averaged."""
        chosen = self.attention if head is None else self.attention[head : head + 1]
        mean: npt.NDArray[np.float32] = chosen.mean(axis=0)
        return mean


def scale_weights(
    level: AttendedLevel, kind: MapKind, head: int | None = None
) -> npt.NDArray[np.float32]:
    """Return one value per cell of a level, for a map.

    Parameters
    ----------
    level : AttendedLevel
        The level.
    kind : {"raw", "relative", "percentile", "log"}
        As the model gave it; in multiples of uniform attention; the
        percentage of cells with no more; log10 of the multiples.
    head : int, optional
        One head; by default their mean.

    Returns
    -------
    numpy.ndarray
        (n,) float32.
    """
    if kind == "raw":
        return level.raw(head)
    weights = level.weights(head)
    relative = weights * np.float32(len(weights))
    if kind == "relative":
        return relative
    if kind == "log":
        logarithm: npt.NDArray[np.float32] = np.log10(np.maximum(relative, _LEAST_RELATIVE))
        return logarithm.astype(np.float32)
    if kind == "percentile":
        below = np.searchsorted(np.sort(weights), weights, side="right")
        return (below * (100.0 / max(len(weights), 1))).astype(np.float32)
    raise ValueError(f"unknown kind of map '{kind}': use raw, relative, percentile or log")


@dataclasses.dataclass(frozen=True, eq=False)
class PyramidAttention:
    """What a SPAN looked at on one slide.

    Positions are (y, x) in pixels of the slide's full resolution, top left
    corners at their index. Cells of the patch grid are (row, column).

    Parameters
    ----------
    origin : (float, float)
        Top left corner of patch-grid cell (0, 0).
    step : float
        Pixels from one patch to the next.
    side : float
        Pixels along a patch.
    padding : (int, int)
        Rows and columns of the lattice before cell (0, 0).
    cells : numpy.ndarray
        (N, 2) int32, the patches in the order of their features; the least
        row and column are 0.
    levels : tuple of AttendedLevel
        Finest first.
    class_names : tuple of str
        The C classes.
    constant : numpy.ndarray
        (C,) float32: what no level contributed to the logits; or empty.
    patch_probabilities : numpy.ndarray or None
        (N,) float32 from a SPAN-UNet.
    """

    __repr__ = short_repr

    origin: tuple[float, float]
    step: float
    side: float
    padding: tuple[int, int]
    cells: npt.NDArray[np.int32]
    levels: tuple[AttendedLevel, ...]
    class_names: tuple[str, ...]
    constant: npt.NDArray[np.float32]
    patch_probabilities: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.cells.ndim != 2 or self.cells.shape[1] != 2 or not len(self.cells):
            raise ValueError(f"cells are {self.cells.shape}, expected (N, 2) with N at least 1")
        if (self.cells.min(axis=0) != 0).any():
            raise ValueError("the least row and column of the cells must be 0")
        if not self.levels:
            raise ValueError("a pyramid of attention needs a level")
        p = self.patch_probabilities
        if p is not None and p.shape != (len(self.cells),):
            raise ValueError(f"patch probabilities are {p.shape}, expected ({len(self.cells)},)")

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def n_heads(self) -> int:
        """Number of heads that all levels have."""
        return min(level.n_heads for level in self.levels)

    def grid(
        self, level: int, kind: MapKind = "relative", head: int | None = None
    ) -> npt.NDArray[np.float32]:
        """(rows, columns) float32 map of one level; NaN where there is no cell.

        See `scale_weights` for the kinds, `placement` for where it lies.
        """
        at = self.levels[level]
        return _scatter(at.cells, scale_weights(at, kind, head))

    def placement(self, level: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Scale and translate of a level's `grid` in pixels of the full resolution.

        The translate is the centre of its pixel (0, 0), with pixel centres of
        the slide at integers, as napari has it.
        """
        at = self.levels[level]
        return self._placement(at.factor, at.cells, self.padding)

    def probability_grid(self) -> npt.NDArray[np.float32]:
        """(rows, columns) float32 map of the patch probabilities; NaN where no patch."""
        if self.patch_probabilities is None:
            raise ValueError("this model gives no probability per patch")
        return _scatter(self.cells, self.patch_probabilities)

    def probability_placement(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Scale and translate of `probability_grid`; see `placement`."""
        return self._placement(1, self.cells, (0, 0))

    def patch_weights(self, level: int = 0, head: int | None = None) -> npt.NDArray[np.float32]:
        """(N,) weight, per patch, of the cell of a level that it lies in."""
        return self.levels[level].weights(head)[self._cell_of_patch[level]]

    def rank_patches(self, head: int | None = None) -> npt.NDArray[np.int64]:
        """(N,) patches, most attended at the finest level first; ties in their order."""
        order: npt.NDArray[np.int64] = np.argsort(-self.patch_weights(0, head), kind="stable")
        return order

    def share_of_top(self, n: int | Sequence[int], head: int | None = None) -> Any:
        """Attention at the finest level that the n most attended patches hold, 0 to 1.

        A float; for several n an array of them.
        """
        weights = np.sort(self.patch_weights(0, head).astype(np.float64))[::-1]
        held = np.concatenate([[0.0], weights.cumsum()]) / max(float(weights.sum()), 1e-12)
        found = held[np.clip(n, 0, len(weights))]
        return float(found) if np.ndim(n) == 0 else found

    def patch_box(self, index: int) -> tuple[float, float, float]:
        """Top, left and side of a patch in pixels of the full resolution."""
        row, column = self.cells[index].tolist()
        return self.origin[0] + row * self.step, self.origin[1] + column * self.step, self.side

    def nearest_patch(self, y: float, x: float) -> int | None:
        """The patch that a position lies in; where patches overlap that of the nearest centre.

        None where there is no patch.
        """
        half = self.side / 2
        row = round((y - self.origin[0] - half) / self.step)
        column = round((x - self.origin[1] - half) / self.step)
        index = self._index.get((row, column))
        if index is None:
            return None
        top, left, side = self.patch_box(index)
        inside = top <= y <= top + side and left <= x <= left + side
        return index if inside else None

    def level_shares(self) -> npt.NDArray[np.float32]:
        """(levels, C) float32: what each level added to the logits; (0, C) where unknown."""
        if any(len(level.contribution) == 0 for level in self.levels):
            return np.empty((0, len(self.class_names)), np.float32)
        return np.stack([level.contribution for level in self.levels])

    def to_dict(self, most: int = 100) -> dict[str, Any]:
        """Return numbers and lists for JSON: the levels in short, and the first `most` patches."""
        ranks = self.rank_patches()[:most]
        return {
            "kind": "pyramid-attention",
            "patches": len(self),
            "step": self.step,
            "side": self.side,
            "origin": list(self.origin),
            "levels": [
                {
                    "patches_along_cell": level.factor,
                    "cells": len(level),
                    "heads": level.n_heads,
                    "on_itself": float(level.itself.mean()),
                    "contribution": level.contribution.tolist(),
                }
                for level in self.levels
            ],
            "constant": self.constant.tolist(),
            "top_share": {str(n): self.share_of_top(n) for n in (10, 100, 1000) if n <= len(self)},
            "top": [
                {
                    "y": self.patch_box(i)[0],
                    "x": self.patch_box(i)[1],
                    "weight": float(self.patch_weights()[i]),
                }
                for i in ranks.tolist()
            ],
        }

    def _placement(
        self, factor: int, cells: npt.NDArray[np.int32], padding: tuple[int, int]
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        scale = factor * self.step
        first = cells.min(axis=0)
        # Cells are as wide as the step; a patch that overlaps others stays in its cell's middle.
        middle = [
            self.origin[axis]
            + (float(first[axis]) * factor - padding[axis] + factor / 2) * self.step
            + (self.side - self.step) / 2
            - 0.5
            for axis in (0, 1)
        ]
        return (scale, scale), (middle[0], middle[1])

    @functools.cached_property
    def _index(self) -> dict[tuple[int, int], int]:
        return {(row, column): i for i, (row, column) in enumerate(self.cells.tolist())}

    @functools.cached_property
    def _cell_of_patch(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Per level (N,) the index of the cell that holds each patch."""
        padded = self.cells + np.asarray(self.padding, np.int32)
        found = []
        for level in self.levels:
            width = int(max(level.cells[:, 1].max(), (padded[:, 1] // level.factor).max())) + 1
            keys = level.cells[:, 0].astype(np.int64) * width + level.cells[:, 1]
            order = np.argsort(keys)
            parent = padded // level.factor
            wanted = parent[:, 0].astype(np.int64) * width + parent[:, 1]
            place = np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)
            index = order[place]
            if (keys[index] != wanted).any():
                raise ValueError(f"the level of {level.factor} patches misses cells of patches")
            found.append(index)
        return tuple(found)


def _scatter(
    cells: npt.NDArray[np.int32], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    first = cells.min(axis=0)
    rows, columns = (cells.max(axis=0) - first + 1).tolist()
    grid = np.full((rows, columns), np.nan, np.float32)
    grid[tuple((cells - first).T)] = values
    return grid
