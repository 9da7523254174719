"""One result on its way into files: with its image, its model's card, and where it came from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..card import Card
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions, ReadingLedger
from ..inference.slides import SlidePrediction
from ..reprs import short_repr

__all__ = ["Export", "Kind", "Result", "kind_of"]

Result = Predictions | FieldPrediction | SlidePrediction | Mapping[int, Predictions]
Kind = Literal["cells", "frames", "field", "slide"]


def kind_of(result: object) -> Kind | None:
    """Tell what a result is of; None if it is none that can be exported."""
    if isinstance(result, Predictions):
        return "cells"
    if isinstance(result, SlidePrediction):
        return "slide"
    if isinstance(result, FieldPrediction):
        return "field"
    if isinstance(result, Mapping) and all(isinstance(v, Predictions) for v in result.values()):
        return "frames"
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Export:
    """What a writer of one format is given.

    Parameters
    ----------
    result : Predictions, FieldPrediction, SlidePrediction, or mapping of int to Predictions
        Of one image, or of the frames of a stack by their index.
    image : Field or Pyramid
        What it was made from.
    card : Card
        Of the model.
    progress : callable, optional
        Called with what is done and how much there is; it may raise to stop.
    index : (int, int)
        Frame and slice of `image` that `result` is of, where it is of one.
    facts : mapping of str to object
        More to say of the result in JSON, e.g. of a reconstruction.

    Raises
    ------
    ValueError
        If there are no frames, or classes are not those of the card.
    TypeError
        If the result is none that can be exported.
    """

    __repr__ = short_repr

    result: Result
    image: Field | Pyramid
    card: Card
    progress: Callable[[int, int], None] | None = None
    index: tuple[int, int] = (0, 0)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if kind_of(self.result) is None:
            raise TypeError(f"a {type(self.result).__name__} cannot be exported")
        if isinstance(self.result, Mapping) and not self.result:
            raise ValueError("there are no frames to write")
        if self.first.class_names != self.card.shown_names:
            raise ValueError(
                f"the result has the classes {', '.join(self.first.class_names)}, "
                f"'{self.card.name}' has {', '.join(self.card.shown_names)}; give the card of the "
                "model that the result is of"
            )

    @property
    def kind(self) -> Kind:
        """What the result is of."""
        found = kind_of(self.result)
        assert found is not None
        return found

    @property
    def first(self) -> Predictions | FieldPrediction | SlidePrediction:
        """The result, or that of the first frame."""
        if isinstance(self.result, Mapping):
            return next(iter(self.result.values()))
        return self.result

    @property
    def frames(self) -> Mapping[int, Predictions]:
        """Classified cells by frame; of a single image, the frame is that of `index`."""
        if isinstance(self.result, Mapping):
            return self.result
        if isinstance(self.result, Predictions):
            return {self.index[0]: self.result}
        raise TypeError("this result is not of cells")

    @property
    def n_cells(self) -> int:
        """Cells over all frames."""
        return sum(map(len, self.frames.values()))

    @property
    def name(self) -> str:
        """What to call the image."""
        return self.image.name or (self.image.path.name if self.image.path else "image")

    @property
    def model(self) -> str:
        """Name of the model, and which weights of that name."""
        return f"{self.card.name}@{self.first.model_hash[:12]}"

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel; None where it is not known."""
        return self.image.pixel_size

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in pixels of the full resolution."""
        return self.image.shape

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the result came from, as plain values for JSON; the same in all its files."""
        first, training = self.first, self.card.training
        ledgers = (
            [part.ledger for part in self.frames.values()]
            if self.kind in ("cells", "frames")
            else [first.ledger]
        )
        return {
            "software": f"napari-sparseattn {importlib.metadata.version('napari-sparseattn')}",
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "image": self.name,
            "file": self._file,
            "height": self.shape[0],
            "width": self.shape[1],
            "pixel_size_um": self.pixel_size,
            "model": self.card.name,
            "model_hash": first.model_hash,
            "scale_known": all(part.scale_known for part in self._parts()),
            "training_data": training.data,
            "training_data_simulated": training.simulated,
            "device": ledgers[-1].device,
            "seconds": sum(ledger.seconds for ledger in ledgers),
            "pixels_read": sum(ledger.pixels for ledger in ledgers),
            "share_classified": _share(ledgers),
            "notes": list(dict.fromkeys(note for x in ledgers for note in x.notes)),
        }

    @property
    def _file(self) -> str:
        """The name of the file, and of one on another machine a hash of where; never all of it."""
        if isinstance(self.image, Pyramid) and self.image.address is not None:
            return self.image.address.label
        return "" if self.image.path is None else self.image.path.name

    def report(self, done: int, total: int) -> None:
        """Report progress; raises if the work is to stop."""
        if self.progress is not None:
            self.progress(done, total)

    def _parts(self) -> list[Predictions | FieldPrediction | SlidePrediction]:
        if isinstance(self.result, Mapping):
            return list(self.result.values())
        return [self.result]


def _share(ledgers: list[ReadingLedger]) -> float:
    pixels = sum(ledger.crop_pixels for ledger in ledgers)
    return sum(ledger.classified for ledger in ledgers) / pixels if pixels else 0.0
