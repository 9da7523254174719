"""Two models, or two settings of one, on the same cells or the same field."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..evidence import CropFrame, PixelSelection, Traversal
from ..evidence.measures import overlap, spearman
from ..images.fields.cells import Cells
from ..images.fields.field import Field
from ..metrics import wilson
from ..progress import Progress
from ..reprs import short_repr
from .cells import classify_cells
from .prediction import Prediction

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Comparison",
    "change_setting",
    "compare_answers",
    "compare_cells",
    "compare_evidence",
]

Values = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float32]

#: Cells per step, whose evidence is held at once.
_STEP = 64
_MANY = 200
#: Two fields are laid over each other at so many places along the longer side.
_PLACES = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What two models say about the same N cells or fields, and where they look.

    Parameters
    ----------
    names : (str, str)
        What the two are called.
    class_names : (tuple of str, tuple of str)
        Their classes; those of one name are the same class.
    probabilities : (numpy.ndarray, numpy.ndarray)
        (N, C) float32 of each; a row of NaN was not classified.
    overlap : numpy.ndarray
        (N,) intersection over union of the kept pixels, or of the places that
        crops below the whole show; NaN where the two are of different kinds.
    correlation : numpy.ndarray
        (N,) Spearman's rank correlation of the attention maps; the map of a
        traversal is how closely each place was looked at. NaN where one is
        constant.
    ids : numpy.ndarray
        (N,) int64 of the cells; 0 of a field.
    centres : numpy.ndarray
        (N, 2) float64, row and column; NaN of a field.
    """

    __repr__ = short_repr

    names: tuple[str, str]
    class_names: tuple[tuple[str, ...], tuple[str, ...]]
    probabilities: tuple[Probabilities, Probabilities]
    overlap: Values
    correlation: Values
    ids: npt.NDArray[np.int64]
    centres: Values

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """N class names of each; empty where not classified."""
        first, second = (
            _labels(*pair) for pair in zip(self.probabilities, self.class_names, strict=True)
        )
        return first, second

    @property
    def classified(self) -> npt.NDArray[np.bool_]:
        """(N,) whether both gave a class."""
        first, second = self.labels
        return np.array([bool(a and b) for a, b in zip(first, second, strict=True)], bool)

    @property
    def agrees(self) -> npt.NDArray[np.bool_]:
        """(N,) whether both gave the class of the same name."""
        first, second = self.labels
        return np.array([bool(a) and a == b for a, b in zip(first, second, strict=True)], bool)

    @property
    def shared_classes(self) -> tuple[str, ...]:
        """Classes that both know, by name."""
        return tuple(name for name in self.class_names[0] if name in self.class_names[1])

    @property
    def agreement(self) -> float:
        """Share of the cells both classified that got the same class; NaN without any."""
        n = int(self.classified.sum())
        return float(self.agrees.sum() / n) if n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `agreement`."""
        return wilson(int(self.agrees.sum()), int(self.classified.sum()))

    @property
    def differing(self) -> list[int]:
        """Rows that got different classes, those first of which both are surest."""
        rows = np.flatnonzero(self.classified & ~self.agrees)
        first, second = (p[rows].max(axis=1, initial=0) for p in self.probabilities)
        sure = np.minimum(first, second)
        return [int(i) for i in rows[np.argsort(-sure, kind="stable")]]

    @property
    def mean_overlap(self) -> float:
        """Mean of `overlap` where it is known; NaN without any."""
        return _mean(self.overlap)

    @property
    def mean_correlation(self) -> float:
        """Mean of `correlation` where it is known; NaN without any."""
        return _mean(self.correlation)

    def summary(self) -> str:
        """Return one line for people."""
        if not self.shared_classes:
            return "The two have no class of the same name, so their answers cannot agree."
        n, same = int(self.classified.sum()), int(self.agrees.sum())
        if not n:
            return "Nothing was classified by both."
        # Tenths of a percent mean nothing of a few cells.
        digits = 0 if n < _MANY else 1
        share, low, high = (f"{100 * value:.{digits}f}" for value in (same / n, *self.interval))
        return f"The same class in {same} of {n} ({share} % [{low}, {high}])"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cell: id, row, column, both classes, agreement, overlap."""
        import pandas as pd

        first, second = self.labels
        a, b = (p.max(axis=1, initial=0) for p in self.probabilities)
        return pd.DataFrame(
            {
                "id": self.ids, "row": self.centres[:, 0], "column": self.centres[:, 1],
                "class_a": first, "confidence_a": a, "class_b": second, "confidence_b": b,
                "agrees": self.agrees, "overlap": self.overlap, "correlation": self.correlation,
            }
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON; None where something is not known."""
        cells = self.to_frame().to_dict("records")
        return {
            "kind": "comparison",
            "models": list(self.names),
            "class_names": [list(names) for names in self.class_names],
            "n": int(self.classified.sum()),
            "agreement": _known(self.agreement),
            "agreement_interval": list(self.interval),
            "mean_overlap": _known(self.mean_overlap),
            "mean_correlation": _known(self.mean_correlation),
            "cells": [{name: _known(value) for name, value in cell.items()} for cell in cells],
        }


def change_setting(
    bundle: Bundle, *, k: int | None = None, locations: Sequence[int] | None = None
) -> Bundle:
    """Return a bundle that keeps k pixels, or pairs at other numbers of locations.

    No weight depends on either. What is usual was measured at the setting of the
    training, so at another nothing is said to be unlike it.

    Parameters
    ----------
    bundle : Bundle
        The model.
    k : int, optional
        Pixels that a SparseAttnNet keeps of each crop; by default as trained.
    locations : sequence of int, optional
        Of a TNet, crops looked at inside each crop, per level.

    Raises
    ------
    ValueError
        If the model has no such setting, or not that value.
    """
    card = bundle.card
    changes: dict[str, Any] = {}
    if k is not None:
        if card.model_kind.setting != "k":
            raise ValueError(f"'{card.name}' keeps no pixels, so k cannot be set. Leave it out.")
        most = card.crop.size**2
        if not 1 <= k <= most:
            raise ValueError(f"k must lie between 1 and the crop's {most} pixels, got {k}.")
        changes["k"] = k
    if locations is not None:
        if card.model_kind.setting != "locations":
            raise ValueError(f"'{card.name}' takes no crops, so K cannot be set. Leave it out.")
        changes["locations"] = tuple(locations)
    if not changes:
        return bundle
    architecture = {**card.architecture, **changes}
    known = bundle.known if architecture == dict(card.architecture) else None
    changed = card.model_copy(update={"architecture": architecture})
    return dataclasses.replace(bundle, card=changed, known=known)


def compare_cells(
    field: Field,
    cells: Cells,
    bundle_a: Bundle,
    bundle_b: Bundle,
    *,
    locations_a: Sequence[int] | None = None,
    locations_b: Sequence[int] | None = None,
    k_a: int | None = None,
    k_b: int | None = None,
    classes_a: Sequence[str] | None = None,
    classes_b: Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Let two models classify the same cells.

    Parameters
    ----------
    field : Field
        The image; its channels must be those of both models.
    cells : Cells
        Where the cells are.
    bundle_a, bundle_b : Bundle
        Two models, or the same one twice with two settings.
    locations_a, locations_b : sequence of int, optional
        Of a TNet, see `change_setting`.
    k_a, k_b : int, optional
        Of a SparseAttnNet, see `change_setting`.
    classes_a, classes_b : sequence of str, optional
        The classes of each model that can occur here, see `classify_cells`.
    device : str
        See `choose_device`.
    progress : callable, optional
        Called with "cells", those done and their number; it may raise to stop.

    Raises
    ------
    ValueError
        If the image, or a setting, does not fit a model; the message says how.
    """
    pair = (
        change_setting(bundle_a, k=k_a, locations=locations_a),
        change_setting(bundle_b, k=k_b, locations=locations_b),
    )
    kinds, parts, n = (classes_a, classes_b), [], len(cells)
    for start in range(0, max(n, 1), _STEP):
        rows = range(start, min(start + _STEP, n))
        a, b = (
            classify_cells(field, cells, bundle, device, only=rows, classes=known)
            for bundle, known in zip(pair, kinds, strict=True)
        )
        pairs = [compare_evidence(a[i].evidence, b[i].evidence) for i in range(len(rows))]
        # Evidence is 25 KB per cell: kept only for as long as it is measured.
        parts.append((a.probabilities, b.probabilities, np.reshape(pairs, (len(rows), 2))))
        if progress is not None and n:
            progress("cells", rows.stop, n)
    first, second, looked = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Comparison(
        _names(*pair), (pair[0].card.shown_names, pair[1].card.shown_names), (first, second),
        looked[:, 0], looked[:, 1], np.asarray(cells.ids), np.asarray(cells.centres, np.float64),
    )  # fmt: skip


def compare_answers(
    first: Prediction, second: Prediction, names: tuple[str, str] = ("first", "second")
) -> Comparison:
    """Compare two answers about the same cell or field, each with its evidence.

    Raises
    ------
    ValueError
        If one of them is a risk or a number.
    """
    if any(getattr(each, "estimate", None) is not None for each in (first, second)):
        raise ValueError(
            "A risk or a number cannot be compared with another model's answer. Choose models of "
            "classes."
        )
    looked = np.array(compare_evidence(first.evidence, second.evidence))
    frame = getattr(first.evidence, "frame", None)
    centre = (np.nan, np.nan) if frame is None else (frame.row, frame.column)
    return Comparison(
        names, (first.class_names, second.class_names),
        (first.probabilities[None], second.probabilities[None]),
        looked[:1], looked[1:], np.zeros(1, np.int64), np.array([centre]),
    )  # fmt: skip


def compare_evidence(first: object, second: object) -> tuple[float, float]:
    """Overlap of two selections, and rank correlation of two maps, on a common grid.

    Crops of different sides or sizes are compared on the square that both
    show, at the pixels of the finer one. NaN where there is nothing to compare.

    Parameters
    ----------
    first, second : PixelSelection, Traversal or anything else
        Of the same cell or field.
    """
    nothing = float("nan"), float("nan")
    if not isinstance(first, PixelSelection | Traversal):
        return nothing
    if not isinstance(second, PixelSelection | Traversal):
        return nothing
    if (first.frame is None) != (second.frame is None):
        return nothing
    y, x = _common_grid(first, second)
    (mask_a, map_a), (mask_b, map_b) = (_selection_and_map(one, y, x) for one in (first, second))
    same_kind = isinstance(first, PixelSelection) == isinstance(second, PixelSelection)
    shared = overlap(mask_a, mask_b) if same_kind else float("nan")
    return shared, spearman(map_a, map_b)


def _common_grid(
    first: PixelSelection | Traversal, second: PixelSelection | Traversal
) -> tuple[Values, Values]:
    """Rows and columns of the image, pixel centres at whole numbers, that both show."""
    frames = [one.frame for one in (first, second) if one.frame is not None]
    if not frames:
        assert isinstance(first, Traversal)
        longest = max(first.shape)
        counts = [max(1, round(_PLACES * length / longest)) for length in first.shape]
        y, x = (
            (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(counts, first.shape, strict=True)
        )
        return y, x
    step = min(frame.scale for frame in frames)
    lines = []
    for middles in ([f.row for f in frames], [f.column for f in frames]):
        low = max(m - f.side / 2 for m, f in zip(middles, frames, strict=True))
        high = min(m + f.side / 2 for m, f in zip(middles, frames, strict=True))
        n = max(1, round((high - low) / step))
        lines.append(low + (np.arange(n) + 0.5) * (high - low) / n)
    return lines[0], lines[1]


def _selection_and_map(
    evidence: PixelSelection | Traversal, y: Values, x: Values
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.floating[Any]]]:
    """What was selected, and the map, at rows y and columns x of the image."""
    if isinstance(evidence, PixelSelection):
        frame = evidence.frame
        places = np.ix_(*(_pixels(frame, line, i) for i, line in enumerate((y, x))))
        return evidence.mask()[places], evidence.coarse[places]
    closest = np.zeros((len(y), len(x)), np.int64)
    # Corners of a traversal's boxes are whole numbers, as centres of pixels are here.
    boxes = evidence.on_image(evidence.boxes) - np.array([0.5, 0.5, 0, 0])
    for level, (top, left, height, width) in zip(evidence.level[1:], boxes[1:], strict=True):
        rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
        # Levels ascend, so that a finer one overwrites.
        closest[np.ix_(rows, columns)] = level
    return closest > 0, closest.astype(np.float64)


def _pixels(frame: CropFrame, line: Values, axis: int) -> npt.NDArray[np.intp]:
    nearest = np.floor((line - frame.origin[axis]) / frame.scale + 0.5).astype(np.intp)
    inside: npt.NDArray[np.intp] = nearest.clip(0, frame.size - 1)
    return inside


def _names(first: Bundle, second: Bundle) -> tuple[str, str]:
    """Names that tell the two apart: with the setting, where it is the same model."""
    if first.card.name != second.card.name:
        return first.card.name, second.card.name
    return _name_with_setting(first.card), _name_with_setting(second.card)


def _name_with_setting(card: Card) -> str:
    kind = card.model_kind
    return f"{card.name}, {kind.symbol} = {card.architecture.get(kind.setting)}"


def _labels(probabilities: Probabilities, names: tuple[str, ...]) -> list[str]:
    if not len(probabilities):
        return []
    unknown = np.isnan(probabilities).any(axis=1)
    best = np.where(unknown, -1, np.nan_to_num(probabilities, nan=-1.0).argmax(axis=1))
    return [names[i] if i >= 0 else "" for i in best.tolist()]


def _mean(values: Values) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value
