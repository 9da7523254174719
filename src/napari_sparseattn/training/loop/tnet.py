"""Training a TNet: its loss and its steps, on images in memory or drawn on demand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.normalise import Normalisation, to_float
from ...models.tnet.crops import CropSource, TNetOutput
from ...models.tnet.network import TNet
from .augment import Augmentation
from .epochs import EpochReport
from .laboratories import LaboratoryChanges
from .loop import Judgement, Loop, optimiser, rate_factor, set_rate

__all__ = ["AugmentedCrops", "LossTerms", "TNetLoss", "TNetOptions", "fit_tnet"]

#: Images of one step and their classes.
Batch = tuple["Tensor | CropSource", Tensor]


class LossTerms(NamedTuple):
    """The four terms of `TNetLoss`, before their weights; scalars.

    Attributes
    ----------
    classification : Tensor
        Cross-entropy of the images' logits.
    selection : Tensor
        REINFORCE: each image's advantage times the negative log-probability of
        all its choices.
    feature_classification : Tensor
        Cross-entropy of each crop's own logits.
    feature_selection : Tensor
        REINFORCE of each attended crop on its own.
    """

    classification: Tensor
    selection: Tensor
    feature_classification: Tensor
    feature_selection: Tensor


class TNetLoss:
    """The paper's loss with per-feature regularisation (section 3.3).

    ``λc · CE + β λr · REINFORCE + (1 - λc) · CE per crop
    + β (1 - λr) · REINFORCE per crop``; the reward is 1 where the most
    probable class is right, else 0, less a baseline that follows the rewards.

    Parameters
    ----------
    lambda_c, lambda_r : float
        Weights of whole images against single crops.
    beta : float
        Weight of the choices' terms.
    baseline : float
        Where the baseline begins.
    """

    def __init__(
        self,
        lambda_c: float = 0.3,
        lambda_r: float = 0.3,
        beta: float = 0.1,
        baseline: float = 0.5,
    ) -> None:
        self.lambda_c, self.lambda_r, self.beta = lambda_c, lambda_r, beta
        self.baseline = baseline

    def __call__(self, output: TNetOutput, target: Tensor) -> Tensor:
        """Return the loss of B images with classes (B,), and move the baseline."""
        terms, reward, crop_reward = self._terms(output, target)
        # The rewards of the choices; the root is not one, but stands in where there are none.
        self.baseline = 0.9 * self.baseline + 0.1 * (
            self.lambda_r * reward + (1 - self.lambda_r) * crop_reward
        )
        return (
            self.lambda_c * terms.classification
            + self.beta * self.lambda_r * terms.selection
            + (1 - self.lambda_c) * terms.feature_classification
            + self.beta * (1 - self.lambda_r) * terms.feature_selection
        )

    def terms(self, output: TNetOutput, target: Tensor) -> LossTerms:
        """Return the four terms; the baseline stays."""
        return self._terms(output, target)[0]

    def _terms(self, output: TNetOutput, target: Tensor) -> tuple[LossTerms, float, float]:
        device, count = output.logits.device, len(target)
        image = torch.cat([level.crops.image for level in output.levels]).to(device)
        logits = torch.cat([level.logits for level in output.levels])
        log_prob = torch.cat([level.crops.log_prob.to(device) for level in output.levels])
        own = target[image]
        reward = (output.logits.argmax(1) == target).float()
        crop_reward = (logits.argmax(1) == own).float()
        # Each image weighs the same, however many crops it has.
        share = 1 / torch.bincount(image, minlength=count).to(logits)[image]
        chosen = torch.zeros(count, dtype=log_prob.dtype, device=device)
        chosen = chosen.index_add(0, image, log_prob)
        attended = slice(count, None)  # the roots come first
        n_attended = max(1, len(image) - count)
        terms = LossTerms(
            F.cross_entropy(output.logits, target),
            ((reward - self.baseline) * -chosen).mean(),
            (F.cross_entropy(logits, own, reduction="none") * share).sum() / count,
            ((crop_reward - self.baseline) * -log_prob)[attended].sum() / n_attended,
        )
        judged = crop_reward[attended] if len(image) > count else crop_reward
        return terms, float(reward.mean()), float(judged.mean())


@dataclasses.dataclass(frozen=True)
class TNetOptions:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    learning_rate : float
        AdamW's peak: one epoch of warm-up, constant for `steady` of the epochs,
        then a cosine to zero (ours; the paper divides by ten at 80 %).
    weight_decay : float
        AdamW's weight decay.
    steady : float
        Share of the epochs before annealing.
    noise : float
        Gumbel noise on the choices at the start (ours), falling to 0 by the
        end of the steady epochs, so that training ends as it is deployed. 0 is
        the paper's plain top-k.
    lambda_c, lambda_r, beta : float
        See `TNetLoss`.
    device : str
        A torch device.
    seed : int
        Seeds everything.
    """

    epochs: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    steady: float = 0.5
    noise: float = 0.3
    lambda_c: float = 0.3
    lambda_r: float = 0.3
    beta: float = 0.1
    device: str = "cpu"
    seed: int = 0


class AugmentedCrops:
    """Stored crops as training batches, changed at random, in a new order each time.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, h, w, C) uint8, or floats in a unit of their own.
    labels : numpy.ndarray
        (N,) int64.
    normalisation
        As in `fit`.
    augmentation : Augmentation or LaboratoryChanges
        The random changes.
    size : int
        Side of the images that the model gets.
    batch_size : int
        Images per step.
    seed : int
        Seeds order and changes.
    """

    def __init__(
        self,
        crops: npt.NDArray[Any],
        labels: npt.NDArray[np.int64],
        *,
        normalisation: Normalisation,
        augmentation: Augmentation | LaboratoryChanges,
        size: int,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.crops, self.labels, self.size = crops, labels, size
        self.normalisation, self.augmentation = normalisation, augmentation
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Steps."""
        return math.ceil(len(self.crops) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.crops), generator=self.generator)
        for rows in order.split(self.batch_size):
            changed = self._changed(self.crops[rows.numpy()])
            ready = torch.from_numpy(self.normalisation(changed.numpy()))
            yield ready, torch.from_numpy(self.labels[rows.numpy()])

    def _changed(self, crops: npt.NDArray[Any]) -> Tensor:
        if isinstance(self.augmentation, LaboratoryChanges):
            batch = torch.from_numpy(crops).permute(0, 3, 1, 2)
            return self.augmentation(batch, self.size, self.generator)[0]
        batch = torch.from_numpy(to_float(crops)).permute(0, 3, 1, 2)
        return self.augmentation(batch, self.size, self.generator)


def fit_tnet(
    model: TNet,
    batches: Iterable[Batch],
    validate: Callable[[TNet], tuple[float, float]],
    options: TNetOptions,
) -> Iterator[EpochReport]:
    """Train a TNet; the model holds the best weights however it ends.

    Parameters
    ----------
    model : TNet
        Trained in place.
    batches : iterable of (images, classes)
        Gone through once per epoch; must have a length. Images are normalised
        tensors (B, C, H, W), or a `CropSource` that draws what is asked of it.
    validate : callable
        Returns loss and accuracy of the model as deployed.
    options : TNetOptions
        Everything else.

    Yields
    ------
    EpochReport
        After each epoch; closing the iterator stops training.
    """
    torch.manual_seed(options.seed)
    steps = _Steps(model.to(options.device), batches, validate, options)
    yield from Loop(model, steps, options.epochs, EpochReport)


class _Steps:
    """Batches gone through, with less and less noise on the choices."""

    def __init__(
        self,
        model: TNet,
        batches: Iterable[Batch],
        validate: Callable[[TNet], tuple[float, float]],
        options: TNetOptions,
    ) -> None:
        self.validate = validate
        self.model, self.batches, self.options = model, batches, options
        self.loss = TNetLoss(options.lambda_c, options.lambda_r, options.beta)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.optimiser = optimiser(model, options.learning_rate, options.weight_decay)

    def train(self, number: int) -> tuple[float, float]:
        """Go through the batches once; return mean loss and accuracy."""
        self.model.train()
        options = self.options
        steady = max(1.0, options.steady * options.epochs)
        noise = options.noise * max(0.0, 1 - (number - 1) / steady)
        steps = len(self.batches)  # type: ignore[arg-type]
        total = right = seen = 0.0
        for step, (images, target) in enumerate(self.batches):
            factor = rate_factor(number - 1 + step / steps, steady, options.epochs)
            set_rate(self.optimiser, options.learning_rate * factor)
            target = target.to(options.device)
            if isinstance(images, Tensor):
                images = images.to(options.device)
            output = self.model(images, noise=noise, generator=self.generator)
            loss = self.loss(output, target)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            total += float(loss.detach()) * len(target)
            right += float((output.logits.argmax(1) == target).sum())
            seen += len(target)
        return total / max(seen, 1), right / max(seen, 1)

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement:
        """Measure the model as deployed."""
        self.model.eval()
        with torch.inference_mode():
            return Judgement(*self.validate(self.model))
