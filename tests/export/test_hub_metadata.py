"""What Hugging Face reads of a model's page, by its own library."""

from __future__ import annotations

import pytest

from napari_sparseattn.bundle import find_bundles, read_card
from napari_sparseattn.card import Card, EncoderSpec, TargetSpec
from napari_sparseattn.export.hub_metadata import hub_metadata
from small_model import small_bundle
from small_span import small_span_bundle

hub = pytest.importorskip("huggingface_hub")


def read_back(card: Card) -> dict[str, object]:
    """The heading as the site has it, once it has gone through their own reader and back."""
    told = hub_metadata(card)
    page = hub.ModelCard(f"---\n{told.to_yaml()}\n---\n# A model\n")
    assert page.data.eval_results == told.eval_results
    assert page.data.to_dict() == told.to_dict()
    found: dict[str, object] = page.data.to_dict()
    return found


@pytest.mark.parametrize("name", sorted(find_bundles()))
def test_the_bundled_models_are_told_whole(name: str) -> None:
    card = read_card(find_bundles()[name])
    told = read_back(card)
    assert told["license"] == "bsd-3-clause"
    task = "image-segmentation" if card.segments else "image-classification"
    assert told["pipeline_tag"] == task
    (model,) = told["model-index"]  # type: ignore[misc]
    values = {
        metric["type"]: metric["value"]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert values["accuracy"] == pytest.approx(card.metrics["accuracy"], abs=1e-4)
    assert values["f1"] == pytest.approx(card.metrics["macro_f1"], abs=1e-4)
    assert {result["task"]["type"] for result in model["results"]} == {task}
    assert ("simulated-data" in told["tags"]) == card.training.simulated


def test_what_a_model_builds_on_is_named() -> None:
    spec = EncoderSpec(name="dinobloom-s", hash="0" * 64, width=4)
    told = read_back(small_span_bundle(encoder=spec).card)
    assert told["base_model"] == "1aurent/vit_small_patch14_224.dinobloom"
    assert "model-index" not in told


def test_a_licence_that_the_site_does_not_know_is_named() -> None:
    card = small_bundle().card.model_copy(update={"weights_licence": "My-Own-1.0"})
    told = read_back(card)
    assert (told["license"], told["license_name"]) == ("other", "my-own-1.0")


def test_a_risk_is_none_of_their_tasks() -> None:
    target = TargetSpec(kind="number", outcome="age", unit="years")
    card = small_span_bundle().card.model_copy(update={"target": target})
    told = read_back(card)
    assert "pipeline_tag" not in told
    assert "model-index" not in told
