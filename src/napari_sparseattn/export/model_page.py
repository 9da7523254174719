"""What goes with a model that is given away: a page about it, and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from .model_examples import is_simulated
from .onnx_model import ABOUT, about_input

__all__ = ["cover_picture", "model_page"]

_SIDE = 256
_EDGE = (255, 176, 0)


def model_page(bundle: Bundle, outputs: Sequence[str] = (), normalise: bool = True) -> str:
    """Return a page in Markdown: what the model is, takes, gives, and was measured at.

    Parameters
    ----------
    bundle : Bundle
        The model.
    outputs : sequence of str
        Of its graph, where it is given away as one.
    normalise : bool
        Whether that graph normalises.
    """
    card, training = bundle.card, bundle.card.training
    lines = [f"# {card.name}", "", card.description or "A model of napari-sparseattn.", ""]
    if training.simulated:
        lines += ["**Trained on simulated images only.**", ""]
    if not card.takes_slides:
        steps = about_input(card, normalise)
        if outputs and not normalise:
            steps += " The pre-processing of this package does that."
        lines += ["## Input", "", steps, ""]
    if outputs:
        if is_simulated(card):
            lines += ["The picture on the cover, and the test input, are simulated.", ""]
        lines += ["## Outputs", "", *(f"- `{name}`: {ABOUT[name]}" for name in outputs), ""]
    lines += ["## Classes", "", ", ".join(card.class_names), "", "## Validation", ""]
    lines += [*(f"- {line}" for line in card.summary().splitlines()[2:]), ""]
    lines += ["## Limits", "", *_limits(card), "", "## Licence and checksum", ""]
    lines += [f"Weights: {card.weights_licence}. sha256 of the tensors: `{bundle.hash}`.", ""]
    return "\n".join(lines)


def _limits(card: Card) -> list[str]:
    return [
        f"- It knows its {len(card.class_names)} classes and no others; any crop gets one of them.",
        "- A crop at another µm per pixel, or off centre, gets a class as well, often a wrong one.",
        "- What it looked at is what the class was computed from, and no proof that it is right.",
        "- It is made for research. It is no medical device.",
    ]


def cover_picture(
    card: Card, crop: npt.NDArray[Any], outputs: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """Return a PNG, 512 x 256: a crop, and beside it what the model looked at.

    Parameters
    ----------
    card : Card
        The model's.
    crop : numpy.ndarray
        (C, size, size), in any unit.
    outputs : mapping of str to numpy.ndarray
        What the graph gave for this crop alone.
    """
    from PIL import Image, ImageDraw

    plain = _as_colour(crop)
    size = card.crop.size
    seen = plain.copy()
    if "indices" in outputs:
        kept = np.zeros(size * size, np.bool_)
        kept[outputs["indices"][0]] = True
        seen[~kept.reshape(size, size)] //= 4
    pictures = [
        Image.fromarray(x).resize((_SIDE, _SIDE), Image.Resampling.NEAREST) for x in (plain, seen)
    ]
    if "boxes" in outputs:
        pen, factor = ImageDraw.Draw(pictures[1]), _SIDE / size
        for top, left, side in outputs["boxes"][0].tolist():
            corners = [left, top, left + side, top + side]
            pen.rectangle([x * factor for x in corners], outline=_EDGE, width=2)
    cover = Image.new("RGB", (2 * _SIDE, _SIDE))
    for i, picture in enumerate(pictures):
        cover.paste(picture, (i * _SIDE, 0))
    content = io.BytesIO()
    cover.save(content, "PNG")
    return content.getvalue()


def _as_colour(crop: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(size, size, 3) uint8; values that are no bytes are spread between their extremes."""
    values = crop[:3] if len(crop) >= 3 else np.repeat(crop[:1], 3, axis=0)
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = np.rint(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))
