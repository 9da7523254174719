"""A slide with what a SPAN attended to, as one picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..evidence import PyramidAttention
from ..images.slides.pyramid import Pyramid, read_window
from ..inference.slides import SlidePrediction
from .pictures import display_rgb

__all__ = ["attention_picture", "describe_attention"]

#: Perceptually even from dark blue by green to yellow; interpolated between.
_RAMP = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32
)
_MARGIN, _BAR = 12, 14
_OPACITY = 0.55
#: Ends of the colours, as powers of ten of uniform attention.
_LOG_LOW, _LOG_HIGH = -1, 2


def attention_picture(
    pyramid: Pyramid, prediction: SlidePrediction, height: int = 480
) -> Image.Image:
    """Draw the slide, and beside it the attention of every level over it.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    prediction : SlidePrediction
        Of `classify_slide`.
    height : int
        Of one panel in pixels.

    Returns
    -------
    PIL.Image.Image
        RGB; attention from a tenth of uniform to a hundred times uniform, on a
        logarithmic scale; the probability of a model that segments from 0 to 1.
    """
    seen = prediction.attention
    rows, columns = pyramid.shape
    height = max(64, min(height, rows))
    width = max(1, round(height * columns / rows))
    pixels, valid = read_window(pyramid, 0, 0, rows, columns, height, width, fill=1.0)
    plain = display_rgb(pixels) if pixels.shape[2] == 1 else np.clip(pixels, 0, 1)
    # Marked, not white: what could not be read is no glass.
    plain[~valid] = (0.8, 0.6, 0.8)
    panels = [(f"{pyramid.name}: {_headline(prediction)}", plain)]
    for index, level in enumerate(seen.levels):
        grid = (seen.grid(index, "log") - _LOG_LOW) / np.float32(_LOG_HIGH - _LOG_LOW)
        shown = _sample(grid, seen.placement(index), pyramid, plain)
        along = level.factor * seen.step * (pyramid.pixel_size or 1)
        # Pillow's own font has no micro sign.
        unit = "micrometres" if pyramid.pixel_size else "pixels"
        title = f"Attention, cells of {along:.0f} {unit}"
        panels.append((title, _tint(plain, shown.clip(0, 1))))
    if seen.patch_probabilities is not None:
        grid, placement = seen.probability_grid(), seen.probability_placement()
        shown = _sample(grid, placement, pyramid, plain)
        panels.append((f"Probability of {prediction.class_names[1]}", _tint(plain, shown)))
    return _join(panels)


def _headline(prediction: SlidePrediction) -> str:
    if prediction.estimate is not None:
        return prediction.estimate.headline
    if prediction.segments:
        share = 100 * float(prediction.probabilities[1])
        return f"{prediction.class_names[1]} in {share:.1f} % of the patches"
    return f"{prediction.label} {100 * prediction.confidence:.1f} %"


def _sample(
    grid: npt.NDArray[np.float32],
    placement: tuple[tuple[float, float], tuple[float, float]],
    pyramid: Pyramid,
    canvas: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The map at the picture's pixels; NaN where it has no cell."""
    indices = []
    for axis in (0, 1):
        size = canvas.shape[axis]
        centres = (np.arange(size) + 0.5) * pyramid.shape[axis] / size - 0.5
        indices.append(np.rint((centres - placement[1][axis]) / placement[0][axis]).astype(int))
    inside = np.logical_and.outer(
        (indices[0] >= 0) & (indices[0] < grid.shape[0]),
        (indices[1] >= 0) & (indices[1] < grid.shape[1]),
    )
    found = grid[np.ix_(*(i.clip(0, n - 1) for i, n in zip(indices, grid.shape, strict=True)))]
    sampled: npt.NDArray[np.float32] = np.where(inside, found, np.float32(np.nan))
    return sampled


def _tint(
    plain: npt.NDArray[np.float32], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    grey = np.repeat(plain.mean(axis=2, keepdims=True), 3, axis=2)
    known = np.isfinite(share)[..., None]
    colour = _colour(np.nan_to_num(share))
    return np.where(known, (1 - _OPACITY) * grey + _OPACITY * colour, grey)


def _colour(share: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, places, _RAMP[:, c]) for c in range(3)]
    mixed: npt.NDArray[np.float32] = np.stack(channels, axis=-1).astype(np.float32)
    return mixed / np.float32(255)


def _join(panels: list[tuple[str, npt.NDArray[np.float32]]]) -> Image.Image:
    """Panels side by side, each with its title, and a bar of the colours."""
    height, width = panels[0][1].shape[:2]
    font = ImageFont.load_default(size=14)
    column = max([width, *(int(font.getlength(title)) + 2 for title, _ in panels)])
    size = (_MARGIN + len(panels) * (column + _MARGIN), height + 2 * _MARGIN + 22 + _BAR + 22)
    picture = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for number, (title, pixels) in enumerate(panels):
        left = _MARGIN + number * (column + _MARGIN)
        draw.text((left, _MARGIN - 4), title, fill=(0, 0, 0), font=font)
        tile = Image.fromarray((pixels * 255).round().astype(np.uint8))
        picture.paste(tile, (left, _MARGIN + 18))
    if len(panels) > 1:
        left, top = 2 * _MARGIN + column, height + _MARGIN + 26
        length = min(column, 240)
        bar = (_colour(np.linspace(0, 1, length, dtype=np.float32)) * 255).astype(np.uint8)
        picture.paste(Image.fromarray(np.repeat(bar[None], _BAR, axis=0)), (left, top))
        words = "0.1, 1, 10 and 100 times uniform attention; or a probability of 0 to 1"
        draw.text((left, top + _BAR + 2), words, fill=(0, 0, 0), font=font)
    return picture


def describe_attention(seen: PyramidAttention) -> str:
    """Say how concentrated the attention is."""
    n = max(1, round(len(seen) / 100))
    return f"the top {n} of {len(seen)} patches hold {100 * seen.share_of_top(n):.1f} %"
