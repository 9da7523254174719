"""Explanations of slides: what they are by definition, and that flipping tells a good one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.inference import explanations
from napari_sparseattn.inference.explanations import explain_features
from napari_sparseattn.inference.measuring import FaithfulnessSettings, measure
from napari_sparseattn.inference.slide_attention import to_pyramid_attention
from napari_sparseattn.inference.slide_reruns import SlideRerun
from napari_sparseattn.models.span import SpanMil, SpanUnet
from small_span import small_span

SIDE = 6


@pytest.fixture(scope="module")
def slide() -> tuple[SpanMil, torch.Tensor, torch.Tensor]:
    model = small_span(seed=3).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(SIDE * SIDE, 128, generator=generator)
    line = torch.arange(SIDE)
    cells = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    assert isinstance(model, SpanMil)
    return model, features, cells


@torch.no_grad()
def margin(model: SpanMil, features: torch.Tensor, cells: torch.Tensor, index: int) -> float:
    logits = model(features, cells).logits[0]
    return float(logits[index] - logits[1 - index])


@pytest.mark.slow
def test_integrated_gradients_add_up_to_the_rise_of_the_score(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features, cells = slide
    monkeypatch.setattr(explanations, "STEPS", 200)
    found = explain_features(model, features, cells, "integrated", 1)
    base = features.mean(dim=0, keepdim=True).expand_as(features)
    rise = margin(model, features, cells, 1) - margin(model, base, cells, 1)
    assert float(found.sum()) == pytest.approx(rise, abs=0.02 * abs(rise) + 0.02)
    # For the other class it is the opposite, whatever the steps.
    monkeypatch.setattr(explanations, "STEPS", 8)
    found, other = (explain_features(model, features, cells, "integrated", i) for i in (1, 0))
    np.testing.assert_allclose(other, -found, atol=1e-4)


def test_gradient_times_input_is_the_slope_along_each_patch(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor],
) -> None:
    model, features, cells = slide
    found = explain_features(model, features, cells, "gradient", 1)
    base = features.mean(dim=0)
    for patch in (0, 17, 35):
        step = 1e-3
        sides = []
        for sign in (-1, 1):
            moved = features.clone()
            moved[patch] += sign * step * (features[patch] - base)
            sides.append(margin(model, moved, cells, 1))
        slope = (sides[1] - sides[0]) / (2 * step)
        assert found[patch] == pytest.approx(slope, abs=0.02 * abs(slope) + 5e-3)


def test_perturbation_is_the_fall_without_a_patch_or_block(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features, cells = slide
    found = explain_features(model, features, cells, "perturbation", 1)
    base, whole = features.mean(dim=0), margin(model, features, cells, 1)
    for patch in (0, 20):
        changed = features.clone()
        changed[patch] = base
        assert found[patch] == pytest.approx(whole - margin(model, changed, cells, 1), abs=1e-4)
    monkeypatch.setattr(explanations, "MOST_RUNS", 9)
    runs: list[tuple[int, int]] = []
    blocks = explain_features(
        model, features, cells, "perturbation", 1, report=lambda *said: runs.append(said)
    )
    assert runs[-1] == (9, 9)
    changed = features.clone()
    rows = (cells // 2 == 0).all(dim=1)
    assert len(set(blocks[rows.numpy()].tolist())) == 1
    changed[rows] = base
    fall = whole - margin(model, changed, cells, 1)
    assert float(blocks[rows.numpy()].sum()) == pytest.approx(fall, abs=1e-3)


def test_flipping_finds_that_an_explanation_of_the_class_is_better_than_its_opposite(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features, cells = slide
    with torch.no_grad():
        output = model(features, cells)
    seen = to_pyramid_attention(
        output, cells.numpy(), origin=(0.0, 0.0), step=1.0, side=1.0, class_names=("a", "b")
    )
    rerun = SlideRerun(
        features.numpy(), cells.numpy(), seen, model, methods=("integrated", "perturbation")
    )
    settings = FaithfulnessSettings(
        shares=(0.1, 0.25), fills=("mean",), draws=2, scattered=0, trials=0, extras=False
    )
    found = measure(rerun, ("a", "b"), settings)
    assert found.own[:2] == ("integrated", "perturbation")
    assert set(found.own) == {"integrated", "perturbation", "attention", "all levels"}
    assert found.orders["perturbation"].gain > 0
    assert found.orders["integrated"].gain > found.orders["random"].gain


@pytest.mark.slow
def test_flipping_judges_a_region_of_a_model_that_segments(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor],
) -> None:
    _, features, cells = slide
    model = small_span(segments=True, seed=2).requires_grad_(False)
    with torch.no_grad():
        output = model(features, cells)
    odds = output.logits[:, 0].numpy()
    region = odds >= np.median(odds)
    seen = to_pyramid_attention(
        output, cells.numpy(), origin=(0.0, 0.0), step=1.0, side=1.0, class_names=("a", "b"),
        patch_probabilities=1 / (1 + np.exp(-odds)),
    )  # fmt: skip
    rerun = SlideRerun(
        features.numpy(), cells.numpy(), seen, model, methods=("integrated",), region=region
    )
    # What is left out of a slide could not be asked for: patches are replaced alone.
    assert set(rerun.fills) == {"ordinary", "mean"}
    removed = np.zeros((2, len(cells)), bool)
    removed[1, 5] = True
    first, without = rerun.logits(removed, "mean", 0, lambda _: None)
    assert first.tolist() == pytest.approx([0, odds[region].mean()], abs=1e-5)
    changed = features.clone()
    changed[5] = features.mean(dim=0)
    with torch.no_grad():
        expected = model(changed, cells).logits[torch.from_numpy(region), 0].mean()
    assert without[1] == pytest.approx(float(expected), abs=1e-4)
    found = rerun.relevance(1)
    assert set(found) == {"integrated", "probability", "attention", "all levels"}
    other = rerun.relevance(0)["probability"].values
    np.testing.assert_allclose(found["probability"].values, -other)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["integrated", "perturbation"])
def test_of_a_model_that_segments_the_log_odds_of_a_region_are_explained(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor],
    method: explanations.Explanation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, features, cells = slide
    model = small_span(segments=True, seed=2).requires_grad_(False)
    assert isinstance(model, SpanUnet)
    region = torch.tensor([0, 1, 6])

    @torch.no_grad()
    def odds(changed: torch.Tensor, rows: torch.Tensor | slice = region) -> float:
        return float(model(changed, cells).logits[rows, 0].mean())

    monkeypatch.setattr(explanations, "STEPS", 200)
    found = explain_features(model, features, cells, method, 1, region=region)
    base = features.mean(dim=0)
    if method == "integrated":
        rise = odds(features) - odds(base.expand_as(features))
        assert float(found.sum()) == pytest.approx(rise, abs=0.02 * abs(rise) + 0.02)
    else:
        changed = features.clone()
        changed[7] = base
        assert found[7] == pytest.approx(odds(features) - odds(changed), abs=1e-4)
        whole = explain_features(model, features, cells, method, 1)
        everywhere = slice(None)
        expected = odds(features, everywhere) - odds(changed, everywhere)
        assert whole[7] == pytest.approx(expected, abs=1e-4)
    # For the other class it is the opposite, whatever the steps.
    monkeypatch.setattr(explanations, "STEPS", 8)
    found, against = (
        explain_features(model, features, cells, method, i, region=region) for i in (1, 0)
    )
    np.testing.assert_allclose(against, -found, atol=1e-4)


def test_a_region_is_of_a_model_that_segments(
    slide: tuple[SpanMil, torch.Tensor, torch.Tensor],
) -> None:
    with pytest.raises(ValueError, match="gives each patch a probability"):
        explain_features(*slide, "gradient", 0, region=torch.tensor([0]))


def test_other_methods_are_refused(slide: tuple[SpanMil, torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="no method 'magic'"):
        explain_features(*slide, "magic", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_a_model_of_a_file_can_be_explained(method: explanations.Explanation) -> None:
    """What a file answers is checked in inference mode, whose weights have no gradients."""
    model = load_bundle("colon-biopsy").slide_model()
    assert isinstance(model, SpanMil)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, model.config.features, generator=generator)
    line = torch.arange(3)
    cells = torch.cartesian_prod(line, line)
    found = explain_features(model, features, cells, method, 2)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0
