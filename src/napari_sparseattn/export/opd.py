"""OPD and phase maps as OME-TIFF, with the unit in the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..files import replacing
from ..images.fields.field import Field

__all__ = ["write_opd", "write_opd_frames"]

_CHANNEL = {"nm": "OPD (nm)", "rad": "phase (rad)"}
# A classic TIFF ends at 4 GiB, and compression may gain nothing.
_CLASSIC_BYTES = 3 * 2**30


def write_opd(field: Field, path: str | os.PathLike[str]) -> None:
    """Write an OPD or phase map, atomically.

    A float32 OME-TIFF, compressed without loss, with the pixel size and the
    unit of the values; `open_image` reads both back. With the ending
    ``.npy``, the plain array, whose units no file says.

    Parameters
    ----------
    field : Field
        One channel; unit nm or rad.
    path : path-like
        Ends in ``.tif``, ``.tiff`` or ``.npy``.

    Raises
    ------
    ValueError
        If the field is neither OPD nor phase, or the ending is another.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    if field.n_channels != 1 or "Z" in field.axes:
        raise ValueError("an OPD file holds one channel and frames; choose one channel and slice")
    frames = (field.plane(t)[..., 0] for t in range(field.n_frames))
    write_opd_frames(frames, (field.n_frames, *field.shape), field.unit, field.pixel_size, path)


def write_opd_frames(
    frames: Iterable[npt.NDArray[np.floating]],
    shape: tuple[int, int, int],
    unit: str,
    pixel_size: float | None,
    path: str | os.PathLike[str],
) -> None:
    """Write frames as they come; only one is in memory at a time, but for ``.npy``.

    Parameters
    ----------
    frames : iterable of numpy.ndarray
        n arrays (H, W).
    shape : (int, int, int)
        n, H and W.
    unit : {"nm", "rad"}
        Of the values.
    pixel_size : float or None
        µm per pixel.
    path : path-like
        As in `write_opd`, which see for errors.
    """
    import tifffile

    if unit not in _CHANNEL:
        raise ValueError(f"an OPD file holds nm or rad, not '{unit}'; reconstruct the image first")
    suffix = Path(path).suffix.lower()
    if suffix not in (".tif", ".tiff", ".npy"):
        raise ValueError(f"the ending must be .tif, .tiff or .npy, got '{Path(path).name}'")
    ready = (np.asarray(frame, dtype=np.float32) for frame in frames)
    with replacing(path) as temporary:
        if suffix == ".npy":
            stack = np.stack(list(ready))
            np.save(temporary, stack if shape[0] > 1 else stack[0], allow_pickle=False)
            return
        metadata: dict[str, object] = {"axes": "TYX", "Channel": {"Name": [_CHANNEL[unit]]}}
        if pixel_size is not None:
            metadata |= {
                "PhysicalSizeX": pixel_size,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": pixel_size,
                "PhysicalSizeYUnit": "µm",
            }
        tifffile.imwrite(
            temporary,
            ready,
            shape=shape,
            dtype=np.float32,
            bigtiff=4 * math.prod(shape) > _CLASSIC_BYTES,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            predictor=True,
            metadata=metadata,
        )
