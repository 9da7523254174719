"""Windows of a slide at a size of choice, antialiased."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..normalise import to_float
from ._ledger import Level
from ._tiles import Region

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["level_for", "read_window"]

# Source pixels held as float32 at a time.
_WINDOW_PIXELS = 2**22
# Levels' sizes are rounded, so that their downsample misses a round number by a little.
_DOWNSAMPLE_TOLERANCE = 1e-3


class Levelled(Protocol):
    """An image at several resolutions of which rectangles can be read, such as a `Pyramid`."""

    channels: int

    @property
    def levels(self) -> Sequence[Level]:
        """Levels, finest first."""

    def read_region(self, y: int, x: int, level: int, height: int, width: int) -> Region:
        """Read a rectangle of one level."""


def level_for(pyramid: Levelled, downsample: float) -> int:
    """Return the level with the largest downsample that is at most `downsample`, or 0."""
    fits = [
        n
        for n, level in enumerate(pyramid.levels)
        if level.downsample <= downsample * (1 + _DOWNSAMPLE_TOLERANCE)
    ]
    return max(fits, key=lambda n: pyramid.levels[n].downsample, default=0)


def read_window(
    pyramid: Levelled,
    top: float,
    left: float,
    side_h: float,
    side_w: float,
    out_h: int,
    out_w: int,
    fill: float = 0.0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Read a rectangle of a slide at a size of choice, antialiased.

    Only the coarsest level that still has the resolution asked for is read.
    An output pixel is the exact average of that level over its area when the
    window shrinks, and the bilinear interpolation when it grows, as in
    `cut_crops`. Pixels that are not valid have no weight.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    top, left : float
        Top left corner in level-0 pixels, corners at whole numbers; may lie outside.
    side_h, side_w : float
        Size in level-0 pixels; may reach outside.
    out_h, out_w : int
        Size in output pixels.
    fill : float
        Of output pixels that are not valid.

    Returns
    -------
    pixels : numpy.ndarray, shape (out_h, out_w, C), float32
        0..1 for integer slides; floats keep their values.
    valid : numpy.ndarray, shape (out_h, out_w), bool
        True where at least half of the pixel's weight lies on valid pixels.

    Raises
    ------
    ValueError
        If a size is not positive and finite.
    ImageError
        As `Pyramid.read_region`.
    """
    _check_window(top, left, side_h, side_w, out_h, out_w)
    level = level_for(pyramid, min(side_h / out_h, side_w / out_w))
    downsample = pyramid.levels[level].downsample
    step_y, step_x = side_h / out_h / downsample, side_w / out_w / downsample
    pixels = np.empty((out_h, out_w, pyramid.channels), np.float32)
    valid = np.empty(pixels.shape[:2], np.bool_)
    # Blocks of output whose source fits the working memory.
    most = _WINDOW_PIXELS / (max(step_y, 1.0) * max(step_x, 1.0))
    tall = wide = max(int(math.sqrt(most)), 1)
    if pyramid.levels[level].tile[1] >= step_x * out_w:
        # Strips are decoded at full width, whatever is wanted of them: once, not for each block.
        tall, wide = max(int(most / out_w), 1), out_w
    for i in range(0, out_h, tall):
        for j in range(0, out_w, wide):
            rows, columns = min(tall, out_h - i), min(wide, out_w - j)
            part = np.s_[i : i + rows, j : j + columns]
            down = _Axis(top / downsample + i * step_y, step_y, rows)
            across = _Axis(left / downsample + j * step_x, step_x, columns)
            pixels[part], valid[part] = _resample(pyramid, level, down, across, fill)
    return pixels, valid


def _check_window(
    top: float, left: float, side_h: float, side_w: float, out_h: int, out_w: int
) -> None:
    if not all(map(math.isfinite, (top, left, side_h, side_w))) or min(side_h, side_w) <= 0:
        raise ValueError(f"cannot read a window of {side_h} x {side_w} pixels at {top}, {left}")
    if min(out_h, out_w) < 1:
        raise ValueError(f"cannot make an image of {out_h} x {out_w} pixels")


class _Axis:
    """Weights of source pixels in output pixels along one axis.

    Output pixel i covers ``start + i * step`` to ``start + (i + 1) * step``; it
    is averaged over max(step, 1) source pixels around its centre.
    """

    def __init__(self, start: float, step: float, n: int) -> None:
        self._place = start, step, n
        half = max(step, 1.0) / 2
        ends = start + np.array([0.5, n - 0.5]) * step
        # A window on whole pixels must not touch the next one by rounding.
        self.first = math.floor(ends[0] - half + 1e-6)
        self.length = max(math.ceil(ends[1] + half - 1e-6) - self.first, 1)
        #: Source pixels of an output pixel where those are whole ones, each with the same weight.
        self.whole = round(step) if _is_whole(start, step, n) else None

    @functools.cached_property
    def weights(self) -> sparse.csr_array:
        """(n, length) float32."""
        from scipy import sparse

        start, step, n = self._place
        centres = start + (np.arange(n) + 0.5) * step
        half = max(step, 1.0) / 2
        low, high = centres - half, centres + half
        begins = np.floor(low + 1e-6).astype(np.intp)
        n_each = max(int((np.ceil(high - 1e-6) - begins).max()), 1)
        pixels = begins[:, np.newaxis] + np.arange(n_each)
        overlap = np.minimum(high[:, np.newaxis], pixels + 1)
        overlap -= np.maximum(low[:, np.newaxis], pixels)
        overlap = np.clip(overlap, 0, None)
        overlap /= overlap.sum(axis=1, keepdims=True)
        return sparse.csr_array(
            (
                overlap.astype(np.float32).ravel(),
                # Those beyond the last pixel have no weight, and must not be read.
                np.minimum(pixels - self.first, self.length - 1).ravel(),
                np.arange(n + 1) * n_each,
            ),
            shape=(n, self.length),
        )

    def average(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return (length, ...) as (n, ...)."""
        flat = self.weights @ np.ascontiguousarray(values).reshape(self.length, -1)
        averaged: npt.NDArray[np.float32] = flat.reshape(-1, *values.shape[1:])
        return averaged


def _is_whole(start: float, step: float, n: int) -> bool:
    # The last pixel's place has the error of all steps.
    ends = (start, step, start + n * step)
    return step >= 1 and all(abs(end - round(end)) < 1e-6 for end in ends)


def _resample(
    pyramid: Levelled, level: int, y: _Axis, x: _Axis, fill: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    region = pyramid.read_region(y.first, x.first, level, y.length, x.length)
    whole = region.valid.all()
    if whole and y.whole and x.whole and region.pixels.dtype == np.uint8:
        pixels = _average_bytes(region.pixels, y.whole, x.whole)
    else:
        pixels = _average(y, x, to_float(region.pixels))
    if whole:
        return pixels, np.ones(pixels.shape[:2], np.bool_)
    # Pixels that are not valid are 0, so that they only lack in the sum of weights.
    weight = _average(y, x, region.valid.astype(np.float32)[..., np.newaxis])[..., 0]
    valid = weight >= 0.5 - 1e-6
    pixels /= np.where(valid, weight, 1)[..., np.newaxis]
    pixels[~valid] = fill
    return pixels, valid


def _average(y: _Axis, x: _Axis, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    columns = x.average(y.average(values).transpose(1, 0, 2))
    return np.ascontiguousarray(columns.transpose(1, 0, 2))


def _average_bytes(pixels: npt.NDArray[np.uint8], tall: int, wide: int) -> npt.NDArray[np.float32]:
    """Average blocks of whole pixels (H, W, C), as 0..1: summed as whole numbers, many at once."""
    wider = np.dtype(np.uint16 if tall * wide < 2**8 else np.uint32)
    rows: npt.NDArray[Any] = pixels[::tall].astype(wider)
    for i in range(1, tall):
        np.add(rows, pixels[i::tall], out=rows)
    height, width, channels = rows.shape
    averaged = np.empty((height, width // wide, channels), np.float32)
    # Channel by channel: numpy takes the last axis innermost, and begins anew after each pixel.
    for channel in range(channels):
        total: npt.NDArray[Any] = rows[:, ::wide, channel].copy()
        for j in range(1, wide):
            np.add(total, rows[:, j::wide, channel], out=total)
        np.multiply(total, np.float32(1 / (255 * tall * wide)), out=averaged[..., channel])
    return averaged
