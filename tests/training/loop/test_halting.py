"""The threshold that is chosen loses nothing, and the saved model stops by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from napari_sparseattn.bundle import load_bundle, read_card, save_bundle
from napari_sparseattn.card import HaltingSpec
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.metrics import roc_auc
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.halting import (
    choose_halting,
    choose_threshold,
    with_halting,
)
from small_tnet import small_tnet_bundle


def runs(n: int = 300, crops: int = 9, seed: int = 0) -> tuple[list[torch.Tensor], np.ndarray]:
    """Images whose crops are each a bit better than chance: more are better."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    # What is clear at the first look stays so; the others are told by more looks, if at all.
    clear = rng.random((n, 1)) < 0.5
    strength = np.where(clear, 6.0, 0.3)
    told = rng.normal(0, 1.0, (n, crops)) + (2 * truth - 1)[:, None] * strength
    mean = told.cumsum(1) / np.arange(1, crops + 1)
    logits = np.stack([-mean, mean], axis=2)
    return [torch.from_numpy(each) for each in logits], truth


def test_nothing_is_lost_at_the_chosen_threshold_or_above() -> None:
    given, truth = runs()
    spec = choose_threshold(given, truth, 1.0)
    assert spec is not None
    assert 0.5 <= spec.threshold < 1
    assert spec.saved > 0.1

    def figures(threshold: float) -> tuple[float, float]:
        """By the definition, image by image."""
        ends = []
        for run in given:
            chances = run.softmax(1)
            sure = [i for i, each in enumerate(chances) if float(each.max()) >= threshold]
            ends.append(chances[sure[0] if sure else -1].numpy())
        found = np.stack(ends)
        auc = roc_auc(found[:, 1], truth == 1)
        assert auc is not None
        return float((found.argmax(1) == truth).mean()), auc

    whole = figures(2.0)
    assert (spec.accuracy_all, spec.auc_all) == whole
    chosen = figures(spec.threshold)
    assert chosen == (spec.accuracy, spec.auc)
    assert chosen[0] >= whole[0]
    assert chosen[1] >= whole[1]
    for threshold in np.round(np.arange(spec.threshold, 0.99, 0.01), 2):
        accuracy, auc = figures(float(threshold))
        assert min(accuracy - whole[0], auc - whole[1]) >= -1 / len(truth)


def test_a_model_that_is_always_too_sure_is_left_alone() -> None:
    given, truth = runs()
    # The first crop is wrong, and sure of it.
    spoilt = [torch.cat([-50 * run[-1:].sign() * torch.ones(1, 2), run[1:]]) for run in given]
    assert choose_threshold(spoilt, truth, 1.0) is None


def test_a_saved_model_stops_by_itself_and_an_older_one_does_not(tmp_path: Path) -> None:
    plain = save_bundle(small_tnet_bundle(), tmp_path / "plain.safetensors")
    assert read_card(plain.path).format_version == 1
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    field = Field.from_array(image, pixel_size=0.5, name="x")
    before = classify_field(field, plain, device="cpu")
    assert before.traversal.stop is None
    halted = save_bundle(
        with_halting(plain, HaltingSpec(threshold=0.4)), tmp_path / "h.safetensors"
    )
    assert read_card(halted.path).format_version == 3
    bundle = load_bundle(halted.path)
    found = classify_field(field, bundle, device="cpu")
    stop = found.traversal.stop
    assert stop is not None
    assert stop.crops == len(found.traversal) < stop.most == len(before.traversal)
    assert stop.confidence >= 0.4
    assert stop.sentence.startswith(f"stopped after {stop.crops} of {stop.most} crops: sure enough")
    assert found.traversal.to_dict()["stopped"]["why"] == stop.sentence
    # Asked to look at all, it does, and says what it did before.
    whole = classify_field(field, bundle, device="cpu", halt=False)
    np.testing.assert_allclose(whole.probabilities, before.probabilities, atol=1e-6)
    assert whole.traversal.stop is None
    # The dial is the most that is looked at.
    never = with_halting(plain, HaltingSpec(threshold=1.0))
    few = classify_field(field, never, (1, 1), device="cpu")
    assert len(few.traversal) == 3
    assert few.traversal.stop.sentence.startswith("looked at all 3 crops: not sure enough")


def test_crops_choose_the_threshold_and_novelty_is_told_of_what_stopped() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    crops = rng.integers(0, 255, (90, 64, 64, 3), np.uint8)
    data = CropSet(
        crops, labels.astype(np.int64), ("left", "middle", "right"), tuple(map(str, labels))
    )
    bundle = small_tnet_bundle(temperature=2.0)
    # What the model says itself is right by definition: stopping must agree with it.
    own = bundle.cell_model()
    from napari_sparseattn.training.loop.fit import predict_logits

    said = predict_logits(own, crops, bundle.card.normalisation, 64).argmax(1).numpy()
    data = CropSet(crops, said, data.class_names, data.names)
    chosen = choose_halting(bundle, data, train=data, test=data)
    spec = chosen.card.halting
    assert spec is not None
    assert spec.accuracy == spec.accuracy_all == 1.0
    assert spec.known_halted
    assert 0 < spec.saved < 1
    field = Field.from_array(crops[0], pixel_size=0.5, name="x")
    found = classify_field(field, chosen, device="cpu")
    assert found.novelty is not None
