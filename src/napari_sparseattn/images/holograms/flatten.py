"""The background of a phase map: found, fitted, removed."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

__all__ = ["BackgroundPixels", "Profile", "contrast", "flatten", "level_field"]

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


def level_field(field: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Turn a complex field (H, W) so that its background has phase about 0, untilted.

    The mean phase step from pixel to pixel is the tilt: over a cell, which
    rises and falls, steps cancel.
    """
    for axis in (0, 1):
        ahead, behind = (slice(1, None), slice(None, -1))
        cut = [slice(None)] * 2
        cut[axis] = ahead
        later = field[tuple(cut)]
        cut[axis] = behind
        step = np.angle(np.vdot(field[tuple(cut)], later))
        ramp = np.exp(-1j * step * np.arange(field.shape[axis])).astype(np.complex64)
        field = field * (ramp[:, np.newaxis] if axis == 0 else ramp)
    # The commonest phase, as the mean would be drawn aside by many cells.
    some = field[::_FEW, ::_FEW]
    size = np.abs(some)
    unit = some / np.where(size > 0, size, 1)
    counts, edges = np.histogram(np.angle(unit), bins=64, range=(-math.pi, math.pi))
    smooth = ndi.gaussian_filter1d(counts.astype(float), 1.0, mode="wrap")
    common = float(edges[int(smooth.argmax())] + (edges[1] - edges[0]) / 2)
    near = unit * np.exp(-1j * common)
    chosen = near.real > math.cos(0.6)
    rest = float(np.angle(near[chosen].mean())) if chosen.any() else 0.0
    turned: npt.NDArray[np.complex64] = (field * np.exp(-1j * (common + rest))).astype(np.complex64)
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
    design = _design(_grid(small.shape, step), phase.shape, profile)
    mask = _border_of(small.shape)
    if pixels == "auto":
        found = _background(small, design)
        if np.count_nonzero(found) >= _LEAST_BACKGROUND * found.size:
            mask = found
    whole = np.repeat(np.repeat(mask, step, 0), step, 1)
    pad = [(0, max(0, n - m)) for n, m in zip(phase.shape, whole.shape, strict=True)]
    whole = np.pad(whole, pad, mode="edge")[: phase.shape[0], : phase.shape[1]]
    if not design:
        return phase, whole
    weights = _fit(small, design, mask)
    rows, columns = (np.arange(n, dtype=np.float64) for n in phase.shape)
    parts = _design((rows[:, np.newaxis], columns[np.newaxis]), phase.shape, profile)
    flat = phase
    for weight, part in zip(weights, parts, strict=True):
        flat = flat - (weight * part).astype(np.float32)
    return flat, whole


def contrast(phase: Phase, background: Mask) -> tuple[float, float]:
    """Return how much stands out above and below the background.

    Returns
    -------
    (float, float)
        Sums over the pixels of a smoothed phase map beyond four standard
        deviations of its background, above and below; both not negative.
    """
    smooth = ndi.gaussian_filter(phase, 1.5)
    ground = smooth[background] if background.any() else smooth
    middle = float(np.median(ground))
    spread = 1.4826 * float(np.median(np.abs(ground - middle)))
    rest = smooth - middle
    limit = _STANDS_OUT * spread
    return float(rest[rest > limit].sum()), float(-rest[rest < -limit].sum())


def _reduce(phase: Phase, step: int) -> npt.NDArray[np.float64]:
    height, width = (n // step * step for n in phase.shape)
    blocks = phase[:height, :width].reshape(height // step, step, width // step, step)
    small: npt.NDArray[np.float64] = blocks.mean(axis=(1, 3), dtype=np.float64)
    return small


def _grid(shape: tuple[int, ...], step: int) -> tuple[Any, Any]:
    """Rows and columns in full pixels of the middles of blocks."""
    rows, columns = ((np.arange(n) + 0.5) * step - 0.5 for n in shape)
    return rows[:, np.newaxis], columns[np.newaxis]


def _design(grid: tuple[Any, Any], shape: tuple[int, ...], profile: Profile) -> list[Any]:
    # Scaled to about one, which keeps the least squares well conditioned.
    y, x = ((part - n / 2) / max(shape) for part, n in zip(grid, shape, strict=True))
    return [y**i * x**j for i, j in _ORDERS[profile]]


def _fit(image: npt.NDArray[np.float64], design: list[Any], mask: Mask) -> npt.NDArray[np.float64]:
    matrix = np.stack([np.broadcast_to(part, mask.shape)[mask] for part in design], axis=1)
    weights: npt.NDArray[np.float64] = np.linalg.lstsq(matrix, image[mask], rcond=None)[0]
    return weights


def _background(small: npt.NDArray[np.float64], design: list[Any]) -> Mask:
    smooth = ndi.gaussian_filter(small, 1.0)
    if not design:
        design = [np.ones((1, 1))]
    mask = np.ones(small.shape, bool)
    for _ in range(_ROUNDS):
        weights = _fit(smooth, design, mask)
        rest = smooth - sum(w * part for w, part in zip(weights, design, strict=True))
        middle = float(np.median(rest[mask]))
        spread = 1.4826 * float(np.median(np.abs(rest[mask] - middle)))
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
