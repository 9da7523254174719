"""A TNet trained on drawn cells, from crops to a file whose dial has been measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.models.tnet.network import TNet
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import TrainingSettings, split_folds
from napari_sparseattn.training.loop.fit import predict_logits
from napari_sparseattn.training.loop.tnet import TNetOptions
from napari_sparseattn.training.loop.tnet_cells import (
    cell_architecture,
    measure_locations,
    new_tnet,
    train_tnet,
)

SIDE = 32
SETTINGS = TrainingSettings(
    name="discs and rings",
    crop=CropSpec(size=SIDE, field_of_view_um=8.0),
    augmentation=Augmentation(
        scale=0.1, stain=0.02, counterstain=0, response=0, depth=0, tint=0, haze=0, white=0.05,
        gamma=0.05, blur=0, noise=0.01, jpeg=0,
    ),
    architecture={"backbone": {"name": "small", "widths": (8, 8, 16)}, "dropout": 0.0},
    data="drawn discs and rings",
)  # fmt: skip


def drawn(n: int) -> CropSet:
    """Discs against rings on a bright ground."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    crops = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for i, label in enumerate(labels):
        away = np.hypot(axis[:, None] - rng.normal(), axis[None] - rng.normal())
        inside = (away < 12) if label == 0 else (away < 12) & (away > 7)
        image = 230 - 150 * inside[..., None] + rng.normal(0, 5, (SIDE, SIDE, 3))
        crops[i] = np.clip(image, 0, 255)
    return CropSet(crops, labels, ("disc", "ring"), tuple(f"{x}/{i}" for i, x in enumerate(labels)))


def test_training_learns_and_measures_its_dial(tmp_path: Path) -> None:
    data, seen = drawn(320), []
    options = TNetOptions(epochs=8, learning_rate=5e-3)
    dial = ((1, 1), (3, 1), (2, 3))
    bundle, report = train_tnet(data, SETTINGS, options, seen.append, dial=dial)
    assert report.test.accuracy > 0.9
    assert len(seen) == len(report.history) == 8
    save_bundle(bundle, tmp_path / "m.safetensors")
    loaded = load_bundle(tmp_path / "m.safetensors")
    card = loaded.card
    assert (card.kind, card.crop.size, card.architecture["base"]) == ("tnet", SIDE, SIDE // 4)
    assert card.training.n_train + card.training.n_validation + card.training.n_test == 320
    assert card.metrics["accuracy"] == report.test.accuracy
    # Measured on the validation crops, by the net as it is called with these locations.
    validation = split_folds(data)["validation"]
    inputs = card.normalisation(validation.crops.transpose(0, 3, 1, 2) / np.float32(255))
    net = loaded.model()
    for locations in dial:
        with torch.inference_mode():
            found = net(torch.from_numpy(inputs), locations).logits.argmax(1).numpy()
        expected = (found == validation.labels).mean()
        assert card.accuracy_at(locations) == (pytest.approx(expected), len(validation))
    assert card.accuracy_at((9, 9)) is None


def test_training_repeats_itself_from_the_seed() -> None:
    states = [
        train_tnet(drawn(60), SETTINGS, TNetOptions(epochs=1, seed=seed), dial=())[0].state
        for seed in (3, 3, 4)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_no_epochs_only_measure_a_model_and_keep_its_history() -> None:
    data = drawn(60)
    torch.manual_seed(0)
    first, report = train_tnet(data, SETTINGS, TNetOptions(epochs=1), dial=())
    model = new_tnet(data, SETTINGS)
    model.load_state_dict(first.state)
    again, later = train_tnet(
        data, SETTINGS, TNetOptions(epochs=0), model=model, history=report.history, dial=()
    )
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert later.test.to_dict() == report.test.to_dict()
    assert again.card.training.epochs == 1


def test_the_dial_of_a_finished_model_can_be_measured_anew() -> None:
    data = drawn(60)
    bundle, _ = train_tnet(data, SETTINGS, TNetOptions(epochs=0), dial=())
    validation = split_folds(data)["validation"]
    rows = measure_locations(bundle, validation, ((4, 2),)).card.metrics["by_locations"]
    assert [row["locations"] for row in rows] == [[4, 2]]
    assert rows[0]["n"] == len(validation)


def test_crops_of_twice_the_size_are_reduced() -> None:
    data = drawn(60)
    twice = dataclasses.replace(data, crops=data.crops.repeat(2, axis=1).repeat(2, axis=2))
    parts = [split_folds(each)["validation"] for each in (data, twice)]
    model = new_tnet(data, SETTINGS)
    assert isinstance(model, TNet)
    logits = [predict_logits(model, part.crops, SETTINGS.normalisation, SIDE) for part in parts]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_the_last_looks_are_at_full_resolution() -> None:
    assert cell_architecture(128) == {
        "base": 32, "grid": 3, "overlap": 0.5, "locations": (3, 1), "dropout": 0.2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="at least 32"):
        cell_architecture(16)
