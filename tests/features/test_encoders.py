"""Encoders: the embedded one's numbers, pretrained networks from folders, and their licences."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed

from napari_sparseattn.features._stain_texture import describe
from napari_sparseattn.features.encoders import (
    EncoderError,
    NetworkEncoder,
    encoder_licence,
    load_encoder,
)
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.patches import patch_grid, read_patch
from napari_sparseattn.images.tissue.mask import find_tissue


def patches(n: int = 4, seed: int = 0, side: int = 224) -> np.ndarray:
    """Draw smooth texture in the colours of haematoxylin and eosin."""
    random = np.random.default_rng(seed)
    low = random.random((n, side // 8, side // 8, 3)) * [0.15, 0.1, 0.01]
    stains = low.repeat(8, axis=1).repeat(8, axis=2) + random.random((n, side, side, 3)) * 0.02
    return np.rint(hed2rgb(stains) * 255).astype(np.uint8)


def test_stain_texture_is_finite_deterministic_and_of_its_width() -> None:
    encoder = load_encoder("stain-texture", "cpu")
    assert encoder.width == 256
    first, second = encoder(patches()), load_encoder("stain-texture", "cpu")(patches())
    assert first.shape == (4, 256)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)
    assert encoder.hash == load_encoder("stain-texture", "cpu").hash
    assert len(encoder.hash) == 64


def test_stain_texture_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    encoder, images = load_encoder("stain-texture", "cpu"), patches(6)
    together = encoder(images)
    alone = np.concatenate([encoder(image[np.newaxis]) for image in images])
    assert np.abs(together - alone).max() < 1e-3


@pytest.mark.parametrize("shade", [0, 17, 255])
def test_flat_patches_give_numbers(shade: int) -> None:
    encoder = load_encoder("stain-texture", "cpu")
    flat = encoder(np.full((2, 224, 224, 3), shade, np.uint8))
    assert np.isfinite(flat).all()
    assert np.abs(flat).max() <= 8


def test_turning_and_mirroring_change_little() -> None:
    encoder, images = load_encoder("stain-texture", "cpu"), patches(8)
    before = encoder(images)
    others = np.abs(before[:, None] - before[None]).mean(axis=-1)[~np.eye(8, dtype=bool)].mean()
    for turned in (np.rot90(images, axes=(1, 2)), images[:, ::-1], images[:, :, ::-1]):
        assert np.abs(encoder(turned) - before).mean() < 0.2 * others


def test_stain_texture_tells_stain_and_texture_apart() -> None:
    encoder, images = load_encoder("stain-texture", "cpu"), patches(8)
    before = encoder(images)
    # More haematoxylin; and the same pixels in another order.
    stains = rgb2hed(images)
    stains[..., 0] *= 1.5
    darker = encoder(np.rint(hed2rgb(stains) * 255).astype(np.uint8))
    shuffled = images.reshape(8, -1, 3)[:, np.random.default_rng(0).permutation(224 * 224)]
    mixed = encoder(shuffled.reshape(images.shape))
    assert np.abs(darker - before).mean() > 0.2
    assert np.abs(mixed - before).mean() > 0.5


def test_binary_patterns_are_counted_as_defined() -> None:
    from napari_sparseattn.features._stain_texture import _binary_patterns

    image = np.random.default_rng(0).integers(0, 50, (40, 40)).astype(np.float32)
    ours = _binary_patterns(torch.from_numpy(image)[None, None], 1)[0][0].numpy() ** 2
    codes = np.zeros((38, 38), int)
    around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for bit, (dy, dx) in enumerate(around):
        there = image[1 + dy : 39 + dy, 1 + dx : 39 + dx]
        codes |= (there > image[1:-1, 1:-1]).astype(int) << bit
    expected = np.zeros(10)
    for code in codes.ravel():
        bits = [(code >> k) & 1 for k in range(8)]
        changes = sum(bits[k] != bits[k - 1] for k in range(8))
        expected[sum(bits) if changes <= 2 else 9] += 1
    assert ours == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_numbers_of_the_embedded_encoder_stay_as_released() -> None:
    """If this fails, what is computed has changed: give the encoder a new version."""
    y, x = np.mgrid[:224, :224]
    image = np.stack([120 + 60 * np.sin(y / 9), 90 + 50 * np.cos(x / 7), 150 + 0 * x], axis=-1)
    raw = describe(torch.from_numpy(image.astype(np.uint8))[None])[0].double()
    assert raw.shape == (256,)
    assert float(raw.sum()) == pytest.approx(GOLDEN[0], abs=0.02)
    assert float((raw * torch.arange(256)).sum()) == pytest.approx(GOLDEN[1], abs=2)


GOLDEN = (-70.179, -4826.61)


def test_its_constants_come_from_the_slide_they_name(shared: Path) -> None:
    with open_slide(shared / "data/slides/CMU-1-Small-Region.svs") as slide:
        grid = patch_grid(slide, find_tissue(slide), pixel_size=0.5, size=224)
        images = np.stack([read_patch(slide, grid, i)[0] for i in range(0, len(grid), 2)])
    values = load_encoder("stain-texture", "cpu")(images)
    assert abs(values.mean()) < 0.5
    assert 0.3 < values.std() < 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((1, 224, 224, 4), np.uint8),
        np.zeros((1, 224, 200, 3), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((1, 32, 32, 3), np.uint8),
    ],
)
def test_refuses_what_are_no_patches(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="takes patches"):
        load_encoder("stain-texture", "cpu")(wrong)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """Save a tiny vision transformer of width 48, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_folder_of_transformers(vit: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (vit / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 64}})
    )
    encoder = load_encoder(f"transformers:{vit}", "cpu")
    assert (encoder.width, encoder.size) == (128, 64)
    images = patches(3, side=64)
    found = encoder(images)
    network = transformers.ViTModel.from_pretrained(vit).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = network((pixels - 0.5) / 0.25).pooler_output.numpy()
    assert np.abs(found[:, :48] - expected).max() < 1e-5
    assert not found[:, 48:].any()
    again = load_encoder(f"transformers:{vit}", "cpu")
    assert encoder.hash == again.hash
    with pytest.raises(ValueError, match="S = 64"):
        encoder(patches(1))


def test_a_pooling_layer_that_was_not_saved_is_not_used(vit: Path) -> None:
    transformers = pytest.importorskip("transformers")
    whole = transformers.ViTModel.from_pretrained(vit)
    bare = transformers.ViTModel(whole.config, add_pooling_layer=False)
    bare.load_state_dict(whole.state_dict(), strict=False)
    bare.save_pretrained(vit)
    encoder = load_encoder(f"transformers:{vit}", "cpu")
    images = patches(2, side=64)
    # At random it would differ from one load to the next.
    assert np.array_equal(encoder(images), load_encoder(f"transformers:{vit}", "cpu")(images))
    with torch.inference_mode():
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = bare.eval()((pixels - mean) / std).last_hidden_state[:, 0].numpy()
    assert np.abs(encoder(images)[:, :48] - expected).max() < 1e-5


def test_other_weights_are_another_encoder(vit: Path) -> None:
    transformers = pytest.importorskip("transformers")
    before = load_encoder(f"transformers:{vit}", "cpu").hash
    network = transformers.ViTModel.from_pretrained(vit)
    with torch.no_grad():
        next(network.parameters())[0] += 1
    network.save_pretrained(vit)
    assert load_encoder(f"transformers:{vit}", "cpu").hash != before


def test_pickled_weights_are_not_loaded(vit: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.ViTModel.from_pretrained(vit)
    torch.save(network.state_dict(), vit / "pytorch_model.bin")
    (vit / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="safetensors"):
        load_encoder(f"transformers:{vit}", "cpu")


def test_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(EncoderError, match="not run"):
        load_encoder(f"transformers:{tmp_path}", "cpu")


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="does not take images"):
        load_encoder(f"transformers:{tmp_path}", "cpu")


def test_mobilenet_as_shared(shared: Path) -> None:
    pytest.importorskip("transformers")
    folder = shared / "weights/mobilenetv2_imagenet"
    encoder = load_encoder(f"transformers:{folder}", "cpu")
    assert isinstance(encoder, NetworkEncoder)
    assert (encoder.width, encoder.size) == (1280, 224)
    assert encoder(patches(2)).shape == (2, 1280)


def test_unknown_names_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderError, match="no encoder"):
        load_encoder("resnet", "cpu")
    with pytest.raises(EncoderError, match="no encoder"):
        load_encoder("transformers:", "cpu")
    for package in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install timm"):
        load_encoder("timm:resnet50", "cpu")
    with pytest.raises(ImportError, match=r"pip install .napari-sparseattn\[encoders\]"):
        load_encoder("transformers:some/name", "cpu")


def test_licences_are_known_or_said_to_be_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "BSD" in encoder_licence("stain-texture")
    assert encoder_licence("transformers:bioptimus/H-optimus-0") == "Apache-2.0"
    assert encoder_licence("timm:hf-hub:bioptimus/H-optimus-0") == "Apache-2.0"
    assert "Apache-2.0" in encoder_licence("timm:resnet50.a1_in1k")
    for name in ("MahmoodLab/UNI", "MahmoodLab/CONCH", "paige-ai/Virchow2", "owkin/phikon"):
        assert "non-commercial" in encoder_licence(f"transformers:{name}")
    assert encoder_licence("transformers:paige-ai/Virchow") == "Apache-2.0"
    assert encoder_licence(f"transformers:{tmp_path}").startswith("unknown: ask")
    (tmp_path / "LICENSE").write_text("\n  MIT License\n\nCopyright\n")
    assert encoder_licence(f"transformers:{tmp_path}") == "MIT License (LICENSE)"
    (tmp_path / "README.md").write_text("---\ntags: x\nlicense: cc-by-nc-4.0\n---\n# A network\n")
    assert encoder_licence(f"transformers:{tmp_path}") == "cc-by-nc-4.0 (README.md)"
