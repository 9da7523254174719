from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import BundleError, load_bundle, save_bundle
from napari_sparseattn.evidence import CropFrame, PixelSelection, Traversal
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import to_float
from napari_sparseattn.inference.cells import classify_cells, classify_crops
from napari_sparseattn.inference.run_crops import join_outputs, run_crops
from napari_sparseattn.models.tnet.network import TNet
from small_model import small_bundle
from small_tnet import small_tnet, small_tnet_bundle

FRAMES = [CropFrame(50.0, 60.0, 64.0, 64), CropFrame(90.0, 70.0, 64.0, 64)]


def test_a_tnet_gives_a_traversal_per_crop() -> None:
    net, crops = small_tnet(locations=(2, 1)), torch.randn(2, 3, 64, 64)
    seen = run_crops(net, crops, FRAMES)
    assert seen.pixels == 2 * 5 * 16**2
    for i, way in enumerate(seen.evidence):
        assert isinstance(way, Traversal)
        assert way.frame is FRAMES[i]
        np.testing.assert_allclose(way.logits, seen.logits[i], atol=1e-5)
    assert run_crops(net, crops).evidence == ()


def test_a_sparse_attn_net_gives_its_selection() -> None:
    bundle = small_bundle()
    model = bundle.model()
    frames = [CropFrame(8.0, 8.0, 16.0, 16)]
    seen = run_crops(model, torch.randn(1, 3, 16, 16), frames)
    (kept,) = seen.evidence
    assert isinstance(kept, PixelSelection)
    assert kept.k == seen.pixels == bundle.card.architecture["k"]


def test_parts_join_to_the_whole() -> None:
    net, crops = small_tnet(), torch.randn(2, 3, 64, 64)
    whole = run_crops(net, crops, FRAMES)
    joined = join_outputs([run_crops(net, crops[i : i + 1], FRAMES[i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(joined.logits, whole.logits, rtol=1e-4, atol=1e-4)
    assert joined.pixels == whole.pixels
    assert [way.frame for way in joined.evidence] == FRAMES


def test_cells_of_a_field_are_classified_by_a_tnet() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
    field = Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")
    # Whole numbers are centres of pixels: the crop of 64 begins at pixel 18, 28.
    cells = cells_from_points(np.array([[49.5, 59.5], [100.0, 120.0]]), field.shape, diameter=20)
    bundle = small_tnet_bundle()
    made = classify_cells(field, cells, bundle, "cpu")
    way = made.evidence[0]
    assert isinstance(way, Traversal)
    np.testing.assert_array_equal(way.on_image(way.boxes)[0], [18, 28, 64, 64])
    crop = to_float(image[18:82, 28:92])
    alone = classify_crops(crop[None], bundle, "cpu")[0]
    np.testing.assert_allclose(made.probabilities[0], alone, atol=1e-5)
    assert made.ledger.classified == 2 * 5 * 16**2


def test_a_bundle_of_a_tnet_survives_a_file(tmp_path: Path) -> None:
    written = save_bundle(small_tnet_bundle(), tmp_path / "small.safetensors")
    read = load_bundle(tmp_path / "small.safetensors")
    assert read.hash == written.hash
    assert isinstance(read.model(), TNet)
    assert "5 crops of 16 x 16 pixels" in read.card.summary()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(read.model()(images).logits, written.model()(images).logits)


@pytest.mark.parametrize("wrong", [{"grid": 1}, {"surprise": 1}, {"backbone": {"name": "huge"}}])
def test_an_impossible_architecture_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    bundle = small_tnet_bundle()
    card = bundle.card.model_copy(update={"architecture": bundle.card.architecture | wrong})
    with pytest.raises(BundleError, match="card"):
        save_bundle(type(bundle)(card, bundle.state), tmp_path / "wrong.safetensors")
