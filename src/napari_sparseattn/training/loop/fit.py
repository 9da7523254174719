"""The training loop: crops in, epochs out, one report at a time."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.normalise import Normalisation, to_float
from ...models.sparse.network import SparseAttnNet, distillation_loss
from .augment import Augmentation
from .pixel_budget import PixelBudget
from .precision import trains_in_bfloat16

__all__ = [
    "BestWeights",
    "EpochReport",
    "FitOptions",
    "fit",
    "optimiser",
    "predict_logits",
    "rate_factor",
]


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


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One epoch.

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

    def __str__(self) -> str:
        looks = "" if self.k is None else f", {self.k} pixels"
        return (
            f"epoch {self.epoch}/{self.epochs}: training {100 * self.train_accuracy:.1f} %, held "
            f"out {100 * self.accuracy:.1f} % (loss {self.loss:.4f}){looks}, {self.seconds:.0f} s"
        )


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
    model.eval()
    parts = []
    with torch.inference_mode(), _autocast(device, bfloat16):
        for start in range(0, len(crops), batch_size):
            batch = _to_batch(crops[start : start + batch_size])
            if batch.shape[-1] != size:
                batch = F.interpolate(batch, size=(size, size), mode="area")
            parts.append(_logits(model(_normalised(batch, normalisation, device))).float().cpu())
    return torch.cat(parts)


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
    """Train a crop classifier; the model holds the best weights at the end.

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
    run = _Run(model.to(options.device), train, normalisation, size, augmentation, options)
    targets = torch.from_numpy(validation[1])
    kept = BestWeights(model)
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        k = run.k
        train_loss, train_accuracy = run.epoch()
        scores = run.deployed(validation[0])
        loss = float(F.cross_entropy(scores, targets))
        # Until k is settled, a loss may be better for a k that is not kept.
        best = (epoch > run.steady or epoch == options.epochs) and kept.keep(loss)
        run.adapt(loss)
        accuracy = float((scores.argmax(1) == targets).float().mean())
        seconds = time.perf_counter() - began
        yield EpochReport(
            epoch, options.epochs, train_loss, train_accuracy, loss, accuracy, k, seconds, best
        )
    kept.restore()


class BestWeights:
    """The weights a model had when its loss was lowest.

    Parameters
    ----------
    model : nn.Module
        Its weights of now are those to begin with.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._loss = model, float("inf")
        self._weights = copy.deepcopy(model.state_dict())

    def keep(self, loss: float) -> bool:
        """Keep the weights of now if this loss is the lowest so far; say whether it is."""
        if not loss < self._loss:
            return False
        self._loss, self._weights = loss, copy.deepcopy(self._model.state_dict())
        return True

    def restore(self) -> None:
        """Give the model those weights, and put it in evaluation mode."""
        self._model.load_state_dict(self._weights)
        self._model.eval()


class _Run:
    """What changes from step to step."""

    def __init__(
        self,
        model: nn.Module,
        train: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
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

    def epoch(self) -> tuple[float, float]:
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
        self.done += 1
        return total / max(seen, 1), right / max(seen, 1)

    def deployed(self, crops: npt.NDArray[Any]) -> Tensor:
        """Logits as at deployment."""
        options = self.options
        return predict_logits(
            self.model,
            crops,
            self.normalisation,
            self.size,
            device=options.device,
            bfloat16=self.bfloat16,
        )

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
            inputs = _normalised(batch, self.normalisation, options.device)
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


def rate_factor(epoch: float, steady: float, epochs: int) -> float:
    """Return the learning rate over its peak after so many epochs, fractions included.

    One epoch of warm-up, constant until `steady`, then a cosine to zero.
    """
    if epoch < 1:
        return max(epoch, 0.01)
    if epoch < steady:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - steady) / max(1, epochs - steady))))


def optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW for the weights that take gradients; biases and scales do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def _to_batch(crops: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(to_float(crops)).permute(0, 3, 1, 2)


def _normalised(batch: Tensor, normalisation: Normalisation, device: str) -> Tensor:
    ready = torch.from_numpy(normalisation(batch.numpy()))
    return ready.to(device).contiguous(memory_format=torch.channels_last)


def _logits(output: object) -> Tensor:
    logits = getattr(output, "logits", output)
    assert isinstance(logits, Tensor)
    return logits


def _autocast(device: str, enabled: bool) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
