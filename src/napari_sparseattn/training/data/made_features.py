"""Slides as training examples from features that other programs made, read as they are needed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TypeVar

from ...card import MADE_ELSEWHERE, CropSpec, EncoderSpec
from ...features.feature_set import FeatureSet
from ...features.files import read_features
from .slide_tables import SlideTable
from .span_data import SlideExample

__all__ = ["FEATURE_SUFFIXES", "MadeFeatures", "read_made_features"]

T = TypeVar("T")

FEATURE_SUFFIXES = (".h5", ".hdf5")
#: How far patches of different slides may be from one size, as a factor.
_MOST_OFF = 1.05
#: Pixels along a patch where no file says it; only the side in µm matters.
_PIXELS = 224


@dataclasses.dataclass(frozen=True, eq=False)
class MadeFeatures:
    """Slides whose features are in files.

    Attributes
    ----------
    examples : list of SlideExample
        Their features are read from the files at every step, so that all
        slides together need not fit in memory.
    encoder : EncoderSpec
        What made them.
    crop : CropSpec
        A patch: its side in µm.
    notes : tuple of str
        What the files said of themselves.
    """

    examples: list[SlideExample]
    encoder: EncoderSpec
    crop: CropSpec
    notes: tuple[str, ...]


def read_made_features(
    table: SlideTable, *, encoder: str = "", patch_um: float | None = None, snap: bool = False
) -> MadeFeatures:
    """Read the places of patches, and open their features, of a table's files.

    Parameters
    ----------
    table : SlideTable
        Its slides are files of features: ours, CLAM's, TRIDENT's, STAMP's, or
        those of SPAN's authors.
    encoder : str
        What made them, where the files do not say it.
    patch_um : float, optional
        Side of a patch in µm, where the files do not say it.
    snap : bool
        See `read_features`.

    Raises
    ------
    ValueError
        If a file cannot be used, or files differ in width, encoder or size of
        the patches.
    """
    found = [read_features(row.path, snap=snap) for row in table.rows]
    names = [row.name for row in table.rows]
    width = _same("numbers per patch", names, [each.width for each in found])
    maker = _same("encoders", names, [each.encoder or encoder for each in found])
    made = _same("encoders", names, [each.encoder_hash for each in found])
    if not maker:
        raise ValueError("The files do not say what encoder made their features: name it.")
    side = _side(found, names, patch_um)
    digest = hashlib.sha256(f"{maker}|{width}".encode()).hexdigest()
    spec = EncoderSpec(
        name=maker, hash=made or f"{MADE_ELSEWHERE}{digest}", width=width, licence=_licence(maker)
    )
    examples = [
        SlideExample(
            each.features,
            each.cells,
            table.label_of(row),
            None,
            row.group,
            name,
            row.outcome,
        )
        for row, each, name in zip(table.rows, found, names, strict=True)
    ]
    notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
    return MadeFeatures(examples, spec, CropSpec(size=_PIXELS, field_of_view_um=side), notes)


def _same(what: str, names: Sequence[str], values: Sequence[T]) -> T:
    """Return the one value of all, or say which two differ."""
    for name, value in zip(names, values, strict=True):
        if value != values[0]:
            raise ValueError(
                f"All features must be alike, but these differ in {what}: {names[0]} has "
                f"{values[0] or 'none stated'}, {name} has {value or 'none stated'}."
            )
    return values[0]


def _side(found: Sequence[FeatureSet], names: Sequence[str], stated: float | None) -> float:
    """Return the side of a patch in µm, the same for all slides."""
    sides = [stated if each.patch_um is None else each.patch_um for each in found]
    for name, side in zip(names, sides, strict=True):
        if side is None:
            raise ValueError(
                f"{name} does not say how wide its patches are in µm: give it (µm per pixel times "
                "the pixels along a patch, such as 112 for 224 pixels of 0.5 µm)."
            )
        if stated is not None and not 1 / _MOST_OFF <= side / stated <= _MOST_OFF:
            raise ValueError(f"{name} has patches of {side:.4g} µm, not of {stated:.4g} µm.")
        first = sides[0] or side
        if not 1 / _MOST_OFF <= side / first <= _MOST_OFF:
            raise ValueError(
                f"Patches must be of one size, but {names[0]} has {first:.4g} µm and {name} "
                f"{side:.4g} µm. Make the features again at one µm per pixel."
            )
    return float(sides[0] or 0)


def _licence(name: str) -> str:
    from ...features.registry import find_entry

    entry = find_entry(name)
    return "" if entry is None else entry.licence
