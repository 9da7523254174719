"""From one hologram to the complex field at the camera.

Fourier transform, keep the region around the sideband (its weights are
qpretrieve's), move it to zero frequency, transform back. Only the columns of
the spectrum that the region has are transformed along rows, either way, and of
a real image only half of the spectrum is made: half of the work of whole
transforms, and the same values.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from .flatten import median
from .recording import Kind
from .settings import FilterShape, HologramSettings
from .sideband import HologramError, fill_bad

if TYPE_CHECKING:
    import torch

__all__ = ["Complex", "Device", "field_of", "import_quietly", "inverse"]

Device = Literal["cpu", "gpu"]
Complex = npt.NDArray[np.complex64]

# Zeros around the hologram keep its edges apart; more of them change the OPD
# by about 0.2 nm (``benchmarks/holography.py``).
_PADDING = 1.25
# A region's weights below this are left out: smooth ones never quite reach zero.
_LEAST_WEIGHT = 1e-7


def field_of(
    frame: npt.NDArray[Any], kind: Kind, settings: HologramSettings, device: Device = "cpu"
) -> Complex:
    """Return the complex field of a hologram, or a recorded field made finite.

    Parameters
    ----------
    frame : numpy.ndarray, shape (H, W)
        Real intensities of a hologram, or complex values.
    kind : {"hologram", "field"}
        Which of the two.
    settings : HologramSettings
        Its sideband must be known for holograms.
    device : {"cpu", "gpu"}
        ``"gpu"`` needs CUDA. Either computes with torch, whose transforms
        take half as long as scipy's.

    Returns
    -------
    numpy.ndarray, shape (H, W), complex64

    Raises
    ------
    HologramError
        If there is no GPU, or no sideband is given.
    """
    if kind == "field":
        return np.where(np.isfinite(frame), frame, 1).astype(np.complex64)
    if settings.sideband is None:
        raise HologramError("the sideband is not known; `estimate_settings` finds it")
    import torch

    where = torch.device(_torch_device(device))
    values, _ = fill_bad(frame)
    # The region's weights are made for squares.
    side = scipy.fft.next_fast_len(math.ceil(_PADDING * max(values.shape)))
    side += side % 2
    radius = settings.filter_radius * math.hypot(*settings.sideband)
    region = _region(side, settings.sideband, radius, settings.filter_shape)
    with torch.inference_mode():
        plain = torch.from_numpy(values - values.mean()).to(where)
        field: Complex = _demodulate(plain, region, side).cpu().numpy()
    return field


def _torch_device(device: Device) -> str:
    """Name the device as torch does; raises a HologramError where there is none."""
    import torch

    if device == "gpu" and not torch.cuda.is_available():
        raise HologramError(
            "There is no GPU that torch can use for holograms: install a torch built for your "
            "CUDA, or use the CPU."
        )
    return "cuda" if device == "gpu" else "cpu"


class _Region(NamedTuple):
    """What is kept of a spectrum: whole frequencies, their weights, and which becomes zero."""

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float32]
    middle: tuple[int, int]


@functools.lru_cache(maxsize=8)
def _region(side: int, sideband: tuple[float, float], radius: float, shape: FilterShape) -> _Region:
    """Return the region around a sideband in the spectrum of a square of this side."""
    middle = (round(sideband[0] * side), round(sideband[1] * side))
    # Its own cache would keep 32 whole spectra.
    make = inspect.unwrap(import_quietly("qpretrieve.filter").get_filter_array)
    made = make(
        filter_name=shape,
        filter_size=radius,
        # Just beyond whole steps, so that no frequency lies on the rim but by rounding.
        freq_pos=tuple((step + math.copysign(1e-3, step)) / side for step in middle),
        fft_shape=(side, side),
    )
    kept = made > _LEAST_WEIGHT
    rows, columns = (np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0))
    weights = np.where(kept, made, 0)[np.ix_(rows, columns)].astype(np.float32)
    return _Region(rows - side // 2, columns - side // 2, weights, middle)


def _demodulate(values: torch.Tensor, region: _Region, side: int) -> torch.Tensor:
    """Return the field (H, W) complex64 of a hologram (H, W) that is padded to a square."""
    import torch

    height, width = values.shape
    where = values.device

    def places(numbers: npt.NDArray[np.intp]) -> torch.Tensor:
        return torch.from_numpy(numbers % side).to(where)

    half = torch.fft.rfft(values, n=side, dim=1)
    # The other half's columns are these ones' conjugates, upside down.
    mirrored = region.columns < 0
    first, last = int(region.columns[0]), int(region.columns[-1])
    if mirrored.any():
        taken = half.index_select(1, torch.from_numpy(np.abs(region.columns)).to(where))
    else:
        taken = half[:, first : last + 1]
    columns = torch.fft.fft(taken, n=side, dim=0)
    kept = columns.index_select(0, places(region.rows))
    if mirrored.any():
        other = columns.index_select(0, places(-region.rows)).conj()
        kept = torch.where(torch.from_numpy(mirrored).to(where), other, kept)
    kept = kept * torch.from_numpy(region.weights).to(where)
    row, column = int(region.rows[0]) - region.middle[0], first - region.middle[1]
    tall = torch.fft.ifft(_place(kept, 0, row, side), dim=0)[:height]
    wide: torch.Tensor = torch.fft.ifft(_place(tall, 1, column, side), dim=1)[:, :width]
    return wide.contiguous()


def _place(values: torch.Tensor, axis: int, first: int, side: int) -> torch.Tensor:
    """Put frequencies from `first` on where a transform has them, among zeros."""
    shape = list(values.shape)
    n, shape[axis] = shape[axis], side
    whole = values.new_zeros(shape)
    first %= side
    fits = min(n, side - first)
    whole.narrow(axis, first, fits).copy_(values.narrow(axis, 0, fits))
    # What has no more room is that of the first ones.
    whole.narrow(axis, 0, n - fits).copy_(values.narrow(axis, fits, n - fits))
    return whole


def inverse(plain: Complex) -> Complex:
    """Return what a field is multiplied by to divide it by the background's."""
    power = np.square(np.abs(plain))
    # Where the background is dark, dividing would make anything of the noise.
    least = 1e-4 * max(median(power), 1e-30)
    return (plain.conj() / np.maximum(power, np.float32(least))).astype(np.complex64)


def import_quietly(name: str) -> Any:
    """Import qpretrieve or nrefocus, which warn of each optional library that is missing."""
    # For good, as `catch_warnings` of another thread would bring the warnings back.
    warnings.filterwarnings("ignore", r"Interface '\w+' unavailable!", UserWarning)
    return importlib.import_module(name)
