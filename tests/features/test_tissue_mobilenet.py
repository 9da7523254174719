"""The encoder that was tuned on real tissue: its network, its file, and what it can tell."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from napari_sparseattn.device import computing
from napari_sparseattn.features import encoders
from napari_sparseattn.features.encoders import (
    TISSUE,
    TISSUE_FILE,
    EncoderError,
    encoder_licence,
    load_encoder,
)
from napari_sparseattn.models.mobilenet import MobileNetV2, folded, from_transformers


def noise(n: int, side: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture
def random_trunk() -> MobileNetV2:
    """A trunk whose normalisation does something."""
    torch.manual_seed(0)
    trunk = MobileNetV2(norm=True).train()
    with torch.no_grad():
        for _ in range(3):
            trunk(torch.randn(8, 3, 64, 64))
    return trunk.eval()


def test_normalisation_goes_into_the_convolutions(random_trunk: MobileNetV2) -> None:
    plain = MobileNetV2().eval()
    plain.load_state_dict(folded(random_trunk.state_dict()))
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected, found = random_trunk(images), plain(images)
    assert expected.shape == (2, 1280)
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-4


def test_the_trunk_is_transformers_own() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)
    theirs = transformers.MobileNetV2Model(config).train()
    images = torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        theirs(images)
        ours = MobileNetV2(norm=True)
        ours.load_state_dict(from_transformers(theirs.state_dict()))
        expected, found = theirs.eval()(images).pooler_output, ours.eval()(images)
    assert (found - expected).abs().max() < 1e-5


def test_the_features_are_the_same_for_the_same_patches_whatever_is_beside_them() -> None:
    encoder, images = load_encoder(device="cpu"), noise(5, 96)
    assert (encoder.name, encoder.width) == (TISSUE, 256)
    together = encoder(images)
    assert together.dtype == np.float32
    assert together.shape == (5, 256)
    assert np.isfinite(together).all()
    alone = np.concatenate([encoder(image[np.newaxis]) for image in images])
    assert np.abs(together - alone).max() < 1e-3
    assert encoder.hash == load_encoder(TISSUE, "cpu").hash


@pytest.mark.parametrize("side", [64, 100, 128, 224])
def test_patches_of_any_side_are_taken(side: int) -> None:
    assert load_encoder(device="cpu")(noise(1, side)).shape == (1, 256)


def test_what_is_no_patch_is_refused() -> None:
    encoder = load_encoder(device="cpu")
    for wrong in (noise(1, 32), noise(1, 96).astype(np.float32), noise(1, 96)[..., 0]):
        with pytest.raises(ValueError, match="64 to 512"):
            encoder(wrong)


def test_the_file_is_small_and_its_licence_is_told() -> None:
    assert TISSUE_FILE.stat().st_size <= 8_000_000
    assert all(each.dtype == torch.float16 for each in load_file(TISSUE_FILE).values())
    licence = encoder_licence(TISSUE)
    assert load_encoder(device="cpu").licence == licence
    for part in ("Apache-2.0", "CC0", "CC BY 4.0", "10.6084/m9.figshare.21540159"):
        assert part in licence


def test_a_damaged_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(TISSUE_FILE.read_bytes()[:-1000])
    monkeypatch.setattr(encoders, "TISSUE_FILE", cut)
    with pytest.raises(EncoderError, match="damaged"):
        load_encoder(TISSUE, "cpu")


def test_tumour_is_told_from_none_on_slides_of_the_official_validation_part(shared: Path) -> None:
    names, labels, tiles = [], [], []
    with zipfile.ZipFile(shared / "data" / "pcam.zip") as archive:
        for label, kind in enumerate(("no_tumour", "tumour")):
            own = sorted(x for x in archive.namelist() if x.startswith(f"{kind}/valid/"))
            names += own[1::15][:80]
            labels += [label] * 80
        for name in names:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                tiles.append(np.asarray(image.convert("RGB")))
    features = load_encoder(device="cpu")(np.stack(tiles))
    assert abs(features.mean()) < 0.5
    assert 0.5 < features.std() < 2
    state = load_file(TISSUE_FILE)
    logits = features @ state["nodes.weight"].float().numpy().T
    scores, truth = logits[:, 1] - logits[:, 0], np.array(labels) == 1
    assert (scores[truth][:, None] > scores[~truth]).mean() > 0.85


def test_it_may_compute_in_bfloat16() -> None:
    encoder = load_encoder(TISSUE, "cpu")
    patches = noise(2, 64)
    with computing("cpu", "bfloat16"):
        found = encoder(patches)
    assert found.dtype == np.float32
    assert np.abs(found - encoder(patches)).max() < 0.5
