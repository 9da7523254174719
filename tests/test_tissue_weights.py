"""The bundled models of simulated tissue are what their cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sparseattn.bundle import find_bundles, load_bundle
from napari_sparseattn.evidence import PyramidAttention
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.simulate import TissueTruth, simulated_slide


def test_the_tnet_says_that_it_is_simulated_and_cannot_be_decided_from_afar() -> None:
    bundle = load_bundle("tissue-simulated-tnet")
    card = bundle.card
    assert card.kind == "tnet"
    assert card.training.simulated
    assert card.description.startswith("SIMULATED")
    assert card.class_names == ("benign", "tumour")
    assert card.normalisation.kind == "fixed", "others would need the whole slide"
    assert find_bundles()["tissue-simulated-tnet"].stat().st_size <= 2_000_000
    assert card.metrics["n"] == card.training.n_test
    low, high = card.metrics["accuracy_interval"]
    assert low < card.metrics["accuracy"] <= high
    trained = tuple(card.architecture["locations"])
    assert card.accuracy_at(trained) is not None
    # A slide's class does not show in its thumbnail.
    assert card.metrics["root_alone"]["interval"][0] < 0.5 < card.metrics["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("side", [6144, 40_000])
def test_the_tnet_finds_the_region_that_decides_on_new_slides_of_any_size(side: int) -> None:
    bundle = load_bundle("tissue-simulated-tnet")
    right = 0
    for seed in range(90_000, 90_003):
        for kind in ("benign", "tumour"):
            slide, _ = simulated_slide(side, side, kind=kind, seed=seed)
            prediction = classify_field(slide, bundle, device="cpu")
            right += bundle.card.class_names[prediction.probabilities.argmax()] == kind
            assert prediction.ledger.pixels < 0.6 * side**2
    # 6 slides: three standard errors below the card's accuracy.
    assert right >= 4


@pytest.mark.parametrize("name", ["tissue-simulated", "tissue-simulated-regions"])
def test_the_spans_say_that_they_are_simulated_and_fit_the_embedded_encoder(name: str) -> None:
    bundle = load_bundle(name)
    card, encoder = bundle.card, load_encoder("stain-texture", "cpu")
    assert card.kind == ("span-unet" if name.endswith("regions") else "span-mil")
    assert card.training.simulated
    assert card.description.startswith("SIMULATED")
    assert card.encoder is not None
    assert (card.encoder.name, card.encoder.hash) == (encoder.name, encoder.hash)
    assert card.crop.size == encoder.size
    assert card.crop.pixel_size == pytest.approx(encoder.pixel_size)
    assert find_bundles()[name].stat().st_size <= 4_000_000
    confusion = np.array(card.metrics["confusion"])
    assert confusion.sum() == card.metrics["n"]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(card.metrics["accuracy"])


@pytest.fixture(scope="module")
def new_slides(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, TissueTruth, Path]]:
    """Two slides of one seed, and a folder for their features, which both models share."""
    folder = tmp_path_factory.mktemp("features")
    made = []
    for kind in ("benign", "tumour"):
        slide, truth = simulated_slide(4096, 4096, kind=kind, seed=90_001)
        made.append((slide, truth, folder))
    return made


def test_a_new_slide_is_classified_out_of_the_box(
    new_slides: list[tuple[Any, TissueTruth, Path]],
) -> None:
    bundle, chances = load_bundle("tissue-simulated"), []
    for slide, _, store in new_slides:
        prediction = classify_slide(slide, bundle, store=store, device="cpu")
        chances.append(prediction.probabilities[1])
    assert chances[1] > 0.5 > chances[0]


def test_tumour_is_found_patch_by_patch(new_slides: list[tuple[Any, TissueTruth, Path]]) -> None:
    bundle = load_bundle("tissue-simulated-regions")
    slide, truth, store = new_slides[1]
    prediction = classify_slide(slide, bundle, store=store, device="cpu")
    evidence = prediction.evidence
    assert isinstance(evidence, PyramidAttention)
    assert evidence.patch_probabilities is not None
    boxes = np.array([evidence.patch_box(i) for i in range(len(evidence.cells))])
    inside = truth.is_tumour(boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 2] / 2)
    found = evidence.patch_probabilities > 0.5
    assert inside.any()
    assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.6
