"""Two models, or two settings of one, on the same cells and fields."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.evidence import CropFrame, PixelSelection
from napari_sparseattn.images.fields.cells import Cells, cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.compare import (
    change_setting,
    compare_answers,
    compare_cells,
    compare_evidence,
)
from napari_sparseattn.inference.fields import classify_field
from small_model import small_bundle
from small_tnet import small_tnet_bundle

CENTRES = np.array([(20, 20), (30, 70), (60, 40), (64, 80), (40, 50)], float)


@pytest.fixture
def field() -> Field:
    image = np.random.default_rng(0).integers(0, 256, (96, 112, 3)).astype(np.uint8)
    return Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")


@pytest.fixture
def cells(field: Field) -> Cells:
    return cells_from_points(CENTRES, field.shape, diameter=8)


def selection(frame: CropFrame, kept: list[int], coarse: np.ndarray) -> PixelSelection:
    fine = np.full((1, 1, len(kept) + 1), 1 / (len(kept) + 1), np.float32)
    return PixelSelection(frame, np.array(kept), fine, coarse.astype(np.float32))


def test_a_model_agrees_with_itself(field: Field, cells: Cells) -> None:
    found = compare_cells(field, cells, small_bundle(), small_bundle(), device="cpu")
    assert len(found) == 5
    assert found.agreement == 1
    assert found.interval[0] < 1
    np.testing.assert_array_equal(found.overlap, 1)
    np.testing.assert_allclose(found.correlation, 1)
    assert found.differing == []


def test_two_models_are_those_that_answer_alone(field: Field, cells: Cells) -> None:
    a, b = small_bundle(seed=0), small_bundle(seed=3, name="other")
    told: list[tuple[int, int]] = []
    found = compare_cells(
        field, cells, a, b, device="cpu", progress=lambda _, *done: told.append(done)
    )
    alone = [classify_cells(field, cells, bundle, "cpu") for bundle in (a, b)]
    for one, expected in zip(found.probabilities, alone, strict=True):
        np.testing.assert_allclose(one, expected.probabilities, atol=1e-6)
    assert told[-1] == (5, 5)
    same = np.array(alone[0].labels) == np.array(alone[1].labels)
    np.testing.assert_array_equal(found.agrees, same)
    assert sorted(found.differing) == np.flatnonzero(~same).tolist()
    assert found.agreement == pytest.approx(same.mean())
    for i in range(5):
        first, second = (one[i].evidence for one in alone)
        both = len(np.intersect1d(first.indices, second.indices))
        assert found.overlap[i] == pytest.approx(both / (76 - both))
        expected = spearmanr(first.coarse.ravel(), second.coarse.ravel()).statistic
        assert found.correlation[i] == pytest.approx(expected)
    assert found.names == ("small", "other")


def test_kinds_that_cannot_occur_are_ruled_out_for_each_model(field: Field, cells: Cells) -> None:
    bundle = small_bundle()
    kinds = bundle.card.class_names[:2]
    found = compare_cells(field, cells, bundle, bundle, classes_b=kinds, device="cpu")
    np.testing.assert_array_equal(found.probabilities[1][:, 2:], 0)
    assert (found.probabilities[0][:, 2:] > 0).all()
    alone = classify_cells(field, cells, bundle, "cpu", classes=kinds)
    np.testing.assert_allclose(found.probabilities[1], alone.probabilities, atol=1e-6)


def test_another_k_keeps_that_many_pixels_of_the_same_map(field: Field, cells: Cells) -> None:
    bundle = small_bundle()
    found = compare_cells(field, cells, bundle, bundle, k_b=19, device="cpu")
    # The best 19 are among the best 38, and the map is the same.
    np.testing.assert_allclose(found.overlap, 0.5)
    np.testing.assert_allclose(found.correlation, 1)
    half = classify_cells(field, cells, change_setting(bundle, k=19), "cpu")
    np.testing.assert_allclose(found.probabilities[1], half.probabilities)
    assert half[0].evidence.k == 19
    assert found.names == ("small, k = 38", "small, k = 19")
    crop = torch.zeros(1, 3, 16, 16)
    with torch.inference_mode():
        expected = bundle.model()(crop, k=19).logits
        torch.testing.assert_close(change_setting(bundle, k=19).model()(crop).logits, expected)


def test_classes_are_compared_by_name(field: Field, cells: Cells) -> None:
    turned = ("small", "round", "lobed")
    found = compare_cells(
        field, cells, small_bundle(), small_bundle(class_names=turned), device="cpu"
    )
    # The same weights, with other names: the same column is never the same class.
    assert not found.agrees.any()
    assert found.shared_classes == ("round", "lobed", "small")
    strange = small_bundle(class_names=("x", "y", "z"))
    none = compare_cells(field, cells, small_bundle(), strange, device="cpu")
    assert none.shared_classes == ()
    assert "no class of the same name" in none.summary()


def test_crops_of_other_sizes_are_compared_where_both_show_the_cell() -> None:
    # The second is twice as wide, and its pixels are four times as wide.
    small, large = CropFrame(10.0, 20.0, 8.0, 8), CropFrame(10.0, 20.0, 16.0, 4)
    coarse = np.arange(16.0).reshape(4, 4) / 20
    first = selection(small, list(range(4)), np.kron(coarse[1:3, 1:3], np.ones((4, 4))))
    # Pixel (1, 1) is the upper left quarter of what both show.
    second = selection(large, [5, 0], coarse)
    shared, correlation = compare_evidence(first, second)
    assert shared == pytest.approx(4 / 16)
    assert correlation == pytest.approx(1)


def test_a_tnet_and_another_kind_have_maps_but_no_common_selection(
    field: Field, cells: Cells
) -> None:
    found = compare_cells(field, cells, small_bundle(), small_tnet_bundle(), device="cpu")
    assert np.isnan(found.overlap).all()
    assert np.isfinite(found.correlation).all()
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["mean_overlap"] is None
    assert len(told["cells"]) == 5
    frame = found.to_frame()
    assert frame["class_a"].tolist() == found.labels[0]


def test_fields_by_a_tnet_with_two_numbers_of_crops(field: Field) -> None:
    bundle = small_tnet_bundle()
    first, second = (classify_field(field, bundle, k, "cpu") for k in ((2, 1), (1, 1)))
    found = compare_answers(first, second)
    assert found.probabilities[0].tolist() == [first.probabilities.tolist()]
    assert found.probabilities[1].tolist() == [second.probabilities.tolist()]
    assert len(found) == 1
    # The better of two crops is the one that is looked at alone.
    assert 0 < found.overlap[0] < 1
    assert compare_answers(first, first).overlap[0] == 1


def test_cells_by_a_tnet_look_at_fewer_crops(field: Field, cells: Cells) -> None:
    bundle = small_tnet_bundle()
    found = compare_cells(field, cells, bundle, bundle, locations_b=(1, 1), device="cpu")
    assert (found.overlap < 1).all()
    fewer = classify_cells(field, cells, change_setting(bundle, locations=(1, 1)), "cpu")
    np.testing.assert_allclose(found.probabilities[1], fewer.probabilities, atol=1e-6)


def test_no_cells_are_no_agreement(field: Field, cells: Cells) -> None:
    found = compare_cells(field, cells.subset([]), small_bundle(), small_bundle(), device="cpu")
    assert len(found) == 0
    assert np.isnan(found.agreement)
    assert found.to_dict()["agreement"] is None
    assert "Nothing" in found.summary()


@pytest.mark.parametrize(
    ("bundle", "setting", "words"),
    [
        (small_bundle(), {"k": 257}, "256 pixels"),
        (small_bundle(), {"locations": (1,)}, "no crops"),
        (small_tnet_bundle(), {"k": 3}, "no pixels"),
    ],
)
def test_settings_that_a_model_has_not_are_refused(
    bundle: Bundle, setting: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        change_setting(bundle, **setting)


def test_cells_that_could_not_be_classified_do_not_count(field: Field, cells: Cells) -> None:
    found = compare_cells(field, cells, small_bundle(), small_bundle(), device="cpu")
    gone = found.probabilities[1].copy()
    gone[2] = np.nan
    found = dataclasses.replace(found, probabilities=(found.probabilities[0], gone))
    assert found.classified.sum() == 4
    assert found.agreement == 1
    assert found.differing == []
