"""A slide is judged by what the encoder makes of its patches, where that was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.bundle import Bundle, BundleError, load_bundle, read_card, save_bundle
from napari_sparseattn.card import NoveltySpec
from napari_sparseattn.export.summary import summarise
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.known import KnownPatches, KnownStates, fit_known_patches, fit_known_states
from small_span import small_span_bundle

WIDTH = 128


def patches(n: int, seed: int, away: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    found = rng.normal(size=(n, WIDTH)) + 6 * np.eye(2, WIDTH)[labels] + away
    return found.astype(np.float32), labels


def slides(n: int, seed: int, away: float = 0.0) -> list[np.ndarray]:
    sizes = np.random.default_rng(seed).integers(1, 30, n)
    return [patches(size, 1000 * seed + i, away)[0] for i, size in enumerate(sizes)]


def known_patches() -> KnownPatches:
    return fit_known_patches(*patches(3000, 0), slides(200, 1), false_alarms=0.05)


def known_bundle(found: KnownPatches) -> Bundle:
    bundle = small_span_bundle()
    width = bundle.slide_model().head.in_features
    states = np.random.default_rng(2).normal(size=(40, width)).astype(np.float32)
    known = fit_known_states(states, np.arange(40) % 2, states[:10] + 1)
    spec = NoveltySpec(false_alarms=0.05, n=3000, n_validation=200, kept=len(known.labels))
    return dataclasses.replace(
        bundle,
        card=bundle.card.model_copy(update={"novelty": spec}),
        known=dataclasses.replace(known, patches=found),
    )


def feature_set(features: np.ndarray) -> FeatureSet:
    n = len(features)
    cells = np.stack([np.arange(n) % 6, np.arange(n) // 6], 1).astype(np.int32)
    made = (64.0, 64.0, (0.0, 0.0), 1.0, "none", "", "", None, np.zeros(n, bool))
    return FeatureSet(features, cells, *made)


def test_slides_of_any_size_are_flagged_at_the_stated_rate() -> None:
    made = known_patches()
    found = np.array([made.slide_novelty(each) for each in slides(600, 2)])
    assert np.mean(found > 1) == pytest.approx(0.05, abs=0.03)
    assert min(made.slide_novelty(each) for each in slides(50, 3, away=1.0)) > 1


def test_a_few_strange_patches_do_not_make_a_slide_strange() -> None:
    made, usual = known_patches(), patches(40, 5)[0]
    strange = usual.copy()
    strange[:3] += 20
    assert made.novelty(strange)[:3].min() > 10
    assert made.slide_novelty(usual) < made.slide_novelty(strange)
    assert made.slide_novelty(strange) < made.slide_novelty(usual) * 1.5


def test_patches_are_read_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, some = known_patches(), patches(50, 6)[0]
    whole = made.novelty(some)
    monkeypatch.setattr("napari_sparseattn.known._PATCHES", 7)
    np.testing.assert_allclose(made.novelty(some), whole, rtol=1e-5)


def test_a_file_keeps_them(tmp_path: Path) -> None:
    made = known_patches()
    path = save_bundle(known_bundle(made), tmp_path / "m.safetensors").path
    assert path is not None
    assert read_card(path).format_version == 4
    read = load_bundle(path).known
    assert read is not None
    assert read.patches is not None
    some = patches(9, 7)[0]
    np.testing.assert_allclose(read.patches.novelty(some), made.novelty(some), rtol=1e-6)


def test_patches_of_another_encoder_are_refused(tmp_path: Path) -> None:
    made = known_patches()
    other = KnownPatches(made.means[:, :64], made.root[:64, :64], 1.0)
    with pytest.raises(BundleError, match="64 numbers, its encoder makes 128"):
        save_bundle(known_bundle(other), tmp_path / "m.safetensors")
    tensors = dict(KnownStates.to_tensors(known_bundle(made).known))  # type: ignore[arg-type]
    tensors.pop("known.patch_root")
    with pytest.raises(ValueError, match="incomplete"):
        KnownStates.from_tensors(tensors)


def test_an_answer_says_which_patches_are_unlike_and_whether_the_slide_is() -> None:
    made = known_patches()
    bundle = known_bundle(made)
    slide = ArrayPyramid(np.full((640, 640, 3), 200, np.uint8), pixel_size=1.0, name="made")
    features = patches(30, 8)[0]
    features[:20] += 3
    found = classify_slide(slide, bundle, features=feature_set(features), device="cpu")
    assert found.novelty == pytest.approx(made.slide_novelty(features), rel=1e-5)
    assert found.flagged
    table = found.to_frame()
    assert table["flagged"].tolist()[:20] == [True] * 20
    np.testing.assert_allclose(table["novelty"], made.novelty(features), rtol=1e-5)
    summary = summarise(found)
    assert summary["flagged"]
    assert summary["flagged_patches"] == int((made.novelty(features) > 1).sum())
