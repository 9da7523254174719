"""Crops that a model can be tried on: simulated, so that they may be given away."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ..bundle import test_input
from ..card import Card
from ..images.fields.cells import Cells
from ..images.fields.crops import crop_side, cut_crops
from ..images.fields.field import Field

__all__ = ["example_crops", "is_simulated"]


def example_crops(card: Card, count: int) -> npt.NDArray[np.float32]:
    """Return crops as a model's user would cut them, before normalisation.

    Parameters
    ----------
    card : Card
        Of a model for single images.
    count : int
        How many, at least 1.

    Returns
    -------
    numpy.ndarray
        (count, C, size, size) float32: simulated cells for models of stained
        blood and of OPD, each crop about one of them; for others a pattern,
        shifted from crop to crop. Values of colour are multiples of 1 / 255.
    """
    drawn = _draw(card)
    if drawn is None:
        return _patterns(card, count)
    field, cells = drawn
    side = crop_side(card.crop.field_of_view_um, field.pixel_size or card.crop.pixel_size)
    centres = np.resize(cells.centres, (count, 2))
    crops = cut_crops(field, centres, side, card.crop.size)
    return _read_back(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)), card)


def is_simulated(card: Card) -> bool:
    """Tell whether the examples show simulated cells, and no mere pattern."""
    return _kind(card) != "pattern"


def _kind(card: Card) -> Literal["smear", "opd", "pattern"]:
    if card.modality == "brightfield" and len(card.channels) == 3:
        return "smear"
    return "opd" if card.unit == "nm" and len(card.channels) == 1 else "pattern"


def _draw(card: Card) -> tuple[Field, Cells] | None:
    from ..simulate import opd_field, smear_with_truth

    kind = _kind(card)
    if kind == "smear":
        return smear_with_truth(seed=0)
    if kind == "opd":
        field, cells, _ = opd_field()
        return field, cells
    return None


def _patterns(card: Card, count: int) -> npt.NDArray[np.float32]:
    rule, pattern = card.normalisation, test_input(len(card.channels), card.crop.size).numpy()
    step = card.crop.size // 5 + 1
    shifted = np.concatenate([np.roll(pattern, i * step, axis=(2, 3)) for i in range(count)])
    return _read_back((shifted * rule.std + rule.mean).astype(np.float32), card)


def _read_back(crops: npt.NDArray[np.float32], card: Card) -> npt.NDArray[np.float32]:
    if card.unit:
        return crops
    # Other programs are given these as bytes.
    bytes_: npt.NDArray[np.float32] = np.rint(crops.clip(0, 1) * 255).astype(np.float32)
    return np.divide(bytes_, 255, dtype=np.float32)
