"""Training a crop classifier: its steps, its loss, and k learned from what is held out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.normalise import Normalisation, to_float
from ...models.sparse.network import SparseAttnNet, distillation_loss
from .augment import Augmentation
from .epochs import EpochReport
from .loop import Judgement, Loop, optimiser, rate_factor
from .pixel_budget import PixelBudget
from .precision import trains_in_bfloat16

__all__ = ["EpochReport", "FitOptions", "fit", "predict_logits", "predict_states"]


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the training crops.
    batch_size : int
        Crops per step.
    learning_rate : float
        AdamW's peak rate: one epoch of warm-up, constant for `steady` of the
        epochs, then a cosine to zero.
    weight_decay : float
        AdamW's weight decay.
    label_smoothing : float
        Of the cross-entropy.
    steady : float
        Share of the epochs before annealing. While it lasts, k is learned and
        random pixels explored; after it, training sees what deployment sees.
    first_share : float
        Share of the pixels kept at the start.
    least_share, most_share : float
        k never falls below the one, and is at most the other in the end, even
        if the loss was still falling.
    explore : float
        Random share of the kept pixels at the start, falling to 0 by the end
        of the steady epochs.
    distill : float
        Weight of the distillation loss.
    device : str
        A torch device.
    bfloat16 : bool or None
        Compute in bfloat16 where autocast allows it; None asks the processor.
    seed : int
        Seeds everything.
    """

    epochs: int = 24
    batch_size: int = 32
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    steady: float = 0.6
    first_share: float = 0.4
    least_share: float = 0.08
    most_share: float = 0.15
    explore: float = 0.3
    distill: float = 0.5
    device: str = "cpu"
    bfloat16: bool | None = None
    seed: int = 0


def predict_logits(
    model: nn.Module,
    crops: npt.NDArray[Any],
    normalisation: Normalisation,
    size: int,
    *,
    device: str = "cpu",
    batch_size: int = 256,
    bfloat16: bool = False,
) -> Tensor:
    """Logits (N, n_classes) of stored crops (N, h, w, C), as deployed."""
    batches = _Batches(crops, normalisation, size, device, batch_size)
    return _predict(model, batches, bfloat16, _logits)


def predict_states(
    model: nn.Module,
    crops: npt.NDArray[Any],
    normalisation: Normalisation,
    size: int,
    *,
    device: str = "cpu",
    batch_size: int = 256,
) -> Tensor:
    """What the last layer reads (N, D) of stored crops (N, h, w, C), as deployed."""
    batches = _Batches(crops, normalisation, size, device, batch_size)
    return _predict(model, batches, False, lambda output: output.state)


def iter_inputs(
    crops: npt.NDArray[Any],
    normalisation: Normalisation,
    size: int,
    *,
    device: str = "cpu",
    batch_size: int = 256,
) -> Iterator[Tensor]:
    """Stored crops (N, h, w, C) as models take them, a batch (B, C, size, size) at a time."""
    yield from _Batches(crops, normalisation, size, device, batch_size)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Stored crops, and how they become input."""

    crops: npt.NDArray[Any]
    normalisation: Normalisation
    size: int
    device: str
    batch_size: int

    def __iter__(self) -> Iterator[Tensor]:
        size = self.size
        for start in range(0, len(self.crops), self.batch_size):
            batch = _to_batch(self.crops[start : start + self.batch_size])
            if batch.shape[-1] != size:
                batch = F.interpolate(batch, size=(size, size), mode="area")
            yield _normalise(batch, self.normalisation, self.device)


def _predict(
    model: nn.Module, batches: _Batches, bfloat16: bool, read: Callable[[Any], Tensor]
) -> Tensor:
    model.eval()
    with torch.inference_mode(), _autocast(batches.device, bfloat16):
        return torch.cat([read(model(batch)).float().cpu() for batch in batches])


def fit(
    model: nn.Module,
    train: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    *,
    normalisation: Normalisation,
    size: int,
    augmentation: Augmentation,
    options: FitOptions,
) -> Iterator[EpochReport]:
    """Train a crop classifier; the model holds the best weights however it ends.

    `model` is a `SparseAttnNet`, whose k is learned and distillation added,
    or any module from crops to logits, so that peers train by the same code.

    Parameters
    ----------
    model : nn.Module
        Trained in place. A `SparseAttnNet` gets a new ``config`` with its k.
    train, validation : tuple of arrays
        Crops (N, h, w, C), uint8 or floats, and labels (N,). Crops are stored at
        `size` or a multiple of it, so that augmentation resamples once.
    normalisation : Normalisation
        Applied after augmentation, and at deployment.
    size : int
        Side of the model's input.
    augmentation : Augmentation
        Random changes to the training crops.
    options : FitOptions
        Everything else.

    Yields
    ------
    EpochReport
        After each epoch; closing the iterator stops training.
    """
    torch.manual_seed(options.seed)
    steps = _Steps(
        model.to(options.device), train, validation, normalisation, size, augmentation, options
    )
    yield from Loop(model, steps, options.epochs, EpochReport)


class _Steps:
    """Crops drawn, augmented and learned from; k learned from the held-out loss."""

    def __init__(
        self,
        model: nn.Module,
        train: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
        validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
        normalisation: Normalisation,
        size: int,
        augmentation: Augmentation,
        options: FitOptions,
    ) -> None:
        self.model, self.normalisation, self.size = model, normalisation, size
        self.augmentation, self.options = augmentation, options
        asked = options.bfloat16
        self.bfloat16 = trains_in_bfloat16(options.device) if asked is None else asked
        self.crops, self.labels = train
        self.held, self.truth = validation[0], torch.from_numpy(validation[1])
        self.sparse = model if isinstance(model, SparseAttnNet) else None
        first = round(options.first_share * size * size)
        self.budget = PixelBudget(first, least=max(1, round(options.least_share * size * size)))
        self._set_k(first)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.optimiser = optimiser(model, options.learning_rate, options.weight_decay)
        self.steady = max(1, round(options.steady * options.epochs))
        steps = math.ceil(len(self.crops) / options.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: rate_factor(step / steps, self.steady, options.epochs)
        )
        self.done = 0

    @property
    def k(self) -> int | None:
        return self.sparse.config.k if self.sparse is not None else None

    def train(self, number: int) -> tuple[float, float]:
        """Go through the crops once; return mean loss and accuracy."""
        self.model.train()
        explore = self.options.explore * max(0.0, 1 - self.done / self.steady)
        total = right = seen = 0.0
        order = torch.randperm(len(self.crops), generator=self.generator)
        for rows in order.split(self.options.batch_size):
            if len(rows) < 2:  # batch statistics need two
                continue
            loss, hits = self._step(rows.numpy(), explore)
            total += loss * len(rows)
            right += hits
            seen += len(rows)
        self.done = number
        return total / max(seen, 1), right / max(seen, 1)

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement:
        """Measure the model as deployed, and learn k from its loss."""
        options, k = self.options, self.k
        scores = predict_logits(
            self.model,
            self.held,
            self.normalisation,
            self.size,
            device=options.device,
            bfloat16=self.bfloat16,
        )
        loss = float(F.cross_entropy(scores, self.truth))
        accuracy = float((scores.argmax(1) == self.truth).float().mean())
        self.adapt(loss)
        # Until k is settled, a loss may be better for a k that is not kept.
        settled = number > self.steady or number == options.epochs
        return Judgement(loss, accuracy, k, counts=settled)

    def adapt(self, loss: float) -> None:
        """Learn k from the validation loss; freeze it when annealing begins."""
        if self.done < self.steady:
            self._set_k(self.budget.step(loss))
        else:
            most = round(self.options.most_share * self.size**2)
            self._set_k(min(self.budget.freeze(), most))

    def _step(self, rows: npt.NDArray[np.int64], explore: float) -> tuple[float, float]:
        options = self.options
        batch = self.augmentation(_to_batch(self.crops[rows]), self.size, self.generator)
        target = torch.from_numpy(self.labels[rows]).to(options.device)
        with _autocast(options.device, self.bfloat16):
            inputs = _normalise(batch, self.normalisation, options.device)
            if self.sparse is not None:
                output = self.sparse(inputs, explore=explore)
            else:
                output = self.model(inputs)
        logits = _logits(output).float()
        loss = F.cross_entropy(logits, target, label_smoothing=options.label_smoothing)
        if self.sparse is not None:
            loss = loss + options.distill * distillation_loss(output)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        return float(loss.detach()), float((logits.argmax(1) == target).sum())

    def _set_k(self, k: int) -> None:
        if self.sparse is not None:
            self.sparse.config = dataclasses.replace(self.sparse.config, k=k)


def _to_batch(crops: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(to_float(crops)).permute(0, 3, 1, 2)


def _normalise(batch: Tensor, normalisation: Normalisation, device: str) -> Tensor:
    ready = torch.from_numpy(normalisation(batch.numpy()))
    return ready.to(device).contiguous(memory_format=torch.channels_last)


def _logits(output: object) -> Tensor:
    logits = getattr(output, "logits", output)
    assert isinstance(logits, Tensor)
    return logits


def _autocast(device: str, enabled: bool) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
