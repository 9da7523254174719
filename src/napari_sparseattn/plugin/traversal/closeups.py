"""A crop as the image has it, beside what the model read of it; read in another thread."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...images.slides.pyramid import ArrayPyramid, Pyramid, read_window
from ..core.pictures import find_limits, to_picture
from ..core.sources import ImageSettings, PlaneRef, field_of, slide_of

if TYPE_CHECKING:
    from napari.layers import Image

    from ...evidence import Traversal

__all__ = [
    "MOST_SIDE",
    "CloseUp",
    "CloseUpRequest",
    "ask_close_up",
    "read_close_up",
]

#: Longest side of a close-up in pixels; larger crops are shown reduced.
MOST_SIDE = 512


@dataclasses.dataclass(frozen=True, eq=False)
class CloseUpRequest:
    """Show a crop at the resolution the image has.

    Parameters
    ----------
    pyramid : Pyramid or None
        The slide; None for an image in memory.
    plane : PlaneRef
        The plane of an image in memory.
    settings : ImageSettings
        What it shows.
    crop : int
        Which crop of the traversal.
    box : (float, float, float, float)
        Its top, left, height and width in image pixels.
    whole : (float, float, float, float)
        That of the first crop, which sets the contrast of values with a unit.
    """

    pyramid: Pyramid | None
    plane: PlaneRef
    settings: ImageSettings
    crop: int
    box: tuple[float, float, float, float]
    whole: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class CloseUp:
    """A crop at the resolution the image has, or as near to it as `MOST_SIDE` allows.

    Parameters
    ----------
    request : CloseUpRequest
        What was asked.
    picture : numpy.ndarray
        (h, w, 3) uint8; grey where there are no pixels.
    reduction : float
        Image pixels along a side of one of the picture's; 1 is the image's own.
    unreadable : float
        Share of the crop's pixels within the image that could not be read.
    """

    request: CloseUpRequest
    picture: npt.NDArray[np.uint8]
    reduction: float
    unreadable: float


def ask_close_up(
    layer: Image, plane: PlaneRef, settings: ImageSettings, traversal: Traversal, crop: int
) -> CloseUpRequest:
    """Return the request for a crop of a traversal of a layer's plane."""
    boxes = traversal.on_image(traversal.boxes[[0, crop]])
    whole, box = (_four(each) for each in boxes)
    return CloseUpRequest(slide_of(layer), plane, settings, crop, box, whole)


def read_close_up(request: CloseUpRequest) -> CloseUp:
    """Read a crop; slow for slides, so call it from a worker.

    What is read is not entered in the slide's ledger: the model did not see it.

    Raises
    ------
    ImageError
        If the file is gone or has changed.
    SourceError
        If the pixels are of a type that cannot be shown.
    """
    if request.pyramid is None:
        image: Pyramid = ArrayPyramid(field_of(request.plane, request.settings).plane(0, 0))
    else:
        image = request.pyramid.with_own_ledger()
    top, left, height, width = request.box
    reduction = max(1.0, max(height, width) / MOST_SIDE)
    rows, columns = (max(1, round(side / reduction)) for side in (height, width))
    box = (top, left, height, width)
    if reduction == 1:
        # Between pixels they would be blurred; these are to be the image's own.
        box = (float(round(top)), float(round(left)), float(rows), float(columns))
    values, valid = read_window(image, *box, rows, columns)
    limits = find_limits(image, request.whole)
    there = _within(image, box, rows, columns)
    missing = float((there & ~valid).sum() / max(1, there.sum()))
    return CloseUp(request, to_picture(values, valid, limits), reduction, missing)


def _four(box: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    top, left, height, width = (float(v) for v in box)
    return top, left, height, width


def _within(
    image: Pyramid, box: tuple[float, float, float, float], rows: int, columns: int
) -> npt.NDArray[np.bool_]:
    """Which of the picture's pixels (rows, columns) lie inside the image."""
    (top, left, height, width), (all_rows, all_columns) = box, image.shape
    y = top + (np.arange(rows) + 0.5) * height / rows
    x = left + (np.arange(columns) + 0.5) * width / columns
    inside: npt.NDArray[np.bool_] = np.logical_and.outer(
        (y >= 0) & (y < all_rows), (x >= 0) & (x < all_columns)
    )
    return inside
