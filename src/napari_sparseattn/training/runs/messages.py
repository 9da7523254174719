"""Fine-tuning: what is asked of a worker, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .process import Switch
from .runs import Epoch, Run

if TYPE_CHECKING:
    from ...bundle import Bundle
    from ...images.fields.field import Field
    from ...images.slides.pyramid import Pyramid
    from ..data.annotations import ImageRecord
    from ..tune.report import FineTuneReport

    Opener = Callable[[ImageRecord], Field | Pyramid | None]

__all__ = [
    "FineTuneChoices",
    "FineTuneRequest",
    "Prepared",
    "Stage",
    "Survey",
    "Trained",
    "TunedModel",
]


class TunedModel(Protocol):
    """A model to begin with, and the device that it is used on."""

    @property
    def bundle(self) -> Bundle:
        """Weights and card; it has a file."""

    @property
    def device(self) -> str:
        """See `choose_device`."""


@dataclasses.dataclass(frozen=True)
class FineTuneChoices:
    """What may be chosen; the defaults suit.

    Parameters
    ----------
    freeze : {"auto", "head", "backbone", "none"}
        As in `FineTuneOptions`.
    seconds : float or None
        About how long it may take.
    device : str
        See `choose_device`.
    """

    freeze: Literal["auto", "head", "backbone", "none"] = "auto"
    seconds: float | None = None
    device: str = "auto"


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuneRequest:
    """Train on a project's annotations, or go on with a run.

    Parameters
    ----------
    model : TunedModel or None
        To begin with; None where a run goes on.
    project : pathlib.Path
        The project's folder.
    opener : callable
        Returns an image of the project, or None; called in the worker's thread.
    choices : FineTuneChoices
        How.
    run : Run or None
        The run to go on with.
    store : pathlib.Path
        Where features of slides are kept.
    switch : Switch
        Pauses and ends the work.
    folds : int
        For `stream_validation`: by how many folds.
    curve : bool
        Whether a learning curve is drawn with that.
    """

    model: TunedModel | None
    project: Path
    opener: Opener
    choices: FineTuneChoices
    run: Run | None
    store: Path
    switch: Switch = dataclasses.field(default_factory=Switch)
    folds: int = 0
    curve: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is being done, for people."""

    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What training begins with.

    Attributes
    ----------
    run : Run
        What it is to do.
    pictures : dict of str to numpy.ndarray
        (s, s, 3) uint8 of each held-out crop, by its name.
    size : int
        Side of the model's images, on which `Epoch.watched` counts.
    epochs : tuple of Epoch
        Those that the run has behind it.
    """

    run: Run
    pictures: dict[str, npt.NDArray[np.uint8]]
    size: int
    epochs: tuple[Epoch, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The new model's file, its report, and the colours of its classes."""

    path: Path
    report: FineTuneReport
    colours: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Survey:
    """What there is to learn from, before training.

    Attributes
    ----------
    text : str
        How many of what.
    hints : tuple of str
        Of what there is too little, and what to do.
    enough : bool
        Whether there is anything to learn from.
    """

    text: str = ""
    hints: tuple[str, ...] = ()
    enough: bool = False
