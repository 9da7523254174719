"""How fast confidence falls with novelty, fitted to cells that are changed hard."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.known import add_softening, fit_softening
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
    return knowing(small_bundle(temperature=0.1), threshold=0.2)


def said(bundle: Bundle, crops: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Logits, and the states that go with them."""
    rule = bundle.card.normalisation
    generator = torch.Generator().manual_seed(0)
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2)
    seen = torch.cat([STILL(part, 16, generator)[0] for part in batch.split(64)])
    with torch.inference_mode():
        output = bundle.cell_model()(torch.from_numpy(rule(seen.numpy())))
    return output.logits, output.state.numpy()


def test_confidence_falls_as_far_as_it_is_wrong(sure: Bundle) -> None:
    means = []
    for right in (1.0, 0.9, 0.6):
        held = cells(sure, right)
        found = add_softening(sure, held, STILL)
        means.append(found.temperatures(said(found, held.crops)[1]).mean())
    assert means[0] < means[1] < means[2]


def test_numbers_that_made_the_classes_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for spread in (0.3, 2.0):
        logits = 3 * torch.randn((20_000, 5), generator=generator, dtype=torch.float64)
        new = spread * torch.rand((20_000, 1), generator=generator, dtype=torch.float64)
        shares = (logits / (0.6 * (new / 0.4).clamp_min(1) ** 1.3)).softmax(1)
        parts.append((logits, new, shares.multinomial(1, generator=generator)[:, 0]))
    assert fit_softening(parts, 1.0) == pytest.approx((0.6, 0.4, 1.3), rel=0.07)


def test_the_numbers_are_those_of_the_least_surprise(sure: Bundle) -> None:
    held = cells(sure, 0.7)
    found = add_softening(sure, held, STILL)
    spec = found.card.novelty
    assert spec is not None
    logits, states = said(found, held.crops)

    def surprise(base: float, start: float, power: float) -> float:
        changed = spec.model_copy(update={"softening": power, "softening_from": start})
        card = found.card.model_copy(update={"novelty": changed, "temperature": base})
        temperatures = dataclasses.replace(found, card=card).temperatures(states)
        divided = logits / torch.from_numpy(temperatures)[:, None]
        return float(F.cross_entropy(divided, torch.from_numpy(held.labels)))

    numbers = found.card.temperature, spec.softening_from, spec.softening
    least = surprise(*numbers)
    assert least < surprise(0.02, 1.0, 0.0)
    for place in range(3):
        for factor in (0.8, 1.25):
            other = list(numbers)
            other[place] *= factor
            assert least <= surprise(*other) + 1e-4


def test_the_card_says_what_was_measured_with_it(sure: Bundle) -> None:
    held = cells(sure, 0.7)
    metrics = add_softening(sure, held, STILL, held).card.metrics
    assert metrics["n"] == 90
    assert metrics["accuracy"] == pytest.approx(0.7, abs=0.1)
    assert metrics["ece"] < 0.15


def test_without_known_states_there_is_nothing_to_fall_with() -> None:
    bundle = small_bundle()
    with pytest.raises(ValueError, match="no known states"):
        add_softening(bundle, cells(bundle, 1.0), STILL)
