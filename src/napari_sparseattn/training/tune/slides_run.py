"""Epochs of fine-tuning a SPAN: judged on held-out slides, the best kept, progress on disk."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...bundle import Bundle
from ...device import choose_device
from ...models.span import SpanMil, SpanUnet
from ..data.span_data import SlideExample
from ..loop.checkpoint import (
    Checkpoint,
    fingerprint,
    load_optimiser,
    optimiser_tensors,
    take_under,
)
from ..loop.classifier import fit_temperature
from ..loop.control import TrainingControl
from ..loop.epochs import FineTuneEpoch
from ..loop.loop import Judgement, Loop, Resume, Weights, copy_weights
from ..loop.span import SpanOptions, SpanSteps, check_labels, predict_slides
from .grown_head import (
    HeadFeatures,
    class_weights,
    fit_head,
    grow_layer,
    listening,
    unite_classes,
)
from .report import LEAST_TO_CALIBRATE, FineTuneReport, HeldOut, compare

__all__ = ["SlideTask", "TuneRun", "TuneSlidesOptions"]

SlideNet = SpanMil | SpanUnet


@dataclasses.dataclass(frozen=True, eq=False)
class TuneSlidesOptions:
    """How to fine-tune a SPAN; nothing has to be chosen.

    Parameters
    ----------
    epochs : int
        Passes over the slides, at most.
    seconds : float, optional
        About how long it may take.
    learning_rate : float
        AdamW's peak: one epoch of warm-up, then a cosine to zero.
    keep : float
        Share, 0 to 1, of the weights before in those that are kept: their mean
        with the trained ones forgets less of slides that are not at hand
        (Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
    patience : int
        Stop when nothing has been gained for so many epochs.
    seed : int
        Seeds everything.
    device : str
        See `choose_device`.
    checkpoint : pathlib.Path, optional
        A file that is written after each epoch, and gone on from, as in
        `FineTuneOptions`.
    name : str
        Of the new model; by default the old one's with "fine-tuned".
    """

    epochs: int = 20
    seconds: float | None = None
    learning_rate: float = 1e-4
    keep: float = 0.5
    patience: int = 5
    seed: int = 0
    device: str = "auto"
    checkpoint: Path | None = None
    name: str = ""


class SlideTask:
    """The slides as the new model sees them."""

    def __init__(
        self,
        bundle: Bundle,
        examples: Sequence[SlideExample],
        class_names: Sequence[str],
        out: npt.NDArray[np.bool_],
        options: TuneSlidesOptions,
    ) -> None:
        self.bundle, self.card, self.options = bundle, bundle.card, options
        model = bundle.slide_model()
        self.segments = isinstance(model, SpanUnet)
        self.device = choose_device(options.device)
        _check_widths(examples, model.config.features, self.card.name)
        check_labels(examples, "patches" if self.segments else "slides")
        old = self.card.class_names
        if self.segments:
            if len(class_names) != 2:
                raise ValueError(
                    f"A model of regions tells two kinds of tissue apart, these are "
                    f"{len(class_names)}: {', '.join(class_names)}."
                )
            same = class_names[1] == old[1]
            self.old_classes = old if same else old[:1]
            self.classes = old if same else (old[0], class_names[1])
        else:
            self.classes, self.old_classes = unite_classes(old, class_names), old
            place = [self.classes.index(name) for name in class_names]
            examples = [_relabel(example, place) for example in examples]
        self.held = [each for each, take in zip(examples, out, strict=True) if take]
        self.train = [each for each, take in zip(examples, out, strict=True) if not take]
        if not self.train:
            raise ValueError(
                "There is nothing to learn from yet: all annotated slides are held out. Annotate "
                "at least three of each class."
            )

    @property
    def span_options(self) -> SpanOptions:
        """How each epoch is trained."""
        own: dict[str, Any] = {
            "epochs": self.options.epochs,
            "learning_rate": self.options.learning_rate,
            "device": self.device,
            "seed": self.options.seed,
        }
        return SpanOptions.for_patches(**own) if self.segments else SpanOptions(**own)

    def model(self) -> tuple[SlideNet, dict[str, Tensor]]:
        """Return a copy of the model to train, and its weights before anything was learned.

        A head that is grown by new classes is fitted first. One that is not stays:
        fitted to a few slides, it forgets.
        """
        model = copy.deepcopy(self.bundle.slide_model()).requires_grad_(True).to(self.device)
        n = len(self.classes)
        if isinstance(model, SpanUnet) or n == model.head.out_features:
            return model, copy_weights(model)
        features, logits = _read_by_head(model, self.train)
        model.head = grow_layer(model.head, n).requires_grad_(True)
        model.config = dataclasses.replace(model.config, n_classes=n)
        before = copy_weights(model)
        labels = np.array([each.label for each in self.train], dtype=np.int64)
        nothing = HeadFeatures(features.new_zeros(1, 0, features.shape[1]), logits[None, :0])
        known = (HeadFeatures(features[None], logits[None]), torch.from_numpy(labels))
        fit_head(model.head, known, nothing, class_weights(labels, n))
        return model, before

    def fingerprint(self) -> str:
        """sha256 of all that the result depends on, of the features a sample."""
        options = dataclasses.replace(self.options, checkpoint=None, name="")
        weights = [self.bundle.state[key].numpy() for key in sorted(self.bundle.state)]
        slides: list[str | npt.NDArray[np.generic]] = []
        for example in (*self.train, *self.held):
            slides += [f"{example.name}|{example.group}|{example.label}", np.asarray(example.cells),
                       np.asarray(example.features[:64])]  # fmt: skip
            if example.patch_labels is not None:
                slides.append(example.patch_labels)
        return fingerprint([repr(options), self.device, str(len(self.train)), *self.classes,
                            *weights, *slides])  # fmt: skip


class TuneRun:
    """Fine-tuning of a SPAN: what is judged and reported of its epochs."""

    def __init__(self, task: SlideTask, control: TrainingControl) -> None:
        self.task, self.control = task, control
        self.began = time.perf_counter()
        self.notes: list[str] = []
        options = task.options
        self.model, self.start = task.model()
        self.steps = SpanSteps(
            self.model,
            task.train,
            task.held,
            task.span_options,
            stop=lambda: not control.proceed(),
        )
        self.loop = Loop(
            self.model,
            self,
            options.epochs,
            FineTuneEpoch,
            patience=options.patience,
            then=self._has_time,
            stopped=self._note_stop,
        )
        if not self._went_on() and task.held:
            measured = self.steps.measure()
            if measured is None:
                raise InterruptedError(
                    "Cancelled before anything was learned; the model is as it was."
                )
            self.loop.best.score = measured[0]

    def __iter__(self) -> Iterator[FineTuneEpoch]:
        return iter(self.loop)

    def train(self, number: int) -> tuple[float, float] | None:
        """Go through the slides once; return mean loss and accuracy, None if stopped."""
        seed = self.task.options.seed
        # Each epoch is seeded on its own, so that a run can go on after any.
        torch.manual_seed(seed * 10_007 + number)
        self.steps.rng = np.random.default_rng([seed, number])
        return self.steps.train(number)

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement | None:
        """Measure the model that would be kept on the held-out slides, None if stopped."""
        blended, now = self._blend(), copy_weights(self.model)
        self.model.load_state_dict(blended)
        measured = self.steps.measure()
        self.model.load_state_dict(now)
        if measured is None:
            return None
        if self.task.held:
            return Judgement(*measured, weights=blended)
        return Judgement(float("nan"), float("nan"), score=trained[0], weights=blended)

    def result(self) -> tuple[SlideNet, FineTuneReport]:
        """Calibrate the best weights, and compare them with the model before."""
        task = self.task
        self.loop.best.restore()
        self.model.cpu()
        ids, labels, groups = _list_labels(task.held, task.segments)
        old, new = (
            _logits(model, task.held, n)
            for model, n in (
                (task.bundle.slide_model(), len(task.card.class_names)),
                (self.model, len(task.classes)),
            )
        )
        temperature = task.card.temperature
        if len(labels) >= LEAST_TO_CALIBRATE:
            temperature = fit_temperature(new, torch.from_numpy(labels))
        held = HeldOut(
            ids,
            labels,
            task.classes,
            task.old_classes,
            "patches" if task.segments else "slides",
            groups if task.segments else None,
        )
        every = (*task.train, *task.held)
        counts = np.bincount(_list_labels(every, task.segments)[1], minlength=len(task.classes))
        report = compare(
            held,
            old[:, : len(task.old_classes)] / task.card.temperature,
            new,
            temperature,
            history=[epoch.numbers() for epoch in self.loop.history],
            best_epoch=self.loop.best.epoch,
            annotated=dict(zip(task.classes, counts.tolist(), strict=True)),
            unannotated={},
            seconds=time.perf_counter() - self.began,
            notes=self.notes,
        )
        return self.model, report

    def _blend(self) -> Weights:
        """The weights of now, drawn to those of before."""
        keep, now = self.task.options.keep, copy_weights(self.model)
        return {
            key: torch.lerp(value, self.start[key], keep) if value.is_floating_point() else value
            for key, value in now.items()
        }

    def _has_time(self, epoch: FineTuneEpoch) -> bool:
        seconds = self.task.options.seconds
        return seconds is None or time.perf_counter() - self.began + epoch.seconds <= seconds

    def _note_stop(self, number: int) -> None:
        if number == 1 and not self.task.held:
            raise InterruptedError("Cancelled before anything was learned; the model is as it was.")
        same = len(self.task.classes) == len(self.task.card.class_names)
        first = "the model as it was" if same else "the fitted head"
        kept = f"epoch {self.loop.best.epoch}" if self.loop.best.epoch else first
        self.notes.append(
            f"Cancelled in epoch {number} of {self.task.options.epochs}; {kept} is kept."
        )

    def _state(self) -> Weights:
        """Return all that a run needs to go on."""
        state = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        state |= optimiser_tensors(self.steps.optimiser)
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    def _went_on(self) -> bool:
        path = self.task.options.checkpoint
        if path is None:
            return False
        found = self.loop.go_on(Resume(path, self.task.fingerprint(), self._state))
        if not isinstance(found, Checkpoint):
            if found:
                self.notes.append(found)
            return False
        self.model.load_state_dict(take_under(found.state, "model."))
        load_optimiser(self.steps.optimiser, found.state)
        self.notes.append(f"Went on after epoch {len(self.loop.history)} from a checkpoint.")
        return True


def _read_by_head(model: SpanMil, examples: Sequence[SlideExample]) -> tuple[Tensor, Tensor]:
    """What the head reads of each slide (N, D), and the logits (N, C)."""
    device = str(next(model.parameters()).device)
    with listening(model.head) as heard:
        logits = predict_slides(model, examples, device)
    # Outside of inference mode these are ordinary tensors, from which gradients can be taken.
    return torch.cat(heard).float().cpu().clone(), torch.cat(logits).clone()


def _logits(model: SlideNet, examples: Sequence[SlideExample], n_classes: int) -> Tensor:
    """Of the slides, (N, C); or of their patches that have a label, (N, 2)."""
    if not examples:
        return torch.empty(0, n_classes)
    found = predict_slides(model, examples)
    if isinstance(model, SpanMil):
        return torch.cat(found)
    kept = [
        logits[torch.from_numpy(each.patch_labels >= 0)]
        for logits, each in zip(found, examples, strict=True)
        if each.patch_labels is not None
    ]
    wanted = torch.cat(kept)
    return torch.cat([torch.zeros_like(wanted), wanted], dim=1)


def _list_labels(
    examples: Sequence[SlideExample], segments: bool
) -> tuple[tuple[str, ...], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Names, labels and slides of all that has a label."""
    ids: list[str] = []
    labels: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    groups: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for number, example in enumerate(examples):
        called = example.name or str(number)
        if not segments or example.patch_labels is None:
            ids.append(called)
            labels.append(np.array([example.label], np.int64))
            groups.append(np.array([number], np.int64))
            continue
        known = example.patch_labels >= 0
        ids += [f"{called}:{column}:{row}" for column, row in np.asarray(example.cells)[known]]
        labels.append(example.patch_labels[known].astype(np.int64))
        groups.append(np.full(int(known.sum()), number, np.int64))
    return tuple(ids), np.concatenate(labels), np.concatenate(groups)


def _relabel(example: SlideExample, place: Sequence[int]) -> SlideExample:
    if example.label is None:
        return example
    if not 0 <= example.label < len(place):
        raise ValueError(f"{example.name}: class {example.label} is none of the {len(place)}.")
    return dataclasses.replace(example, label=place[example.label])


def _check_widths(examples: Sequence[SlideExample], width: int, name: str) -> None:
    for example in examples:
        if example.features.shape[1] != width:
            raise ValueError(
                f"{example.name}: {example.features.shape[1]} features per patch, '{name}' takes "
                f"{width}. Make the features with the model's own encoder."
            )
