"""What goes with a model that is given away: a page about it, and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..pages import render
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
    card, steps = bundle.card, ""
    if not card.takes_slides:
        steps = about_input(card, normalise)
        if outputs and not normalise:
            steps += " The pre-processing of this package does that."
    return render(
        "model.md",
        card=card,
        steps=steps,
        simulated=bool(outputs) and is_simulated(card),
        outputs=[(name, ABOUT[name]) for name in outputs],
        hash=bundle.hash,
    )


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
