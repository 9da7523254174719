"""A field with its classes and selected pixels drawn on it, as PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..evidence import PixelSelection, Traversal
from ..files import replacing
from ..images.fields.field import Field
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from ..metrics import whole_percent
from .pictures import Pictures, display_rgb, draw_boxes, draw_cells
from .request import Export
from .slide_map import attention_picture

__all__ = ["MOST_CELLS", "Overlay", "selection_window", "write_overlay"]

_TINT = 0.6
#: Larger images, and more cells, are drawn in small.
_MOST_PIXELS, MOST_CELLS = 2**24, 2000
_SIDE = 2048


class Overlay:
    """Draws predictions on a field, part by part.

    Selected pixels are tinted in the class's colour, more where the fine
    attention is higher; crops that a TNet looked at are outlined in it. Each
    cell gets a frame, its class and probability.

    Parameters
    ----------
    field : Field
        The image.
    colours : sequence of str
        One ``#rrggbb`` per class.
    t, z : int
        Frame and slice of a stack.
    """

    def __init__(self, field: Field, colours: Sequence[str], t: int = 0, z: int = 0) -> None:
        self._canvas = display_rgb(field.plane(t, z))
        self._colours = [ImageColor.getrgb(colour)[:3] for colour in colours]
        self._captions: list[tuple[npt.NDArray[np.float64], str, tuple[int, ...]]] = []
        self._crops: list[tuple[npt.NDArray[np.float64], tuple[int, ...]]] = []

    def add(self, predictions: Predictions) -> None:
        """Draw some cells; their evidence need not be kept afterwards."""
        index, confidence = predictions.class_index, predictions.confidence
        for i in range(len(predictions)):
            if index[i] < 0:
                continue
            colour = self._colours[index[i]]
            if predictions.evidence:
                self._add_evidence(predictions.evidence[i], colour)
            caption = f"{predictions.class_names[index[i]]} {whole_percent(confidence[i])}"
            self._captions.append((predictions.cells.boxes[i], caption, colour))

    def image(self) -> Image.Image:
        """Return the picture so far."""
        picture = Image.fromarray((np.clip(self._canvas, 0, 1) * 255).round().astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        font = ImageFont.load_default(size=max(11, min(picture.size) // 36))
        for (top, left, height, width), colour in self._crops:
            draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour)
        for box, caption, colour in self._captions:
            top, left, bottom, right = (float(edge) for edge in box)
            draw.rectangle((left, top, right, bottom), outline=colour, width=2)
            extent = draw.textbbox((0, 0), caption, font=font)
            width, height = extent[2] + 4, extent[3] + 4
            x = min(max(left, 0), max(picture.width - width, 0))
            y = top - height if top >= height else min(bottom, picture.height - height)
            draw.rectangle((x, y, x + width, y + height), fill=(0, 0, 0))
            # A light bar of the class's colour, as text in it may be illegible.
            draw.rectangle((x, y, x + 2, y + height), fill=colour)
            draw.text((x + 4, y + 1), caption, fill=(255, 255, 255), font=font)
        return picture

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the picture as PNG, atomically."""
        with replacing(path) as temporary:
            self.image().save(temporary, format="PNG")

    def _add_evidence(self, evidence: PixelSelection | Traversal, colour: tuple[int, ...]) -> None:
        if isinstance(evidence, PixelSelection):
            self._tint(evidence, colour)
            return
        # The first crop is all that was given to the model, not what it chose.
        boxes = evidence.on_image(evidence.boxes[1:])
        self._crops += [(box, colour) for box in boxes]

    def _tint(self, selection: PixelSelection, colour: tuple[int, ...]) -> None:
        place = selection_window(selection, self._canvas.shape[:2])
        if place is None:
            return
        window, rows, columns = place
        relative = np.nan_to_num(selection.fine_map())[np.ix_(rows, columns)]
        # Attention above uniform saturates; any kept pixel shows at least faintly.
        alpha = np.where(relative > 0, _TINT * (0.35 + 0.65 * np.clip(relative / 3, 0, 1)), 0)
        pixels = self._canvas[window]
        pixels += alpha[..., None] * (np.asarray(colour, dtype=np.float32) / 255 - pixels)


def write_overlay(export: Export, path: Path) -> list[Path]:
    """Write a picture of a result as PNG, atomically.

    Cells, with what was selected where that was kept, at the image's own
    size; those of large images, and a TNet's crops, on the image in small; of
    a slide, the attention of each level.

    Parameters
    ----------
    export : Export
        Cells, a field or a slide.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    result, image, colours = export.result, export.image, export.card.colours
    if (
        isinstance(result, Predictions)
        and isinstance(image, Field)
        and image.shape[0] * image.shape[1] <= _MOST_PIXELS
        and len(result) <= MOST_CELLS
    ):
        overlay = Overlay(image, colours, *export.index)
        overlay.add(result)
        picture = overlay.image()
    elif isinstance(result, SlidePrediction):
        picture = attention_picture(Pictures(image, export.index).pyramid, result)
    else:
        picture, factor = Pictures(image, export.index).overview(_SIDE)
        if isinstance(result, Predictions):
            draw_cells(picture, factor, result, colours)
        else:
            assert isinstance(result, FieldPrediction)
            way = result.traversal
            # The first crop is all that was given to the model, not what it chose.
            marks = [colours[i] for i in way.crop_class[1:].tolist()]
            draw_boxes(picture, way.boxes[1:], marks, factor)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
    export.report(1, 1)
    return [path]


def selection_window(
    selection: PixelSelection, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], npt.NDArray[np.intp], npt.NDArray[np.intp]] | None:
    """Return where a crop lies on its image, and which crop pixel each pixel there is nearest to.

    Parameters
    ----------
    selection : PixelSelection
        What was selected of the crop.
    shape : (int, int)
        Height and width of the image.

    Returns
    -------
    window, rows, columns
        Slices of the image, and crop rows and columns for the rows and columns
        of that window; None where the crop lies beside the image.
    """
    frame = selection.frame
    origin = np.asarray(frame.origin)
    low = np.maximum(np.ceil(origin - frame.scale / 2), 0).astype(int)
    high = np.minimum(np.floor(origin + frame.side - frame.scale / 2) + 1, shape).astype(int)
    if (high <= low).any():
        return None
    rows, columns = (
        np.clip(np.rint((np.arange(low[i], high[i]) - origin[i]) / frame.scale), 0, frame.size - 1)
        for i in range(2)
    )
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    return window, rows.astype(np.intp), columns.astype(np.intp)
