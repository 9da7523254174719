"""Training SPAN: slides with classes or outcomes (SPAN-MIL), or patches with labels (SPAN-UNet)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...card import TargetSpec
from ...judged import Estimated, EstimateReport
from ...metrics import Report, classification_report
from ..data.slide_tables import SlideRow, SlideTable, SlideTableError, read_slide_table
from ..data.span_data import (
    UNKNOWN,
    AnnotatedRegion,
    SlideExample,
    augment_cells,
    patch_labels_of,
    split_slides,
)
from .classifier import fit_temperature
from .epochs import EpochReport
from .loop import Judgement, Loop, optimiser, rate_factor, set_rate
from .objectives import Objective

__all__ = [
    "UNKNOWN",
    "AnnotatedRegion",
    "Loss",
    "SlideExample",
    "SlideRow",
    "SlideTable",
    "SlideTableError",
    "SpanOptions",
    "SpanSteps",
    "augment_cells",
    "check_labels",
    "class_weights",
    "dice",
    "estimate_outcomes",
    "fit_span",
    "measure_outcomes",
    "measure_patches",
    "measure_slides",
    "patch_labels_of",
    "patch_loss",
    "predict_slides",
    "read_slide_table",
    "span_temperature",
    "split_slides",
]

#: Loss of one slide and the logits (n, C) that it is of, by model, features (N, F),
#: cells (N, 2) and target: a class () or labels (N,).
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class SpanOptions:
    """How to train; the defaults are the authors' for SPAN-MIL, see `for_patches`.

    Parameters
    ----------
    task : {"slides", "patches"}
        Learn classes of slides, or labels of patches.
    epochs : int
        Passes over the training slides, at most.
    patience : int
        Stop when the validation loss has not fallen for so many epochs.
    learning_rate : float
        AdamW's peak: one epoch of warm-up (ours), then a cosine to zero.
    weight_decay : float
        AdamW's weight decay.
    slides_per_step : int
        Slides whose gradients are averaged in a step; of Cox's partial
        likelihood those that are compared with each other, see `for_cox`.
    augment : float
        Strength of `augment_cells` at the start; 0 leaves the grids alone.
    augment_end : float
        What it falls to over the epochs, as a share of `augment`.
    dice : float
        Share of the Dice loss of patches; the rest is binary cross-entropy.
    device : str
        A torch device.
    bfloat16 : bool
        Compute in bfloat16 where autocast allows it.
    seed : int
        Seeds everything.
    """

    task: Literal["slides", "patches"] = "slides"
    epochs: int = 50
    patience: int = 10
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    slides_per_step: int = 1
    augment: float = 1.0
    augment_end: float = 0.2
    dice: float = 0.75
    device: str = "cpu"
    bfloat16: bool = False
    seed: int = 0

    @classmethod
    def for_patches(cls, **changes: Any) -> SpanOptions:
        """Return the authors' settings of SPAN-UNet, with changes."""
        unet: dict[str, Any] = {
            "task": "patches",
            "epochs": 40,
            "patience": 40,
            "weight_decay": 1e-5,
            "augment": 0.0,
        }
        return cls(**{**unet, **changes})

    @classmethod
    def for_cox(cls, **changes: Any) -> SpanOptions:
        """Return settings for Cox's partial likelihood, with changes: 32 slides are compared.

        There are fewer steps in an epoch, so that more epochs are gone through.
        """
        return cls(**{"slides_per_step": 32, "epochs": 100, "patience": 25, **changes})


def class_weights(labels: Sequence[int], n_classes: int) -> Tensor:
    """Weights (C,) inverse to how often each class occurs; their mean over the labels is 1.

    A class that never occurs gets 1.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=n_classes).float()
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, torch.ones(()))


def patch_loss(
    logits: Tensor, labels: Tensor, *, positive_weight: float = 1.0, dice: float = 0.75
) -> Tensor:
    """``(1 - dice) · BCE + dice · (1 - soft Dice)`` over the patches that have a label.

    Parameters
    ----------
    logits : Tensor
        (N,).
    labels : Tensor
        (N,): 1, 0, or -1 for unknown.
    positive_weight : float
        How often a patch of class 1 counts in the cross-entropy.
    dice : float
        Share of the Dice loss; one patch is added above and below its fraction,
        so that a slide without the wanted tissue has a loss as well.

    Returns
    -------
    Tensor
        (); 0 where no patch has a label.
    """
    known = labels >= 0
    if not known.any():
        return logits.sum() * 0
    found, truth = logits[known].float(), labels[known].float()
    weight = torch.tensor(positive_weight, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(found, truth, pos_weight=weight)
    share = found.sigmoid()
    overlap = (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
    return (1 - dice) * entropy + dice * (1 - overlap)


def fit_span(
    model: nn.Module,
    train: Sequence[SlideExample],
    validation: Sequence[SlideExample],
    options: SpanOptions | None = None,
    *,
    loss: Loss | None = None,
    objective: Objective | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[EpochReport]:
    """Train a SPAN; the model holds the best weights at the end, and when stopped.

    The best weights are those with the lowest loss on the validation slides,
    which are seen as deployed: no augmentation, no dropout.

    Parameters
    ----------
    model : SpanMil or SpanUnet
        Trained in place. Or any module from features (N, F) and cells (N, 2) to
        an output with ``logits``, so that peers train by the same code.
    train, validation : sequence of SlideExample
        With labels, or patch labels, as the task wants.
    options : SpanOptions, optional
    loss : callable, optional
        A peer's own loss of one slide; it replaces the task's in training only.
    objective : Objective, optional
        What is learned in place of classes, from the slides' outcomes. The
        accuracy is then its figure. Of one that compares slides, those of a
        step are run one by one without gradients; then each is run once more,
        the same in all that is random, with the loss's gradient in its
        answer: the gradient is exactly that of all together, and memory holds
        one slide at a time.
    stop : callable, optional
        Asked before each slide; True ends training there.

    Yields
    ------
    EpochReport
        After each epoch; closing the iterator stops training. The accuracy is
        of slides, or of patches with a label.

    Raises
    ------
    ValueError
        If labels are missing or no class of the model, or a loss is not finite.
    """
    options = options or SpanOptions()
    _check(train, validation, options.task if objective is None else "outcomes")
    torch.manual_seed(options.seed)
    steps = SpanSteps(model.to(options.device), train, validation, options, loss, stop, objective)
    yield from Loop(model, steps, options.epochs, EpochReport, patience=options.patience)


class SpanSteps:
    """Slides gone through in a new order each time; see `fit_span` for what it is made of.

    Attributes
    ----------
    rng : numpy.random.Generator
        Of the order of the slides and the changes of their grids.
    optimiser : torch.optim.AdamW
    """

    def __init__(
        self,
        model: nn.Module,
        train: Sequence[SlideExample],
        validation: Sequence[SlideExample],
        options: SpanOptions,
        loss: Loss | None = None,
        stop: Callable[[], bool] | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.model, self.options, self.objective = model, options, objective
        self.slides, self.validation = train, validation
        self.stop = stop or (lambda: False)
        self.own_loss: Loss = self._slide_loss if objective is None else self._outcome_loss
        self.labels = [each.label for each in train if each.label is not None]
        if options.task == "patches":
            self.own_loss = self._patch_loss
            known = np.concatenate([_patch_targets(each) for each in train])
            positives = max(1, int((known == 1).sum()))
            self.positive_weight = max(1, int((known == 0).sum())) / positives
        self.loss = loss or self.own_loss
        self.rng = np.random.default_rng(options.seed)
        self.optimiser = optimiser(model, options.learning_rate, options.weight_decay)

    def train(self, number: int) -> tuple[float, float] | None:
        """Go through the slides once; return mean loss and accuracy, None if stopped."""
        self.model.train()
        options = self.options
        order = self.rng.permutation(len(self.slides))
        each = options.slides_per_step
        if self.objective is not None and self.objective.together:
            # Evenly: a last step of one slide would have nothing to compare it with.
            each = math.ceil(len(order) / math.ceil(len(order) / each))
        starts = range(0, len(order), each)
        left = 1 - (number - 1) / max(1, options.epochs - 1)
        strength = options.augment * (options.augment_end + (1 - options.augment_end) * left)
        score = self._new_score()
        for step, start in enumerate(starts):
            factor = rate_factor(number - 1 + step / len(starts), 1.0, options.epochs)
            set_rate(self.optimiser, options.learning_rate * factor)
            rows = order[start : start + each]
            self.optimiser.zero_grad(set_to_none=True)
            if not self._add_gradients(rows, score, strength):
                return None
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
        return score.means()

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement | None:
        """Measure the model as deployed, None if stopped."""
        measured = self.measure()
        if measured is None:
            return None
        figure = "accuracy" if self.objective is None else self.objective.figure
        return Judgement(*measured, figure=figure)

    @torch.inference_mode()
    def measure(self) -> tuple[float, float] | None:
        """Return mean loss and accuracy on the validation slides, None if stopped."""
        self.model.eval()
        score = self._new_score()
        for example in self.validation:
            if self.stop():
                return None
            self._loss_of(example, self.own_loss, score, 0.0)
        return score.means()

    def _new_score(self) -> _Score | _OutcomeScore:
        return _Score() if self.objective is None else _OutcomeScore(self.objective)

    def _add_gradients(
        self, rows: npt.NDArray[np.int64], score: _Score | _OutcomeScore, strength: float
    ) -> bool:
        """Add the gradients of a step's slides; False if stopped."""
        if self.objective is not None and self.objective.together:
            return self._compare(self.objective, rows, score, strength)
        for row in rows:
            if self.stop():
                return False
            loss = self._loss_of(self.slides[row], self.loss, score, strength)
            (loss / len(rows)).backward()
        return True

    def _compare(
        self,
        objective: Objective,
        rows: npt.NDArray[np.int64],
        score: _Score | _OutcomeScore,
        strength: float,
    ) -> bool:
        """Add the gradients of a loss that compares slides, one slide in memory at a time."""
        examples = [self.slides[row] for row in rows]
        device = self.options.device
        seeds = self.rng.integers(2**31, size=len(rows)).tolist()
        cells = [
            augment_cells(each.cells, self.rng, strength) if strength > 0 else each.cells
            for each in examples
        ]
        targets = torch.stack([_target(each, "outcomes") for each in examples]).to(device)
        outputs = []
        for example, places, seed in zip(examples, cells, seeds, strict=True):
            if self.stop():
                return False
            with torch.no_grad():
                outputs.append(self._run_anew(example, places, seed))
        answers = torch.cat(outputs).requires_grad_(True)
        loss = objective.loss(answers, targets)
        self._check_loss(examples[0], float(loss.detach()))
        (slopes,) = torch.autograd.grad(loss, answers)
        for example, places, seed, slope in zip(examples, cells, seeds, slopes, strict=True):
            if self.stop():
                return False
            if slope.any():
                self._run_anew(example, places, seed).backward(slope[None])
        for row, answer in enumerate(answers.detach()):
            score.add(0.0, answer[None], targets[row])
        return True

    def _run_anew(
        self, example: SlideExample, cells: npt.NDArray[np.integer[Any]], seed: int
    ) -> Tensor:
        """Return the network's numbers (1, C) of a slide, the same for the same seed."""
        device = self.options.device
        torch.manual_seed(seed)
        with _autocast(device, self.options.bfloat16):
            found = self.model(_features(example, device), _cells(cells, device)).logits
        outputs: Tensor = found.float()
        return outputs

    def _loss_of(
        self,
        example: SlideExample,
        loss_of: Loss,
        score: _Score | _OutcomeScore,
        strength: float,
    ) -> Tensor:
        cells = example.cells
        if strength > 0:
            cells = augment_cells(cells, self.rng, strength)
        device = self.options.device
        features = _features(example, device)
        task = self.options.task if self.objective is None else "outcomes"
        target = _target(example, task).to(device)
        with _autocast(device, self.options.bfloat16):
            loss, logits = loss_of(self.model, features, _cells(cells, device), target)
        value = float(loss.detach())
        self._check_loss(example, value)
        score.add(value, logits.detach(), target)
        return loss

    @staticmethod
    def _check_loss(example: SlideExample, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"{example.name}: the loss is not a number. Are all features finite? If so, "
                "lower the learning rate."
            )

    def _outcome_loss(
        self, model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert self.objective is not None
        outputs = model(features, cells).logits.float()
        return self.objective.loss(outputs, target[None]), outputs

    def _slide_loss(
        self, model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(features, cells).logits.float()
        if not 0 <= int(target) < logits.shape[1]:
            raise ValueError(f"Class {int(target)} is none of the model's {logits.shape[1]}.")
        # Not `weight=`: the mean over a single slide would divide by it again.
        weight = class_weights(self.labels, logits.shape[1]).to(logits)[target]
        return weight * F.cross_entropy(logits, target[None]), logits

    def _patch_loss(
        self, model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(features, cells).logits.float()
        loss = patch_loss(
            logits[:, 0],
            target,
            positive_weight=self.positive_weight,
            dice=self.options.dice,
        )
        return loss, logits


class _Score:
    """Sums over slides."""

    def __init__(self) -> None:
        self.loss = self.right = 0.0
        self.slides = self.judged = 0

    def add(self, loss: float, logits: Tensor, target: Tensor) -> None:
        self.loss += loss
        self.slides += 1
        found = (logits[:, 0] > 0) if target.ndim else logits.argmax(1)
        known = target.reshape(-1) >= 0
        self.right += float((found == target.reshape(-1))[known].sum())
        self.judged += int(known.sum())

    def means(self) -> tuple[float, float]:
        return self.loss / max(1, self.slides), self.right / max(1, self.judged)


class _OutcomeScore:
    """Answers of slides with outcomes, which are measured all together."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.outputs: list[Tensor] = []
        self.outcomes: list[Tensor] = []

    def add(self, _: float, outputs: Tensor, outcome: Tensor) -> None:
        self.outputs.append(outputs)
        self.outcomes.append(outcome)

    def means(self) -> tuple[float, float]:
        outputs, outcomes = torch.cat(self.outputs), torch.stack(self.outcomes)
        loss = float(self.objective.loss(outputs, outcomes))
        return loss, self.objective.measure(outputs, outcomes)


@torch.inference_mode()
def predict_slides(
    model: nn.Module, examples: Sequence[SlideExample], device: str = "cpu"
) -> list[Tensor]:
    """Logits of each slide, as deployed: (1, C), or (N, 1) of its patches."""
    model.to(device).eval()
    return [
        model(_features(each, device), _cells(each.cells, device)).logits.float().cpu()
        for each in examples
    ]


def span_temperature(
    model: nn.Module, validation: Sequence[SlideExample], options: SpanOptions
) -> float:
    """Temperature that makes the probabilities fit the validation slides, see `fit_temperature`.

    Of patches, ``sigmoid(logit / temperature)``.
    """
    logits = predict_slides(model, validation, options.device)
    if options.task == "slides":
        return fit_temperature(torch.cat(logits), _labels(validation))
    labels = torch.cat([_target(each, "patches") for each in validation])
    known = labels >= 0
    found = torch.cat(logits)[known]
    return fit_temperature(torch.cat([torch.zeros_like(found), found], dim=1), labels[known])


def measure_slides(
    model: nn.Module,
    examples: Sequence[SlideExample],
    class_names: Sequence[str],
    *,
    temperature: float = 1.0,
    device: str = "cpu",
) -> Report:
    """Compare the classes of slides with the true ones."""
    logits = torch.cat(predict_slides(model, examples, device))
    probabilities = (logits / temperature).softmax(1).numpy()
    return classification_report(probabilities, _labels(examples).numpy(), class_names)


def measure_outcomes(
    model: nn.Module, examples: Sequence[SlideExample], target: TargetSpec
) -> EstimateReport:
    """Compare the risks or numbers of slides with what became of them."""
    return estimate_outcomes(model, examples, target).report()


def estimate_outcomes(
    model: nn.Module, examples: Sequence[SlideExample], target: TargetSpec
) -> Estimated:
    """Return the risks or numbers of slides beside what became of them."""
    outputs = torch.cat(predict_slides(model, examples))
    return Estimated(
        tuple(each.name or str(number) for number, each in enumerate(examples)),
        tuple(each.belongs_to for each in examples),
        np.array([each.outcome for each in examples], np.float64),
        target.score(outputs.double()).numpy(),
        target.kind,
        target.unit,
    )


def measure_patches(
    model: nn.Module,
    examples: Sequence[SlideExample],
    class_names: Sequence[str] = ("other", "wanted"),
    *,
    temperature: float = 1.0,
    device: str = "cpu",
) -> tuple[Report, float]:
    """Compare the labels of patches with the true ones; return that, and `dice` over all."""
    logits = torch.cat(predict_slides(model, examples, device))[:, 0]
    labels = torch.cat([_target(each, "patches") for each in examples])
    known = labels >= 0
    share = (logits[known] / temperature).sigmoid()
    probabilities = torch.stack([1 - share, share], dim=1).numpy()
    truth = labels[known].numpy()
    return classification_report(probabilities, truth, class_names), dice(
        probabilities[:, 1] > 0.5, truth
    )


def dice(found: npt.NDArray[np.bool_], labels: npt.NDArray[np.integer[Any]]) -> float:
    """Twice the overlap over the sum, of patches (N,) with a label; 1 where both are empty."""
    known = labels >= 0
    wanted, taken = labels[known] == 1, found[known]
    total = int(wanted.sum() + taken.sum())
    return 2 * float((wanted & taken).sum()) / total if total else 1.0


def _check(train: Sequence[SlideExample], validation: Sequence[SlideExample], task: str) -> None:
    if not train or not validation:
        raise ValueError("Training needs at least one slide, and validation another.")
    check_labels((*train, *validation), task)


def check_labels(examples: Sequence[SlideExample], task: str) -> None:
    """Refuse slides without the labels of a task.

    Raises
    ------
    ValueError
        Naming the slide.
    """
    for example in examples:
        if task == "outcomes" and not example.outcome:
            raise ValueError(f"{example.name}: the slide has no outcome to learn.")
        if task == "slides" and example.label is None:
            raise ValueError(f"{example.name}: the slide has no class to learn.")
        if task == "patches":
            labels = _patch_targets(example)
            if not (labels >= 0).any():
                raise ValueError(f"{example.name}: no patch has a label to learn.")
            if labels.max() > 1:
                raise ValueError(f"{example.name}: patch labels are 1, 0 or -1 (unknown).")


def _patch_targets(example: SlideExample) -> npt.NDArray[np.int8]:
    if example.patch_labels is None:
        raise ValueError(f"{example.name}: the slide has no patch labels to learn.")
    return example.patch_labels


def _target(example: SlideExample, task: str) -> Tensor:
    if task == "patches":
        return torch.from_numpy(_patch_targets(example).astype(np.int64))
    if task == "outcomes":
        return torch.tensor(example.outcome, dtype=torch.float32)
    return torch.tensor(example.label)


def _labels(examples: Sequence[SlideExample]) -> Tensor:
    return torch.stack([_target(each, "slides") for each in examples])


def _features(example: SlideExample, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(example.features[:], np.float32)).to(device)


def _cells(cells: npt.NDArray[np.integer[Any]], device: str) -> Tensor:
    return torch.from_numpy(np.asarray(cells, np.int64)).to(device)


def _autocast(device: str, enabled: bool) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
