"""What is wrong with an image: the error, and the check of a pixel size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CELL_PIXEL_UM", "ImageError", "check_pixel_size", "isotropic_size", "replaced_size"]

#: µm per pixel at which cells can be seen, and that microscopes reach.
CELL_PIXEL_UM = (0.01, 20.0)


class ImageError(ValueError):
    """A file that cannot be read as an image, and what to do about it."""


def isotropic_size(size: float | Sequence[float]) -> float:
    """Return µm per pixel, refusing values that differ between y and x.

    Raises
    ------
    ValueError
        If a value is not positive and finite, or y and x differ by over 1 %.
    """
    values = np.atleast_1d(np.asarray(size, dtype=np.float64))
    if values.shape not in ((1,), (2,)) or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"the pixel size must be a positive number of µm per pixel, got {size!r}")
    if values.max() > 1.01 * values.min():
        raise ValueError(
            f"pixels are {values[0]:g} µm high but {values[-1]:g} µm wide; resample the image to "
            "square pixels, or give one pixel_size if the file is wrong"
        )
    return float(values[0]) if len(values) == 1 else float(values.mean())


def replaced_size(given: float, stated: float | Sequence[float] | None) -> tuple[str, ...]:
    """Return a note where µm per pixel were given in place of others that the file states."""
    sizes = [] if stated is None else np.atleast_1d(stated).tolist()
    if not sizes or max(abs(size - given) for size in sizes) <= 0.01 * given:
        return ()
    said = " x ".join(f"{size:g}" for size in dict.fromkeys(sizes))
    return (f"the pixel size given, {given:g} µm, replaces {said} µm, which the file says",)


def check_pixel_size(size: float) -> None:
    """Refuse µm per pixel at which no cell can be seen: most often it is nm.

    Raises
    ------
    ValueError
        If the size is outside of `CELL_PIXEL_UM`.
    """
    low, high = CELL_PIXEL_UM
    if low <= size <= high:
        return
    hint = f" If it is {size:g} nm, give {size / 1000:g}." if low <= size / 1000 <= high else ""
    raise ValueError(
        f"{size:g} µm per pixel is not the scale of cells, which are seen at {low:g} to {high:g}."
        f"{hint}"
    )
