from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.evidence import PixelSelection, PyramidAttention, Traversal
from napari_sparseattn.evidence.fills import fill
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.faithfulness import prepare_crop
from napari_sparseattn.inference.field_reruns import FieldRerun
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.slide_reruns import SlideRerun, prepare_slide
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.inference.what_if import (
    choose_pixels,
    what_if_cell,
    what_if_crop,
    what_if_field,
    what_if_slide,
)
from small_model import small_bundle, small_map_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle


def crop_of(bundle: Bundle, seed: int = 0) -> np.ndarray:
    size = bundle.card.crop.size
    return np.random.default_rng(seed).random((size, size, 3)).astype(np.float32)


def ready(crop: np.ndarray, bundle: Bundle) -> np.ndarray:
    return bundle.card.normalisation(np.ascontiguousarray(crop.transpose(2, 0, 1)[None]))[0]


def corner(size: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[: size // 4, size // 2 :] = True
    return mask


@pytest.mark.parametrize("made", [small_bundle, small_tnet_bundle])
@pytest.mark.parametrize("question", ["remove", "keep"])
def test_the_answer_is_that_of_the_model_on_the_filled_crop(
    made: Callable[[], Bundle], question: str
) -> None:
    bundle = made()
    crop, mask = crop_of(bundle), corner(bundle.card.crop.size)
    found = what_if_crop(crop, bundle, mask, question, "noise", 3, "cpu")
    gone = mask if question == "remove" else ~mask
    plain = ready(crop, bundle)
    with torch.inference_mode():
        before, after = (
            bundle.model()(torch.from_numpy(x[None])).logits[0].numpy()
            for x in (plain, fill(plain, gone, "noise", 3))
        )
    np.testing.assert_allclose(found.before.logits, before, atol=1e-4)
    np.testing.assert_allclose(found.after.logits, after, atol=1e-4)
    expected = (after - after.mean()) - (before - before.mean())
    np.testing.assert_allclose(found.change, expected, atol=1e-4)
    assert found.share == pytest.approx(gone.mean())
    assert found.class_changed == (before.argmax() != after.argmax())
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["question"] == question
    assert found.before.label in found.summary()


def test_a_forced_look_takes_the_masks_pixels_and_its_own_best_for_the_rest() -> None:
    bundle = small_bundle()
    crop, mask = crop_of(bundle), np.zeros((16, 16), bool)
    mask[12:16, 0:5] = True
    found = what_if_crop(crop, bundle, mask, "look", device="cpu")
    before, after = found.before.evidence, found.after.evidence
    assert isinstance(before, PixelSelection)
    assert isinstance(after, PixelSelection)
    assert after.mask()[mask].all()
    assert after.k == before.k == 38
    rest = np.where(mask, -1, before.coarse).ravel()
    np.testing.assert_array_equal(
        np.sort(np.setdiff1d(after.indices, np.flatnonzero(mask))), np.sort(np.argsort(-rest)[:18])
    )
    np.testing.assert_allclose(after.coarse, before.coarse, atol=1e-6)
    with torch.inference_mode():
        x = torch.from_numpy(ready(crop, bundle)[None])
        expected = bundle.model()(x, indices=torch.from_numpy(after.indices)[None]).logits[0]
    np.testing.assert_allclose(found.after.logits, expected.numpy(), atol=1e-5)
    both = len(np.intersect1d(before.indices, after.indices))
    assert found.selection_overlap == pytest.approx(both / (76 - both))


def test_looking_where_it_looks_anyway_changes_nothing() -> None:
    bundle = small_bundle()
    first = what_if_crop(crop_of(bundle), bundle, corner(16), "remove", device="cpu").before
    assert isinstance(first.evidence, PixelSelection)
    found = what_if_crop(crop_of(bundle), bundle, first.evidence.mask(), "look", device="cpu")
    np.testing.assert_allclose(found.after.logits, first.logits, atol=1e-5)
    assert found.selection_overlap == 1


def test_a_forced_look_over_a_map_is_scattered_over_the_mask() -> None:
    bundle = small_map_bundle()
    mask = np.zeros((16, 16), bool)
    mask[:, :12] = True
    found = what_if_crop(crop_of(bundle), bundle, mask, "look", device="cpu")
    kept = found.after.evidence.mask()
    assert not (kept & ~mask).any()
    quarters = kept[:, :12].reshape(2, 8, 2, 6).sum((1, 3))
    assert quarters.sum() == 38
    assert quarters.min() >= 5


def test_more_forced_pixels_than_fit_are_the_best_of_them() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    mask = np.zeros((3, 4), bool)
    mask[0] = True
    np.testing.assert_array_equal(choose_pixels(scores, mask, 2), [2, 3])
    np.testing.assert_array_equal(choose_pixels(scores, mask, 6), [0, 1, 2, 3, 10, 11])


def test_a_mask_painted_on_the_field_is_that_of_the_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    field = Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")
    # The crop is pixels 22 to 37 and 32 to 47.
    cells = cells_from_points(np.array([[29.5, 39.5]]), field.shape, diameter=8)
    painted, mask = np.zeros((60, 80), bool), np.zeros((16, 16), bool)
    painted[20:26, 40:60], mask[0:4, 8:16] = True, True
    bundle = small_bundle()
    found = what_if_cell(field, cells, 0, bundle, painted, "remove", device="cpu")
    crop = image[22:38, 32:48].astype(np.float32) / 255
    alone = what_if_crop(crop, bundle, mask, "remove", device="cpu")
    np.testing.assert_allclose(found.after.logits, alone.after.logits, atol=1e-4)
    assert found.after.evidence.frame.row == 29.5
    with pytest.raises(ValueError, match="empty"):
        what_if_cell(field, cells, 0, bundle, np.zeros((60, 80), bool), "remove", device="cpu")
    with pytest.raises(ValueError, match="size"):
        what_if_cell(field, cells, 0, bundle, painted[:9], "remove", device="cpu")


def test_crops_of_a_tnet_move_by_hand() -> None:
    bundle = small_tnet_bundle()
    crop = crop_of(bundle)
    rerun = prepare_crop(crop, bundle, "cpu")
    (way,) = rerun.seen.evidence
    assert isinstance(way, Traversal)
    centre = way.boxes[2, :2] + way.boxes[2, 2:] / 2
    stays = what_if_crop(rerun, bundle, None, moves={2: tuple(centre)})
    np.testing.assert_allclose(stays.after.logits, stays.before.logits, atol=1e-5)
    assert stays.selection_overlap == 1

    found = what_if_crop(rerun, bundle, None, moves={2: (20.0, 40.0)})
    after = found.after.evidence
    assert isinstance(after, Traversal)
    np.testing.assert_allclose(after.boxes[2], [20 - 16, 40 - 16, 32, 32])
    np.testing.assert_array_equal(after.boxes[1], way.boxes[1])
    # Its child lies inside of it, where it now is.
    child = int(np.flatnonzero(after.parent == 2)[0])
    assert (np.abs(after.boxes[child, :2] + 8 - [20, 40]) <= 16).all()
    np.testing.assert_allclose(after.logits, found.after.logits, atol=1e-4)
    # The moved crop says what the same pixels say as a crop there: positions are by centre.
    net, x = bundle.model(), torch.from_numpy(ready(crop, bundle)[None])
    from napari_sparseattn.models.tnet.crops import reduce_crop

    with torch.inference_mode():
        pooled = net.backbone(reduce_crop(x[:, :, 4:36, 24:56], 16))[1]
        place = torch.tensor([[(20 - 32) / 32, (40 - 32) / 32, 1.0]], dtype=torch.float64)
        alone = net.head(net.position(pooled, place))[0].numpy() / len(after)
    np.testing.assert_allclose(after.contribution[2], alone, atol=1e-4)


def test_a_tnet_is_made_to_look_by_moving_its_nearest_crop() -> None:
    bundle = small_tnet_bundle()
    mask = np.zeros((64, 64), bool)
    mask[50:54, 10:14] = True
    found = what_if_crop(crop_of(bundle), bundle, mask, "look", device="cpu")
    after = found.after.evidence
    assert isinstance(after, Traversal)
    middles = after.boxes[:, :2] + after.boxes[:, 2:] / 2
    assert (middles[after.level == 1] == [52, 12]).all(axis=1).any()


def test_questions_that_do_not_fit_are_refused() -> None:
    cell, tnet = small_bundle(), small_tnet_bundle()
    with pytest.raises(ValueError, match="only a TNet"):
        what_if_crop(crop_of(cell), cell, None, moves={1: (3.0, 3.0)}, device="cpu")
    for moves, words in (({0: (3.0, 3.0)}, "no crop 0"), ({1: (-3.0, 3.0)}, "off the image")):
        with pytest.raises(ValueError, match=words):
            what_if_crop(crop_of(tnet), tnet, None, moves=moves, device="cpu")
    with pytest.raises(ValueError, match="remove, keep or look"):
        what_if_crop(crop_of(cell), cell, corner(16), "guess", device="cpu")
    with pytest.raises(ValueError, match="shape"):
        what_if_crop(crop_of(cell), cell, corner(8), device="cpu")


def rough_field() -> Field:
    image = np.random.default_rng(0).integers(0, 256, (128, 160, 3)).astype(np.uint8)
    return Field.from_array(image, axes="YXC")


def test_only_what_a_question_changes_is_computed() -> None:
    bundle = small_tnet_bundle()
    rerun = FieldRerun(rough_field(), bundle, (2, 1), "cpu")
    crops = len(rerun.seen)
    assert rerun.computed == crops
    whole = classify_field(rough_field(), bundle, (2, 1), "cpu").traversal
    mask = np.zeros((32, 40), bool)
    mask[4:12, 20:30] = True
    found = what_if_field(rerun, bundle, mask)
    np.testing.assert_allclose(found.before.logits, whole.logits, atol=1e-4)
    after = found.after.evidence
    assert isinstance(after, Traversal)
    # A painted place is 4 x 4 pixels; crops that show none of it are from memory.
    reach = np.array([16, 80, 48, 120])
    top, left, height, width = after.boxes.T
    touched = (top < reach[2]) & (top + height > reach[0])
    touched &= (left < reach[3]) & (left + width > reach[1])
    was = {tuple(box) for box in whole.boxes}
    new = sum(bool(t) or tuple(b) not in was for t, b in zip(touched, after.boxes, strict=True))
    assert rerun.computed - crops <= new
    done = rerun.computed
    what_if_field(rerun, bundle, mask)
    assert rerun.computed == done

    moved = what_if_field(rerun, bundle, moves={1: (70.0, 90.0)})
    assert rerun.computed - done <= 2
    assert moved.question == "move"
    looked = what_if_field(rerun, bundle, mask, "look")
    middles = looked.after.evidence.boxes[:, :2] + looked.after.evidence.boxes[:, 2:] / 2
    assert (np.abs(middles - [32, 100]) <= 0.5).all(axis=1).any()
    with pytest.raises(ValueError, match="either"):
        what_if_field(rerun, bundle)


def slide() -> tuple[SlideRerun, Bundle]:
    bundle, rng = small_span_bundle(), np.random.default_rng(0)
    cells = np.argwhere(rng.random((9, 8)) < 0.8).astype(np.int32)
    known = FeatureSet(
        rng.normal(size=(len(cells), 128)).astype(np.float32), cells, 64.0, 64.0, (0.0, 0.0), 1.0,
        "none", "0" * 64, "", None, np.zeros(len(cells), bool),
    )  # fmt: skip
    pyramid = ArrayPyramid(np.zeros((640, 640, 3), np.uint8), pixel_size=1.0)
    return prepare_slide(
        classify_slide(pyramid, bundle, features=known, device="cpu"), bundle
    ), bundle


def test_patches_of_a_slide_go_or_are_all_that_is_left() -> None:
    rerun, bundle = slide()
    mask = np.arange(len(rerun.cells)) % 3 == 0
    removed = what_if_slide(rerun, bundle, mask)
    kept = what_if_slide(rerun, bundle, ~mask, "keep")
    np.testing.assert_allclose(removed.after.logits, kept.after.logits, atol=1e-5)
    with torch.inference_mode():
        expected = bundle.model()(rerun.features[~mask], rerun.places[~mask]).logits[0].numpy()
    np.testing.assert_allclose(removed.after.logits, expected, atol=1e-4)
    assert removed.after.evidence is None
    assert removed.to_dict()["selection_overlap"] is None
    replaced = what_if_slide(rerun, bundle, mask, fill="mean")
    assert isinstance(replaced.after.evidence, PyramidAttention)
    assert 0 <= replaced.selection_overlap <= 1


def test_levels_of_a_slide_are_left_out_of_the_sum() -> None:
    rerun, bundle = slide()
    found = what_if_slide(rerun, bundle, levels=[0])
    net = rerun.model
    with torch.inference_mode():
        read = torch.stack([level.tokens[0] for level in rerun.whole.levels[1:]]).sum(0)
        expected = net.head(net.norm(read[None]))[0].numpy()
    np.testing.assert_allclose(found.after.logits, expected, atol=1e-4)
    np.testing.assert_allclose(found.before.logits, rerun.whole.logits[0].numpy(), atol=1e-5)
    assert found.question == "levels"
    for levels, words in (([0, 1, 2], "one level must stay"), ([3], "levels are 0 to 2")):
        with pytest.raises(ValueError, match=words):
            what_if_slide(rerun, bundle, levels=levels)
    with pytest.raises(ValueError, match="name patches"):
        what_if_slide(rerun, bundle)
