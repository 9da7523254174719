"""How fast confidence falls with novelty, fitted to cells that are changed hard."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.known import add_softening
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges
from small_model import knowing, small_bundle

#: Nothing happens to the crops.
STILL = LaboratoryChanges(
    swap=0, shift=0, scale=(1, 1), stretch=0, strength=0, blur=0, sharpen=0, noise=0, jpeg=0,
)  # fmt: skip


def cells(bundle: Bundle, right: float) -> CropSet:
    """Crops, of which a share is what the model says they are."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (90, 24, 24, 3), dtype=np.uint8)
    with torch.inference_mode():
        model, rule = bundle.cell_model(), bundle.card.normalisation
        generator = torch.Generator().manual_seed(0)
        batch = torch.from_numpy(crops).permute(0, 3, 1, 2)
        seen = torch.cat([STILL(part, 16, generator)[0] for part in batch.split(64)])
        said = model(torch.from_numpy(rule(seen.numpy()))).logits.argmax(1).numpy()
    wrong = rng.random(90) >= right
    labels = np.where(wrong, (said + 1) % 3, said)
    return CropSet(crops, labels, bundle.card.class_names, tuple(map(str, range(90))))


@pytest.fixture(scope="module")
def sure() -> Bundle:
    """A model that is sure of everything, to which everything is new."""
    return knowing(small_bundle(temperature=0.02), threshold=0.2)


def test_confidence_falls_as_far_as_it_is_wrong(sure: Bundle) -> None:
    softenings = []
    for right in (1.0, 0.9, 0.6):
        spec = add_softening(sure, cells(sure, right), STILL).card.novelty
        assert spec is not None
        softenings.append(spec.softening)
    assert softenings[0] == pytest.approx(0, abs=0.01)
    assert softenings[0] < softenings[1] < softenings[2]


def test_the_power_is_the_one_of_the_least_surprise(sure: Bundle) -> None:
    held = cells(sure, 0.7)
    found = add_softening(sure, held, STILL)
    spec = found.card.novelty
    assert spec is not None
    model, rule = found.cell_model(), found.card.normalisation
    generator = torch.Generator().manual_seed(0)
    batch = torch.from_numpy(held.crops).permute(0, 3, 1, 2)
    seen = torch.cat([STILL(part, 16, generator)[0] for part in batch.split(64)])
    with torch.inference_mode():
        output = model(torch.from_numpy(rule(seen.numpy())))

    def surprise(power: float) -> float:
        changed = spec.model_copy(update={"softening": power})
        card = found.card.model_copy(update={"novelty": changed})
        temperatures = dataclasses.replace(found, card=card).temperatures(output.state)
        logits = output.logits / torch.from_numpy(temperatures)[:, None]
        return float(F.cross_entropy(logits, torch.from_numpy(held.labels)))

    assert 0.05 < spec.softening < 9
    least = surprise(spec.softening)
    assert least < surprise(0)
    assert least <= surprise(spec.softening + 0.3) + 1e-6
    assert least <= surprise(spec.softening - 0.3 if spec.softening > 0.3 else 0) + 1e-6


def test_without_known_states_there_is_nothing_to_fall_with() -> None:
    bundle = small_bundle()
    with pytest.raises(ValueError, match="no known states"):
        add_softening(bundle, cells(bundle, 1.0), STILL)
