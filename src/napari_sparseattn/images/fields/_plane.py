"""A plane read in parts and reduced, so that the whole of it is never held as floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..normalise import to_float

__all__ = ["PlaneReader", "finite_image", "reduce_image"]

Image = npt.NDArray[np.float32]

#: Values turned into floats at once.
_STRIP = 2**22
#: Values whose median stands for those that are not numbers.
_SAMPLE = 2**20


def finite_image(image: Image) -> Image:
    """Return the image with NaN and infinite pixels set to their channel's median."""
    finite = np.isfinite(image)
    if finite.all():
        return image
    filled = image.copy()
    for channel in range(image.shape[-1]):
        good = finite[..., channel]
        middle = np.median(image[..., channel][good]) if good.any() else 0.0
        filled[..., channel][~good] = middle
    return filled


def reduce_image(image: Image, factor: int) -> Image:
    """Means of factor x factor blocks; the image's last rows repeat to fill one."""
    if factor == 1:
        return image
    height, width, channels = image.shape
    if height % factor or width % factor:
        image = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    # Rows first: sums along them are contiguous, and the rest is smaller by then.
    rows = image.reshape(-1, factor, image.shape[1] * channels).sum(axis=1, dtype=np.float32)
    blocks = rows.reshape(len(rows), -1, factor, channels).sum(axis=2, dtype=np.float32)
    blocks /= np.float32(factor * factor)
    means: Image = blocks
    return means


class PlaneReader:
    """Reads parts of a plane as finite float32.

    Parameters
    ----------
    plane : numpy.ndarray, shape (H, W, C)
        Pixels of any real type; may be memory-mapped.
    """

    def __init__(self, plane: npt.NDArray[Any]) -> None:
        self._plane = plane
        self._fill = _fill_values(plane) if plane.dtype.kind == "f" else None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self._plane.shape[:2]
        return int(height), int(width)

    def read(
        self, factor: int = 1, rows: slice | None = None, columns: slice | None = None
    ) -> Image:
        """Return a part as means of factor x factor blocks, (h, w, C) with values as `to_float`.

        Parameters
        ----------
        factor : int
            Side of the blocks in pixels.
        rows, columns : slice, optional
            Which blocks; all by default.
        """
        height, width = self.shape
        top, bottom, _ = (rows or slice(None)).indices(-(-height // factor))
        left, right, _ = (columns or slice(None)).indices(-(-width // factor))
        across = slice(left * factor, min(right * factor, width))
        found = np.empty((bottom - top, right - left, self._plane.shape[2]), np.float32)
        step = max(1, _STRIP // max(1, (across.stop - across.start) * factor * found.shape[2]))
        for start in range(top, bottom, step):
            stop = min(start + step, bottom)
            part = self._plane[start * factor : min(stop * factor, height), across]
            found[start - top : stop - top] = reduce_image(self._finite(part), factor)
        return found

    def _finite(self, part: npt.NDArray[Any]) -> Image:
        with np.errstate(over="ignore"):
            values = to_float(part)
        if self._fill is None:
            return values
        finite = np.isfinite(values)
        return values if finite.all() else np.where(finite, values, self._fill)


def _fill_values(plane: npt.NDArray[Any]) -> Image:
    step = max(1, int(np.sqrt(plane.size / _SAMPLE)))
    with np.errstate(over="ignore"):
        some = to_float(plane[::step, ::step])
    values = np.zeros(plane.shape[2], np.float32)
    for channel in range(plane.shape[2]):
        good = some[..., channel][np.isfinite(some[..., channel])]
        values[channel] = np.median(good) if good.size else 0.0
    return values
