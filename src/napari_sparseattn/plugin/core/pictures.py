"""Pixels of an image as pictures for people: crops as a model saw them, and as they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...evidence import Traversal
from ...images.slides.pyramid import Pyramid, read_window

__all__ = ["Thumbnails", "dim_unselected", "draw_thumbnails", "find_limits", "to_picture"]

_MOST_THUMBNAILS = 500
_GREY = 0.35
_DIM = 0.25

#: Pictures (base, base, 3) uint8 of what the model saw of each crop.
Thumbnails = tuple[npt.NDArray[np.uint8], ...]


def find_limits(image: Pyramid, whole: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return the values that are drawn black and white: 0 and 1, or for floats their own range.

    Parameters
    ----------
    image : Pyramid
        The image.
    whole : (float, float, float, float)
        Top, left, height and width in image pixels of what the range is taken from.
    """
    if image.dtype.kind != "f":
        return 0.0, 1.0
    values, valid = read_window(image, *whole, 64, 64)
    finite = values[valid][np.isfinite(values[valid])]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (0.5, 99.5)))
    return low, max(high, low + 1e-12)


def to_picture(
    values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], limits: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Return pixels (h, w, C) as a picture (h, w, 3), grey where there are none."""
    low, high = limits
    shown = np.clip(np.nan_to_num((values - low) / (high - low)), 0, 1)
    shown[~valid] = _GREY
    picture = np.rint(255 * shown).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (*valid.shape, 3)))


def draw_thumbnails(pyramid: Pyramid, traversal: Traversal) -> Thumbnails:
    """Return what the model saw of each crop, at the resolution it saw.

    Parameters
    ----------
    pyramid : Pyramid
        The image the traversal lies on. What is read here is not entered in
        its ledger.
    traversal : Traversal
        What was looked at; of very many crops, the last have no picture.
    """
    image, base = pyramid.with_own_ledger(), traversal.base
    boxes = traversal.on_image(traversal.boxes)
    # The first crop shows the whole.
    limits = find_limits(image, tuple(boxes[0]))
    found = []
    for top, left, height, width in boxes[:_MOST_THUMBNAILS]:
        values, valid = read_window(image, top, left, height, width, base, base)
        found.append(to_picture(values, valid, limits))
    return tuple(found)


def dim_unselected(
    picture: npt.NDArray[np.uint8], pixels: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.uint8]:
    """Darken a picture where a model does not look.

    Parameters
    ----------
    picture : numpy.ndarray
        (s, s, 3) uint8.
    pixels : numpy.ndarray
        (k,) int64: ``row * size + column`` of what is looked at.
    size : int
        Side of the model's image.

    Returns
    -------
    numpy.ndarray
        (s, s, 3) uint8.
    """
    looked = np.zeros(size * size, dtype=bool)
    looked[pixels[(pixels >= 0) & (pixels < size * size)]] = True
    side = picture.shape[0]
    nearest = (np.arange(side) * size // side).astype(int)
    bright = looked.reshape(size, size)[nearest[:, None], nearest[None]]
    shown: npt.NDArray[np.uint8] = np.where(bright[..., None], picture, picture * _DIM).astype(
        np.uint8
    )
    return shown
