"""Train a SparseAttnNet whose choice of pixels earns its place, at every k at once.

How it differs from `fit`:

- k is drawn anew for every batch, so that one network serves every k; what a
  smaller k keeps is a part of what a larger one keeps.
- The classification loss reaches the coarse map through `selection_gates`.
- What surrounds a cell is exchanged for another crop's in half the crops, and
  the map is told which pixels those were: they cannot know the class.
- The network that is kept is an average of the weights over training.
- Every epoch is seeded on its own and ends in a checkpoint, so that a run may
  be killed at any time; it goes on from there, to the same weights.

The same code trains the same network on pixels that are chosen by a rule
(`pixel_rules`), to hold the choice against.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files import replacing
from ...images.normalise import Normalisation
from ...models.sparse.network import SparseAttnNet, SparseAttnOutput, distillation_divergence
from .checkpoint import load_optimiser, optimiser_tensors, take_under
from .epochs import EpochReport
from .fit import predict_logits
from .laboratories import LaboratoryChanges
from .loop import optimiser
from .pixel_rules import Rule, pixels_by_rule
from .precision import trains_in_bfloat16

__all__ = [
    "LEVEL",
    "SelectionOptions",
    "chosen_at",
    "foreign_loss",
    "level_loss",
    "loss_over_k",
    "loss_over_steepness",
    "smallest_k",
    "steepest",
    "train_selection",
]

_KEY, _FORMAT = "napari_sparseattn_selection", 1
_Asked = TypeVar("_Asked", int, float)


@dataclasses.dataclass(frozen=True)
class SelectionOptions:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over as many crops as there are.
    batch_size : int
        Crops per step.
    learning_rate, weight_decay : float
        AdamW's; the rate is constant after a short warm-up, and from `steady`
        of the epochs on a cosine to zero. A run may be continued with fewer
        epochs than it began with, as long as the rate has not begun to fall.
    steady : float
        Share of the epochs before the rate falls.
    restart : int
        Epochs after which the rate has fallen, and falls again from half its peak
        to the last one (Loshchilov & Hutter 2017, arXiv 1608.03983); 0 for never.
    label_smoothing : float
        Of the cross-entropy.
    least_share, most_share : float
        k of a batch, as a share of the pixels, is log-uniform between these.
    distill : float
        Weight of the distillation by the fine attention.
    level : float
        Weight of `level_loss`.
    foreign : float
        Weight of the loss on the map where a crop holds another's surroundings:
        minus the logarithm of the map's share that lies on the crop's own.
    balance : float
        Crops are drawn with their class's number to the power of minus this.
    average : float
        Of the weights' moving average, per step.
    ramp : float
        Epochs over which the changes grow to their full strength.
    bfloat16 : bool or None
        Compute in bfloat16 where autocast allows it; None asks the processor.
    rule : str
        ``"learned"``, or a rule of `pixels_by_rule`.
    seed : int
        Seeds everything.
    """

    epochs: int = 24
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    steady: float = 0.7
    restart: int = 0
    label_smoothing: float = 0.05
    least_share: float = 0.02
    most_share: float = 0.3
    distill: float = 0.1
    level: float = 0.1
    foreign: float = 0.3
    balance: float = 0.5
    average: float = 0.999
    ramp: float = 6
    bfloat16: bool | None = None
    rule: Rule = "learned"
    seed: int = 0


def train_selection(
    model: SparseAttnNet,
    train: tuple[Tensor, npt.NDArray[np.int64]],
    validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    *,
    normalisation: Normalisation,
    changes: LaboratoryChanges | Mapping[int, LaboratoryChanges],
    options: SelectionOptions,
    checkpoint: Path | None = None,
) -> Iterator[EpochReport]:
    """Train; the model holds the averaged weights at the end.

    Parameters
    ----------
    model : SparseAttnNet
        Trained in place, on the CPU. Reports are of its configured k.
    train : (Tensor, array)
        Crops (N, 3, h, h) uint8 with the cell in the middle, as `changes`
        take them, and labels (N,).
    validation : (array, array)
        Crops (M, s, s, 3) uint8 and labels (M,).
    normalisation, options
        See there.
    changes : LaboratoryChanges or mapping of int to LaboratoryChanges
        Of the crops; of a mapping, those of the latest epoch that has begun,
        counted from 0, which it must hold.
    checkpoint : pathlib.Path, optional
        Written after every epoch and read at the beginning, where it is of
        the same options but for the number of epochs. The epochs that were
        done then are reported again, from the record.

    Yields
    ------
    EpochReport
        After each epoch, of the averaged weights.

    Raises
    ------
    ValueError
        If the checkpoint is of other options or crops.
    """
    run = _Run(model, train, normalisation, changes, options)
    history = run.resume(checkpoint)
    yield from history
    labels = torch.from_numpy(validation[1])
    for epoch in range(len(history) + 1, options.epochs + 1):
        began = time.perf_counter()
        train_loss, train_accuracy = run.epoch(epoch)
        scores = run.scores(validation[0])
        report = EpochReport(
            epoch,
            options.epochs,
            train_loss,
            train_accuracy,
            float(F.cross_entropy(scores, labels)),
            float((scores.argmax(1) == labels).float().mean()),
            model.config.k,
            time.perf_counter() - began,
            True,
        )
        history.append(report)
        run.keep(checkpoint, history)
        yield report
    model.load_state_dict(run.average.state_dict())
    model.eval()


def chosen_at(
    model: SparseAttnNet,
    crops: npt.NDArray[Any],
    normalisation: Normalisation,
    k: int,
    rule: Rule = "learned",
    *,
    seed: int = 0,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Classify stored crops at another k, or from pixels that a rule chose.

    Parameters
    ----------
    model : SparseAttnNet
        On the CPU; put in evaluation mode.
    crops : numpy.ndarray
        (N, s, s, C).
    normalisation : Normalisation
        As at deployment.
    k : int
        Pixels of each crop.
    rule : str
        See `pixels_by_rule`.
    seed : int
        Of the rule's lots.
    batch_size : int
        Crops at a time.

    Returns
    -------
    logits : Tensor
        (N, n_classes) float32.
    indices : Tensor
        (N, k) int64, ascending.
    """
    found: list[Tensor] = []
    at_k = _AtK(model, k, rule, torch.Generator().manual_seed(seed), found)
    size = model.config.image_size
    logits = predict_logits(at_k, crops, normalisation, size, batch_size=batch_size)
    return logits, torch.cat(found)


def loss_over_k(
    model: SparseAttnNet,
    validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    normalisation: Normalisation,
    shares: Sequence[float],
) -> dict[int, tuple[float, float]]:
    """Measure the loss and the accuracy on validation crops at several k.

    Returns
    -------
    dict of int to (float, float)
        k -> cross-entropy in nats, share right; ascending.
    """
    pixels = model.config.image_size**2
    asked = sorted({max(1, round(share * pixels)) for share in shares})
    return {k: _loss_at(model, validation, normalisation, k) for k in asked}


def loss_over_steepness(
    model: SparseAttnNet,
    validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    normalisation: Normalisation,
    factors: Sequence[float],
    k: int,
) -> dict[float, tuple[float, float]]:
    """Measure the loss and the accuracy with the map made so many times as steep.

    Returns
    -------
    dict of float to (float, float)
        Factor -> cross-entropy in nats, share right; in the order given.
    """
    found = {}
    for factor in factors:
        steeper = copy.deepcopy(model)
        steeper.sharpen(factor)
        found[factor] = _loss_at(steeper, validation, normalisation, k)
    return found


def _loss_at(
    model: SparseAttnNet,
    validation: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    normalisation: Normalisation,
    k: int,
) -> tuple[float, float]:
    targets = torch.from_numpy(validation[1])
    scores, _ = chosen_at(model, validation[0], normalisation, k)
    right = float((scores.argmax(1) == targets).float().mean())
    return float(F.cross_entropy(scores, targets)), right


def steepest(losses: Mapping[float, tuple[float, float]], tolerance: float) -> float:
    """Return the largest factor whose loss is within a share `tolerance` of the best.

    Training leaves a map wide, as a pixel is only found to matter where it is sometimes
    kept. A steeper one keeps more of the cell and less of what lies around it.

    Parameters
    ----------
    losses : mapping
        As `loss_over_steepness` gives it.
    tolerance : float
        0.1 is a tenth more than the least loss.
    """
    return max(_allowed(losses, tolerance))


def smallest_k(losses: Mapping[int, tuple[float, float]], tolerance: float) -> int:
    """Return the smallest k whose loss is within a share `tolerance` of the best.

    Parameters
    ----------
    losses : mapping
        As `loss_over_k` gives it.
    tolerance : float
        0.1 is a tenth more than the least loss.
    """
    return min(_allowed(losses, tolerance))


def _allowed(losses: Mapping[_Asked, tuple[float, float]], tolerance: float) -> list[_Asked]:
    most = min(loss for loss, _ in losses.values()) * (1 + tolerance)
    return [asked for asked, (loss, _) in losses.items() if loss <= most]


class _AtK(nn.Module):
    """A `SparseAttnNet` that keeps as many pixels as it is told, by the rule it is told."""

    def __init__(
        self,
        model: SparseAttnNet,
        k: int,
        rule: Rule,
        generator: torch.Generator,
        found: list[Tensor],
    ) -> None:
        super().__init__()
        self.model, self.k, self.rule = model, k, rule
        self.generator, self.found = generator, found

    def forward(self, x: Tensor) -> SparseAttnOutput:
        indices = None
        if self.rule != "learned":
            indices = pixels_by_rule(self.rule, x, self.k, self.generator)
        output: SparseAttnOutput = self.model(x, k=self.k, indices=indices)
        self.found.append(output.indices)
        return output


class _Run:
    """What changes from step to step."""

    def __init__(
        self,
        model: SparseAttnNet,
        train: tuple[Tensor, npt.NDArray[np.int64]],
        normalisation: Normalisation,
        changes: LaboratoryChanges | Mapping[int, LaboratoryChanges],
        options: SelectionOptions,
    ) -> None:
        self.model = model
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.crops, self.labels = train[0], torch.from_numpy(train[1])
        self.normalisation, self.options = normalisation, options
        self.changes = changes if isinstance(changes, Mapping) else {0: changes}
        numbers = torch.bincount(self.labels, minlength=model.config.n_classes).clamp_min(1)
        self.weights = (numbers.double() ** -options.balance)[self.labels]
        self.optimiser = optimiser(self.model, options.learning_rate, options.weight_decay)
        self.left_out = 0
        self.steps = max(1, len(self.labels) // options.batch_size)
        self.bfloat16 = trains_in_bfloat16() if options.bfloat16 is None else options.bfloat16

    def epoch(self, epoch: int) -> tuple[float, float]:
        """Draw as many crops as there are; return mean loss and accuracy."""
        # Seeded anew: an epoch is the same whether the run was killed before it or not.
        seed = self.options.seed * 100_003 + epoch
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        self.model.train()
        drawn = self.steps * min(self.options.batch_size, len(self.labels))
        order = torch.multinomial(self.weights, drawn, replacement=True, generator=generator)
        total = right = 0.0
        for step, rows in enumerate(order.split(self.options.batch_size)):
            loss, hits = self._step(rows, epoch - 1 + step / self.steps, generator)
            total += loss * len(rows)
            right += hits
        if self.left_out > MOST_LEFT_OUT * self.steps:
            raise FloatingPointError(
                f"{self.left_out} of {self.steps} steps of epoch {epoch} had gradients that are "
                "no numbers. Lower the learning rate, or train in float32."
            )
        self.left_out = 0
        return total / drawn, right / drawn

    def scores(self, crops: npt.NDArray[Any]) -> Tensor:
        """Logits as at deployment."""
        options, k = self.options, self.model.config.k
        return chosen_at(self.average, crops, self.normalisation, k, options.rule)[0]

    def resume(self, path: Path | None) -> list[EpochReport]:
        """Take up a checkpoint; return its record."""
        from safetensors import safe_open

        if path is None or not path.is_file():
            return []
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if told.get("fingerprint") != self._fingerprint():
            raise ValueError(
                f"{path} is of a run with other options, crops or sizes. Remove it to begin anew, "
                "or name another checkpoint."
            )
        self.model.load_state_dict(take_under(state, "model."))
        self.average.load_state_dict(take_under(state, "average."))
        load_optimiser(self.optimiser, state)
        return [
            EpochReport(**{**report, "epochs": self.options.epochs}) for report in told["history"]
        ]

    def keep(self, path: Path | None, history: Sequence[EpochReport]) -> None:
        """Write a checkpoint, whole or not at all."""
        from safetensors.torch import save_file

        if path is None:
            return
        state = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        state |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        state |= optimiser_tensors(self.optimiser)
        told = {
            "fingerprint": self._fingerprint(),
            "history": [dataclasses.asdict(report) for report in history],
        }
        with replacing(path) as temporary:
            tensors = {key: value.contiguous() for key, value in state.items()}
            save_file(tensors, temporary, {_KEY: json.dumps(told)})

    def _fingerprint(self) -> str:
        """What must be the same for a run to go on."""
        options = dataclasses.asdict(self.options)
        del options["epochs"], options["bfloat16"]
        return json.dumps(
            [
                _FORMAT,
                options,
                {str(epoch): dataclasses.asdict(each) for epoch, each in self.changes.items()},
                dataclasses.asdict(self.normalisation),
                dataclasses.asdict(self.model.config),
                [list(self.crops.shape), int(self.crops[::97].long().sum())],
            ]
        )

    def _step(self, rows: Tensor, done: float, generator: torch.Generator) -> tuple[float, float]:
        options, config = self.options, self.model.config
        for group in self.optimiser.param_groups:
            group["lr"] = options.learning_rate * _rate(done, options)
        begun = max(epoch for epoch in self.changes if epoch <= done)
        changes = self.changes[begun].weakened(_ramp(done, options))
        crops, foreign = changes(self.crops[rows], config.image_size, generator)
        inputs = torch.from_numpy(self.normalisation(crops.numpy()))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        target = self.labels[rows]
        least, most = options.least_share, options.most_share
        share = least * (most / least) ** float(torch.rand((), generator=generator))
        k = max(1, round(share * config.image_size**2))
        learned = options.rule == "learned"
        indices = None if learned else pixels_by_rule(options.rule, inputs, k, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.model(
                inputs, k=k, explore=1.0, generator=generator, indices=indices, gated=learned
            )
        loss = F.cross_entropy(output.logits, target, label_smoothing=options.label_smoothing)
        taught = loss
        if learned:
            taught = taught + options.distill * distillation_divergence(output)
            taught = taught + options.level * level_loss(output.coarse_logits)
            if foreign is not None:
                taught = taught + options.foreign * foreign_loss(output.coarse_logits, foreign)
        self.optimiser.zero_grad(set_to_none=True)
        taught.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not bool(norm.isfinite()):
            # One such step would be the end of all weights.
            self.left_out += 1
            return 0.0, 0.0
        self.optimiser.step()
        taken = round(done * self.steps) + 1
        by = 1 - min(options.average, taken / (taken + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), by)
        return float(loss.detach()), float((output.logits.argmax(1) == target).sum())


#: Share of an epoch's steps that may have gradients without a number.
MOST_LEFT_OUT = 0.01
#: The map's mean is held near this: cells cover about a sixth of their crops.
LEVEL = 0.12


def foreign_loss(coarse_logits: Tensor, foreign: Tensor) -> Tensor:
    """Minus the logarithm of the coarse map's share that is not on foreign pixels.

    Parameters
    ----------
    coarse_logits : Tensor
        (B, H, W).
    foreign : Tensor
        (B, H, W), the share of each pixel that is another crop's.

    Returns
    -------
    Tensor
        Scalar, in nats, averaged over crops.
    """
    density = F.logsigmoid(coarse_logits.flatten(1).float())
    own = density + (1 - foreign.flatten(1)).clamp_min(1e-4).log()
    return (density.logsumexp(1) - own.logsumexp(1)).mean()


def level_loss(coarse_logits: Tensor) -> Tensor:
    """Hold the coarse map's mean, which nothing else does, near `LEVEL`.

    What is kept depends on the proportions of the map alone. The squared
    logarithm of the mean over `LEVEL` brings it back from any distance.

    Parameters
    ----------
    coarse_logits : Tensor
        (B, H, W).

    Returns
    -------
    Tensor
        Scalar, averaged over crops.
    """
    flat = F.logsigmoid(coarse_logits.flatten(1).float())
    mean = flat.logsumexp(1) - math.log(LEVEL * flat.shape[1])
    return mean.square().mean()


def _rate(done: float, options: SelectionOptions) -> float:
    """The learning rate over its peak after so many epochs."""
    if done < 1:
        return min(1.0, 0.01 + done)
    first = options.restart or options.epochs
    if done >= first and options.epochs > first:
        return max(0.005, 0.5 * _fallen((done - first) / (options.epochs - first)))
    return max(0.005, _fallen((done / first - options.steady) / (1 - options.steady)))


def _fallen(share: float) -> float:
    """A cosine from 1 to 0; 1 before it begins."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def _ramp(done: float, options: SelectionOptions) -> float:
    return min(1.0, done / options.ramp) if options.ramp else 1.0
