"""Epochs of fine-tuning: judged on held-out cells, the best kept, progress on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.sparse.network import SparseAttnNet
from ..loop.classifier import fit_temperature
from ..loop.control import TrainingControl
from ..loop.fit import EpochReport, predict_logits
from .checkpoint import Progress, read_progress, write_progress
from .grown_head import CellNet, to_input
from .report import FineTuneReport, HeldOut, compare
from .steps import StepRun, trained_parts
from .task import Task

__all__ = ["FineTuneEpoch", "FineTuneRun"]

#: Held-out cells below which the old temperature stays.
_LEAST_TO_CALIBRATE = 20
#: Epochs without a better held-out loss before training ends early.
_PATIENCE = 4
#: Unannotated crops on which `FineTuneEpoch.drift` is measured.
_DRIFTED = 200
#: Held-out cells whose selected pixels are followed from epoch to epoch.
_WATCHED = 6


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuneEpoch(EpochReport):
    """One epoch; loss and accuracy are NaN where nothing is held out.

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
    def of(cls, numbers: Mapping[str, Any]) -> FineTuneEpoch:
        """Return an epoch from its `numbers`, without what was watched."""
        nan = float("nan")
        kept: dict[str, Any] = {
            key: nan if value is None and key in ("loss", "accuracy") else value
            for key, value in numbers.items()
        }
        return cls(**kept)

    def numbers(self) -> dict[str, float | int | None]:
        """Return what a card and a checkpoint keep; NaN is None."""
        every = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del every["watched"]
        return {key: None if value != value else value for key, value in every.items()}


class FineTuneRun:
    """Epoch after epoch, with the best kept and progress on disk."""

    def __init__(self, task: Task, control: TrainingControl) -> None:
        self.task, self.control = task, control
        self.began = time.perf_counter()
        options = task.options
        self.notes: list[str] = []
        model, stock = task.stock(control.proceed)
        trained_parts(model, task.freeze)
        self.epochs = task.recipe.epochs
        self.history: list[FineTuneEpoch] = []
        self.best_epoch, self.best_score = 0, float("inf")
        self.best = _weights(model)
        self.mark = task.fingerprint() if options.checkpoint else ""
        found = self._found()
        bfloat16 = found.bfloat16 if found else _bfloat16(task, model)
        self.run = StepRun(
            model,
            stock,
            task.recipe,
            normalisation=task.card.normalisation,
            augmentation=task.augmentation,
            size=task.size,
            balance=options.balance,
            device=task.device,
            bfloat16=bfloat16,
            seed=options.seed,
        )
        if found:
            self._go_on(found)
        self.before = self._selected(task.bundle.cell_model(task.device))
        if not found:
            self.best_score = self._score_of_head()

    def __iter__(self) -> Iterator[FineTuneEpoch]:
        while len(self.history) < self.epochs and self._stale < _PATIENCE:
            began = time.perf_counter()
            trained = self.run.epoch(self.control.proceed)
            if trained is None:
                self.notes.append(
                    f"Cancelled in epoch {len(self.history) + 1} of {self.epochs}; "
                    f"{f'epoch {self.best_epoch}' if self.best_epoch else 'the fitted head'} "
                    "is kept."
                )
                return
            epoch = self._judged(*trained, began)
            self.history.append(epoch)
            self._fit_to_time(epoch)
            self._save()
            yield epoch

    @property
    def _stale(self) -> int:
        """Epochs of the second half since the best, also of those before a kill."""
        best = [epoch.epoch for epoch in self.history if epoch.best]
        return len(self.history) - max([*best, self.epochs // 2])

    def _score_of_head(self) -> float:
        truth = torch.from_numpy(self.task.held.labels)
        logits = self._logits(self.run.mean)
        loss = float(F.cross_entropy(logits, truth)) if len(truth) else float("nan")
        return _score(loss, self._drift(self.run.mean))

    def result(self) -> tuple[CellNet, FineTuneReport]:
        """Calibrate the best weights, and compare them with the model before."""
        task = self.task
        model = self.run.mean
        model.load_state_dict(self.best)
        model.cpu().eval()
        logits = self._logits(model)
        old = predict_logits(
            task.bundle.cell_model(), task.held.crops, task.card.normalisation, task.size
        ) if len(task.held) else torch.empty(0, len(task.card.class_names))  # fmt: skip
        temperature = task.card.temperature
        truth = torch.from_numpy(task.held.labels)
        if len(truth) >= _LEAST_TO_CALIBRATE:
            temperature = fit_temperature(logits, truth)
        held = HeldOut(task.held.names, task.held.labels, task.classes, task.card.class_names)
        report = compare(
            held,
            old / task.card.temperature,
            logits,
            temperature,
            history=[epoch.numbers() for epoch in self.history],
            best_epoch=self.best_epoch,
            annotated=dict(zip(task.classes, np.bincount(
                task.dataset.labels, minlength=len(task.classes)).tolist(), strict=True)),
            unannotated=self._agreement(model),
            seconds=time.perf_counter() - self.began,
            notes=self.notes,
        )  # fmt: skip
        return model, report

    def _judged(self, loss: float, accuracy: float, began: float) -> FineTuneEpoch:
        number = len(self.history) + 1
        logits, truth = self._logits(self.run.mean), torch.from_numpy(self.task.held.labels)
        held_loss = held_accuracy = float("nan")
        if len(truth):
            held_loss = float(F.cross_entropy(logits, truth))
            held_accuracy = float((logits.argmax(1) == truth).float().mean())
        drift = self._drift(self.run.mean)
        score = _score(held_loss, drift)
        best = score < self.best_score
        if best:
            self.best, self.best_epoch, self.best_score = _weights(self.run.mean), number, score
        watched = self._selected(self.run.mean)
        model = self.run.model
        return FineTuneEpoch(
            number, self.epochs, loss, accuracy, held_loss, held_accuracy,
            model.config.k if isinstance(model, SparseAttnNet) else None,
            time.perf_counter() - began, best, drift, _moved(self.before, watched), watched,
        )  # fmt: skip

    def _drift(self, model: CellNet) -> float:
        """How far the model has come from what the fitted head says of unannotated crops."""
        stock, task = self.run.stock, self.task
        some = slice(0, _DRIFTED)
        logits = predict_logits(
            model, stock.others[some], task.card.normalisation, task.size, device=task.device
        )
        shares = stock.shares[some].cpu()
        return float(F.kl_div(logits.log_softmax(1), shares, reduction="batchmean"))

    def _logits(self, model: CellNet) -> Tensor:
        task = self.task
        if not len(task.held):
            return torch.empty(0, len(task.classes))
        device = str(next(model.parameters()).device)
        return predict_logits(
            model, task.held.crops, task.card.normalisation, task.size, device=device
        )

    def _selected(self, model: CellNet) -> npt.NDArray[np.int64]:
        """Pixels that a SparseAttnNet selects of the watched cells."""
        task = self.task
        crops = task.held.crops[:_WATCHED]
        if not isinstance(model, SparseAttnNet) or not len(crops):
            return np.empty((0, 0), np.int64)
        with torch.inference_mode():
            inputs = to_input(crops, task.card.normalisation, task.size, task.device)
            found: npt.NDArray[np.int64] = model(inputs).indices.cpu().numpy()
        return found

    def _agreement(self, model: CellNet) -> dict[str, float]:
        """What becomes of the unannotated cells; empty where none were given."""
        task, n_old = self.task, len(self.task.card.class_names)
        given = task.options.unlabelled
        if given is None or not len(given):
            return {}
        now = predict_logits(model, given, task.card.normalisation, task.size).argmax(1)
        before = self.run.stock.old.argmax(1)
        return {
            "n": len(given),
            "as_before": float((now == before).float().mean()),
            "of_new_classes": float((now >= n_old).float().mean()),
        }

    def _fit_to_time(self, epoch: FineTuneEpoch) -> None:
        seconds = self.task.options.seconds
        if seconds is None or len(self.history) != 1:
            return
        spent = time.perf_counter() - self.began
        more = max(1, int((seconds - spent) / max(epoch.seconds, 1e-6)))
        self.epochs = min(self.epochs, 1 + more)
        self.run.recipe = dataclasses.replace(self.run.recipe, epochs=self.epochs)

    def _save(self) -> None:
        path = self.task.options.checkpoint
        if path is None:
            return
        write_progress(path, Progress(
            self.mark, self.epochs, self.run.bfloat16,
            [epoch.numbers() for epoch in self.history],
            self.best_epoch, self.best_score, self.run.state(), self.best,
        ))  # fmt: skip

    def _found(self) -> Progress | None:
        path = self.task.options.checkpoint
        if path is None:
            return None
        found = read_progress(path, self.mark)
        if isinstance(found, Progress):
            return found
        if found:
            self.notes.append(found)
        return None

    def _go_on(self, found: Progress) -> None:
        self.history += [FineTuneEpoch.of(row) for row in found.history]
        self.epochs = found.epochs
        self.run.recipe = dataclasses.replace(self.run.recipe, epochs=found.epochs)
        self.run.restore(found.state, len(self.history))
        self.best, self.best_epoch = found.best, found.best_epoch
        self.best_score = found.best_score
        self.notes.append(f"Went on after epoch {len(self.history)} from a checkpoint.")


def _score(held_loss: float, drift: float) -> float:
    return drift if held_loss != held_loss else held_loss + drift


def _weights(model: CellNet) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _moved(before: npt.NDArray[np.int64], now: npt.NDArray[np.int64]) -> float | None:
    if not before.size or before.shape != now.shape:
        return None
    kept = [np.isin(new, old).mean() for old, new in zip(before, now, strict=True)]
    return float(1 - np.mean(kept))


def _bfloat16(task: Task, model: CellNet) -> bool:
    """Whether to compute in bfloat16; timed on the first crops where that is left open."""
    choice = task.options.mixed_precision
    if choice != "auto":
        return choice == "bfloat16"
    inputs = to_input(task.crops[:16], task.card.normalisation, task.size, task.device)
    kind = torch.device(task.device).type
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3):
        for enabled, taken in times.items():
            began = time.perf_counter()
            with torch.autocast(kind, torch.bfloat16, enabled):
                loss = model(inputs).logits.float().square().mean()
            loss.backward()
            float(loss.detach())
            taken.append(time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return min(times[True][1:]) < 0.9 * min(times[False][1:])
