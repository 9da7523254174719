from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sparseattn.models.span import (
    SpanMil,
    SpanMilConfig,
    SpanUnet,
    SpanUnetConfig,
    run_span,
)
from napari_sparseattn.training.loop.known import measure_known_slides
from napari_sparseattn.training.loop.span import (
    SlideExample,
    SpanOptions,
    class_weights,
    dice,
    fit_span,
    measure_patches,
    measure_slides,
    patch_loss,
    predict_slides,
    span_temperature,
)

FEATURES = 128


def slides(n: int, seed: int, *, side: int = 6) -> list[SlideExample]:
    """Squares of patches; a corner of four shows something in every other slide.

    Its patch labels are known in the upper half.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].reshape(2, -1)
    made = []
    for number in range(n):
        features = rng.standard_normal((side**2, FEATURES)).astype(np.float32)
        corner = (x < 2) & (y < 2)
        if number % 2:
            features[corner, :32] += 3
        labels = np.where(y < side // 2, corner & (number % 2 == 1), -1).astype(np.int8)
        made.append(
            SlideExample(features, np.stack([x, y], axis=1), number % 2, labels, name=f"s{number}")
        )
    return made


def mil() -> SpanMil:
    torch.manual_seed(0)
    return SpanMil(SpanMilConfig(features=FEATURES, n_classes=2))


def unet() -> SpanUnet:
    torch.manual_seed(0)
    return SpanUnet(SpanUnetConfig(features=FEATURES))


@pytest.mark.slow
def test_slides_are_learned_and_the_best_weights_kept() -> None:
    model, held_out = mil(), slides(6, 1)
    options = SpanOptions(epochs=4, learning_rate=1e-3)
    reports = list(fit_span(model, slides(12, 0), held_out, options))
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    best = [report for report in reports if report.best][-1]
    assert best.loss == min(report.loss for report in reports)
    assert not model.training
    logits = torch.cat(predict_slides(model, held_out))
    target = torch.tensor([each.label for each in held_out])
    assert float(F.cross_entropy(logits, target)) == pytest.approx(best.loss, rel=1e-4)
    measured = measure_slides(model, slides(10, 2), ("without", "with"))
    assert measured.accuracy > 0.9
    assert measured.n == 10
    # The temperature is where the loss no longer falls either way.
    t = span_temperature(model, held_out, options)
    losses = [float(F.cross_entropy(logits / (t * factor), target)) for factor in (0.9, 1, 1.1)]
    assert losses[1] == min(losses) or t in (0.05, 20)


def test_patches_are_learned_from_those_that_have_a_label() -> None:
    model = unet()
    options = SpanOptions.for_patches(epochs=4, learning_rate=1e-3)
    assert options.task == "patches"
    reports = list(fit_span(model, slides(10, 0), slides(4, 1), options))
    assert reports[-1].accuracy > 0.95
    report, overlap = measure_patches(model, slides(6, 2))
    assert report.n == 6 * 18  # the upper halves
    assert overlap > 0.9
    assert 0.05 <= span_temperature(model, slides(4, 1), options) <= 20


def test_unknown_patches_teach_nothing() -> None:
    """Their labels are -1 and what they would be is no matter; the others' is."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([1, 0, -1] * 4)
    loss = patch_loss(logits, labels, positive_weight=3.0, dice=0.75)
    loss.backward()
    gradient = logits.grad
    assert gradient is not None
    assert (gradient[labels < 0] == 0).all()
    assert (gradient[labels >= 0] != 0).all()
    # By hand, in NumPy.
    z, t = logits.detach().double().numpy()[labels >= 0], labels.numpy()[labels >= 0]
    p = 1 / (1 + np.exp(-z))
    entropy = -np.mean(3 * t * np.log(p) + (1 - t) * np.log(1 - p))
    overlap = (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert float(loss.detach()) == pytest.approx(0.25 * entropy + 0.75 * (1 - overlap), rel=1e-5)
    assert float(patch_loss(logits, torch.full((12,), -1)).detach()) == 0


def test_rare_classes_weigh_more() -> None:
    assert class_weights([0, 0, 0, 1], 3).tolist() == pytest.approx([2 / 3, 2, 1])
    # Each class has the same weight in all, and the mean is 1.
    weights = class_weights([0] * 7 + [1] * 2 + [2], 3)
    assert (weights * torch.tensor([7, 2, 1])).tolist() == pytest.approx([10 / 3] * 3)


class Said(NamedTuple):
    logits: Tensor


class Biased(nn.Module):
    """Says the same of every slide: its loss tells how classes are weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, features: Tensor, cells: Tensor) -> Said:
        return Said(self.bias[None])


def test_class_weights_reach_the_loss_of_a_single_slide() -> None:
    """With nine slides of one class, an unweighted loss would come to say that one."""
    many = [each for each in slides(18, 0) if each.label == 0] + slides(2, 3)[1:]
    model = Biased()
    options = SpanOptions(epochs=40, patience=40, learning_rate=0.05, augment=0)
    reports = list(fit_span(model, many, many, options))
    assert model.bias.softmax(0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert min(report.loss for report in reports) == pytest.approx(np.log(2), abs=0.02)


def test_it_stops_when_nothing_is_gained() -> None:
    wrong = [
        SlideExample(each.features, each.cells, 1 - each.label, name=each.name)
        for each in slides(2, 5)
    ]
    options = SpanOptions(epochs=30, patience=3, learning_rate=1e-3, augment=0)
    reports = list(fit_span(mil(), slides(4, 0), wrong, options))
    assert len(reports) < 30
    assert [report.best for report in reports[-3:]] == [False] * 3
    assert reports[-4].best


def test_closing_and_stopping_keep_the_best_weights() -> None:
    options = SpanOptions(epochs=9, patience=9, learning_rate=1e-3)
    reference = mil()
    first = fit_span(reference, slides(4, 0), slides(2, 1), options)
    next(first)
    kept = copy.deepcopy(reference.state_dict())
    first.close()

    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 4 + 2 + 3  # in the middle of the second epoch

    model = mil()
    reports = list(fit_span(model, slides(4, 0), slides(2, 1), options, stop=stop))
    assert len(reports) == 1
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(weights, kept[name])
        torch.testing.assert_close(reference.state_dict()[name], kept[name])
    assert not model.training


def test_a_seed_repeats_a_run() -> None:
    def run(seed: int) -> float:
        options = SpanOptions(epochs=1, seed=seed, learning_rate=1e-3)
        return [each.loss for each in fit_span(mil(), slides(4, 0), slides(2, 1), options)][-1]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_gradients_of_several_slides_are_averaged() -> None:
    """One step over two slides is plain SGD's direction of their mean loss."""
    seen = []

    def loss(
        model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen.append(len(features))
        value = model.bias[0] * (1.0 if int(target) else 3.0)
        return value, model.bias[None]

    model = Biased()
    options = SpanOptions(epochs=1, slides_per_step=2, augment=0, weight_decay=0)
    list(fit_span(model, slides(2, 0), slides(2, 1), options, loss=loss))
    assert seen == [36, 36]  # the peer's loss is for training only
    assert model.bias.grad is not None
    # Clipped to a norm of 1 from (1 + 3) / 2.
    assert model.bias.grad.tolist() == pytest.approx([1.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("task", ["slides", "patches"])
def test_what_cannot_be_learned_from_is_refused(task: str) -> None:
    options = SpanOptions(task=task)  # type: ignore[arg-type]
    cells = np.array([[0, 0], [1, 0]])
    bare = SlideExample(np.zeros((2, FEATURES), np.float32), cells, name="bare")
    with pytest.raises(ValueError, match="bare"):
        next(fit_span(mil(), [bare], slides(2, 0), options))
    with pytest.raises(ValueError, match="at least one"):
        next(fit_span(mil(), [], slides(2, 0), options))


def test_labels_of_no_class_and_features_that_are_no_numbers() -> None:
    cells = np.array([[0, 0], [1, 0]])
    beyond = SlideExample(np.zeros((2, FEATURES), np.float32), cells, 2, name="beyond")
    with pytest.raises(ValueError, match="Class 2 is none of the model's 2"):
        next(fit_span(mil(), [beyond], slides(2, 0)))
    holes = SlideExample(np.full((2, FEATURES), np.nan, np.float32), cells, 1, name="holes")
    with pytest.raises(ValueError, match="holes: the loss is not a number"):
        next(fit_span(mil(), [holes], slides(2, 0)))
    unknown = SlideExample(
        np.zeros((2, FEATURES), np.float32), cells, None, np.array([-1, -1], np.int8), name="none"
    )
    with pytest.raises(ValueError, match="none: no patch has a label"):
        next(fit_span(unet(), [unknown], slides(2, 0), SpanOptions.for_patches()))


def test_features_may_stay_in_a_file(tmp_path: Path) -> None:
    (held,) = slides(1, 0)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        stored = file.create_dataset("features", data=held.features, chunks=(8, FEATURES))
        lazy = SlideExample(stored, held.cells, held.label, name="lazy")
        both = predict_slides(mil(), [held, lazy])
    torch.testing.assert_close(both[0], both[1])


def test_dice() -> None:
    found = np.array([True, True, False, False, True])
    assert dice(found, np.array([1, 0, 1, 0, -1])) == pytest.approx(0.5)
    assert dice(found[:0], np.zeros(0, np.int8)) == 1
    assert dice(found, np.zeros(5, np.int8)) == 0


@pytest.mark.parametrize("make", [mil, unet])
def test_slides_unlike_those_trained_on_are_told(make: Any) -> None:
    model = make()
    known, spec = measure_known_slides(model, slides(12, 0), slides(6, 1), slides(6, 2))
    assert known is not None
    assert spec is not None
    assert spec.checked == known.held.sum() > 0
    stain = np.where(np.arange(FEATURES) < 64, 0, 6).astype(np.float32)
    other = [
        known.novelty(
            run_span(model, torch.from_numpy(each.features + stain), cells_of(each)).states
        )
        for each in slides(6, 3)
    ]
    assert np.median(np.concatenate(other)) > 1


def test_of_few_slides_nothing_is_said() -> None:
    assert measure_known_slides(mil(), slides(4, 0), slides(2, 1)) == (None, None)


def cells_of(example: SlideExample) -> Tensor:
    return torch.from_numpy(np.asarray(example.cells, np.int64))
