"""Square crops around cells, resampled to the size a model reads.

Positions are in pixels with a pixel's centre at its index, as in napari and
scikit-image: the image covers rows -0.5 to H - 0.5.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import ThreadpoolController

from ..normalise import to_float
from .field import Field

__all__ = ["crop_side", "cut_crops", "fit_crop"]

_CHUNK_VALUES = 2**21


def crop_side(fov_um: float, pixel_size: float) -> float:
    """Return the side in pixels of a crop that is `fov_um` µm wide.

    Raises
    ------
    ValueError
        If either is not a positive, finite number.
    """
    if not (math.isfinite(fov_um) and math.isfinite(pixel_size) and fov_um > 0 and pixel_size > 0):
        raise ValueError(
            f"field of view and pixel size must be positive, got {fov_um} and {pixel_size} µm"
        )
    return fov_um / pixel_size


def cut_crops(
    image: Field | npt.NDArray[Any],
    centres: npt.ArrayLike,
    side: float,
    size: int,
) -> npt.NDArray[np.float32]:
    """Cut a square window around every centre and resample it.

    An output pixel is the exact average of the source over its area when the
    window shrinks, and the bilinear interpolation when it grows; the two are
    one formula, an average over max(side / size, 1) source pixels. Outside of
    the image the pixels are reflected about its edge. NaN and infinite pixels
    are replaced by the median of the window's finite pixels per channel, or 0.

    Parameters
    ----------
    image : Field or numpy.ndarray
        A field, whose first plane is taken, or a plane (H, W) or (H, W, C).
    centres : array_like, shape (N, 2)
        Row and column of the window centres; may lie outside of the image.
    side : float
        Window side in source pixels.
    size : int
        Crop side in output pixels.

    Returns
    -------
    numpy.ndarray, shape (N, size, size, C), float32
        Values as `to_float` gives them: integers become 0..1, floats keep
        their unit. Working memory beyond this stays near 50 MB.

    Raises
    ------
    ValueError
        If shapes do not fit, centres are not finite, or sizes not positive.
    """
    plane = _as_plane(image)
    points = np.asarray(centres, dtype=np.float64)
    if points.size == 0:
        points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"centres must be finite rows and columns of shape (N, 2), got {points.shape}"
        )
    if not (math.isfinite(side) and side > 0) or size < 1:
        raise ValueError(f"crop side and size must be positive, got {side} and {size}")
    channels = plane.shape[2]
    crops = np.empty((len(points), size, size, channels), dtype=np.float32)
    width = max(side / size, 1.0)
    # A grown window reads half a pixel more on either side than it covers.
    first = points + 0.5 - side / 2 + (side / size - width) / 2
    extent = math.ceil(side - side / size + width) + 1
    step = max(1, _CHUNK_VALUES // (extent * max(extent, size) * channels))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        corner = np.floor(first[part]).astype(np.int64)
        windows = _windows(plane, corner, extent)
        offset = first[part] - corner
        crops[part] = _resample(windows, offset, side / size, width, size)
    return crops


def fit_crop(image: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Return the centre square of an image as one crop, (size, size, C).

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W) or (H, W, C)
        A whole image, e.g. one that shows a single cell.
    size : int
        Crop side in output pixels; resampled as in `cut_crops`.

    Raises
    ------
    ValueError
        As in `cut_crops`.
    """
    plane = _as_plane(image)
    height, width = plane.shape[:2]
    centre = ((height - 1) / 2, (width - 1) / 2)
    crops = cut_crops(plane, [centre], float(min(height, width)), size)
    return crops.reshape(crops.shape[1:])


def _as_plane(image: Field | npt.NDArray[Any]) -> npt.NDArray[Any]:
    plane = image.plane() if isinstance(image, Field) else np.asanyarray(image)
    if plane.ndim == 2:
        plane = plane[..., np.newaxis]
    if plane.ndim != 3 or plane.size == 0:
        raise ValueError(
            f"a crop is cut from one image (H, W) or (H, W, C), got shape {plane.shape}"
        )
    return plane


def _windows(
    plane: npt.NDArray[Any], corner: npt.NDArray[np.int64], extent: int
) -> npt.NDArray[np.float32]:
    """Return the (N, C, extent, extent) source windows, finite float32."""
    height, width, channels = plane.shape
    inside = np.all((corner >= 0) & (corner + extent <= (height, width)), axis=1)
    windows = np.empty((len(corner), channels, extent, extent), dtype=plane.dtype)
    if inside.any():
        views = sliding_window_view(plane, (extent, extent), axis=(0, 1))
        row, column = corner[inside].T
        windows[inside] = views[row, column]
    if not inside.all():
        reach = np.arange(extent)
        rows = _reflect(corner[~inside, :1] + reach, height)
        columns = _reflect(corner[~inside, 1:] + reach, width)
        outer = plane[rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
        windows[~inside] = np.moveaxis(outer, -1, 1)
    # Values beyond float32 become infinite here and are then filled.
    with np.errstate(over="ignore"):
        values = to_float(windows)
    return _fill(values) if plane.dtype.kind == "f" else values


def _reflect(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def _fill(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    finite = np.isfinite(windows)
    for n, channel in np.argwhere(~finite.all(axis=(2, 3))):
        values, good = windows[n, channel], finite[n, channel]
        values[~good] = np.median(values[good]) if good.any() else 0.0
    return windows


def _resample(
    windows: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float64],
    step: float,
    width: float,
    size: int,
) -> npt.NDArray[np.float32]:
    """Average windows (N, C, P, P) over boxes; returns (N, size, size, C)."""
    n, channels, extent, _ = windows.shape
    down = _weights(offset[:, 0], step, width, size, extent)
    across = _weights(offset[:, 1], step, width, size, extent)
    # Products this small gain nothing from threads, and lose a factor of fifty
    # to them while another process keeps the cores busy.
    with _blas().limit(limits=1, user_api="blas"):
        rows = (down[:, np.newaxis] @ windows).reshape(n, channels * size, extent)
        crops = rows @ across.transpose(0, 2, 1)
    done: npt.NDArray[Any] = crops.reshape(n, channels, size, size).transpose(0, 2, 3, 1)
    return done


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _weights(
    offset: npt.NDArray[np.float64], step: float, width: float, size: int, extent: int
) -> npt.NDArray[np.float32]:
    """Return (N, size, extent): the share of each source pixel in each box."""
    begin = (offset[:, np.newaxis] + np.arange(size) * step).astype(np.float32)[..., np.newaxis]
    pixel = np.arange(extent, dtype=np.float32)
    overlap: npt.NDArray[np.float32] = np.minimum(begin + np.float32(width), pixel + 1)
    overlap -= np.maximum(begin, pixel)
    np.maximum(overlap, 0, out=overlap)
    overlap /= np.float32(width)
    return overlap
