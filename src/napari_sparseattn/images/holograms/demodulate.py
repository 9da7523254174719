"""From one hologram to the complex field at the camera, by qpretrieve."""

from __future__ import annotations

import functools
import importlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.fft

from .recording import Kind
from .settings import HologramSettings
from .sideband import HologramError, fill_bad

__all__ = ["Complex", "Device", "field_of", "import_quietly", "inverse"]

Device = Literal["cpu", "gpu"]
Complex = npt.NDArray[np.complex64]

# Zeros around the hologram keep its edges apart; more of them change the OPD
# by about 0.2 nm (``benchmarks/holography.py``).
_PADDING = 1.25
_LOCK = threading.Lock()


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
        ``"gpu"`` needs CuPy.

    Returns
    -------
    numpy.ndarray, shape (H, W), complex64

    Raises
    ------
    HologramError
        If the GPU or CuPy is missing, or no sideband is given.
    """
    if kind == "field":
        return np.where(np.isfinite(frame), frame, 1).astype(np.complex64)
    if settings.sideband is None:
        raise HologramError("the sideband is not known; `estimate_settings` finds it")
    values, _ = fill_bad(frame)
    height, width = values.shape
    # qpretrieve pads to a power of two, or cannot do frames that are not square.
    side = scipy.fft.next_fast_len(math.ceil(_PADDING * max(height, width)))
    side += side % 2
    square = np.zeros((1, side, side), np.float32)
    square[0, :height, :width] = values - values.mean()
    radius = settings.filter_radius * math.hypot(*settings.sideband)
    with _backend(device) as (transform, to_device, to_host):
        spectrum = transform(
            to_device(square),
            subtract_mean=False,
            padding=0,
            copy=False,
            dtype_conversion=np.float32,
        )
        whole = spectrum.filter(
            settings.filter_shape,
            radius,
            tuple(_on_grid(part, side) for part in settings.sideband),
        )
        field: Complex = to_host(whole).reshape(side, side)[:height, :width]
    return field.astype(np.complex64, copy=False)


def _on_grid(frequency: float, side: int) -> float:
    """Move to the nearest step: qpretrieve truncates, which could be a step less."""
    step = round(frequency * side)
    return (step + math.copysign(1e-3, step)) / side


def inverse(plain: Complex) -> Complex:
    """Return what a field is multiplied by to divide it by the background's."""
    power = np.square(np.abs(plain))
    # Where the background is dark, dividing would make anything of the noise.
    least = 1e-4 * max(float(np.median(power)), 1e-30)
    return (plain.conj() / np.maximum(power, np.float32(least))).astype(np.complex64)


@contextmanager
def _backend(device: Device) -> Iterator[tuple[Any, Callable[..., Any], Callable[..., Any]]]:
    """Give qpretrieve's transform, and how arrays get to and from where it computes.

    Its choice of numpy or CuPy is one for the whole process, hence the lock.
    """
    if device == "cpu":
        with _LOCK:
            yield _transform(), np.asarray, np.asarray
        return
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        raise HologramError(
            "CuPy is needed for holograms on a GPU: install it for your CUDA, or use the CPU."
        ) from error
    except RuntimeError as error:
        raise HologramError(f"The GPU cannot be used ({error}). Use the CPU.") from error
    library = import_quietly("qpretrieve")
    with _LOCK:
        library.set_ndarray_backend("cupy")
        try:
            yield library.fourier.FFTFilterCupy, cupy.asarray, cupy.asnumpy
        finally:
            library.set_ndarray_backend("numpy")


def import_quietly(name: str) -> Any:
    """Import qpretrieve or nrefocus, which warn of each optional library that is missing."""
    # For good, as `catch_warnings` of another thread would bring the warnings back.
    warnings.filterwarnings("ignore", r"Interface '\w+' unavailable!", UserWarning)
    return importlib.import_module(name)


@functools.cache
def _transform() -> Any:
    """Return qpretrieve's transform on scipy's FFT, three times as fast as numpy's."""

    class ScipyFilter(import_quietly("qpretrieve").fourier.FFTFilterNumpy):  # type: ignore[misc]
        def _init_fft(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
            forth: npt.NDArray[Any] = scipy.fft.fft2(data, axes=(-2, -1))
            return forth

        def _ifft(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
            back: npt.NDArray[Any] = scipy.fft.ifft2(data, axes=(-2, -1))
            return back

    return ScipyFilter
