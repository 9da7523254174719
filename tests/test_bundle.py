"""A model file is whole and honest, or refused with a reason."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from napari_sparseattn.bundle import (
    Bundle,
    BundleError,
    find_bundles,
    load_bundle,
    read_card,
    save_bundle,
)
from napari_sparseattn.bundle import (
    test_input as vector_input,
)
from napari_sparseattn.bundle import (
    test_patches as patches,
)
from small_model import small_bundle
from small_span import small_span_bundle


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_bundle(small_bundle(), path)
    return path


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewrite(path: Path, *, card: dict | None = None, state: dict | None = None) -> Path:
    """Write the file anew with another card or other tensors, as a forger would."""
    meta = metadata(path)
    if card is not None:
        meta["napari_sparseattn_card"] = json.dumps(
            {**json.loads(meta["napari_sparseattn_card"]), **card}
        )
    save_file(load_file(path) if state is None else state, path, meta)
    return path


def test_what_is_saved_is_loaded(saved: Path) -> None:
    original, loaded = small_bundle(), load_bundle(saved)
    x = vector_input(3, 16)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model()(x).logits, original.model()(x).logits)
    assert loaded.hash == read_card(saved).tensors_sha256 != ""
    assert loaded.card.class_names == original.card.class_names
    assert list(saved.parent.iterdir()) == [saved], "a temporary file was left behind"


def test_the_models_folder_gives_names(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(saved.parent))
    assert find_bundles()["small"] == saved
    assert load_bundle("small").path == saved


def test_a_missing_model_names_those_found(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(saved.parent))
    with pytest.raises(FileNotFoundError, match=r"'nothing'.*small"):
        load_bundle("nothing")


def test_a_failed_save_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    bad = small_bundle()
    state = {**bad.state, "head.bias": torch.full((3,), torch.nan)}
    with pytest.raises(BundleError, match="not numbers"):
        save_bundle(Bundle(bad.card, state), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/nonexistent/evil"),))


@pytest.mark.slow
def test_no_length_of_the_header_passes_for_a_pickle(tmp_path: Path) -> None:
    # Pickles begin with byte 0x80, and so does a header of 128 + n * 256 bytes.
    path, firsts = tmp_path / "model.safetensors", set()
    for extra in range(0, 256, 8):
        save_bundle(small_bundle(description="x" * extra), path)
        firsts.add(path.read_bytes()[:1])
        assert load_bundle(path).card.description == "x" * extra
    assert b"\x80" in firsts


@pytest.mark.parametrize("maker", ["torch", "pickle"])
def test_pickles_are_refused_unread(tmp_path: Path, maker: str) -> None:
    path = tmp_path / "model.safetensors"
    if maker == "torch":
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BundleError, match="pickle file, which can run code"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty or cut short"),
        (b"\x05\x00", "empty or cut short"),
        (struct.pack("<Q", 2**60) + b"{}", "header claims"),
        (struct.pack("<Q", 6) + b"\xff" * 6, "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "not a safetensors file"),
        (struct.pack("<Q", 5000) + b"9" * 5000, "not a safetensors file"),
        (b"just some text, longer than eight bytes", "header claims"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(saved)


def test_a_flipped_bit_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(BundleError, match="checksum"):
        load_bundle(saved)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(BundleError, match="no card"):
        load_bundle(path)


def test_tensors_that_do_not_fit_are_refused(saved: Path) -> None:
    state = load_file(saved)
    for change, message in (
        (
            {k: v for k, v in state.items() if k != "head.bias"},
            r"1 tensors are missing \(head.bias\)",
        ),
        ({**state, "extra": torch.zeros(1)}, r"1 are unknown \(extra\)"),
        ({**state, "head.bias": torch.zeros(4)}, r"head.bias is .*\(4,\), expected"),
        ({**state, "head.bias": torch.zeros(3, dtype=torch.float64)}, "float64"),
        ({**state, "head.bias": torch.full((3,), torch.inf)}, "not numbers"),
    ):
        with pytest.raises(BundleError, match=message):
            load_bundle(rewrite(saved, state=change))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"format_version": 99}, "newer version"),
        ({"kind": "yolo"}, "kind"),
        ({"class_names": ["a", "a", "b"]}, "distinct"),
        ({"unexpected": 1}, "unexpected"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "invalid card"),
        ({"architecture": {"width": 10**9}}, "architecture is invalid"),
        ({"architecture": {"exec": "code"}}, "architecture is invalid"),
        ({"channels": ["grey"]}, "contradicts itself"),
        ({"test_vector": None}, "no test vector"),
        ({"test_vector": {"logits": [9.0, 9.0, 9.0]}}, "does not compute what it did"),
        ({"test_vector": {"logits": [9.0]}}, "one logit per class"),
        ({"normalisation": {"kind": "white", "std": -1}}, "std"),
    ],
)
def test_a_bad_card_is_refused(saved: Path, card: dict, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(rewrite(saved, card=card))


def test_only_the_ending_that_loads_is_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"end in \.safetensors"):
        save_bundle(small_bundle(), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("segments", [False, True])
def test_a_span_is_saved_and_loaded(tmp_path: Path, segments: bool) -> None:
    original = small_span_bundle(segments)
    loaded = load_bundle(save_bundle(original, tmp_path / "span.safetensors").path)
    features, cells = patches(128)
    with torch.inference_mode():
        expected = original.slide_model()(features, cells).logits
        torch.testing.assert_close(loaded.slide_model()(features, cells).logits, expected)
    assert (loaded.card.takes_slides, loaded.card.segments) == (True, segments)
    assert "encoder: none" in loaded.card.summary()


def test_models_of_cells_and_of_slides_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="classifies whole slides, not cells"):
        small_span_bundle().cell_model()
    with pytest.raises(ValueError, match="not the patches of a slide"):
        small_bundle().slide_model()


def test_a_span_whose_card_contradicts_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "span.safetensors"
    save_bundle(small_span_bundle(), path)
    encoder = json.loads(metadata(path)["napari_sparseattn_card"])["encoder"]
    rewrite(path, card={"encoder": {**encoder, "width": 256}})
    with pytest.raises(BundleError, match="contradicts itself"):
        load_bundle(path)
    rewrite(path, card={"encoder": None})
    with pytest.raises(BundleError, match="names the encoder"):
        load_bundle(path)
    rewrite(path, card={"encoder": encoder, "kind": "span-unet"})
    with pytest.raises(BundleError, match="contradicts itself"):
        load_bundle(path)
