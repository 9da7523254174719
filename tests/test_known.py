"""How unlike known states others are: at the stated rate, whatever the states."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_sparseattn.bundle import Bundle, BundleError, load_bundle, read_card, save_bundle
from napari_sparseattn.card import NoveltySpec
from napari_sparseattn.known import KnownStates, extend_known_states, fit_known_states
from small_model import small_bundle, softened
from test_bundle import metadata, rewrite

D = 8


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States of three classes, spread far more in one direction than in the others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    centres = 4 * np.eye(3, D)[labels]
    spread = np.array([5.0, *[1.0] * (D - 2), 0.2])
    return (centres + spread * rng.normal(size=(n, D))).astype(np.float32), labels


def known(n: int = 600, held: int = 400) -> KnownStates:
    states, labels = drawn(n, 0)
    return fit_known_states(states, labels, drawn(held, 1)[0])


def described(bundle: Bundle) -> Bundle:
    spec = NoveltySpec(false_alarms=0.03, n=600, n_validation=400, kept=96)
    card = bundle.card.model_copy(update={"novelty": spec})
    return dataclasses.replace(bundle, card=card, known=known())


def test_the_temperature_grows_with_novelty_and_where_the_card_says_so(tmp_path: Path) -> None:
    plain = described(small_bundle(temperature=0.5))
    bundle = softened(plain, 1.5)
    states = np.concatenate([plain.known.means[:1], 40 * np.ones((1, D), np.float32)])
    near, far = plain.known.novelty(states)
    assert near < 1 < far
    np.testing.assert_array_equal(plain.temperatures(states), np.float32([0.5, 0.5]))
    np.testing.assert_allclose(bundle.temperatures(states), [0.5, 0.5 * far**1.5], rtol=1e-5)
    without = dataclasses.replace(small_bundle(temperature=0.5), known=None)
    np.testing.assert_array_equal(without.temperatures(states), np.float32([0.5, 0.5]))
    path = tmp_path / "small.safetensors"
    save_bundle(bundle, path)
    np.testing.assert_array_equal(
        load_bundle(path).temperatures(states), bundle.temperatures(states)
    )
    assert read_card(path).format_version == 3


def test_confidence_may_fall_from_less_than_what_is_flagged(tmp_path: Path) -> None:
    plain = described(small_bundle(temperature=0.5))
    bundle = softened(plain, 1.5, 0.25)
    states = plain.known.means[:1] + np.linspace(0, 3, 7, dtype=np.float32)[:, None]
    novelty = plain.known.novelty(states)
    assert novelty[0] < 0.25 < novelty[1] < 1 < novelty[-1]
    expected = 0.5 * np.maximum(novelty / 0.25, 1) ** 1.5
    np.testing.assert_allclose(bundle.temperatures(states), expected, rtol=1e-5)
    save_bundle(bundle, tmp_path / "small.safetensors")
    assert read_card(tmp_path / "small.safetensors").format_version == 5


def test_new_states_of_the_same_kind_are_flagged_at_the_stated_rate() -> None:
    rates = []
    for seed in range(20):
        states, labels = drawn(300, 3 * seed)
        found = fit_known_states(
            states, labels, drawn(200, 3 * seed + 1)[0], false_alarms=0.1
        ).novelty(drawn(2000, 3 * seed + 2)[0])
        rates.append((found > 1).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.015)


def test_the_distance_is_in_units_of_the_spread() -> None:
    states, labels = drawn(6000, 0)
    made = fit_known_states(states, labels, drawn(400, 1)[0])
    wide, narrow = np.zeros((2, 1, D), np.float32)
    wide[0, 0], narrow[0, -1] = 5.0, 5.0  # one spread off, and twenty-five
    middle = made.means[:1]
    assert made.novelty(middle)[0] == pytest.approx(0, abs=0.01)
    assert made.novelty(middle + narrow)[0] > 10 * made.novelty(middle + wide)[0] > 0
    own = (states - made.means[labels]).astype(np.float64)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", own, np.linalg.inv(np.cov(own.T)), own))
    nearest = made.novelty(states) * made.threshold
    assert (nearest <= expected * 1.02).all()
    assert np.median(nearest / expected) == pytest.approx(1, abs=0.05)


def test_fewer_states_than_numbers_give_a_finite_answer() -> None:
    states, labels = drawn(5, 0)
    made = fit_known_states(states, labels, drawn(2, 1)[0])
    found = made.novelty(drawn(50, 2)[0])
    assert np.isfinite(found).all()
    assert made.novelty(states + 1000).min() > 1


def test_some_states_of_each_class_are_kept_as_they_were() -> None:
    states, labels = drawn(600, 0)
    made = fit_known_states(states, labels, drawn(50, 1)[0], kept=7)
    assert np.bincount(made.labels).tolist() == [7, 7, 7]
    for state, label in zip(made.states, made.labels, strict=True):
        row = np.flatnonzero((states == state).all(1))
        assert len(row) == 1
        assert labels[row[0]] == label


def test_new_classes_are_added_beside_the_old_ones() -> None:
    states, labels = drawn(600, 0)
    held, truth = drawn(400, 1)
    old = fit_known_states(states, labels, held, truth)
    assert np.bincount(old.labels[old.held]).tolist() == [12, 12, 12]
    shift = np.zeros(D, np.float32)
    shift[4] = 12.0
    new, kinds = drawn(60, 4)[0] + shift, np.full(60, 3)
    assert (old.novelty(new) > 1).mean() > 0.9
    both = extend_known_states(old, new[:48], kinds[:48], new[48:], kinds[48:])
    assert (both.novelty(drawn(500, 5)[0] + shift) > 1).mean() < 0.15
    assert (both.novelty(drawn(500, 6)[0]) > 1).mean() < 0.15
    assert (both.novelty(drawn(500, 7)[0] - 2 * shift) > 1).mean() > 0.9
    assert np.bincount(both.labels[both.held]).tolist() == [12, 12, 12, 12]
    np.testing.assert_array_equal(both.states[: len(old.states)], old.states)


def beside(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States of two kinds of other things: of the classes' spread, and not far from them."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, n)
    spread = np.array([5.0, *[1.0] * (D - 2), 0.2])
    middles = np.zeros((2, D))
    middles[0, 4], middles[1, 5] = 3.2, -3.2
    return (middles[kinds] + spread * rng.normal(size=(n, D))).astype(np.float32), kinds


def known_beside(seed: int = 0) -> KnownStates:
    states, labels = drawn(600, 5 * seed)
    held, truth = drawn(400, 5 * seed + 1)
    return fit_known_states(states, labels, held, truth, others=beside(300, 5 * seed + 2))


def test_what_is_common_beside_the_classes_is_told_from_them() -> None:
    own, things, without = [], [], []
    for seed in range(12):
        made = known_beside(seed)
        mine, other = drawn(1000, 5 * seed + 3)[0], beside(1000, 5 * seed + 4)[0]
        for found, states in ((own, mine), (things, other)):
            alike = made.look_like_others(states)
            assert alike is not None
            assert (made.novelty(states)[alike] > 1).all(), "what looks like them is flagged"
            found.append([(made.novelty(states) > 1).mean(), alike.mean()])
        without.append((known().novelty(other) > 1).mean())
    flagged, alike = np.mean(own, 0)
    assert flagged == pytest.approx(0.03, abs=0.01), "the stated rate holds for both together"
    assert alike == pytest.approx(0.01, abs=0.006)
    assert np.mean(things, 0)[1] > 0.5
    assert np.mean(things, 0)[0] > np.mean(without) + 0.25
    assert known().look_like_others(drawn(3, 0)[0]) is None
    assert known_beside().novelty(beside(9, 1)[0] + 1000).min() > 1


def test_other_things_stay_known_beside_new_classes() -> None:
    made = known_beside()
    shift = np.zeros(D, np.float32)
    shift[3] = 12.0
    new, kinds = drawn(60, 7)[0] + shift, np.full(60, 3)
    both = extend_known_states(made, new[:48], kinds[:48], new[48:], kinds[48:])
    alike = both.look_like_others(beside(500, 8)[0])
    assert alike is not None
    assert alike.mean() > 0.4
    for own in (drawn(500, 9)[0], drawn(500, 10)[0] + shift):
        alike = both.look_like_others(own)
        assert alike is not None
        assert alike.mean() < 0.05
    # A class of just those things is a class from then on.
    things, which = beside(400, 11)
    red = things[which == 0]
    kinds = np.full(len(red), 3)
    taught = extend_known_states(made, red[:100], kinds[:100], red[100:150], kinds[100:150])
    alike = taught.look_like_others(red[150:])
    assert alike is not None
    assert alike.mean() < 0.1


def test_a_file_keeps_the_known_states(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_bundle(described(small_bundle()), path)
    loaded, states = load_bundle(path), drawn(20, 3)[0]
    assert loaded.known is not None
    np.testing.assert_allclose(loaded.known.novelty(states), known().novelty(states), rtol=1e-5)
    assert not any(name.startswith("known") for name in loaded.state)
    assert loaded.n_parameters == small_bundle().n_parameters
    assert "3 %" not in loaded.card.summary()
    assert "97 % of 400 held-out" in loaded.card.summary()
    assert read_card(path).format_version == 2


def test_a_file_without_them_is_loaded_as_before_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_bundle(small_bundle(), path)
    loaded = load_bundle(path)
    assert loaded.known is None
    assert read_card(path).format_version == 1
    assert "novelty" not in metadata(path)["napari_sparseattn_card"], "older programs refuse it"
    assert "not measured" in loaded.card.summary()


def test_bit_flips_in_the_known_states_are_found(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_bundle(described(small_bundle()), path)
    state = load_file(path)
    state["known.root"][0, 0] += 1
    with pytest.raises(BundleError, match="checksum"):
        load_bundle(rewrite(path, state=state))


def test_a_file_keeps_what_is_common_beside_the_classes(tmp_path: Path) -> None:
    bundle, path = described(small_bundle()), tmp_path / "small.safetensors"
    with_others = dataclasses.replace(bundle, known=known_beside())
    with pytest.raises(BundleError, match="names 0 kinds of other things"):
        save_bundle(with_others, path)
    assert bundle.card.novelty is not None
    spec = bundle.card.novelty.model_copy(update={"others": ("red cell", "background")})
    card = bundle.card.model_copy(update={"novelty": spec})
    save_bundle(dataclasses.replace(with_others, card=card), path)
    loaded, states = load_bundle(path), beside(50, 3)[0]
    assert loaded.known is not None
    assert loaded.known.look_like_others(states) is not None
    np.testing.assert_array_equal(
        loaded.known.look_like_others(states), known_beside().look_like_others(states)
    )
    np.testing.assert_allclose(
        loaded.known.novelty(states), known_beside().novelty(states), rtol=1e-4, atol=1e-5
    )
    assert "more like a red cell or background" in loaded.card.summary()
    with pytest.raises(BundleError, match="contradicts itself"):
        save_bundle(dataclasses.replace(bundle, card=card), path)
    state = load_file(path)
    del state["known.other_root"]
    from napari_sparseattn.bundle import _digest

    rewrite(path, state=state, card={"tensors_sha256": _digest(state)})
    with pytest.raises(BundleError, match="incomplete"):
        load_bundle(path)


@pytest.mark.parametrize("how", ["missing", "width", "nan", "card"])
def test_known_states_that_do_not_fit_are_refused(tmp_path: Path, how: str) -> None:
    bundle, path = described(small_bundle()), tmp_path / "small.safetensors"
    assert bundle.known is not None
    if how == "missing":
        save_bundle(bundle, path)
        state = load_file(path)
        del state["known.means"]
        from napari_sparseattn.bundle import _digest

        rewrite(path, state=state, card={"tensors_sha256": _digest(state)})
        with pytest.raises(BundleError, match="incomplete"):
            load_bundle(path)
        return
    if how == "nan":
        with pytest.raises(ValueError, match="not all numbers"):
            dataclasses.replace(bundle.known, means=np.full((3, D), np.nan, np.float32))
        return
    if how == "width":
        other = KnownStates(
            np.zeros((3, 4), np.float32), np.eye(4, dtype=np.float32), 1.0,
            np.zeros((2, 4), np.float32), np.zeros(2, np.int64), np.zeros(2, bool),
        )  # fmt: skip
        bundle = dataclasses.replace(bundle, known=other)
    else:
        bundle = dataclasses.replace(bundle, card=small_bundle().card)
    with pytest.raises(BundleError, match="Measure them again"):
        save_bundle(bundle, path)


def test_the_states_are_what_the_head_reads() -> None:
    from small_tnet import small_tnet_bundle

    for bundle in (small_bundle(), small_tnet_bundle()):
        model = bundle.cell_model()
        size = bundle.card.crop.size
        crops = torch.rand(3, len(bundle.card.channels), size, size)
        with torch.inference_mode():
            output = model(crops)
            torch.testing.assert_close(model.head(output.state), output.logits)


def test_what_alone_a_model_knows_stands_in_its_card(tmp_path: Path) -> None:
    plain = small_bundle()
    said = dataclasses.replace(
        plain, card=plain.card.model_copy(update={"limits": "It knows beads alone."})
    )
    path = tmp_path / "said.safetensors"
    save_bundle(said, path)
    card = read_card(path)
    assert card.limits == "It knows beads alone."
    assert card.format_version == 3
    # The weights are the same model.
    assert load_bundle(path).hash == save_bundle(plain, tmp_path / "plain.safetensors").hash
