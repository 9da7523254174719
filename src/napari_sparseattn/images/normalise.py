"""From crop values to the numbers a model takes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Normalisation", "level_outside", "to_float"]

BLOCK = 4
WHITE_QUANTILE = 0.95
DARK_QUANTILE = 0.99
#: Mean optical density (natural logarithm) of a nucleus of the PBC set.
DARK_DENSITY = 1.2
LEAST_DENSITY = 0.2
DARKEST = 0.01
#: A crop with no white to speak of is not amplified beyond this.
LEAST_WHITE = 0.05
#: Of a map that is NaN outside of its cells, at least this share is.
LEAST_OUTSIDE = 0.2


def to_float(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return values as float32: integers divided by their type's maximum.

    Floats are taken as they are; bool becomes 0 and 1.

    Raises
    ------
    TypeError
        For complex, object and text arrays.
    """
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if np.issubdtype(array.dtype, np.integer):
        # One division in float32: no float64 copy of a large image.
        scaled: npt.NDArray[np.float32] = np.divide(
            array, np.iinfo(array.dtype).max, dtype=np.float32
        )
        return scaled
    raise TypeError(
        f"images of type {array.dtype} are not supported; convert to integers or floats"
    )


def level_outside(values: npt.NDArray[Any], finite: npt.NDArray[np.bool_]) -> float | None:
    """Return the background of a phase or OPD map that is NaN outside of its cells.

    Parameters
    ----------
    values : numpy.ndarray, shape (H, W)
        The map.
    finite : numpy.ndarray, shape (H, W), bool
        Where it has numbers.

    Returns
    -------
    float or None
        0, which a corrected background has, or what the rims of the cells have
        if they are far from that; None where so little is NaN that it lies
        within cells.
    """
    import scipy.ndimage as ndi

    if not finite.any() or 1 - finite.mean() < LEAST_OUTSIDE:
        return None
    rim = values[finite & ndi.binary_dilation(~finite)]
    level, reach = float(np.median(rim)), float(np.abs(values[finite]).max())
    return 0.0 if abs(level) < 0.5 * reach else level


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How crop values become model input.

    Parameters
    ----------
    kind : {"stain", "white", "fixed"}
        ``"white"``: each channel is first divided by the crop's own white
        reference (the 95th percentile of its 4 x 4 block means), which takes
        out illumination and white balance in brightfield. ``"stain"``: then
        the optical density is scaled so that its 99th percentile (of the mean
        over channels) is 1.2, which takes out the depth of the stain and the
        camera's contrast, and leaves hue; as Macenko et al. 2009 scale stain
        concentrations. ``"fixed"``: values keep their unit, e.g. nm of optical
        path difference.
    mean, std : float
        Then ``(value - mean) / std``; in the unit that `kind` leaves.
    """

    kind: Literal["stain", "white", "fixed"] = "stain"
    mean: float = 0.75
    std: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in ("stain", "white", "fixed"):
            raise ValueError(
                f"normalisation must be 'stain', 'white' or 'fixed', got {self.kind!r}"
            )
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError("normalisation needs a finite mean and a positive, finite std")

    def __call__(self, crops: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Normalise crops (N, C, H, W) float32; returns the same shape and type."""
        if self.kind != "fixed":
            crops = crops / _white_reference(crops)
        if self.kind == "stain":
            crops = _scaled_density(crops)
        return ((crops - np.float32(self.mean)) / np.float32(self.std)).astype(
            np.float32, copy=False
        )


def _scaled_density(crops: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    density = -np.log(np.maximum(crops, np.float32(DARKEST)))
    mean = density.mean(axis=1).reshape(len(crops), -1)
    rank = round(DARK_QUANTILE * (mean.shape[1] - 1))
    dark = np.partition(mean, rank, axis=1)[:, rank]
    # Without anything stained there is nothing to scale to: amplify at most so far.
    scale = np.float32(DARK_DENSITY) / np.maximum(dark, np.float32(LEAST_DENSITY))
    scaled: npt.NDArray[np.float32] = np.exp(-density * scale[:, None, None, None])
    return scaled


def _white_reference(crops: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    n, channels, height, width = crops.shape
    rows, columns = height // BLOCK, width // BLOCK
    if rows and columns:
        blocks = crops[..., : rows * BLOCK, : columns * BLOCK]
        blocks = blocks.reshape(n, channels, rows, BLOCK, columns, BLOCK).mean(axis=(3, 5))
    else:
        blocks = crops
    flat = np.sort(blocks.reshape(n, channels, -1), axis=-1)
    white = flat[..., round(WHITE_QUANTILE * (flat.shape[-1] - 1))]
    # A black crop has no white: leave it black rather than amplify its noise.
    lifted: npt.NDArray[np.float32] = np.maximum(white, np.float32(LEAST_WHITE))
    return lifted[..., None, None]
