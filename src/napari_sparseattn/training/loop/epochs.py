"""Reports of epochs: one type, in training, on disk and in the window. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...metrics import FIGURE_TITLES

__all__ = ["EpochReport", "FineTuneEpoch"]


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One epoch; loss and accuracy are NaN where nothing is held out.

    Attributes
    ----------
    epoch, epochs : int
        1-based number and total.
    train_loss, train_accuracy : float
        On augmented crops, while training.
    loss, accuracy : float
        On the validation crops, as deployed: plain top-k, no augmentation.
    k : int or None
        Pixels kept in this epoch.
    seconds : float
        Wall time of the epoch.
    best : bool
        Whether these are the best weights so far at the final k.
    figure : str
        What the accuracies are, where they are something else, such as a
        C-index; see `metrics.FIGURE_TITLES`.
    """

    epoch: int
    epochs: int
    train_loss: float
    train_accuracy: float
    loss: float
    accuracy: float
    k: int | None
    seconds: float
    best: bool
    figure: str = "accuracy"

    def __str__(self) -> str:
        pixels = "" if self.k is None else f", {self.k} pixels"
        named = "" if self.figure == "accuracy" else f"{FIGURE_TITLES[self.figure]} in "
        held = (
            "nothing held out"
            if self.loss != self.loss
            else f"held out {self._say(self.accuracy)} (loss {self.loss:.4f})"
        )
        return (
            f"epoch {self.epoch}/{self.epochs}: {named}training {self._say(self.train_accuracy)}, "
            f"{held}{pixels}, {self.seconds:.0f} s"
        )

    def _say(self, value: float) -> str:
        if self.figure == "accuracy":
            return f"{100 * value:.1f} %"
        return f"{value:.3f}" if np.isfinite(value) else "unknown"


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuneEpoch(EpochReport):
    """One epoch of fine-tuning.

    Attributes
    ----------
    drift : float
        Kullback-Leibler divergence in nats from what the fitted head says of
        unannotated crops. It is added to the held-out loss where the best
        epoch is chosen: held-out cells of new classes alone would favour a
        model that takes everything for them.
    moved : float or None
        Of a SparseAttnNet: share of the selected pixels of the watched cells
        that the model before did not select.
    watched : numpy.ndarray
        (m, k) int64: selected pixels, ``row * size + column``, of the first
        few held-out cells; (0, 0) of a TNet.
    """

    drift: float = 0.0
    moved: float | None = None
    watched: npt.NDArray[np.int64] = dataclasses.field(
        default_factory=lambda: np.empty((0, 0), np.int64)
    )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FineTuneEpoch:
        """Make one from its `numbers` and what was watched; other entries are ignored.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is none.
        """
        known = {field.name for field in dataclasses.fields(cls)} - {"figure"}
        values = {key: value for key, value in plain.items() if key in known}
        for key in ("train_loss", "train_accuracy", "loss", "accuracy"):
            if values.get(key) is None:
                values[key] = float("nan")
        watched = np.array(values.pop("watched", []), dtype=np.int64)
        if watched.ndim == 2:
            values["watched"] = watched
        return cls(**{"k": None, "seconds": 0.0, "best": False, **values})

    def numbers(self) -> dict[str, float | int | None]:
        """Return what a card and a checkpoint keep; what is not finite is None."""
        every = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del every["watched"], every["figure"]
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in every.items()
        }
