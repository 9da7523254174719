"""Epochs of fine-tuning a SPAN: judged on held-out slides, the best kept, progress on disk."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...bundle import Bundle
from ...device import choose_device
from ...models.span import SpanMil, SpanUnet
from ..data.span_data import SlideExample
from ..loop.classifier import fit_temperature
from ..loop.control import TrainingControl
from ..loop.optimiser_state import load_optimiser, optimiser_tensors, under
from ..loop.span import SpanOptions, SpanRun, check_labels, predict_slides
from .checkpoint import Progress, fingerprint, read_progress, write_progress
from .grown_head import (
    HeadFeatures,
    class_weights,
    fit_head,
    grown_layer,
    listening,
    united_classes,
)
from .report import FineTuneReport, HeldOut, compare
from .run import FineTuneEpoch

if TYPE_CHECKING:
    from .slides import TuneSlidesOptions

__all__ = ["SlideTask", "TuneRun"]

SlideNet = SpanMil | SpanUnet

#: Held-out slides, or patches, below which the old temperature stays.
_LEAST_TO_CALIBRATE = 20


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
            self.classes, self.old_classes = united_classes(old, class_names), old
            place = [self.classes.index(name) for name in class_names]
            examples = [_relabelled(example, place) for example in examples]
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
            return model, _weights(model)
        features, logits = _read_by_head(model, self.train)
        model.head = grown_layer(model.head, n).requires_grad_(True)
        model.config = dataclasses.replace(model.config, n_classes=n)
        before = _weights(model)
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
    """Epoch after epoch, with the best kept and progress on disk."""

    def __init__(self, task: SlideTask, control: TrainingControl) -> None:
        self.task, self.control = task, control
        self.began = time.perf_counter()
        self.notes: list[str] = []
        self.history: list[FineTuneEpoch] = []
        options = task.options
        self.model, self.start = task.model()
        self.run = SpanRun(
            self.model,
            task.train,
            task.held,
            task.span_options,
            stop=lambda: not control.proceed(),
        )
        self.best_epoch, self.best_score = 0, float("inf")
        self.best = _weights(self.model)
        self.mark = task.fingerprint() if options.checkpoint else ""
        if not self._went_on() and task.held:
            measured = self.run.measure()
            if measured is None:
                raise InterruptedError(
                    "Cancelled before anything was learned; the model is as it was."
                )
            self.best_score = measured[0]

    def __iter__(self) -> Iterator[FineTuneEpoch]:
        options = self.task.options
        while len(self.history) < options.epochs and self._stale < options.patience:
            began, number = time.perf_counter(), len(self.history) + 1
            # Each epoch is seeded on its own, so that a run can go on after any.
            torch.manual_seed(options.seed * 10_007 + number)
            self.run.rng = np.random.default_rng([options.seed, number])
            trained = self.run.epoch(number)
            held = self._measured() if trained is not None else None
            if trained is None or held is None:
                self._cancelled(number)
                return
            epoch = self._judged(number, trained, held, began)
            self.history.append(epoch)
            self._save()
            yield epoch
            spent = time.perf_counter() - self.began
            if options.seconds is not None and spent + epoch.seconds > options.seconds:
                return

    @property
    def _stale(self) -> int:
        """Epochs since the last that was the best, also of those before a kill."""
        best = [epoch.epoch for epoch in self.history if epoch.best]
        return len(self.history) - max(best, default=0)

    def result(self) -> tuple[SlideNet, FineTuneReport]:
        """Calibrate the best weights, and compare them with the model before."""
        task = self.task
        self.model.load_state_dict(self.best)
        self.model.cpu().eval()
        ids, labels, groups = _told(task.held, task.segments)
        old, new = (
            _logits(model, task.held, n)
            for model, n in (
                (task.bundle.slide_model(), len(task.card.class_names)),
                (self.model, len(task.classes)),
            )
        )
        temperature = task.card.temperature
        if len(labels) >= _LEAST_TO_CALIBRATE:
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
        counts = np.bincount(_told(every, task.segments)[1], minlength=len(task.classes))
        report = compare(
            held,
            old[:, : len(task.old_classes)] / task.card.temperature,
            new,
            temperature,
            history=[epoch.numbers() for epoch in self.history],
            best_epoch=self.best_epoch,
            annotated=dict(zip(task.classes, counts.tolist(), strict=True)),
            unannotated={},
            seconds=time.perf_counter() - self.began,
            notes=self.notes,
        )
        return self.model, report

    def _blended(self) -> dict[str, Tensor]:
        """The weights of now, drawn to those of before."""
        keep, now = self.task.options.keep, _weights(self.model)
        return {
            key: torch.lerp(value, self.start[key], keep) if value.is_floating_point() else value
            for key, value in now.items()
        }

    def _measured(self) -> tuple[float, float] | None:
        """Loss and accuracy on the held-out slides, of the model that would be kept."""
        now = _weights(self.model)
        self.model.load_state_dict(self._blended())
        held = self.run.measure()
        self.model.load_state_dict(now)
        return held

    def _judged(
        self,
        number: int,
        trained: tuple[float, float],
        held: tuple[float, float],
        began: float,
    ) -> FineTuneEpoch:
        if not self.task.held:
            held = (float("nan"), float("nan"))
        score = held[0] if self.task.held else trained[0]
        best = score < self.best_score
        if best:
            self.best, self.best_epoch, self.best_score = self._blended(), number, score
        seconds = time.perf_counter() - began
        return FineTuneEpoch(
            number, self.task.options.epochs, *trained, *held, None, seconds, best
        )  # fmt: skip

    def _cancelled(self, number: int) -> None:
        if number == 1 and not self.task.held:
            raise InterruptedError("Cancelled before anything was learned; the model is as it was.")
        same = len(self.task.classes) == len(self.task.card.class_names)
        first = "the model as it was" if same else "the fitted head"
        kept = f"epoch {self.best_epoch}" if self.best_epoch else first
        self.notes.append(
            f"Cancelled in epoch {number} of {self.task.options.epochs}; {kept} is kept."
        )

    def _save(self) -> None:
        path = self.task.options.checkpoint
        if path is None:
            return
        state = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        state |= optimiser_tensors(self.run.optimiser)
        state = {key: value.detach().cpu().clone() for key, value in state.items()}
        write_progress(path, Progress(
            self.mark, self.task.options.epochs, False,
            [epoch.numbers() for epoch in self.history],
            self.best_epoch, self.best_score, state, self.best,
        ))  # fmt: skip

    def _went_on(self) -> bool:
        path = self.task.options.checkpoint
        found = read_progress(path, self.mark) if path is not None else ""
        if not isinstance(found, Progress):
            if found:
                self.notes.append(found)
            return False
        self.history = [FineTuneEpoch.of(row) for row in found.history]
        self.model.load_state_dict(under(found.state, "model."))
        load_optimiser(self.run.optimiser, found.state)
        self.best, self.best_epoch = found.best, found.best_epoch
        self.best_score = found.best_score
        self.notes.append(f"Went on after epoch {len(self.history)} from a checkpoint.")
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


def _told(
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


def _relabelled(example: SlideExample, place: Sequence[int]) -> SlideExample:
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


def _weights(model: SlideNet) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
