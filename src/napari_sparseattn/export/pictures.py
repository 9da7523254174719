"""An image in small, with what was found and looked at drawn on it."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..evidence import PixelSelection, Traversal
from ..images.fields.field import Field
from ..images.normalise import to_float
from ..images.slides.pyramid import ArrayPyramid, Pyramid, read_window
from ..inference.prediction import Predictions
from ..metrics import whole_percent

__all__ = ["Pictures", "cell_picture", "data_uri", "display_rgb", "draw_boxes", "draw_cells"]

#: Of more cells than this, frames are drawn without words.
_MOST_CAPTIONS = 80
_TINT = 0.6
_OUTSIDE = 0.35


class Pictures:
    """Draws overviews and close-ups of one image; only what is shown is read.

    Parameters
    ----------
    image : Field or Pyramid
        The image; of channels other than one or three, the first is shown.
    index : (int, int)
        Frame and slice of a stack.
    """

    def __init__(self, image: Field | Pyramid, index: tuple[int, int] = (0, 0)) -> None:
        if isinstance(image, Pyramid):
            # What is read for a picture was not read by the model.
            self.pyramid: Pyramid = image.with_own_ledger()
            return
        plane = image.plane(*index)
        if plane.shape[-1] not in (1, 3):
            plane = plane[..., :1]
        if plane.dtype == bool:
            plane = plane.astype(np.uint8) * np.uint8(255)
        self.pyramid = ArrayPyramid(plane, name=image.name)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in pixels of the full resolution."""
        return self.pyramid.shape

    def overview(self, most: int) -> tuple[Image.Image, float]:
        """Return the whole image, and the picture's pixels per pixel of the image.

        Parameters
        ----------
        most : int
            Pixels along the longer side; a smaller image is not enlarged.
        """
        height, width = self.shape
        factor = min(1.0, most / max(height, width))
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        return self._read(0, 0, height, width, size), factor

    def close_up(self, top: float, left: float, side: float, size: int) -> Image.Image:
        """Return a square of the image; corners are at whole numbers."""
        return self._read(top, left, side, side, (size, size))

    def _read(
        self, top: float, left: float, height: float, width: float, size: tuple[int, int]
    ) -> Image.Image:
        values, valid = read_window(self.pyramid, top, left, height, width, *size)
        low, high = self._limits
        shown = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
        shown[~valid] = _OUTSIDE
        rgb = np.broadcast_to(shown, (*size, 3))
        return Image.fromarray(np.ascontiguousarray((rgb * 255).round().astype(np.uint8)))

    @functools.cached_property
    def _limits(self) -> tuple[float, float]:
        """Values shown black and white: those of colour as they are, others by percentiles."""
        pyramid = self.pyramid
        if pyramid.channels == 3:
            return 0.0, 1.0
        height, width = pyramid.shape
        factor = min(1.0, 512 / max(height, width))
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        values, valid = read_window(pyramid, 0, 0, height, width, *size)
        known = values[valid][np.isfinite(values[valid])]
        if not known.size:
            return 0.0, 1.0
        low, high = (float(v) for v in np.percentile(known, (0.5, 99.5)))
        return low, max(high, low + 1e-12)


def display_rgb(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return a plane (H, W, C) as RGB floats in [0, 1] for showing.

    Colour is kept; a single channel is stretched between its 0.5 and 99.5
    percentiles, values that are not finite shown black.
    """
    if plane.shape[-1] == 3 and not np.issubdtype(plane.dtype, np.floating):
        return to_float(plane)
    values = np.nan_to_num(plane[..., :1].astype(np.float32), posinf=0, neginf=0)
    if plane.shape[-1] == 3:
        return np.clip(np.nan_to_num(plane.astype(np.float32)), 0, 1)
    finite = values[np.isfinite(plane[..., :1])]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    grey = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
    return np.repeat(grey, 3, axis=-1).astype(np.float32)


def draw_cells(
    picture: Image.Image, factor: float, found: Predictions, colours: Sequence[str]
) -> None:
    """Frame classified cells in the colours of their classes; few get their class in words."""
    draw = ImageDraw.Draw(picture)
    index, confidence = found.class_index, found.confidence
    font = ImageFont.load_default(size=12)
    many = len(found) > _MOST_CAPTIONS
    boxes = (found.cells.boxes + 0.5) * factor
    for i in range(len(found)):
        colour = colours[index[i]] if index[i] >= 0 else "#7F7F7F"
        top, left, bottom, right = boxes[i].tolist()
        draw.rectangle((left, top, right, bottom), outline=colour, width=1 if many else 2)
        if many or index[i] < 0:
            continue
        words = f"{found.class_names[index[i]]} {whole_percent(confidence[i])}"
        extent = draw.textbbox((0, 0), words, font=font)
        x = min(max(left, 0), max(picture.width - extent[2] - 6, 0))
        y = top - 17 if top >= 17 else min(bottom, picture.height - 17)
        draw.rectangle((x, y, x + extent[2] + 6, y + 16), fill=(0, 0, 0))
        draw.rectangle((x, y, x + 2, y + 16), fill=colour)
        draw.text((x + 4, y), words, fill=(255, 255, 255), font=font)


def draw_boxes(
    picture: Image.Image,
    boxes: npt.NDArray[np.float64],
    colours: Sequence[str],
    factor: float = 1.0,
) -> None:
    """Frame boxes (N, 4) top, left, height, width, corners at whole numbers."""
    draw = ImageDraw.Draw(picture)
    for (top, left, height, width), colour in zip(boxes * factor, colours, strict=True):
        right, bottom = max(left, left + width - 1), max(top, top + height - 1)
        draw.rectangle((left, top, right, bottom), outline=colour)


def cell_picture(
    pictures: Pictures, found: Predictions, i: int, colour: str, size: int
) -> Image.Image:
    """Return a close-up of one cell, with what was looked at in the colour of its class."""
    evidence = found.evidence[i] if found.evidence else None
    frame = evidence.frame if evidence is not None else None
    row, column = (float(v) for v in found.cells.centres[i])
    side = 2.0 * max(float(found.cells.diameters[i]), 4.0)
    if frame is not None:
        row, column, side = frame.row, frame.column, frame.side
    # A cell's centre counts from the centre of a pixel.
    picture = pictures.close_up(row + 0.5 - side / 2, column + 0.5 - side / 2, side, size)
    if isinstance(evidence, PixelSelection):
        return _tint(picture, evidence, colour)
    if isinstance(evidence, Traversal) and frame is not None:
        boxes = evidence.boxes[1:] * (size / frame.size)
        draw_boxes(picture, boxes, [colour] * len(boxes))
    return picture


def data_uri(picture: Image.Image, quality: int = 82) -> str:
    """Return a picture as JPEG in a ``data:`` address."""
    held = io.BytesIO()
    picture.convert("RGB").save(held, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"


def _tint(picture: Image.Image, selection: PixelSelection, colour: str) -> Image.Image:
    """Tint what was selected, as the overlay does: more where the attention is higher."""
    size = selection.frame.size
    places = np.arange(picture.width) * size // picture.width
    relative = np.nan_to_num(selection.fine_map())[np.ix_(places, places)]
    alpha = np.where(relative > 0, _TINT * (0.35 + 0.65 * np.clip(relative / 3, 0, 1)), 0)
    pixels = to_float(np.asarray(picture))
    pixels += alpha[..., None] * (np.array(ImageColor.getrgb(colour)[:3]) / 255 - pixels)
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
