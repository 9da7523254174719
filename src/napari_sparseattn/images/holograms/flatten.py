"""The background of a phase map: found, fitted, removed."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BackgroundPixels", "Profile", "contrast", "flatten", "level_field", "median"]

Profile = Literal["none", "offset", "tilt", "curved"]
BackgroundPixels = Literal["auto", "border"]
Phase = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_ORDERS: dict[Profile, tuple[tuple[int, int], ...]] = {
    "none": (),
    "offset": ((0, 0),),
    "tilt": ((0, 0), (1, 0), (0, 1)),
    "curved": ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)),
}
# The fit is smooth: this many pixels along the longer side determine it.
_WORKING_SIDE = 128
_ROUNDS = 12
_SPREADS = 3.0
_LEAST_BACKGROUND = 0.05
_BORDER = 0.06
_STANDS_OUT = 4.0
# Every so many pixels suffice for an offset.
_FEW = 3
# Of a histogram of phases.
_BINS = 64


def level_field(field: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Turn a complex field (H, W) so that its background has phase about 0, untilted.

    The mean phase step from pixel to pixel is the tilt: over a cell, which
    rises and falls, steps cancel.
    """
    import scipy.ndimage as ndi

    height, width = field.shape
    flat = np.ascontiguousarray(field).ravel()
    down = np.vdot(flat[:-width], flat[width:]) if height > 1 else 1
    # Neighbours in memory, less those from the end of a row to the next one.
    along = np.vdot(flat[:-1], flat[1:]) - np.vdot(field[:-1, -1], field[1:, 0])
    rows, columns = (
        np.exp(-1j * np.angle(step) * np.arange(n)).astype(np.complex64)
        for step, n in ((down, height), (along, width))
    )
    # The commonest phase, as the mean would be drawn aside by many cells.
    some = field[::_FEW, ::_FEW] * (rows[::_FEW, np.newaxis] * columns[::_FEW])
    size = np.abs(some)
    unit = some / np.where(size > 0, size, 1)
    bins = ((np.angle(unit) + np.float32(math.pi)) * np.float32(_BINS / (2 * math.pi))).ravel()
    counts = np.bincount(bins.astype(np.int32).clip(0, _BINS - 1), minlength=_BINS)
    smooth = ndi.gaussian_filter1d(counts.astype(float), 1.0, mode="wrap")
    common = (int(smooth.argmax()) + 0.5) * 2 * math.pi / _BINS - math.pi
    near = unit * np.complex64(np.exp(-1j * common))
    chosen = near.real > math.cos(0.6)
    rest = float(np.angle(near[chosen].mean())) if chosen.any() else 0.0
    rows = (rows * np.exp(-1j * (common + rest))).astype(np.complex64)
    turned: npt.NDArray[np.complex64] = field * columns
    turned *= rows[:, np.newaxis]
    return turned


def flatten(
    phase: Phase, profile: Profile, pixels: BackgroundPixels = "auto"
) -> tuple[Phase, Mask]:
    """Fit a profile on the background pixels only, and remove it.

    ``"auto"`` takes all pixels, fits, and leaves out what lies further than
    three robust standard deviations off, until nothing changes; then keeps
    away from the rims. It needs background on about half of the frame or
    more. ``"border"`` takes a frame of 6 % of the shorter side.

    Parameters
    ----------
    phase : numpy.ndarray, shape (H, W), float32
        Unwrapped, finite; any unit.
    profile : {"none", "offset", "tilt", "curved"}
        Nothing, a constant, a plane, or a polynomial of second order.
    pixels : {"auto", "border"}
        Which pixels are background.

    Returns
    -------
    phase : numpy.ndarray, shape (H, W), float32
        Less the profile.
    background : numpy.ndarray, shape (H, W), bool
        The pixels fitted on.
    """
    step = max(1, math.ceil(max(phase.shape) / _WORKING_SIDE))
    small = _reduce(phase, step)
    y, x = _axes(phase.shape, small.shape, step)
    design = [y[:, np.newaxis] ** i * x**j for i, j in _ORDERS[profile]]
    mask = _border_of(small.shape)
    if pixels == "auto":
        found = _background(small, design)
        if np.count_nonzero(found) >= _LEAST_BACKGROUND * found.size:
            mask = found
    # Rows last, which are copied whole.
    whole = np.repeat(np.repeat(mask, step, 1), step, 0)
    pad = [(0, max(0, n - m)) for n, m in zip(phase.shape, whole.shape, strict=True)]
    if pad != [(0, 0), (0, 0)]:
        whole = np.pad(whole, pad, mode="edge")[: phase.shape[0], : phase.shape[1]]
    if not design:
        return phase, whole
    weights = dict(zip(_ORDERS[profile], _fit(small, design, mask).tolist(), strict=True))
    y, x = _axes(phase.shape, phase.shape, 1)
    alone = sum(weight * y**i for (i, j), weight in weights.items() if j == 0)
    flat = phase - np.asarray(alone, np.float32)[:, np.newaxis]
    for (i, j), weight in weights.items():
        if j and i:
            flat -= (weight * y**i).astype(np.float32)[:, np.newaxis] * (x**j).astype(np.float32)
        elif j:
            flat -= (weight * x**j).astype(np.float32)
    return flat, whole


def median(values: npt.NDArray[Any]) -> float:
    """Return the median of finite numbers, several times as fast as `numpy.median` does."""
    flat = values.ravel()
    half = len(flat) // 2
    # Of one place alone numpy sorts with vectors.
    parted = np.partition(flat, half)
    upper = float(parted[half])
    return upper if len(flat) % 2 else (float(parted[:half].max()) + upper) / 2


def contrast(phase: Phase, background: Mask) -> tuple[float, float]:
    """Return how much stands out above and below the background.

    Returns
    -------
    (float, float)
        Sums over the pixels of a smoothed phase map beyond four standard
        deviations of its background, above and below; both not negative.
    """
    import scipy.ndimage as ndi

    smooth = ndi.gaussian_filter(phase, 1.5)
    ground = smooth[background] if background.any() else smooth
    middle = float(np.median(ground))
    spread = 1.4826 * float(np.median(np.abs(ground - middle)))
    rest = smooth - middle
    limit = _STANDS_OUT * spread
    return float(rest[rest > limit].sum()), float(-rest[rest < -limit].sum())


def _reduce(phase: Phase, step: int) -> npt.NDArray[np.float64]:
    height, width = (n // step * step for n in phase.shape)
    # Along columns first, where whole rows are added.
    rows = (
        phase[:height, :width].reshape(height // step, step, width).mean(axis=1, dtype=np.float64)
    )
    small: npt.NDArray[np.float64] = rows.reshape(height // step, width // step, step).mean(axis=2)
    return small


def _axes(
    shape: tuple[int, ...], blocks: tuple[int, ...], step: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rows and columns of the middles of blocks, from the middle of the frame.

    Scaled to about one, which keeps the least squares well conditioned.
    """
    y, x = (
        ((np.arange(n) + 0.5) * step - 0.5 - whole / 2) / max(shape)
        for n, whole in zip(blocks, shape, strict=True)
    )
    return y, x


def _fit(image: npt.NDArray[np.float64], design: list[Any], mask: Mask) -> npt.NDArray[np.float64]:
    matrix = np.stack([np.broadcast_to(part, mask.shape)[mask] for part in design])
    # Of terms scaled to about one: many times as fast as by singular values.
    squares, products = matrix @ matrix.T, matrix @ image[mask]
    weights: npt.NDArray[np.float64] = np.linalg.lstsq(squares, products, rcond=None)[0]
    return weights


def _background(small: npt.NDArray[np.float64], design: list[Any]) -> Mask:
    import scipy.ndimage as ndi

    smooth = ndi.gaussian_filter(small, 1.0)
    if not design:
        design = [np.ones((1, 1))]
    mask = np.ones(small.shape, bool)
    for _ in range(_ROUNDS):
        weights = _fit(smooth, design, mask)
        rest = smooth - sum(w * part for w, part in zip(weights, design, strict=True))
        some = rest[mask]
        middle = median(some)
        spread = 1.4826 * median(np.abs(some - middle))
        kept = np.abs(rest - middle) <= _SPREADS * max(spread, 1e-9)
        if np.count_nonzero(kept) < _LEAST_BACKGROUND * kept.size or (kept == mask).all():
            break
        mask = kept
    # Rings of diffraction around cells lie within the spread but not around 0.
    away = ndi.binary_erosion(ndi.binary_opening(mask), iterations=2, border_value=1)
    return away if np.count_nonzero(away) >= _LEAST_BACKGROUND * away.size else mask


def _border_of(shape: tuple[int, ...]) -> Mask:
    width = max(1, round(_BORDER * min(shape)))
    mask = np.ones(shape, bool)
    mask[width:-width, width:-width] = False
    return mask
