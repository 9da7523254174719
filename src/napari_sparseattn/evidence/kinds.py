"""What a model looked at, as plain frozen data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..reprs import short_repr

__all__ = ["CropFrame", "PixelSelection"]


@dataclasses.dataclass(frozen=True)
class CropFrame:
    """Where a square crop lies on its image.

    Parameters
    ----------
    row, column : float
        Centre of the crop in image pixels; pixel centres are integers.
    side : float
        Side of the crop in image pixels.
    size : int
        Side of the resampled crop, in crop pixels.
    """

    row: float
    column: float
    side: float
    size: int

    @property
    def scale(self) -> float:
        """Image pixels per crop pixel."""
        return self.side / self.size

    @property
    def origin(self) -> tuple[float, float]:
        """Image position (row, column) of the centre of crop pixel (0, 0)."""
        corner = (self.side - self.scale) / 2
        return self.row - corner, self.column - corner

    def to_image(self, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map crop positions (..., 2) in crop pixels to image pixels."""
        return np.asarray(places, dtype=np.float64) * self.scale + self.origin


@dataclasses.dataclass(frozen=True)
class PixelSelection:
    """The pixels a SparseAttnNet kept of one crop, and how it weighed them.

    Parameters
    ----------
    frame : CropFrame
        Where the crop lies on the image.
    indices : numpy.ndarray
        (k,) int64, kept pixels as ``row * size + column``, ascending.
    fine : numpy.ndarray
        (layers, heads, k + 1) float32: the class token's attention over the
        kept pixels and, last, over itself; each sums to 1.
    coarse : numpy.ndarray
        (size, size) float32 in (0, 1): the whole coarse attention map.
    receptive_field : int
        Side in crop pixels of the square one kept pixel's token was made
        from; 1 means that the classifier saw the kept pixels and no others.
    """

    __repr__ = short_repr

    frame: CropFrame
    indices: npt.NDArray[np.int64]
    fine: npt.NDArray[np.float32]
    coarse: npt.NDArray[np.float32]
    receptive_field: int = 1

    def __post_init__(self) -> None:
        size, k = self.frame.size, len(self.indices)
        if self.coarse.shape != (size, size):
            raise ValueError(f"coarse map is {self.coarse.shape}, the crop {size} x {size}")
        if self.fine.ndim != 3 or self.fine.shape[-1] != k + 1:
            raise ValueError(
                f"fine attention is {self.fine.shape}, expected (layers, heads, {k + 1})"
            )
        if k and not 0 <= self.indices.min() <= self.indices.max() < size * size:
            raise ValueError("kept pixels lie outside the crop")

    @property
    def k(self) -> int:
        """Number of kept pixels."""
        return len(self.indices)

    @property
    def share(self) -> float:
        """Kept share of the crop's pixels, 0 to 1."""
        return self.k / self.frame.size**2

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """(k, 2) kept pixels as (row, column) of the crop."""
        return np.stack(np.divmod(self.indices, self.frame.size), axis=1)

    def weights(self, head: int | None = None) -> npt.NDArray[np.float32]:
        """(k,) fine attention per kept pixel, renormalised to sum to 1.

        Parameters
        ----------
        head : int, optional
            One head, averaged over layers; by default all heads.
        """
        chosen = self.fine if head is None else self.fine[:, head : head + 1]
        mean: npt.NDArray[np.float32] = chosen[..., :-1].mean(axis=(0, 1))
        return mean / max(float(mean.sum()), 1e-12)

    def mask(self) -> npt.NDArray[np.bool_]:
        """(size, size) bool, True where a pixel was kept."""
        flat = np.zeros(self.frame.size**2, dtype=bool)
        flat[self.indices] = True
        return flat.reshape(self.frame.size, -1)

    def fine_map(self, head: int | None = None) -> npt.NDArray[np.float32]:
        """(size, size) fine attention relative to uniform; NaN where not kept.

        1 is the attention a pixel would get if all kept pixels got the same.
        """
        flat = np.full(self.frame.size**2, np.nan, dtype=np.float32)
        flat[self.indices] = self.weights(head) * self.k
        return flat.reshape(self.frame.size, -1)

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "kind": "pixel-selection",
            "crop": dataclasses.asdict(self.frame),
            "k": self.k,
            "share": self.share,
            "receptive_field": self.receptive_field,
            "indices": self.indices.tolist(),
            "fine": self.weights().round(7).tolist(),
        }
