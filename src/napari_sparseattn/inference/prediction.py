"""What inference returns: classes, probabilities, evidence, what was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..card import TargetSpec, readable_name
from ..evidence import PixelSelection, PyramidAttention, Traversal
from ..images.fields.cells import Cells
from ..reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd

    from ..bundle import Bundle

__all__ = [
    "Estimate",
    "Prediction",
    "Predictions",
    "ReadingLedger",
    "novelty_columns",
    "say_share",
    "slide_novelty",
]


@dataclasses.dataclass(frozen=True)
class ReadingLedger:
    """What was read to reach a prediction.

    Parameters
    ----------
    pixels : int
        Image pixels decoded and given to the model.
    classified : int
        Crop pixels the classifier saw, of `crop_pixels`.
    crop_pixels : int
        Pixels of all crops at the model's resolution.
    seconds : float
        Wall time of cutting and inference.
    device : str
        Where it ran, e.g. ``"cpu"``.
    notes : tuple of str
        What the user should know, e.g. a fall back to the CPU.
    """

    __repr__ = short_repr

    pixels: int
    classified: int
    crop_pixels: int
    seconds: float
    device: str
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the crop pixels that the classifier saw; above 1 where it saw some again."""
        return self.classified / self.crop_pixels if self.crop_pixels else 0.0


def say_share(share: float, digits: str = ".1f") -> str:
    """Say how much was looked at: ``"5.0 % of the pixels"``.

    Crops of a TNet lie within each other, so that they can hold more pixels than there are.
    """
    if share > 1:
        return f"{share:.2g} times as many pixels as there are, some of them again and again"
    return f"{100 * share:{digits}} % of the pixels"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A risk, or a number, that a model of slides gives in place of classes.

    Parameters
    ----------
    target : TargetSpec
        What it is, from the model's card.
    name : str
        What it is called there.
    score : float
        The number in its unit; or the risk, which is higher for whom the
        event is expected sooner: of Cox's model a log hazard ratio, of hazards
        one less the mean chance of no event, 0 to 1.
    survival : tuple of float
        Chances, 0 to 1, of no event by each of ``target.times``; empty of
        other targets than hazards.
    """

    target: TargetSpec
    name: str
    score: float
    survival: tuple[float, ...] = ()

    @property
    def rank(self) -> float | None:
        """Share, 0 to 1, of the training slides with a lower score; None where it is not kept."""
        return self.target.rank(self.score)

    @property
    def headline(self) -> str:
        """The answer in a few words."""
        name = readable_name(self.name)
        if not self.target.row.survival:
            return f"{name} {self.score:.4g}{f' {self.target.unit}' if self.target.unit else ''}"
        if self.rank is None:
            return f"{name} {self.score:.3g}"
        return f"{name} above {100 * self.rank:.0f} % of the training slides"

    @property
    def curve(self) -> list[tuple[str, float]]:
        """When, in words, and the chance of no event by then."""
        unit = f" {self.target.unit}" if self.target.unit else ""
        return [
            (f"{time:.3g}{unit}", chance)
            for time, chance in zip(self.target.times, self.survival, strict=bool(self.survival))
        ]

    @property
    def sentence(self) -> str:
        """The answer in a sentence, with the survival curve where there is one."""
        said = self.headline[:1].upper() + self.headline[1:]
        if self.target.row.survival and self.rank is not None:
            said += f" (score {self.score:.3g})"
        if not self.target.row.survival and self.rank is not None:
            said += f", above {100 * self.rank:.0f} % of the training slides"
        if self.survival:
            event = self.target.outcome or "the event"
            chances = ", ".join(f"{100 * p:.0f} % at {when}" for when, p in self.curve)
            said += f"; free of {event}: {chances}"
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and texts, for JSON."""
        target = self.target
        found: dict[str, Any] = {"target": target.kind, "name": self.name, "unit": target.unit}
        found["risk" if target.row.survival else "value"] = self.score
        found["above_training"] = self.rank
        if self.survival:
            found["survival"] = [
                {"time": time, "no_event": chance}
                for time, chance in zip(target.times, self.survival, strict=True)
            ]
        return found | {"sentence": self.sentence}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One object's class, with what the model looked at.

    Parameters
    ----------
    class_names : tuple of str
        All C classes.
    probabilities : numpy.ndarray
        (C,) float32, summing to 1; calibrated if the bundle is.
    evidence : PixelSelection, PyramidAttention, Traversal or None
        What the model looked at; None where it was not asked for.
    ledger : ReadingLedger
        What was read.
    model_hash : str
        sha256 of the model's tensors.
    scale_known : bool
        False if the crop's physical scale was not known.
    novelty : float or None
        How unlike anything the model was trained on it is; above 1 it is
        flagged. None where the model's file has no states to compare with.
    none_of_these : bool or None
        Whether it looks like what is common beside the model's classes, as its
        card names it: a red cell or background, say. None where no states of
        those are in the model's file.
    """

    def __repr__(self) -> str:
        flagged = ", flagged" if self.flagged else ""
        said = f"{self.label!r}, {100 * self.confidence:.1f} %{flagged}"
        return f"{type(self).__name__}({said}, by model {self.model_hash[:12]})"

    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    evidence: PixelSelection | PyramidAttention | Traversal | None
    ledger: ReadingLedger
    model_hash: str
    scale_known: bool = True
    novelty: float | None = None
    none_of_these: bool | None = None

    @property
    def flagged(self) -> bool | None:
        """Whether it is unlike anything the model was trained on; None if not measured."""
        return None if self.novelty is None else self.novelty > 1

    @property
    def index(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.class_names[self.index]

    @property
    def confidence(self) -> float:
        """Probability of the most probable class, 0 to 1."""
        return float(self.probabilities[self.index])

    def rank_classes(self) -> list[tuple[str, float]]:
        """Classes with their probabilities, most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.class_names[i], float(self.probabilities[i])) for i in order]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A table of cells with their classes.

    Parameters
    ----------
    cells : Cells
        The N cells.
    class_names : tuple of str
        All C classes.
    probabilities : numpy.ndarray
        (N, C) float32; a row of NaN marks a cell that could not be classified.
    evidence : tuple of PixelSelection or Traversal
        One per cell, or empty where it was not asked for.
    ledger : ReadingLedger
        What was read for all of them.
    model_hash : str
        sha256 of the model's tensors.
    model_name : str
        Name of the bundle.
    scale_known : bool
        False if the crops' physical scale was not known.
    measures : mapping of str to numpy.ndarray
        More columns, (N,) float64 each: for OPD maps those of `measure_opd`.
    novelty : numpy.ndarray or None
        (N,) float32, how unlike anything the model was trained on each cell
        is; above 1 it is flagged. None where the model's file has no states
        to compare with.
    none_of_these : numpy.ndarray or None
        (N,) bool, which cells look like what is common beside the classes, as
        in `Prediction`; those are flagged too.
    states : numpy.ndarray or None
        (N, D) float16, what the model's last layer read of each cell, for
        `map_cells`; None where that was not kept, as in files.
    """

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.counts().items() if n)
        model = "@".join(filter(None, (self.model_name, self.model_hash[:12])))
        return f"Predictions({len(self)} cells by {model}{': ' if counts else ''}{counts})"

    cells: Cells
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    evidence: tuple[PixelSelection | Traversal, ...]
    ledger: ReadingLedger
    model_hash: str
    model_name: str = ""
    scale_known: bool = True
    measures: Mapping[str, npt.NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    novelty: npt.NDArray[np.float32] | None = None
    none_of_these: npt.NDArray[np.bool_] | None = None
    states: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.cells), len(self.class_names))
        if self.probabilities.shape != expected:
            raise ValueError(f"probabilities are {self.probabilities.shape}, expected {expected}")
        more: dict[str, npt.NDArray[Any] | None]
        more = {"novelty": self.novelty, "none_of_these": self.none_of_these}
        for name, values in (more | dict(self.measures)).items():
            if values is not None and values.shape != expected[:1]:
                raise ValueError(f"{name} has shape {values.shape}, expected {expected[:1]}")
        if self.states is not None and len(self.states) != expected[0]:
            raise ValueError(f"there are {len(self.states)} states of {expected[0]} cells")

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> Prediction:
        return Prediction(
            self.class_names,
            self.probabilities[i],
            self.evidence[i] if self.evidence else None,
            self.ledger,
            self.model_hash,
            self.scale_known,
            None if self.novelty is None else float(self.novelty[i]),
            None if self.none_of_these is None else bool(self.none_of_these[i]),
        )

    def subset(self, rows: npt.ArrayLike) -> Predictions:
        """Return some of the cells, in the order of their rows."""
        chosen = np.asarray(rows, np.intp)

        def take(values: npt.NDArray[Any] | None) -> Any:
            return None if values is None else values[chosen]

        return dataclasses.replace(
            self,
            cells=self.cells.subset(chosen),
            probabilities=self.probabilities[chosen],
            evidence=tuple(self.evidence[row] for row in chosen) if self.evidence else (),
            measures={name: values[chosen] for name, values in self.measures.items()},
            novelty=take(self.novelty),
            none_of_these=take(self.none_of_these),
            states=take(self.states),
        )

    @property
    def flagged(self) -> npt.NDArray[np.bool_] | None:
        """(N,) which cells are unlike anything the model was trained on; None if not measured."""
        return None if self.novelty is None else self.novelty > 1

    @property
    def class_index(self) -> npt.NDArray[np.int64]:
        """(N,) index of the most probable class; -1 where not classified."""
        filled = np.nan_to_num(self.probabilities, nan=-1.0)
        index = filled.argmax(axis=1) if len(self) else np.empty(0, dtype=np.int64)
        return np.where(np.isnan(self.probabilities).any(axis=1), -1, index).astype(np.int64)

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """(N,) probability of the most probable class; NaN where not classified."""
        if not len(self):
            return np.empty(0, dtype=np.float32)
        highest: npt.NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    @property
    def labels(self) -> list[str]:
        """N names of the most probable class; empty where not classified."""
        return [self.class_names[i] if i >= 0 else "" for i in self.class_index]

    def counts(self) -> dict[str, int]:
        """Cells per class, in the order of the classes."""
        index = self.class_index
        return {name: int((index == i).sum()) for i, name in enumerate(self.class_names)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cell: id, place, class, probabilities.

        ``row``, ``column`` and ``diameter_px`` are image pixels, ``diameter_um``
        µm (NaN where the pixel size is unknown). ``novelty``, ``flagged`` and
        ``none_of_these`` are missing where they were not measured. The measures
        follow at the end.
        """
        import pandas as pd

        cells = self.cells
        pixel_size = cells.pixel_size if cells.pixel_size is not None else np.nan
        columns: dict[str, Any] = {
            "id": cells.ids,
            "row": cells.centres[:, 0],
            "column": cells.centres[:, 1],
            "diameter_px": cells.diameters,
            "diameter_um": cells.diameters * pixel_size,
            "at_border": cells.at_border,
            "class": self.labels,
            "confidence": self.confidence,
        }
        columns |= novelty_columns(self.novelty, len(self))
        others = self.none_of_these
        missing = [pd.NA] * len(self)
        columns["none_of_these"] = pd.array(missing if others is None else others, dtype="boolean")
        for i, name in enumerate(self.class_names):
            columns[f"p_{name}"] = self.probabilities[:, i]
        return pd.DataFrame(columns | dict(self.measures))


def novelty_columns(novelty: npt.NDArray[np.float32] | None, n: int) -> dict[str, Any]:
    """Return the columns ``novelty`` and ``flagged`` of n rows; missing where not measured."""
    import pandas as pd

    if novelty is None:
        return {
            "novelty": np.full(n, np.nan, np.float32),
            "flagged": pd.array([pd.NA] * n, dtype="boolean"),
        }
    flagged = pd.array(novelty > 1, dtype="boolean")
    flagged[np.isnan(novelty)] = pd.NA
    return {"novelty": novelty, "flagged": flagged}


def slide_novelty(
    bundle: Bundle, states: npt.ArrayLike, features: Any
) -> tuple[float | None, npt.NDArray[np.float32] | None]:
    """How unlike anything a SPAN knows a slide is, and each of its patches where that is told.

    Parameters
    ----------
    bundle : Bundle
        The SPAN.
    states : array_like
        (1, D) of the slide, or (N, D) of its patches of a model that segments.
    features : array
        (N, F), or anything whose slices are arrays.

    Returns
    -------
    novelty : float or None
        1 at the threshold; None where nothing was measured.
    patches : numpy.ndarray or None
        (N,) float32.
    """
    known = bundle.known
    if known is None:
        return None, None
    if known.patches is not None:
        each = known.patches.novelty(features)
        return known.patches.of_slide(each), each
    each = known.novelty(states)
    if not bundle.card.segments:
        return float(each[0]), None
    return float(np.median(each)), each
