"""Epochs of fine-tuning: judged on held-out cells, the best kept, progress on disk."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.sparse.network import SparseAttnNet
from ..loop.checkpoint import Checkpoint
from ..loop.classifier import fit_temperature
from ..loop.control import TrainingControl
from ..loop.epochs import FineTuneEpoch
from ..loop.fit import predict_logits
from ..loop.loop import Judgement, Loop, Resume, Weights
from .grown_head import CellNet, to_input
from .report import LEAST_TO_CALIBRATE, FineTuneReport, HeldOut, KeptCells, compare
from .steps import TuneSteps, freeze_parts
from .task import Task

__all__ = ["FineTuneRun"]

#: Epochs without a better held-out loss before training ends early.
_PATIENCE = 4
#: Unannotated crops on which `FineTuneEpoch.drift` is measured.
_DRIFTED = 200
#: Held-out cells whose selected pixels are followed from epoch to epoch.
_WATCHED = 6


class FineTuneRun:
    """Fine-tuning of a cell model: what is judged, watched and reported of its epochs."""

    def __init__(self, task: Task, control: TrainingControl) -> None:
        self.task, self.control = task, control
        self.began = time.perf_counter()
        options = task.options
        self.notes: list[str] = []
        model, data = task.prepare(control.proceed)
        freeze_parts(model, task.freeze)
        # The best weights are given to the moving average, which is what is judged.
        self.mean = copy.deepcopy(model).eval().requires_grad_(False).to(task.device)
        self.loop = Loop(
            self.mean,
            self,
            0 if task.freeze == "head" else task.steps.epochs,
            FineTuneEpoch,
            patience=_PATIENCE,
            from_half=True,
            then=self._fit_to_time,
            stopped=self._note_stop,
        )
        found: Checkpoint | str = ""
        if options.checkpoint is not None:
            resume = Resume(options.checkpoint, task.fingerprint(), self._state)
            found = self.loop.go_on(resume)
            if isinstance(found, str) and found:
                self.notes.append(found)
        bfloat16 = found.bfloat16 if isinstance(found, Checkpoint) else _bfloat16(task, model)
        self.steps = TuneSteps(
            model,
            data,
            dataclasses.replace(task.steps, epochs=max(1, self.loop.epochs)),
            mean=self.mean,
            normalisation=task.card.normalisation,
            augmentation=task.augmentation,
            size=task.size,
            balance=options.balance,
            device=task.device,
            bfloat16=bfloat16,
            seed=options.seed,
        )
        if self.loop.resume is not None:
            self.loop.resume = dataclasses.replace(self.loop.resume, bfloat16=bfloat16)
        if isinstance(found, Checkpoint):
            self.steps.restore(found.state, len(self.loop.history))
            self.notes.append(f"Went on after epoch {len(self.loop.history)} from a checkpoint.")
        self.before = self._list_selected(task.bundle.cell_model(task.device))
        if not isinstance(found, Checkpoint):
            self.loop.best.score = self._score_head()

    def __iter__(self) -> Iterator[FineTuneEpoch]:
        return iter(self.loop)

    def train(self, number: int) -> tuple[float, float] | None:
        """Take an epoch's steps; return mean loss and accuracy, None if stopped."""
        return self.steps.epoch(self.control.proceed)

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement:
        """Measure the moving average of the weights on held-out and on unannotated cells."""
        logits, truth = self._logits(self.mean), torch.from_numpy(self.task.held.labels)
        held_loss = held_accuracy = float("nan")
        if len(truth):
            held_loss = float(F.cross_entropy(logits, truth))
            held_accuracy = float((logits.argmax(1) == truth).float().mean())
        drift, watched = self._drift(self.mean), self._list_selected(self.mean)
        return Judgement(
            held_loss,
            held_accuracy,
            self.mean.config.k if isinstance(self.mean, SparseAttnNet) else None,
            _score(held_loss, drift),
            drift=drift,
            moved=_measure_moved(self.before, watched),
            watched=watched,
        )

    def _state(self) -> Weights:
        return self.steps.state()

    def _note_stop(self, number: int) -> None:
        kept = f"epoch {self.loop.best.epoch}" if self.loop.best.epoch else "the fitted head"
        self.notes.append(f"Cancelled in epoch {number} of {self.loop.epochs}; {kept} is kept.")

    def _score_head(self) -> float:
        truth = torch.from_numpy(self.task.held.labels)
        logits = self._logits(self.mean)
        loss = float(F.cross_entropy(logits, truth)) if len(truth) else float("nan")
        return _score(loss, self._drift(self.mean))

    def result(self) -> tuple[CellNet, FineTuneReport]:
        """Calibrate the best weights, and compare them with the model before."""
        task = self.task
        self.loop.best.restore()
        model = self.mean.cpu()
        logits = self._logits(model)
        old = predict_logits(
            task.bundle.cell_model(), task.held.crops, task.card.normalisation, task.size
        ) if len(task.held) else torch.empty(0, len(task.card.class_names))  # fmt: skip
        temperature = task.card.temperature
        truth = torch.from_numpy(task.held.labels)
        if len(truth) >= LEAST_TO_CALIBRATE:
            temperature = fit_temperature(logits, truth)
        held = HeldOut(task.held.names, task.held.labels, task.classes, task.card.class_names)
        report = compare(
            held,
            old / task.card.temperature,
            logits,
            temperature,
            history=[epoch.numbers() for epoch in self.loop.history],
            best_epoch=self.loop.best.epoch,
            annotated=dict(zip(task.classes, np.bincount(
                task.dataset.labels, minlength=len(task.classes)).tolist(), strict=True)),
            unannotated=self._agreement(model),
            seconds=time.perf_counter() - self.began,
            notes=self.notes,
            kept=self._compare_kept(model),
        )  # fmt: skip
        return model, report

    def _compare_kept(self, model: CellNet) -> KeptCells | None:
        """What both models say of held-out states; they are of the old layers below the last."""
        known = self.task.bundle.known
        if known is None or not known.held.any() or self.task.freeze != "head":
            return None
        states = torch.from_numpy(known.states[known.held])
        with torch.inference_mode():
            old = self.task.bundle.cell_model().head(states).argmax(1).numpy()
            new = model.head(states).argmax(1).numpy()
        return KeptCells(known.labels[known.held], old, new)

    def _drift(self, model: CellNet) -> float:
        """How far the model has come from what the fitted head says of unannotated crops."""
        data, task = self.steps.data, self.task
        if not len(data.others):
            return 0.0
        some = slice(0, _DRIFTED)
        logits = predict_logits(
            model, data.others[some], task.card.normalisation, task.size, device=task.device
        )
        shares = data.shares[some].cpu()
        return float(F.kl_div(logits.log_softmax(1), shares, reduction="batchmean"))

    def _logits(self, model: CellNet) -> Tensor:
        task = self.task
        if not len(task.held):
            return torch.empty(0, len(task.classes))
        device = str(next(model.parameters()).device)
        return predict_logits(
            model, task.held.crops, task.card.normalisation, task.size, device=device
        )

    def _list_selected(self, model: CellNet) -> npt.NDArray[np.int64]:
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
        before = self.steps.data.old.argmax(1)
        return {
            "n": len(given),
            "as_before": float((now == before).float().mean()),
            "of_new_classes": float((now >= n_old).float().mean()),
        }

    def _fit_to_time(self, epoch: FineTuneEpoch) -> bool:
        """Let the first epoch's time set how many follow."""
        seconds = self.task.options.seconds
        if seconds is not None and epoch.epoch == 1:
            spent = time.perf_counter() - self.began
            more = max(1, int((seconds - spent) / max(epoch.seconds, 1e-6)))
            self.loop.epochs = min(self.loop.epochs, 1 + more)
            self.steps.options = dataclasses.replace(self.steps.options, epochs=self.loop.epochs)
        return True


def _score(held_loss: float, drift: float) -> float:
    return drift if held_loss != held_loss else held_loss + drift


def _measure_moved(before: npt.NDArray[np.int64], now: npt.NDArray[np.int64]) -> float | None:
    if not before.size or before.shape != now.shape:
        return None
    kept = [np.isin(new, old).mean() for old, new in zip(before, now, strict=True)]
    return float(1 - np.mean(kept))


def _bfloat16(task: Task, model: CellNet) -> bool:
    """Whether to compute in bfloat16; timed on the first crops where that is left open."""
    choice = task.options.mixed_precision
    if task.freeze == "head":
        return False
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
