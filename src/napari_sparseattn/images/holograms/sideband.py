"""Where the interference term of an off-axis hologram lies in its spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

__all__ = ["HologramError", "fill_bad", "find_sideband", "spectrum"]

# In cycles per pixel: nearer to zero lies what the cells themselves scatter.
_LEAST_CARRIER = 0.03
# The peak must stand out by this factor of power over the typical frequency.
_LEAST_PROMINENCE = 100.0
# And by this one over its own ring of frequencies: photographs reach 400 there, as
# their spectrum falls off evenly, recorded holograms 7 000 and more.
_LEAST_OVER_RING = 1000.0
_RING = 0.1
_NEAR = 3


class HologramError(ValueError):
    """A recording that cannot be reconstructed as it is, and what to do about it."""


def fill_bad(frame: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int]:
    """Return a frame (H, W) as finite float32, and how many pixels were bad.

    NaN and infinite pixels become the frame's median; saturated ones, at the
    maximum of an integer type, are counted and kept.
    """
    if frame.dtype.kind in "iu":
        saturated = int(np.count_nonzero(frame == np.iinfo(frame.dtype).max))
        return frame.astype(np.float32), saturated
    with np.errstate(over="ignore"):
        values = frame.astype(np.float32)
    finite = np.isfinite(values)
    if finite.all():
        return values, 0
    values = np.where(finite, values, np.median(values[finite]) if finite.any() else 0)
    return values.astype(np.float32, copy=False), int(finite.size - np.count_nonzero(finite))


def spectrum(hologram: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the power spectrum of a hologram, to look at.

    Parameters
    ----------
    hologram : numpy.ndarray, shape (H, W)
        Real intensities.

    Returns
    -------
    numpy.ndarray, shape (S, S), float32
        log10 of the power, S the longer side; frequency zero is at index
        S // 2 of both axes, and one step is 1 / S cycles per pixel.
    """
    power = _power(hologram, max(hologram.shape))
    shown: npt.NDArray[np.float32] = np.log10(scipy.fft.fftshift(power) + 1e-6)
    return shown


def find_sideband(hologram: npt.NDArray[Any]) -> tuple[float, float]:
    """Find the carrier of an off-axis hologram.

    The strongest frequency away from zero, refined to a fraction of a step.
    Of the two, which mirror each other, the one with a negative row part is
    returned (with a positive column part, if the row part is zero). Unlike
    qpretrieve's search this one also sees carriers along an axis.

    Parameters
    ----------
    hologram : numpy.ndarray, shape (H, W)
        Real intensities; best without cells.

    Returns
    -------
    (float, float)
        Cycles per pixel along rows and columns.

    Raises
    ------
    HologramError
        If no fringes stand out.
    """
    import scipy.ndimage as ndi

    side = scipy.fft.next_fast_len(2 * max(hologram.shape), real=False)
    power = ndi.gaussian_filter(_power(hologram, side), 1.0, mode="wrap")
    rows, columns = np.meshgrid(*(np.fft.fftfreq(side),) * 2, indexing="ij", sparse=True)
    half = (rows < 0) | ((rows == 0) & (columns > 0))
    outside = half & (np.hypot(rows, columns) > max(_LEAST_CARRIER, 4 / max(hologram.shape)))
    candidates = np.where(outside, power, 0)
    row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
    peak, typical = float(candidates[row, column]), float(np.median(power))
    around = _ring(power, rows, columns, (float(rows[row, 0]), float(columns[0, column])))
    if not peak > max(_LEAST_PROMINENCE * typical, _LEAST_OVER_RING * around) or peak <= 0:
        raise HologramError(
            "No fringes stand out, so this does not look like an off-axis hologram. If it is a "
            "phase or OPD image, say so; else set the sideband by hand in the spectrum."
        )
    reach = np.arange(-_NEAR, _NEAR + 1)
    near = power[np.ix_((row + reach) % side, (column + reach) % side)]
    shift = [float((near.sum(axis=1 - axis) * reach).sum() / near.sum()) for axis in (0, 1)]
    at = [
        float((position + side // 2) % side - side // 2 + moved) / side
        for position, moved in zip((row, column), shift, strict=True)
    ]
    return at[0], at[1]


def _ring(
    power: npt.NDArray[np.float32],
    rows: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float64],
    peak: tuple[float, float],
) -> float:
    """Return the typical power at a peak's distance from zero, away from it and its mirror."""
    distance = np.hypot(*peak)
    on = np.abs(np.hypot(rows, columns) - distance) < _RING * distance
    for sign in (1, -1):
        on &= np.hypot(rows - sign * peak[0], columns - sign * peak[1]) > distance / 3
    return float(np.median(power[on])) if on.any() else 0.0


def _power(hologram: npt.NDArray[Any], side: int) -> npt.NDArray[np.float32]:
    """Power (side, side) of a hologram tapered to its edges, zero frequency first."""
    values, _ = fill_bad(hologram)
    # Without the taper the edges draw a cross over the spectrum.
    tapers = (np.hanning(n + 2)[1:-1].astype(np.float32) for n in values.shape)
    tapered = (values - values.mean()) * np.multiply.outer(*tapers)
    transform = scipy.fft.fft2(tapered, (side, side))
    power: npt.NDArray[np.float32] = np.square(np.abs(transform)).astype(np.float32)
    return power
