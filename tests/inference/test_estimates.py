"""Slides asked for a risk or a number: the answer, what adds up to it, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.batch.result_files import read_result, write_result
from napari_sparseattn.bundle import Bundle, BundleError, load_bundle, read_card, save_bundle
from napari_sparseattn.card import Card
from napari_sparseattn.evidence import PyramidAttention
from napari_sparseattn.export.formats import write_results
from napari_sparseattn.export.summary import describe, summarise
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference import explanations
from napari_sparseattn.inference.compare import compare_answers
from napari_sparseattn.inference.evaluate import evaluate_folder
from napari_sparseattn.inference.explanations import explain_slide
from napari_sparseattn.inference.slide_reruns import prepare_slide
from napari_sparseattn.inference.slides import SlidePrediction, classify_slide
from napari_sparseattn.training.tune.slides import tune_slides
from small_span import TARGETS_LEARNED, small_risk_bundle, small_span_bundle

KINDS = tuple(TARGETS_LEARNED)
SIDE = 5


@pytest.fixture
def bundles(tmp_path: Path) -> dict[str, Bundle]:
    return {
        kind: save_bundle(small_risk_bundle(kind, seed=2), tmp_path / f"{kind}.safetensors")
        for kind in KINDS
    }


def slide() -> ArrayPyramid:
    pixels = np.full((SIDE * 64, SIDE * 64, 3), 200, np.uint8)
    return ArrayPyramid(pixels, name="slide", pixel_size=1.0)


def features() -> FeatureSet:
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    values = np.random.default_rng(0).normal(size=(SIDE**2, 128)).astype(np.float32)
    cells = np.stack([x, y], axis=1).astype(np.int32)
    failed = np.zeros(SIDE**2, bool)
    return FeatureSet(
        values, cells, 64.0, 64.0, (0.0, 0.0), 1.0, "none", "0" * 64, "", None, failed
    )


def ask(bundle: Bundle) -> SlidePrediction:
    return classify_slide(slide(), bundle, features=features(), device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_loaded_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    saved = save_bundle(small_risk_bundle(kind), tmp_path / "one.safetensors")
    card = load_bundle(tmp_path / "one.safetensors").card
    assert card.model_dump(mode="json") == saved.card.model_dump(mode="json")
    assert card.target == TARGETS_LEARNED[kind]
    assert card.format_version == 4
    assert card.test_vector is not None
    assert len(card.test_vector.logits) == card.n_outputs == (3 if kind == "hazards" else 1)
    assert card.target.describe() in card.summary()


def test_cards_of_before_mean_classes(tmp_path: Path) -> None:
    saved = save_bundle(small_span_bundle(), tmp_path / "old.safetensors")
    assert b'"target"' not in (tmp_path / "old.safetensors").read_bytes()[:20_000]
    assert read_card(tmp_path / "old.safetensors").target is None
    assert saved.card.format_version < 4
    assert saved.card.n_outputs == 2


def test_a_card_that_contradicts_its_target_is_refused(tmp_path: Path) -> None:
    card = small_risk_bundle("hazards").card.model_dump()
    with pytest.raises(ValueError, match="is the one class name"):
        Card.model_validate({**card, "class_names": ("a", "b")})
    with pytest.raises(ValueError, match="hazards need times"):
        Card.model_validate({**card, "target": {**card["target"], "times": ()}})
    with pytest.raises(ValueError, match="ends of intervals must rise"):
        Card.model_validate({**card, "target": {**card["target"], "times": (2.0, 1.0)}})
    segments = {"kind": "span-unet", "class_names": ("a", "b")}
    with pytest.raises(ValueError, match="a SPAN of slides, and no other model, gives a risk"):
        Card.model_validate({**card, **segments})
    wrong = small_risk_bundle("cox")
    more = Card.model_validate({**wrong.card.model_dump(), "target": card["target"],
                                "class_names": card["class_names"]})  # fmt: skip
    with pytest.raises(BundleError, match="other numbers of classes"):
        save_bundle(Bundle(more, wrong.state), tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_what_the_network_says(kind: str, bundles: dict[str, Bundle]) -> None:
    bundle, found = bundles[kind], features()
    with torch.inference_mode():
        cells = torch.from_numpy(found.cells.astype(np.int64))
        logits = bundle.model()(torch.from_numpy(found.read()), cells).logits[0].double().numpy()
    said = ask(bundle)
    assert said.estimate is not None
    hazards = 1 / (1 + np.exp(-logits))
    curve = np.cumprod(1 - hazards)
    wanted = {"number": 20 + 5 * logits[0], "hazards": 1 - curve.mean(), "cox": logits[0]}[kind]
    assert said.estimate.score == pytest.approx(wanted, abs=1e-5)
    assert said.estimate.survival == pytest.approx(curve if kind == "hazards" else (), abs=1e-6)
    assert said.class_names == bundle.card.class_names
    reference = TARGETS_LEARNED[kind].reference
    rank = np.interp(wanted, reference, np.linspace(0, 1, len(reference)))
    assert said.estimate.rank == pytest.approx(rank, abs=1e-5)
    assert said.confidence == pytest.approx(rank, abs=1e-5)
    # The levels add up to the network's numbers.
    seen = said.attention
    assert seen.class_names == bundle.card.class_names
    total = float(seen.level_shares().sum() + seen.constant.sum())
    linear = {"number": wanted, "hazards": logits.mean(), "cox": logits[0]}[kind]
    assert total == pytest.approx(linear, abs=1e-3)


def test_the_words_are_plain(bundles: dict[str, Bundle]) -> None:
    hazards, number, cox = (ask(bundles[kind]).estimate for kind in ("hazards", "number", "cox"))
    assert hazards is not None
    assert number is not None
    assert cox is not None
    at = [f"{100 * p:.0f} %" for p in hazards.survival]
    assert hazards.sentence == (
        f"Risk of recurrence above {100 * hazards.rank:.0f} % of the training slides "
        f"(score {hazards.score:.3g}); free of recurrence: {at[0]} at 12 months, {at[1]} at 24 "
        f"months, {at[2]} at 60 months"
    )
    assert number.sentence.startswith(f"Ki-67 index {number.score:.4g} %, above ")
    assert cox.sentence.startswith("Risk above ")
    said = summarise(ask(bundles["hazards"]))
    assert describe({**said, "flagged": None}) == hazards.sentence
    assert "class" not in said
    assert said["estimate"]["survival"][1] == {"time": 24.0, "no_event": hazards.survival[1]}


def test_what_was_learned_of_simulated_slides_says_so(tmp_path: Path) -> None:
    made = small_risk_bundle("cox", training={"data": "drawn", "simulated": True})
    said = ask(save_bundle(made, tmp_path / "x.safetensors"))
    assert said.estimate is not None
    assert said.estimate.sentence.startswith("Simulated risk above")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_explanations_are_of_the_risk(
    kind: str, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "STEPS", 100)
    bundle = bundles[kind]
    said = ask(bundle)
    found = explain_slide(said, bundle, "perturbation")
    card, values = bundle.card, features().read()
    assert card.target is not None
    cells = torch.from_numpy(features().cells.astype(np.int64))

    def score(given: np.ndarray) -> float:
        with torch.inference_mode():
            logits = bundle.model()(torch.from_numpy(given), cells).logits[0]
        assert card.target is not None
        return float(card.target.score(logits))

    for patch in (0, 12):
        changed = values.copy()
        changed[patch] = values.mean(axis=0)
        assert found[patch] == pytest.approx(score(values) - score(changed), abs=1e-4)
    if kind == "hazards":
        # A network of random weights is rough: that of the others takes many more steps.
        whole = explain_slide(said, bundle, "integrated")
        flat = np.broadcast_to(values.mean(axis=0), values.shape).copy()
        rise = score(values) - score(flat)
        assert float(whole.sum()) == pytest.approx(rise, abs=0.03 * abs(rise))
    assert explain_slide(said, bundle, "attention").sum() == pytest.approx(SIDE**2, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_risk(kind: str, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    said, card = ask(bundles[kind]), bundles[kind].card
    assert said.estimate is not None
    formats = ["json", "csv", "overlay", "geojson", "html", "methods"]
    paths = write_results(said, slide(), tmp_path / "out", "slide", formats, card)
    by_name = {path.name: path for path in paths}
    content = json.loads(by_name["slide.json"].read_text())
    assert content["estimate"]["sentence"] == said.estimate.sentence
    assert said.estimate.sentence.split(";")[0] in by_name["slide.html"].read_text()
    methods = by_name["slide_methods.txt"].read_text()
    assert f"It {card.target.describe()[0].lower()}{card.target.describe()[1:]}." in methods
    assert "It knows" not in methods
    whole = json.loads(by_name["slide.geojson"].read_text())["features"]
    measured = [each["properties"].get("measurements", {}) for each in whole]
    assert any(said.estimate.name in each for each in measured)
    write_result(said, tmp_path / "shown.npz")
    again = read_result(tmp_path / "shown.npz")
    assert isinstance(again, SlidePrediction)
    assert again.estimate == said.estimate
    assert isinstance(again.evidence, PyramidAttention)


def test_what_is_of_classes_only_says_so(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    bundle = bundles["hazards"]
    said = ask(bundle)
    with pytest.raises(ValueError, match="gives a risk of recurrence, and no classes"):
        prepare_slide(said, bundle, "cpu")
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_answers(said, said)
    with pytest.raises(ValueError, match="a CSV with the columns slide, time, event"):
        evaluate_folder(tmp_path, bundle, "cpu")
    with pytest.raises(ValueError, match="train it anew"):
        tune_slides(bundle, [], ("a", "b"))
