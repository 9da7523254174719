"""Coordinates of patches made elsewhere, put onto one grid or refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AuditedGrid", "GridError", "audit_grid", "count_grids", "fit_step", "infer_step"]

Mask = npt.NDArray[np.bool_]

#: Cells along an axis beyond which a coordinate is damaged rather than far.
_MOST_CELLS = 2**20
_SHOWN = 5
# Coordinates are rounded or cut off to whole pixels, and so is where they begin.
_ROUNDING = 1.0
_FLOAT_SLACK = 1e-6


class GridError(ValueError):
    """Coordinates that do not make a grid.

    Attributes
    ----------
    rows : numpy.ndarray, (n,) int64
        All offending rows, in order.
    """

    def __init__(self, message: str, rows: npt.ArrayLike = ()) -> None:
        super().__init__(message)
        self.rows: npt.NDArray[np.int64] = np.asarray(rows, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class AuditedGrid:
    """Coordinates that were found to lie on a grid, or were moved onto one.

    Parameters
    ----------
    cells : numpy.ndarray, (n, 2) int32
        Column and row (x, y) of the rows kept, from 0.
    kept : numpy.ndarray, (n,) int64
        Which rows these are.
    step : float
        From cell to cell, in the coordinates' unit.
    origin : (float, float)
        (y, x) of cell (0, 0) in the coordinates' unit.
    report : str
        What was moved and dropped, in words; empty where nothing was.
    moved : numpy.ndarray, (m,) int64
        Rows that were off the grid and were moved.
    distance : numpy.ndarray, (m,) float64
        How far each of these was moved, in the coordinates' unit.
    dropped : numpy.ndarray, (k,) int64
        Rows left out.
    """

    cells: npt.NDArray[np.int32]
    kept: npt.NDArray[np.int64]
    step: float
    origin: tuple[float, float]
    report: str
    moved: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    dropped: npt.NDArray[np.int64]


def audit_grid(
    coords: npt.ArrayLike,
    step: float | None,
    *,
    extent: tuple[float, float] | None = None,
    snap: bool = False,
    tolerance: float | None = None,
) -> AuditedGrid:
    """Put coordinates onto a grid, refusing those that do not fit it.

    The grid may begin anywhere: the beginning that fits most rows is taken.

    Parameters
    ----------
    coords : array-like, (N, 2)
        Top left corners (x, y), integers or floats, in any unit.
    step : float or None
        From patch to patch, in that unit; None finds it out with `infer_step`.
    extent : (float, float), optional
        Height and width of the slide in that unit; corners must lie inside.
    snap : bool
        Move rows that are off the grid to the nearest cell, and leave out those
        that are out of range or whose cell a nearer row holds. By default all
        of these are refused.
    tolerance : float, optional
        How far from its cell, along an axis, a row still fits, in that unit; by
        default 1, for rounding to whole pixels, or an eighth of the step if that
        is less.

    Raises
    ------
    GridError
        If rows are off the grid, duplicate or out of range, and not snapped;
        the message shows the first with their values, `rows` holds them all.
        Also if there are none, or the step is not a positive number.
    """
    table = _table(coords)
    step = infer_step(table) if step is None else float(step)
    if not (math.isfinite(step) and step > 0):
        raise GridError(f"the step from patch to patch must be a positive number, got {step}")
    rows = _in_range(table, extent, snap)
    good = table[rows]
    tolerance = _tolerance(good, step, tolerance)
    cells, away, offset = _place(good, step, tolerance)
    # A cell far from the median one is damage that would make the grid absurd.
    far = _any(np.abs(cells - np.median(cells, axis=0)) > _MOST_CELLS)
    if far.any() and not snap:
        why = f"lie over {_MOST_CELLS} steps of {step:g} from the others"
        raise GridError(_sentence(table, _spread(rows[far], len(table)), why), rows[far])
    off = _any(np.abs(away) > tolerance) & ~far
    if off.any() and not snap:
        raise GridError(_off_grid(table, rows[off], step, offset), rows[off])
    twice = _doubles(cells, np.abs(away).max(axis=1), far)
    if twice.any() and not snap:
        shared = _sharing(cells, twice)
        raise GridError(_duplicates(table, rows[shared], int(twice.sum())), rows[shared])
    return _result(table, rows, cells, away, step, offset, far=far, off=off, twice=twice)


def _in_range(
    table: npt.NDArray[np.float64], extent: tuple[float, float] | None, snap: bool
) -> npt.NDArray[np.intp]:
    """The rows whose corners lie on the slide; all must, unless they are snapped."""
    bad = _out_of_range(table, extent)
    if bad.any() and not snap:
        raise GridError(_sentence(table, bad, _range_text(extent)), np.flatnonzero(bad))
    if bad.all():
        raise GridError("no coordinate lies in range: nothing is left", np.flatnonzero(bad))
    return np.flatnonzero(~bad)


def infer_step(coords: npt.ArrayLike) -> float:
    """Return the step of a grid from its coordinates alone.

    It is the most frequent distance between neighbours of one row or one
    column, refined by all distances that are a multiple of it.

    Raises
    ------
    GridError
        If no two patches lie in one row or column.
    """
    table = _table(coords)
    table = table[np.isfinite(table).all(axis=1)]
    gaps = np.concatenate([_gaps(table, axis) for axis in (0, 1)])
    if not len(gaps):
        raise GridError(
            "the step from patch to patch is not stated, and no two patches lie in one row or "
            "column to tell it from; give it"
        )
    values, counts = np.unique(np.round(gaps), return_counts=True)
    # Steps of 447.6 px show as 447 and 448: neighbours count together.
    together = [counts[np.abs(values - value) <= _ROUNDING].sum() for value in values]
    rough = float(values[np.argmax(together)])
    times = np.maximum(np.rint(gaps / rough), 1)
    fits = np.abs(gaps - times * rough) <= _ROUNDING * times + _FLOAT_SLACK
    by_neighbours = float(gaps[fits].sum() / times[fits].sum())
    # Far patches tell a step of no whole pixels better, unless there are several grids.
    by_all = fit_step(table, by_neighbours)
    return max((by_all, by_neighbours), key=lambda step: _n_fitting(table, step))


def fit_step(coords: npt.ArrayLike, step: float) -> float:
    """Return the step near `step` that fits coordinates best over their whole extent.

    For tools that state a step but round the place of every few patches, so
    that their coordinates drift from it.
    """
    table = _table(coords)
    products = squares = 0.0
    for values in table[np.isfinite(table).all(axis=1)].T:
        places = np.unique(values)
        index = np.concatenate([[0.0], np.cumsum(np.rint(np.diff(places) / step))])
        index -= index.mean()
        products += float(index @ places)
        squares += float(index @ index)
    return products / squares if squares else step


def count_grids(coords: npt.ArrayLike, step: float) -> tuple[int, float]:
    """Return how many grids of a step coordinates lie on, and the share that is not alone on one.

    Tools that begin a grid in each piece of tissue leave few grids of many
    patches; places that are wrong are each alone.

    Parameters
    ----------
    coords : array-like, (N, 2)
        Top left corners, as `audit_grid` takes them.
    step : float
        From patch to patch.
    """
    table = _table(coords)
    tolerance = _tolerance(table, step)
    left, counts = table[np.isfinite(table).all(axis=1)], []
    while len(left):
        away = left - left[0] - step * np.rint((left - left[0]) / step)
        own = (np.abs(away) <= 2 * tolerance).all(axis=1)
        counts.append(int(own.sum()))
        left = left[~own]
    together = sum(count for count in counts if count > 1)
    return len(counts), together / max(1, sum(counts))


def _gaps(table: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """Return distances along an axis between neighbours that share the other coordinate."""
    other = np.round(table[:, 1 - axis])
    order = np.lexsort((table[:, axis], other))
    gaps = np.diff(table[order, axis])
    found: npt.NDArray[np.float64] = gaps[(np.diff(other[order]) == 0) & (gaps >= 1)]
    return found


def _tolerance(
    table: npt.NDArray[np.float64], step: float, tolerance: float | None = None
) -> float:
    chosen = min(_ROUNDING, step / 8) if tolerance is None else min(tolerance, step / 2)
    # Coordinates of float32 have 7 digits; damaged ones must not widen this.
    return chosen + _FLOAT_SLACK * max(step, float(np.quantile(np.abs(table), 0.9)))


def _place(
    table: npt.NDArray[np.float64], step: float, tolerance: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return cells (N, 2), how far rows are from them (N, 2), and where the grid begins (2,)."""
    offset = np.array([_offset(values, step, tolerance) for values in table.T])
    cells = np.rint((table - offset) / step)
    return cells, table - offset - cells * step, offset


def _n_fitting(table: npt.NDArray[np.float64], step: float) -> int:
    tolerance = _tolerance(table, step)
    _, away, _ = _place(table, step, tolerance)
    return int((np.abs(away) <= tolerance).all(axis=1).sum())


def _table(coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
    given: npt.NDArray[Any] = np.asarray(coords)
    if given.ndim != 2 or given.shape[1] != 2 or given.dtype.kind not in "iuf":
        raise GridError(f"coordinates must be numbers (N, 2), got {given.dtype} {given.shape}")
    if not len(given):
        raise GridError("there are no coordinates")
    return given.astype(np.float64)


def _out_of_range(table: npt.NDArray[np.float64], extent: tuple[float, float] | None) -> Mask:
    bad = _any(~np.isfinite(table))
    if extent is not None:
        limit = np.array([extent[1], extent[0]])
        bad |= _any((table < 0) | (table >= limit))
    return bad


def _any(mask: Mask) -> Mask:
    """Return which rows of (N, 2) have any."""
    return mask[:, 0] | mask[:, 1]


def _range_text(extent: tuple[float, float] | None) -> str:
    if extent is None:
        return "are not finite numbers"
    return f"lie outside of the slide (x from 0 to {extent[1]:g}, y from 0 to {extent[0]:g})"


def _offset(values: npt.NDArray[np.float64], step: float, tolerance: float) -> float:
    """Return where a grid of this step begins, 0 to step, such that most values fit it."""
    rest = np.sort(np.mod(values, step))
    around = np.concatenate([rest, rest + step])
    ends = np.searchsorted(around, rest + 2 * tolerance, side="right")
    first = int((ends - np.arange(len(rest))).argmax())
    return float(around[first : ends[first]].mean())


def _doubles(cells: npt.NDArray[np.float64], away: npt.NDArray[np.float64], far: Mask) -> Mask:
    """Return rows whose cell another row holds that lies nearer to it, or comes first."""
    order = np.lexsort((np.arange(len(cells)), away, cells[:, 1], cells[:, 0], far))
    held = (np.diff(cells[order], axis=0) == 0).all(axis=1) & ~far[order[1:]]
    twice = np.zeros(len(cells), np.bool_)
    twice[order[1:][held]] = True
    return twice


def _sharing(cells: npt.NDArray[np.float64], twice: Mask) -> Mask:
    """Return all rows of cells that are held more than once, the first ones included."""
    held = {tuple(cell) for cell in cells[twice]}
    return np.array([tuple(cell) in held for cell in cells], np.bool_)


def _result(
    table: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    cells: npt.NDArray[np.float64],
    away: npt.NDArray[np.float64],
    step: float,
    offset: npt.NDArray[np.float64],
    *,
    far: Mask,
    off: Mask,
    twice: Mask,
) -> AuditedGrid:
    keep = ~(far | twice)
    first = cells[keep].min(axis=0)
    left, top = offset + first * step
    dropped = np.setdiff1d(np.arange(len(table)), rows[keep])
    moved = off & keep
    distance = np.hypot(*away[moved].T)
    report = []
    if moved.any():
        report.append(
            f"{int(moved.sum())} of {len(table)} patches were off the grid and were moved, by "
            f"{distance.max():.4g} at most ({distance.max() / step:.2g} of the step {step:g})"
        )
    if len(dropped):
        report.append(
            f"{len(dropped)} were left out, because they are out of range or another patch holds "
            f"their place: {_list_rows(dropped)}"
        )
    return AuditedGrid(
        (cells[keep] - first).astype(np.int32),
        rows[keep],
        step,
        (float(top), float(left)),
        "; ".join(report),
        rows[moved],
        distance,
        dropped,
    )


def _spread(rows: npt.NDArray[np.int64], n: int) -> Mask:
    mask = np.zeros(n, np.bool_)
    mask[rows] = True
    return mask


def _list_rows(rows: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(str(row) for row in rows[:_SHOWN])
    more = len(rows) - _SHOWN
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}" + (
        f" and {more} more" if more > 0 else ""
    )


def _values(table: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(f"row {r} at ({table[r, 0]:.10g}, {table[r, 1]:.10g})" for r in rows[:_SHOWN])
    more = len(rows) - _SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def _sentence(table: npt.NDArray[np.float64], bad: Mask, why: str) -> str:
    rows = np.flatnonzero(bad)
    return (
        f"{len(rows)} of {len(table)} coordinates {why}: {_values(table, rows)}. Correct them, or "
        "snap, which leaves them out"
    )


def _off_grid(
    table: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    step: float,
    offset: npt.NDArray[np.float64],
) -> str:
    text = (
        f"{len(rows)} of {len(table)} coordinates are off the grid of step {step:g} that begins at "
        f"({offset[0]:.6g}, {offset[1]:.6g}): {_values(table, rows)}. "
    )
    try:
        better = infer_step(table)
    except GridError:
        better = step
    if abs(better - step) > _FLOAT_SLACK * step + 0.01:
        text += f"Neighbours lie {better:.6g} apart: is that the step? "
    return text + "Give the right step, or snap, which moves each to the nearest place"


def _duplicates(table: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], n: int) -> str:
    return (
        f"{n} of {len(table)} coordinates are duplicates of others: {_values(table, rows)}. "
        "Remove them, or snap, which keeps one of each"
    )
