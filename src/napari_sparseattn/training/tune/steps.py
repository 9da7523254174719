"""The steps of fine-tuning: annotated crops teach, unannotated ones keep what was known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.normalise import Normalisation, to_float
from ...models.sparse.network import SparseAttnNet, distillation_loss
from ...models.tnet.network import TNet
from ..loop.augment import Augmentation
from ..loop.checkpoint import load_optimiser, optimiser_tensors, take_under
from ..loop.loop import optimiser, set_rate
from ..loop.tnet import TNetLoss
from .grown_head import CellNet, class_weights

__all__ = ["StepOptions", "TrainingCrops", "TuneSteps", "freeze_parts"]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How to train; the defaults are judgement, not the outcome of a search.

    Parameters
    ----------
    epochs : int
        How often the curves get a point.
    steps : int
        Steps of an epoch.
    batch_size : int
        Annotated crops per step, and unannotated ones.
    learning_rate : float
        AdamW's peak; warm-up over one epoch, then a cosine to zero.
    head_rate : float
        The head's rate over that of the rest.
    weight_decay, label_smoothing : float
        As in `FitOptions`.
    keep : float
        Weight of the unannotated crops.
    views : int
        Quarter turns of each crop that the head is fitted to.
    smoothing : float
        Of the weights' moving average, which is the model that is kept.
    explore, distill : float
        Of a SparseAttnNet; as in `FitOptions`.
    noise : float
        Of a TNet's choices; as in `TNetOptions`.
    """

    epochs: int = 10
    steps: int = 12
    batch_size: int = 32
    learning_rate: float = 5e-4
    head_rate: float = 2.0
    weight_decay: float = 0.02
    label_smoothing: float = 0.0
    keep: float = 2.0
    views: int = 4
    smoothing: float = 0.95
    explore: float = 0.05
    distill: float = 0.1
    noise: float = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingCrops:
    """Annotated crops, and others on which the model keeps what it knew.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, s, s, C) annotated and rehearsal crops.
    labels : numpy.ndarray
        (N,) int64, of the grown model's classes.
    others : numpy.ndarray
        (M, s, s, C) crops that nobody annotated; M may be 0.
    old : Tensor
        (M, n_old) probabilities by the model before.
    shares : Tensor
        (M, n_classes) from `fit_head`.
    """

    crops: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    others: npt.NDArray[Any]
    old: Tensor
    shares: Tensor


def freeze_parts(model: CellNet, freeze: str) -> CellNet:
    """Let gradients reach everything, the layers that read features, or the last; in place."""
    model.requires_grad_(freeze == "none")
    if freeze == "none":
        return model
    read: list[nn.Module] = [model.head]
    if freeze == "head":
        pass
    elif isinstance(model, SparseAttnNet):
        read += [model.norm, model.fine]
        model.cls.requires_grad_(True)
    else:
        read += [model.position]
    for module in read:
        module.requires_grad_(True)
    return model


class TuneSteps:
    """Crops drawn and learned from, and the moving average of the weights.

    Parameters
    ----------
    model : SparseAttnNet or TNet
        With a fitted head; trained in place.
    data : TrainingCrops
        What to train on.
    options : StepOptions
        How.
    mean : SparseAttnNet or TNet
        A copy without gradients, which becomes the moving average of the weights.
    normalisation, augmentation, size
        As in `fit`.
    balance : bool
        Draw classes equally often.
    device : str
        A torch device.
    bfloat16 : bool
        Compute in bfloat16 where autocast allows it.
    seed : int
        Seeds every epoch on its own, so that a run can go on after any.
    """

    def __init__(
        self,
        model: CellNet,
        data: TrainingCrops,
        options: StepOptions,
        *,
        mean: CellNet,
        normalisation: Normalisation,
        augmentation: Augmentation,
        size: int,
        balance: bool = True,
        device: str = "cpu",
        bfloat16: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.data, self.options = model.to(device), data, options
        self.normalisation, self.augmentation, self.size = normalisation, augmentation, size
        self.device, self.bfloat16, self.seed = device, bfloat16, seed
        self.mean = mean
        self.optimiser = _optimiser(model, options)
        self.done = 0
        self.tnet_loss = TNetLoss()
        weights = torch.ones(len(data.labels))
        if balance:
            every = class_weights(data.labels, model.config.n_classes)
            weights = every[torch.from_numpy(data.labels)]
        self.weights = weights

    def epoch(self, proceed: Callable[[], bool]) -> tuple[float, float] | None:
        """Take an epoch's steps; return mean loss and accuracy on the annotated crops.

        Parameters
        ----------
        proceed : callable
            Asked before each step; None is returned where it says no.
        """
        options = self.options
        seed = self.seed * 10_007 + self.done
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        total = right = 0.0
        for step in range(options.steps):
            if not proceed():
                return None
            self._set_rate(self.done + step / options.steps)
            loss, accuracy = self._step(generator)
            total += loss
            right += accuracy
        self.done += 1
        return total / options.steps, right / options.steps

    def state(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on, as tensors by name."""
        kept = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        kept |= {f"mean.{key}": value for key, value in self.mean.state_dict().items()}
        kept |= optimiser_tensors(self.optimiser)
        kept["baseline"] = torch.tensor(self.tnet_loss.baseline, dtype=torch.float64)
        return {key: value.detach().cpu().clone() for key, value in kept.items()}

    def restore(self, state: dict[str, Tensor], done: int) -> None:
        """Go on from a `state` after `done` epochs."""
        self.model.load_state_dict(take_under(state, "model."))
        self.mean.load_state_dict(take_under(state, "mean."))
        load_optimiser(self.optimiser, state)
        self.tnet_loss.baseline = float(state["baseline"])
        self.done = done

    def _step(self, generator: torch.Generator) -> tuple[float, float]:
        options = self.options
        # Statistics of a few crops of few kinds are worse than those learned.
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        rows = torch.multinomial(self.weights, options.batch_size, True, generator=generator)
        target = torch.from_numpy(self.data.labels)[rows].to(self.device)
        inputs = self._augment(self.data.crops[rows.numpy()], generator)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, self.bfloat16):
            loss, logits = self._teach(inputs, target, generator)
            if len(self.data.others) and options.keep:
                loss = loss + options.keep * self._keep_known(generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self._average()
        accuracy = float((logits.argmax(1) == target).float().mean())
        return float(loss.detach()), accuracy

    def _teach(
        self, inputs: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        options = self.options
        if isinstance(self.model, TNet):
            seen = self.model(inputs, noise=options.noise * self._left, generator=generator)
            return self.tnet_loss(seen, target), seen.logits
        output = self.model(inputs, explore=options.explore * self._left)
        loss = F.cross_entropy(
            output.logits.float(), target, label_smoothing=options.label_smoothing
        )
        return loss + options.distill * distillation_loss(output), output.logits

    def _keep_known(self, generator: torch.Generator) -> Tensor:
        """Loss on unannotated crops: they keep the shares that the fitted head gave them."""
        data = self.data
        rows = torch.randint(len(data.others), (self.options.batch_size,), generator=generator)
        crops, target = data.others[rows.numpy()], data.shares[rows].to(self.device)
        output = self.model(self._augment(crops, generator))
        loss = F.cross_entropy(output.logits.float(), target)
        if isinstance(self.model, TNet):
            image = torch.cat([level.crops.image for level in output.levels]).to(self.device)
            each = torch.cat([level.logits for level in output.levels]).float()
            loss = 0.3 * loss + 0.7 * F.cross_entropy(each, target[image])
        return loss

    def _augment(self, crops: npt.NDArray[Any], generator: torch.Generator) -> Tensor:
        batch = torch.from_numpy(to_float(crops)).permute(0, 3, 1, 2)
        changed = self.augmentation(batch, self.size, generator)
        ready = torch.from_numpy(self.normalisation(changed.numpy()))
        return ready.to(self.device).contiguous(memory_format=torch.channels_last)

    @property
    def _left(self) -> float:
        """1 at the start, 0 from half-way on, so that training ends as it is deployed."""
        return max(0.0, 1 - 2 * self.done / self.options.epochs)

    def _average(self) -> None:
        # Early on the average would be mostly the weights it began with.
        count = self.done * self.options.steps + 1
        pull = max(1 - self.options.smoothing, 1 / (count + 1))
        with torch.no_grad():
            for mean, now in zip(self.mean.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, pull)

    def _set_rate(self, done: float) -> None:
        warm = min(1.0, done + 1 / self.options.steps)
        factor = warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done / self.options.epochs)))
        set_rate(self.optimiser, self.options.learning_rate * factor)


def _optimiser(model: CellNet, options: StepOptions) -> torch.optim.AdamW:
    made = optimiser(model, options.learning_rate, options.weight_decay)
    head = {id(parameter) for parameter in model.head.parameters()}
    groups = []
    for group in made.param_groups:
        for own, rate in ((True, options.head_rate), (False, 1.0)):
            parameters = [p for p in group["params"] if (id(p) in head) is own]
            if parameters:
                groups.append({"params": parameters, "share": rate,
                               "lr": options.learning_rate * rate,
                               "weight_decay": group["weight_decay"]})  # fmt: skip
    return torch.optim.AdamW(groups)
