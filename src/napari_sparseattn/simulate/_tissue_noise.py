"""Random numbers and smooth noise that depend on a place alone, not on what is drawn first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["hash_places", "noise_at", "noise_grid"]

Array = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

_MASK = 2**64 - 1
# Odd constants of Steele and others' SplitMix64 (2014), and of its relatives.
_ROW, _COLUMN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# Standard deviation of a cubic spline through uniform values of -1 to 1, averaged over places.
_SPREAD = 0.277
_ROOT_SPREAD = np.float32(_SPREAD**0.5)


def hash_places(seed: int, salt: int, rows: Ints, columns: Ints) -> Array:
    """Return uniform numbers of 0 to 1 that depend on seed, salt, row and column alone.

    Parameters
    ----------
    seed, salt : int
        Which slide, and which of its random quantities.
    rows, columns : numpy.ndarray of int64
        Of any shapes that broadcast; may be negative.

    Returns
    -------
    numpy.ndarray, float32
        Of the shape that they broadcast to.
    """
    start = np.uint64((seed * 0xD6E8FEB86659FD93 + (salt + 1) * 0xA0761D6478BD642F) & _MASK)
    mixed = (rows.astype(np.uint64) * _ROW) ^ (columns.astype(np.uint64) * _COLUMN) ^ start
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def noise_grid(seed: int, salt: int, wavelength: float, y: Floats, x: Floats) -> Array:
    """Return smooth noise of mean 0 and spread 1 where rows y and columns x cross.

    A cubic B-spline over random values at multiples of `wavelength`.

    Parameters
    ----------
    seed, salt : int
        See `hash_places`.
    wavelength : float
        Distance of the random values, in the unit of y and x.
    y, x : numpy.ndarray, shapes (h,) and (w,)
        Increasing.

    Returns
    -------
    numpy.ndarray, shape (h, w), float32
    """
    (top, down), (left, across) = _axis(y / wavelength), _axis(x / wavelength)
    rows = np.arange(top, top + down.shape[1])[:, np.newaxis]
    columns = np.arange(left, left + across.shape[1])[np.newaxis]
    values = hash_places(seed, salt, rows, columns) * np.float32(2) - np.float32(1)
    grid: Array = down @ values @ across.T
    return grid


def noise_at(seed: int, salt: int, wavelength: float, y: Floats, x: Floats) -> Array:
    """Return the noise of `noise_grid` at single places y, x of one shape."""
    (row, down), (column, across) = _spline(y / wavelength), _spline(x / wavelength)
    four = np.arange(4)
    rows = row[..., np.newaxis, np.newaxis] + four[:, np.newaxis]
    columns = column[..., np.newaxis, np.newaxis] + four
    values = hash_places(seed, salt, rows, columns) * np.float32(2) - np.float32(1)
    found: Array = np.einsum("i...,...ij,j...->...", down, values, across)
    return found / np.float32(_SPREAD)


def _spline(t: Floats) -> tuple[Ints, Array]:
    """The first of four values around each place, and their weights (4, ...)."""
    whole = np.floor(t)
    f = (t - whole).astype(np.float32)
    g, square = 1 - f, f * f
    middle = (3 * f - 6) * square + 4
    weights = np.stack([g * g * g, middle, 6 - g * g * g - middle - square * f, square * f])
    return whole.astype(np.int64) - 1, weights / np.float32(6)


def _axis(t: Floats) -> tuple[int, Array]:
    """The first value that is needed along an axis, and weights (n, values) of all."""
    first, weights = _spline(t)
    start = int(first[0])
    matrix = np.zeros((len(t), int(first[-1]) - start + 4), np.float32)
    places = np.arange(len(t))[:, np.newaxis]
    # Both axes share the division by the spread.
    matrix[places, (first - start)[:, np.newaxis] + np.arange(4)] = weights.T / _ROOT_SPREAD
    return start, matrix
