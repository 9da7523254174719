"""Whether an image's values are in the unit that a model takes."""

from __future__ import annotations

import numpy as np

from ..card import Card
from ..images.fields.field import Field

__all__ = ["UNITS", "check_unit"]

#: What models of phase and of optical path difference take, and how far a cell reaches at least.
UNITS: dict[str, str] = {"opd": "nm", "phase": "rad"}
_LEAST_RANGE = {"nm": 5.0, "rad": 0.05}


def check_unit(field: Field, card: Card) -> None:
    """Refuse grey values where a model takes nm or rad.

    Without a unit, values are taken for it only if they are floats that are
    marked as what the model takes and reach as far as a cell does.

    Raises
    ------
    ValueError
        Saying what is missing.
    """
    unit = UNITS.get(card.modality)
    if unit is None or field.unit == unit or card.normalisation.kind != "fixed":
        return
    if field.unit:
        raise ValueError(f"'{card.name}' takes values in {unit}, the image's are in {field.unit}.")
    marked = field.modality == card.modality and field.data.dtype.kind == "f"
    if marked and float(np.nanmax(field.data)) - float(np.nanmin(field.data)) >= _LEAST_RANGE[unit]:
        return
    raise ValueError(
        f"'{card.name}' takes values in {unit}, and this image does not say that its grey values "
        f"are {unit}. Open the file that the microscope's software wrote in {unit}, or give "
        f"unit='{unit}' (--unit {unit}) if they are."
    )
