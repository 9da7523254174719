from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bad_slides import halves, write_svs
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import Normalisation, to_float
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.pyramid import ArrayPyramid, Pyramid, VirtualPyramid
from napari_sparseattn.inference.fields import (
    PyramidSource,
    as_pyramid,
    classify_field,
    to_traversals,
    traverse,
)
from napari_sparseattn.models.tnet.crops import roots
from small_model import knowing, small_bundle
from small_tnet import small_tnet, small_tnet_bundle

FIXED = Normalisation("fixed", 0.5, 0.25)


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth blobs and fine grain, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (height // 8 + 1, width // 8 + 1, channels))
    smooth = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    return (smooth + rng.integers(0, 55, smooth.shape)).astype(np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(FIXED(to_float(image).transpose(2, 0, 1)[None]))


def halved(image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    blocks = image.reshape(height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


# ------------------------------------------------------------------- reading


@pytest.mark.parametrize("shape", [(64, 64), (61, 61), (40, 100), (333, 200)])
def test_a_pyramid_of_one_level_gives_what_memory_gives(shape: tuple[int, int]) -> None:
    net, image = small_tnet(grid=4, overlap=0.4), picture(*shape)
    with torch.inference_mode():
        expected = net(as_tensor(image))
    output = traverse(ArrayPyramid(image), net, FIXED)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(output.levels, expected.levels, strict=True):
        assert mine.crops.boxes.tolist() == theirs.crops.boxes.tolist()


def test_a_pyramid_of_many_levels_gives_nearly_what_memory_gives() -> None:
    image = picture(256, 256)
    levels = [image, halved(image), halved(halved(image)), halved(halved(halved(image)))]
    net = small_tnet()
    with torch.inference_mode():
        expected = net(as_tensor(image))
    output = traverse(ArrayPyramid(levels), net, FIXED)
    # Levels are rounded to whole grey values.
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=0.05)
    assert len(output.levels) == 5


def test_large_crops_are_reduced_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = small_tnet(), picture(128, 128)
    whole = traverse(ArrayPyramid(image), net, FIXED)
    monkeypatch.setattr("napari_sparseattn.inference.fields._MOST_PIXELS", 1024)
    parts = traverse(ArrayPyramid(image), net, FIXED)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)


def test_only_what_is_looked_at_is_decoded() -> None:
    asked = []

    def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        asked.append((level, y, x, height, width))
        return np.full((height, width, 3), 40 + level, np.uint8)

    side = 2**14
    pyramid = VirtualPyramid(render, side, side, tile=64)
    output = traverse(pyramid, small_tnet(), FIXED, [1] * 10)
    reading = pyramid.ledger.snapshot()
    crops = sum(len(level.crops.image) for level in output.levels)
    assert crops == 11
    # No crop of 16 px touches more than 2 x 2 tiles of its level.
    assert reading.n_decoded == len(asked) <= 4 * crops
    assert reading.fraction_read < 1e-3
    # The root is read from a level no finer than it needs.
    assert asked[0][0] == len(pyramid.levels) - 1


def test_off_the_image_and_undecodable_pixels_are_zero_after_normalisation() -> None:
    class Broken(ArrayPyramid):
        """A slide whose last tile cannot be decoded."""

        def _fetch(self, level: int, tiles: object) -> object:
            return [
                dataclasses.replace(tile, pixels=None, failure="zeroed") if key == (1, 1) else tile
                for key, tile in zip(tiles, super()._fetch(level, tiles), strict=True)
            ]

    pyramid = Broken(np.full((20, 32, 3), 255, np.uint8), tile=16)
    source = PyramidSource([pyramid], FIXED)
    (crop,) = source.read(roots(source), 32)
    assert (crop[:, :6] == 0).all()
    assert (crop[:, -6:] == 0).all()
    assert (crop[:, 22:26, 16:] == 0).all()
    assert (crop[:, 6:22] == 2).all()


def test_values_that_are_no_numbers_are_zero() -> None:
    image = np.ones((32, 32, 1), np.float32)
    image[3, 4] = np.nan
    source = PyramidSource([ArrayPyramid(image)], FIXED)
    (crop,) = source.read(roots(source), 32)
    assert crop[0, 3, 4] == 0
    assert (crop == 2).sum() == 32 * 32 - 1


def test_a_batch_of_slides_is_read_like_single_ones() -> None:
    net = small_tnet()
    slides = [ArrayPyramid(picture(64, 64, seed)) for seed in range(3)]
    with torch.inference_mode():
        together = net(PyramidSource(slides, FIXED)).logits
    alone = torch.cat([traverse(slide, net, FIXED).logits for slide in slides])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_slides_of_unequal_size_are_refused() -> None:
    slides = [ArrayPyramid(picture(64, 64)), ArrayPyramid(picture(64, 32))]
    with pytest.raises(ValueError, match="one size"):
        PyramidSource(slides, FIXED)


def test_normalisation_that_needs_the_whole_image_is_refused() -> None:
    with pytest.raises(ValueError, match="'stain' needs the whole image"):
        PyramidSource([ArrayPyramid(picture(64, 64))], Normalisation("stain"))


# ------------------------------------------------------------------ traversal


def test_traversals_hold_what_the_net_returned() -> None:
    net = small_tnet(locations=(3, 2))
    images = torch.cat([as_tensor(picture(64, 64, seed)) for seed in range(2)])
    with torch.inference_mode():
        output = net(images)
    traversals = to_traversals(output, (64, 64), 16)
    for i, traversal in enumerate(traversals):
        assert len(traversal) == 1 + 3 + 6
        np.testing.assert_allclose(traversal.logits, output.logits[i], atol=1e-5)
        assert traversal.relative_probability.mean(axis=1) == pytest.approx(1)
        # Every crop is a chosen candidate of its parent, of the rank it states.
        for row, crop in enumerate(traversal.searched):
            mine = np.flatnonzero(traversal.parent == crop)
            chosen = traversal.candidates[row][traversal.chosen[row]]
            np.testing.assert_array_equal(traversal.boxes[mine], chosen)
            p = traversal.relative_probability[row][traversal.chosen[row]]
            np.testing.assert_array_equal(np.argsort(-p), np.argsort(traversal.rank[mine]))
            assert p.min() >= traversal.relative_probability[row][~traversal.chosen[row]].max()
    assert not np.array_equal(traversals[0].boxes, traversals[1].boxes)


def test_a_single_look_is_a_traversal_too() -> None:
    with torch.inference_mode():
        output = small_tnet()(as_tensor(picture(64, 64)), [])
    (traversal,) = to_traversals(output, (64, 64), 16)
    assert (len(traversal), traversal.n_levels, traversal.chosen.shape) == (1, 1, (0, 0))


# ------------------------------------------------------------- classify_field


def test_field_and_pyramid_agree() -> None:
    bundle, image = small_tnet_bundle(), picture(200, 300)
    field = Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")
    one = classify_field(field, bundle, device="cpu")
    other = classify_field(ArrayPyramid(image, pixel_size=0.5), bundle, device="cpu")
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-6)
    assert one.probabilities.sum() == pytest.approx(1)
    assert one.scale_known
    assert one.ledger.classified == len(one.traversal) * 16**2
    assert one.ledger.crop_pixels == 200 * 300
    assert one.reading is not None
    assert one.ledger.pixels * 3 == one.reading.bytes_decoded


def test_temperature_changes_probabilities_and_not_shares() -> None:
    image = ArrayPyramid(picture(64, 64))
    cold, warm = (
        classify_field(image, small_tnet_bundle(temperature=t), device="cpu") for t in (1.0, 2.0)
    )
    np.testing.assert_array_equal(cold.traversal.contribution, warm.traversal.contribution)
    np.testing.assert_allclose(
        np.log(cold.probabilities) - np.log(cold.probabilities[0]),
        2 * (np.log(warm.probabilities) - np.log(warm.probabilities[0])),
        rtol=1e-4,
        atol=1e-4,
    )


def test_locations_are_a_dial() -> None:
    bundle, image = small_tnet_bundle(), ArrayPyramid(picture(64, 64))
    for locations, crops in [([], 1), ([1], 2), ([4, 1], 9), ([9, 9], 91)]:
        made = classify_field(image, bundle, locations, device="cpu")
        assert len(made.traversal) == crops
    with pytest.raises(ValueError, match="between 1 and 9"):
        classify_field(image, bundle, [10], device="cpu")


def test_predictions_do_not_mix_their_ledgers() -> None:
    bundle, image = small_tnet_bundle(), ArrayPyramid(picture(64, 64))
    first, second = (classify_field(image, bundle, device="cpu") for _ in range(2))
    assert first.reading is not None
    assert second.reading is not None
    assert first.reading.n_decoded == second.reading.n_decoded
    assert image.ledger.snapshot().n_decoded == 0


def test_a_field_is_normalised_as_a_whole() -> None:
    bundle = small_tnet_bundle(normalisation=Normalisation("white"))
    image = picture(64, 64)
    field = Field.from_array(image, axes="YXC", modality="brightfield")
    made = classify_field(field, bundle, device="cpu")
    ready = Normalisation("white")(to_float(image).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        logits = bundle.model()(torch.from_numpy(ready)).logits[0]
    np.testing.assert_allclose(made.probabilities, logits.softmax(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["white", "stain"])
def test_missing_numbers_of_a_field_leave_the_rest_as_it_is(kind: str) -> None:
    bundle = small_tnet_bundle(normalisation=Normalisation(kind, 0.75, 0.25))  # type: ignore[arg-type]
    values = picture(64, 64).astype(np.float32) / 255
    whole = classify_field(Field.from_array(values, axes="YXC"), bundle, device="cpu")
    answers = []
    for missing in (1, 4, 12, 40):
        gaps = values.copy()
        gaps[:missing] = np.nan
        found = classify_field(Field.from_array(gaps, axes="YXC"), bundle, device="cpu")
        answers.append(np.abs(found.probabilities - whole.probabilities).max())
        pyramid, _ = as_pyramid(Field.from_array(gaps, axes="YXC"), bundle, 0, 0)
        seen = pyramid.read_region(0, 0, 0, 64, 64).pixels
        assert (seen[:missing] == 0).all()
        assert np.isfinite(seen).all()
        assert seen[missing:].std() > 0.1
    assert answers[0] < 0.2
    assert len(set(answers)) == len(answers)


def test_a_field_without_a_number_has_no_class() -> None:
    field = Field.from_array(np.full((64, 64, 3), np.nan), axes="YXC", modality="brightfield")
    with pytest.raises(ValueError, match="nothing to classify"):
        classify_field(field, small_tnet_bundle(), device="cpu")


def test_progress_counts_crops_and_may_stop() -> None:
    bundle, image, counts = small_tnet_bundle(), ArrayPyramid(picture(64, 64)), []
    classify_field(image, bundle, [2, 1], device="cpu", progress=lambda *at: counts.append(at))
    assert counts == [("crops", n, 0) for n in range(1, 6)]

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        classify_field(image, bundle, device="cpu", progress=stop)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ArrayPyramid(np.zeros((64, 64), np.uint8)), "needs 3 channel"),
        (
            Field.from_array(np.zeros((64, 64, 3), np.uint8), axes="YXC", modality="fluorescence"),
            "marked as fluorescence",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(image: Field | Pyramid, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify_field(image, small_tnet_bundle(), device="cpu")


def test_a_model_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="classifies cells"):
        classify_field(ArrayPyramid(picture(64, 64)), small_bundle(), device="cpu")


def test_an_empty_slide_has_no_class(tmp_path: Path) -> None:
    glass = np.full((1024, 1024, 3), 243, np.uint8)
    path = write_svs(tmp_path / "empty.svs", halves(glass, 2))
    with open_slide(path) as slide, pytest.raises(ValueError, match="No tissue was found on empty"):
        classify_field(slide, small_tnet_bundle(), device="cpu")
    glass[300:700, 200:800] = np.random.default_rng(0).integers(90, 190, (400, 600, 3))
    path = write_svs(tmp_path / "full.svs", halves(glass, 2))
    with open_slide(path) as slide:
        found = classify_field(slide, small_tnet_bundle(), device="cpu")
        assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("level", [255, 240, 190])
def test_an_empty_field_has_no_class(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 4, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    field = Field(noise, "YXC", 0.5, "brightfield", name="blank")
    with pytest.raises(ValueError, match="blank is even all over: there is nothing to classify"):
        classify_field(field, small_tnet_bundle(), device="cpu")


def fluorescence() -> np.ndarray:
    """Nuclei that glow on black, as RGB."""
    y, x = np.indices((200, 300))
    glow = (np.hypot(y % 40 - 20, x % 50 - 25) < 9) * 200
    return np.stack([0 * glow, 0 * glow, glow + 4], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("colour", [True, False])
def test_what_glows_on_black_is_refused_by_models_of_stains(colour: bool) -> None:
    pixels = fluorescence()
    if not colour:
        pixels = np.repeat(pixels[..., 2:], 3, axis=-1)
    field = Field(pixels, "YXC", 0.5, "brightfield", name="dapi")
    with pytest.raises(ValueError, match="dapi has a dark background"):
        classify_field(field, small_tnet_bundle(), device="cpu")
    with pytest.raises(ValueError, match="dark background"):
        classify_field(ArrayPyramid([pixels], name="dapi"), small_tnet_bundle(), device="cpu")


def test_a_stained_field_between_black_parts_is_taken() -> None:
    pixels = np.random.default_rng(0).integers(120, 255, (200, 300, 3)).astype(np.uint8)
    pixels[:, :200] = 0
    pixels[:, 200:220] = 245
    field = Field(pixels, "YXC", 0.5, "brightfield", name="islands")
    assert classify_field(field, small_tnet_bundle(), device="cpu").label


def test_a_scale_that_a_tnet_does_not_look_with_is_told_of() -> None:
    bundle, pixels = small_tnet_bundle(), picture(200, 300)
    trained = bundle.card.crop.pixel_size
    far, near = (
        classify_field(Field(pixels, "YXC", size, "brightfield"), bundle, device="cpu")
        for size in (40 * trained, None)
    )
    assert any("a TNet divides the whole image" in note for note in far.ledger.notes)
    assert not any("a TNet divides" in note for note in near.ledger.notes)


def test_novelty_of_fields_is_told_at_all_sizes_where_several_were_measured() -> None:
    bundle = knowing(small_tnet_bundle())
    assert bundle.card.novelty is not None
    rng = np.random.default_rng(0)

    def told(side: int, sides: tuple[int, int] | None, locations: Any = None) -> float | None:
        spec = bundle.card.novelty.model_copy(update={"sides": sides})
        changed = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"novelty": spec}))
        pixels = rng.integers(90, 250, (side, side, 3), dtype=np.uint8)
        field = Field(pixels, "YXC", 0.5, "brightfield")
        return classify_field(field, changed, locations, device="cpu").novelty

    assert told(64, None) is not None
    assert told(200, None) is None, "more crops than in training, whose mean is another"
    assert told(200, (150, 300)) is not None
    assert told(64, (150, 300)) is not None
    assert told(200, (150, 300), (1, 1, 1)) is None, "another number of crops"
