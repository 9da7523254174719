"""The one training loop: epochs, learning rate, and the best weights, however it ends."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .epochs import EpochReport, FineTuneEpoch

__all__ = [
    "BestWeights",
    "Judgement",
    "Loop",
    "Resume",
    "Steps",
    "Weights",
    "copy_weights",
    "optimiser",
    "rate_factor",
    "set_rate",
]

Weights = dict[str, Tensor]
Report = TypeVar("Report", bound=EpochReport)


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement:
    """How good a model is after an epoch.

    Attributes
    ----------
    loss, accuracy : float
        On what is held out, as deployed; NaN where nothing is.
    k : int or None
        Pixels kept in the epoch.
    score : float, optional
        What is the lowest of the best epoch; by default the loss.
    counts : bool
        Whether the epoch may be the best; until one may, the latest is kept.
    weights : dict of str to Tensor, optional
        What is kept of it; by default the model's weights of now.
    drift, moved, watched
        As in `FineTuneEpoch`.
    figure : str
        What the accuracy is, see `EpochReport`.
    """

    loss: float
    accuracy: float
    k: int | None = None
    score: float | None = None
    counts: bool = True
    weights: Weights | None = None
    drift: float = 0.0
    moved: float | None = None
    watched: npt.NDArray[np.int64] = dataclasses.field(
        default_factory=lambda: np.empty((0, 0), np.int64)
    )
    figure: str = "accuracy"


class Steps(Protocol):
    """What is particular to one of the trainings: its steps, its loss, and how it is judged."""

    def train(self, number: int) -> tuple[float, float] | None:
        """Take an epoch's steps; return mean loss and accuracy, None if stopped."""

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement | None:
        """Measure the model as deployed, None if stopped."""


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a run's progress is kept, and how its steps are saved and restored.

    Parameters
    ----------
    path : pathlib.Path
        The checkpoint, written after each epoch.
    fingerprint : str
        Of the model, the data and the settings.
    save : callable
        Returns the state of the steps.
    """

    path: Path
    fingerprint: str
    save: Callable[[], Weights]
    bfloat16: bool = False


class BestWeights:
    """The weights a model had when its score was lowest, on the CPU.

    Parameters
    ----------
    model : nn.Module
        Its weights of now are those to begin with.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.score, self.weights, self.epoch = float("inf"), copy_weights(model), 0

    def keep(self, score: float, weights: Weights | None = None, epoch: int = 0) -> bool:
        """Keep the weights of now if this score is the lowest so far; say whether it is."""
        if not score < self.score:
            return False
        self.score, self.epoch = score, epoch
        self.weights = copy_weights(self._model) if weights is None else weights
        return True

    def replace(self) -> None:
        """Keep the weights of now, which any score is better than."""
        self.score, self.weights = float("inf"), copy_weights(self._model)

    def restore(self) -> None:
        """Give the model those weights, and put it in evaluation mode."""
        self._model.load_state_dict(self.weights)
        self._model.eval()


class Loop(Generic[Report]):
    """Epoch after epoch.

    However it ends, by itself, stopped, by an error, or since its iterator is
    closed, the model then holds the best weights, and is in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        What the best weights are given to.
    steps : Steps
        What is done in an epoch.
    epochs : int
        Passes, at most.
    report : type
        `EpochReport`, or `FineTuneEpoch`.
    patience : int, optional
        End when so many epochs have passed since the best.
    from_half : bool
        Count those only of the second half.
    then : callable, optional
        Asked after each epoch, before its report is given out; False ends it.
    stopped : callable, optional
        Called with the number of the epoch in which it was stopped.

    Attributes
    ----------
    history : list of EpochReport
        Every epoch so far.
    best : BestWeights
    resume : Resume or None
        Where progress is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: Steps,
        epochs: int,
        report: type[Report],
        *,
        patience: int | None = None,
        from_half: bool = False,
        then: Callable[[Report], bool] | None = None,
        stopped: Callable[[int], None] | None = None,
    ) -> None:
        self.steps, self.epochs, self.report = steps, epochs, report
        self.patience, self.from_half = patience, from_half
        self.then, self.stopped = then, stopped
        self.best = BestWeights(model)
        self.history: list[Report] = []
        self.resume: Resume | None = None

    def __iter__(self) -> Iterator[Report]:
        try:
            while len(self.history) < self.epochs and not self._is_stale():
                began, number = time.perf_counter(), len(self.history) + 1
                trained = self.steps.train(number)
                judged = None if trained is None else self.steps.judge(number, trained)
                if trained is None or judged is None:
                    if self.stopped is not None:
                        self.stopped(number)
                    return
                epoch = self._note(number, trained, judged, began)
                more = self.then is None or self.then(epoch)
                self._save()
                yield epoch
                if not more:
                    return
        finally:  # also when the iterator is closed, or a step fails
            self.best.restore()

    def go_on(self, resume: Resume) -> Checkpoint | str:
        """Keep progress in a file, and go on from what is there.

        Returns
        -------
        Checkpoint or str
            What was gone on from, whose state the steps still have to take; or
            in one sentence why there is none, empty where there is no file.
        """
        self.resume = resume
        found = read_checkpoint(resume.path, resume.fingerprint)
        if isinstance(found, Checkpoint):
            self.history = [self._read(row) for row in found.history]
            self.epochs = found.epochs
            self.best.weights, self.best.epoch = found.best, found.best_epoch
            self.best.score = found.best_score
        return found

    def _read(self, row: dict[str, float | int | None]) -> Report:
        epoch = FineTuneEpoch.from_dict(row)
        assert isinstance(epoch, self.report)
        return epoch

    def _note(
        self, number: int, trained: tuple[float, float], judged: Judgement, began: float
    ) -> Report:
        score = judged.loss if judged.score is None else judged.score
        best = judged.counts and self.best.keep(score, judged.weights, number)
        if not judged.counts:
            # What is kept if it ends here: there is nothing yet to compare it with.
            self.best.replace()
        more: dict[str, Any] = {"figure": judged.figure}
        if issubclass(self.report, FineTuneEpoch):
            more |= {"drift": judged.drift, "moved": judged.moved, "watched": judged.watched}
        epoch = self.report(
            number, self.epochs, *trained, judged.loss, judged.accuracy, judged.k,
            time.perf_counter() - began, best, **more,
        )  # fmt: skip
        self.history.append(epoch)
        return epoch

    def _is_stale(self) -> bool:
        if self.patience is None:
            return False
        best = [epoch.epoch for epoch in self.history if epoch.best]
        since = max([*best, self.epochs // 2 if self.from_half else 0])
        return len(self.history) - since >= self.patience

    def _save(self) -> None:
        if self.resume is None:
            return
        rows = [epoch.numbers() for epoch in self.history if isinstance(epoch, FineTuneEpoch)]
        write_checkpoint(self.resume.path, Checkpoint(
            self.resume.fingerprint, self.epochs, self.resume.bfloat16, rows,
            self.best.epoch, self.best.score, self.resume.save(), self.best.weights,
        ))  # fmt: skip


def copy_weights(model: nn.Module) -> Weights:
    """Return a model's weights as tensors of their own, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def rate_factor(epoch: float, steady: float, epochs: int) -> float:
    """Return the learning rate over its peak after so many epochs, fractions included.

    One epoch of warm-up, constant until `steady`, then a cosine to zero.
    """
    if epoch < 1:
        return max(epoch, 0.01)
    if epoch < steady:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - steady) / max(1, epochs - steady))))


def set_rate(made: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, times the ``"share"`` of each group."""
    for group in made.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW for the weights that take gradients; biases and scales do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)
