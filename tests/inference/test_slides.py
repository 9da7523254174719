"""From a slide to pyramid attention; what the network gives is put where it belongs."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import EncoderSpec
from napari_sparseattn.features.encoders import Encoder
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.images.tissue.mask import tissue_from_polygons
from napari_sparseattn.inference.slide_attention import to_pyramid_attention
from napari_sparseattn.inference.slides import (
    classify_slide,
    local_attention,
)
from small_model import small_bundle
from small_span import small_span, small_span_bundle


class MeanColours(Encoder):
    """The mean colour of 6 x 6 parts of a patch: quick, and it knows where it is."""

    name, width, size, pixel_size, licence = "mean-colours", 128, 64, 1.0, "none"
    hash = hashlib.sha256(b"mean-colours").hexdigest()

    def __init__(self) -> None:
        self.patches = 0

    def __call__(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.patches += len(patches)
        parts = patches[:, :60, :60].reshape(len(patches), 6, 10, 6, 10, 3).mean((2, 4))
        features = np.zeros((len(patches), 128), np.float32)
        features[:, :108] = parts.reshape(len(patches), 108) / 255 - 0.5
        return features


SPEC = EncoderSpec(name="mean-colours", hash=MeanColours.hash, width=128)


def bundle_for(segments: bool = False) -> Bundle:
    return small_span_bundle(segments, encoder=SPEC)


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    """White glass with a purple rectangle of 5 x 7 patches, whose hue runs."""
    rng = np.random.default_rng(0)
    image = np.full((640, 768, 3), 242, np.uint8)
    ramp = np.linspace(0, 60, 448)[None, :, None]
    noise = rng.integers(-25, 25, (320, 448, 3))
    image[128:448, 192:640] = (np.array([150, 70, 160]) + ramp + noise).clip(0, 255)
    return image


@pytest.fixture
def slide(pixels: npt.NDArray[np.uint8]) -> ArrayPyramid:
    return ArrayPyramid(pixels, pixel_size=1.0, name="made")


@pytest.mark.parametrize("segments", [False, True])
def test_attention_lies_on_the_patches_it_is_of(segments: bool) -> None:
    rng = np.random.default_rng(1)
    places = [(x, y) for x in range(6) for y in range(9)]
    cells = rng.permutation(places)[:31] + np.array([40, 17])
    features = rng.normal(size=(31, 128)).astype(np.float32)
    with torch.inference_mode():
        output = small_span(segments)(torch.from_numpy(features), torch.from_numpy(cells))
    seen = to_pyramid_attention(
        output, cells, origin=(5.0, 3.0), step=10.0, side=10.0, class_names=("a", "b")
    )
    # Patch by patch, from the network's own cells.
    for number, level in enumerate(output.levels):
        mean = level.attention.mean((0, 1)).numpy()
        where = {tuple(cell): i for i, cell in enumerate(level.cells.tolist())}
        held = {}
        for i, (x, y) in enumerate((cells - cells.min(0)).tolist()):
            key = ((x + output.left) >> number, (y + output.top) >> number)
            held[i] = mean[where[key]]
        total = sum({((cells[i] - cells.min(0) + (output.left, output.top)) >> number).tobytes():
                     v for i, v in held.items()}.values())  # fmt: skip
        weights = seen.patch_weights(number)
        np.testing.assert_allclose(weights, np.array(list(held.values())) / total, rtol=1e-5)
        level_seen = seen.levels[number]
        np.testing.assert_allclose(
            level_seen.attention.sum(1) + level_seen.itself, 1, rtol=1e-5 if number == 0 else 0.2
        )
    for i, (x, y) in enumerate(cells.tolist()):
        assert seen.patch_box(i) == (5 + 10 * y, 3 + 10 * x, 10)


def test_levels_add_up_to_the_logits(slide: ArrayPyramid) -> None:
    found = classify_slide(slide, bundle_for(), MeanColours())
    seen = found.attention
    logits = seen.level_shares().sum(0) + seen.constant
    chances = np.exp(logits - logits.max())
    np.testing.assert_allclose(found.probabilities, chances / chances.sum(), rtol=1e-4)


def test_a_slide_from_tissue_to_attention(slide: ArrayPyramid) -> None:
    said: list[tuple[str, int, int]] = []
    found = classify_slide(
        slide, bundle_for(), MeanColours(), progress=lambda *news: said.append(news)
    )
    assert [stage.name for stage in found.stages] == ["tissue", "features", "attention"]
    assert {name for name, *_ in said} == {"tissue", "features", "attention"}
    assert said[-1] == ("attention", 1, 1)
    boxes = np.array([found.attention.patch_box(i) for i in range(len(found.attention))])
    assert 24 <= len(boxes) <= 48
    # All patches touch the tissue.
    assert (boxes[:, 0] > 64).all()
    assert (boxes[:, 0] < 448).all()
    assert (boxes[:, 1] > 128).all()
    assert (boxes[:, 1] < 640).all()
    assert found.probabilities.sum() == pytest.approx(1)
    assert found.scale_known
    assert found.reading is not None
    assert found.reading.n_decoded > 0
    table = found.to_frame()
    assert len(table) == len(boxes)
    assert table["attention_1"].mean() == pytest.approx(1, rel=1e-4)
    assert list(table.columns) == ["top", "left", "side", "attention_1", "attention_2",
                                   "attention_4"]  # fmt: skip


def test_segmentation_gives_each_patch_its_probability(slide: ArrayPyramid) -> None:
    found = classify_slide(slide, bundle_for(segments=True), MeanColours())
    chances = found.attention.patch_probabilities
    assert chances is not None
    assert found.probabilities[1] == pytest.approx((chances >= 0.5).mean())
    assert found.segments
    assert "p_tumour" in found.to_frame().columns


def test_what_was_done_before_is_used(slide: ArrayPyramid, tmp_path: Path) -> None:
    first, second = MeanColours(), MeanColours()
    one = classify_slide(slide, bundle_for(), first, store=tmp_path)
    two = classify_slide(slide, bundle_for(), second, store=tmp_path)
    assert first.patches == len(one.attention)
    assert second.patches == 0
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    assert one.features is not None
    given = classify_slide(slide, bundle_for(), features=one.features.path)
    np.testing.assert_array_equal(given.probabilities, one.probabilities)
    assert given.tissue is None


def test_the_users_tissue_is_taken(slide: ArrayPyramid) -> None:
    corner = np.array([[128, 192], [128, 400], [300, 400], [300, 192]], float)
    tissue = tissue_from_polygons(slide.shape, [corner], 4.0)
    found = classify_slide(slide, bundle_for(), MeanColours(), tissue=tissue)
    boxes = np.array([found.attention.patch_box(i) for i in range(len(found.attention))])
    assert boxes[:, 0].max() <= 300
    assert boxes[:, 1].max() <= 400


def test_an_unknown_scale_is_asked_for_or_marked(pixels: npt.NDArray[np.uint8]) -> None:
    slide = ArrayPyramid(pixels, name="made")
    with pytest.raises((ImageError, ValueError), match="µm per pixel"):
        classify_slide(slide, bundle_for(), MeanColours())
    found = classify_slide(slide, bundle_for(), MeanColours(), allow_unknown_scale=True)
    assert not found.scale_known
    assert any("pixel size is unknown" in note for note in found.ledger.notes)


def test_what_does_not_fit_is_refused(slide: ArrayPyramid, pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="not the patches of a slide"):
        classify_slide(slide, small_bundle())
    other = small_span_bundle(encoder=EncoderSpec(name="other", hash="f" * 64, width=128))
    with pytest.raises(ValueError, match="was trained on features of other"):
        classify_slide(slide, other, MeanColours())
    made = classify_slide(slide, bundle_for(), MeanColours()).features
    with pytest.raises(ValueError, match="not by the encoder"):
        classify_slide(slide, other, features=made)
    with pytest.raises(ValueError, match="another slide"):
        classify_slide(
            ArrayPyramid(pixels[::-1].copy(), pixel_size=1.0, name="x"), bundle_for(), features=made
        )
    assert made is not None
    foreign = dataclasses.replace(made, encoder_hash="", slide_hash="")
    small = ArrayPyramid(pixels[:320].copy(), pixel_size=1.0, name="small")
    with pytest.raises(ValueError, match="lie outside of small, such as row"):
        classify_slide(small, bundle_for(), features=foreign)
    assert not classify_slide(slide, bundle_for(), features=foreign).scale_known
    quarter = dataclasses.replace(foreign, step=foreign.step / 4, side=foreign.side / 4)
    with pytest.raises(ValueError, match=r"16 µm wide, .* on 64 µm.* those of level 0"):
        classify_slide(slide, bundle_for(), features=quarter)
    glass = ArrayPyramid(np.full((512, 512, 3), 242, np.uint8), pixel_size=1.0, name="glass")
    with pytest.raises(ValueError, match="No tissue was found on glass"):
        classify_slide(glass, bundle_for(), MeanColours())


def test_stopping_keeps_what_is_done(slide: ArrayPyramid, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "features" and done:
            raise StoppedError

    first, second = MeanColours(), MeanColours()
    with pytest.raises(StoppedError):
        classify_slide(slide, bundle_for(), first, store=tmp_path, progress=stop)
    found = classify_slide(slide, bundle_for(), second, store=tmp_path)
    assert second.patches == len(found.attention) - 32


def test_local_attention_is_of_the_window(slide: ArrayPyramid) -> None:
    bundle = bundle_for()
    found = classify_slide(slide, bundle, MeanColours())
    patch = len(found.attention) // 2
    looked = local_attention(found, bundle, patch)
    own = found.attention.cells[patch]
    offsets = np.abs(found.attention.cells[looked.indices] - own)
    assert patch in looked.indices
    assert offsets.max() <= 5
    assert looked.weights.shape[1] == len(looked.indices) <= 63
    assert (looked.weights.sum(1) <= 1 + 1e-5).all()
    with pytest.raises(IndexError, match="no patch"):
        local_attention(found, bundle, 10_000)
    with pytest.raises(ValueError, match="its own model"):
        local_attention(found, small_span_bundle(encoder=SPEC, tensors_sha256="5" * 64), patch)


def test_features_of_patches_of_another_size_are_refused(tmp_path: Path) -> None:
    """Whoever made them, and whether or not the slide states its µm per pixel."""
    bundle = small_span_bundle()
    cells = np.array([[0, 0], [1, 0], [0, 1]], np.int32)
    spec = bundle.card.encoder
    assert spec is not None
    made = FeatureSet(
        np.zeros((3, spec.width), np.float32), cells, 64.0, 64.0, (0.0, 0.0), 2.0, spec.name,
        spec.hash, "", None, np.zeros(3, bool), patch_um=128.0,
    )  # fmt: skip
    for pixel_size in (None, 2.0):
        slide = ArrayPyramid(np.full((256, 256, 3), 200, np.uint8), pixel_size=pixel_size)
        with pytest.raises(ValueError, match=r"The patches are 128 µm wide.*trained on 64 µm"):
            classify_slide(slide, bundle, features=made, device="cpu")
    right = dataclasses.replace(made, patch_um=64.0)
    slide = ArrayPyramid(np.full((256, 256, 3), 200, np.uint8), pixel_size=1.0)
    assert len(classify_slide(slide, bundle, features=right, device="cpu").attention) == 3
