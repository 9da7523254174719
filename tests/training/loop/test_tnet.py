from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.inference.fields import PyramidSource
from napari_sparseattn.models.tnet.crops import TNetOutput
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges
from napari_sparseattn.training.loop.tnet import AugmentedCrops, TNetLoss, TNetOptions, fit_tnet
from small_tnet import small_tnet

TARGET = torch.tensor([2, 0, 1, 2])


@pytest.fixture(scope="module")
def output() -> TNetOutput:
    torch.manual_seed(1)
    return small_tnet(locations=(3, 2), dropout=0.0)(torch.randn(4, 3, 64, 64))


def by_hand(output: TNetOutput, target: np.ndarray, baseline: float) -> dict[str, float]:
    """The four terms, and the mean rewards, image by image and crop by crop."""
    images: list[list[tuple[np.ndarray, float]]] = [[] for _ in target]
    for level in output.levels:
        for image, logits, log_prob in zip(
            level.crops.image.tolist(),
            level.logits.detach().double().numpy(),
            level.crops.log_prob.detach().tolist(),
            strict=True,
        ):
            images[image].append((logits, log_prob))

    def entropy(logits: np.ndarray, truth: int) -> float:
        return float(np.log(np.exp(logits).sum()) - logits[truth])

    n = len(images[0])
    sums = dict.fromkeys(["image", "selection", "crop", "crop selection", "r", "rf"], 0.0)
    for crops, truth in zip(images, target, strict=True):
        whole = np.mean([logits for logits, _ in crops], axis=0)
        right = float(whole.argmax() == truth)
        sums["r"] += right / len(target)
        sums["image"] += entropy(whole, truth) / len(target)
        chosen = sum(log_prob for _, log_prob in crops[1:])
        sums["selection"] += (right - baseline) * -chosen / len(target)
        for logits, _ in crops:
            sums["crop"] += entropy(logits, truth) / (n * len(target))
        for logits, log_prob in crops[1:]:
            alone = float(logits.argmax() == truth)
            sums["rf"] += alone / ((n - 1) * len(target))
            sums["crop selection"] += (alone - baseline) * -log_prob / ((n - 1) * len(target))
    return sums


def test_each_term_against_a_hand_computation(output: TNetOutput) -> None:
    loss = TNetLoss(baseline=0.4)
    terms = loss.terms(output, TARGET)
    expected = by_hand(output, TARGET.numpy(), 0.4)
    assert float(terms.classification.detach()) == pytest.approx(expected["image"], rel=1e-5)
    assert float(terms.selection.detach()) == pytest.approx(expected["selection"], rel=1e-5)
    assert float(terms.feature_classification.detach()) == pytest.approx(expected["crop"], rel=1e-5)
    assert float(terms.feature_selection.detach()) == pytest.approx(
        expected["crop selection"], rel=1e-5
    )
    assert expected["r"] not in (0, 1)  # both signs of the advantage are met
    assert loss.baseline == 0.4


def test_the_whole_and_the_baseline(output: TNetOutput) -> None:
    loss = TNetLoss(lambda_c=0.2, lambda_r=0.3, beta=0.1)
    first = by_hand(output, TARGET.numpy(), 0.5)
    expected = (
        0.2 * first["image"]
        + 0.1 * 0.3 * first["selection"]
        + 0.8 * first["crop"]
        + 0.1 * 0.7 * first["crop selection"]
    )
    assert float(loss(output, TARGET).detach()) == pytest.approx(expected, rel=1e-5)
    assert loss.baseline == pytest.approx(0.45 + 0.1 * (0.3 * first["r"] + 0.7 * first["rf"]))


def test_rewards_teach_the_location_module_alone() -> None:
    net = small_tnet(locations=(3, 2), dropout=0.0)
    terms = TNetLoss().terms(net(torch.randn(4, 3, 64, 64)), TARGET)
    (terms.selection + terms.feature_selection).backward()
    taught = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert taught == {"location"}


def test_a_rewarded_choice_becomes_likelier() -> None:
    net = small_tnet(locations=(1,), dropout=0.0)
    images = torch.randn(1, 3, 64, 64)
    before = net(images)
    target = before.logits.argmax(1)  # so that the reward is 1
    TNetLoss().terms(before, target).selection.backward()
    with torch.no_grad():
        for parameter in net.location.parameters():
            assert parameter.grad is not None
            parameter -= 1e-4 * parameter.grad
    chosen = int(before.levels[1].crops.candidate[0])
    after = net(images).levels[0].probabilities
    assert after is not None
    assert before.levels[0].probabilities is not None
    assert after[0, chosen] > before.levels[0].probabilities[0, chosen]


def test_a_net_without_choices_has_a_loss_too() -> None:
    net = small_tnet()
    loss = TNetLoss()
    output = net(torch.randn(4, 3, 64, 64), [])
    assert torch.isfinite(loss(output, TARGET))
    assert float(loss.terms(output, TARGET).selection.detach()) == 0


# ------------------------------------------------------------------ the loop


def spots(n: int, seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Grey fields with one coloured square of 20 x 20; its colour is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    crops = np.full((n, side, side, 3), 128, np.uint8)
    for crop, label in zip(crops, labels, strict=True):
        y, x = rng.integers(0, side - 20, 2)
        crop[y : y + 20, x : x + 20, label] = 255
    return crops, labels.astype(np.int64)


FIXED = Normalisation("fixed", 0.5, 0.25)
STILL = Augmentation(
    rotate=False, scale=0, shift=0, stretch=0, stain=0, counterstain=0, response=0, depth=0,
    tint=0, haze=0, white=0, gamma=0, blur=0, noise=0, jpeg=0,
)  # fmt: skip


def as_batches(n: int, seed: int) -> AugmentedCrops:
    crops, labels = spots(n, seed)
    return AugmentedCrops(
        crops, labels, normalisation=FIXED, augmentation=STILL, size=64, batch_size=16, seed=seed
    )


def test_batches_go_through_all_crops_in_a_new_order() -> None:
    batches = as_batches(40, 0)
    first, second = ([labels for _, labels in batches] for _ in range(2))
    assert len(batches) == len(first) == 3
    assert [len(labels) for labels in first] == [16, 16, 8]
    expected = np.bincount(batches.labels).tolist()
    for epoch in (first, second):
        assert torch.bincount(torch.cat(epoch)).tolist() == expected
    assert not torch.equal(torch.cat(first), torch.cat(second))
    images, _ = next(iter(batches))
    assert isinstance(images, torch.Tensor)
    assert images.shape == (16, 3, 64, 64)


def test_batches_may_change_as_other_laboratories_do() -> None:
    crops, labels = spots(16, 0)
    batches = AugmentedCrops(
        crops, labels, normalisation=Normalisation("fixed", 0, 1), augmentation=LaboratoryChanges(),
        size=64, batch_size=16,
    )  # fmt: skip
    (images, _), (again, _) = next(iter(batches)), next(iter(batches))
    assert images.shape == (16, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not torch.equal(images, again)


@pytest.mark.slow
def test_training_learns_and_keeps_the_best() -> None:
    torch.manual_seed(0)
    config = TNetConfig(
        n_classes=3, image_size=64, base=16, locations=(2,), dropout=0.0,
        backbone={"name": "small", "widths": (8, 16, 16)},
    )  # fmt: skip
    model = TNet(config)
    losses = iter([3.0, 1.0, 2.0, 2.0])
    weights = []

    def validate(net: TNet) -> tuple[float, float]:
        assert not net.training
        weights.append(net.head.weight.clone())
        return next(losses), 0.0

    options = TNetOptions(epochs=4, learning_rate=5e-3, seed=1)
    reports = list(fit_tnet(model, as_batches(256, 3), validate, options))
    assert [report.best for report in reports] == [True, True, False, False]
    assert torch.equal(model.head.weight, weights[1])
    assert reports[-1].train_accuracy > reports[0].train_accuracy
    assert reports[-1].train_accuracy > 0.8
    assert not model.training


def test_fields_are_drawn_as_they_are_read() -> None:
    drawn = []

    class Drawn:
        """Two batches of two virtual slides; the left half's shade is the class."""

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> object:
            for _ in range(2):
                yield PyramidSource([self.slide(0), self.slide(255)], FIXED), torch.tensor([0, 1])

        def slide(self, shade: int) -> VirtualPyramid:
            def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
                drawn.append(height * width)
                return np.full((height, width, 3), shade, np.uint8)

            return VirtualPyramid(render, 4096, 4096, tile=64)

    torch.manual_seed(0)
    sizes = {"name": "small", "widths": (8, 8)}
    config = TNetConfig(n_classes=2, image_size=4096, base=16, locations=(1, 1), backbone=sizes)
    options = dataclasses.replace(TNetOptions(epochs=8), learning_rate=1e-2)
    reports = list(fit_tnet(TNet(config), Drawn(), lambda _: (1.0, 0.0), options))
    assert reports[-1].train_accuracy == 1
    # 32 images at 3 crops: never the 4096 x 4096 pixels of even one.
    assert sum(drawn) < 4096 * 4096
