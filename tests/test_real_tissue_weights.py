"""The bundled models of real tissue are what their cards say, and say what they are not for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_sparseattn.bundle import find_bundles, load_bundle, read_card
from napari_sparseattn.features.encoders import TISSUE, load_encoder
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.models.span import run_span

SPANS = ("colon-biopsy", "lymph-node")
MODELS = (*SPANS, "colon-biopsy-tnet")


@pytest.mark.parametrize("name", MODELS)
def test_the_card_says_whence_it_is_and_what_it_must_not_be_used_for(name: str) -> None:
    bundle = load_bundle(name)
    card = bundle.card
    assert not card.training.simulated
    assert "must not be used for a diagnosis" in card.description
    assert card.training.citation
    assert card.training.licence in ("CC BY 4.0", "CC0 1.0")
    assert card.training.recipe.startswith("scripts/")
    assert bundle.known is not None, "tissue of another kind must be told"
    assert card.novelty is not None
    low, high = card.metrics["accuracy_interval"]
    assert low < card.metrics["accuracy"] <= high
    confusion = np.array(card.metrics["confusion"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(card.metrics["accuracy"])
    assert find_bundles()[name].stat().st_size <= (
        12_000_000 if name.endswith("tnet") else 4_000_000
    )


@pytest.mark.parametrize("name", SPANS)
def test_its_encoder_is_the_embedded_one(name: str) -> None:
    spec, encoder = load_bundle(name).card.encoder, load_encoder(device="cpu")
    assert spec is not None
    assert (spec.name, spec.hash, spec.width) == (TISSUE, encoder.hash, encoder.width)
    assert "CC BY 4.0" in spec.licence


def test_models_of_simulated_images_come_last() -> None:
    simulated = [read_card(path).training.simulated for path in find_bundles().values()]
    assert sorted(simulated) == simulated
    assert sum(simulated) >= 4


def read(archive: Path, names: list[str]) -> np.ndarray:
    tiles = []
    with zipfile.ZipFile(archive) as opened:
        for name in names:
            with Image.open(io.BytesIO(opened.read(name))) as image:
                tiles.append(np.asarray(image.convert("RGB")))
    return np.stack(tiles)


def some(archive: Path, begin: str, n: int) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        names = sorted(x for x in opened.namelist() if x.startswith(begin) and x.endswith(".jpg"))
    return names[:: max(1, len(names) // n)][:n]


def test_tumour_in_lymph_nodes_is_told_from_none(shared: Path) -> None:
    archive = shared / "data" / "pcam.zip"
    bundle, encoder = load_bundle("lymph-node"), load_encoder(device="cpu")
    shares = []
    for kind in ("no_tumour", "tumour"):
        tiles = read(archive, some(archive, f"{kind}/valid/", 36))
        cells = torch.tensor([(i % 6, i // 6) for i in range(len(tiles))])
        logits = run_span(bundle.slide_model(), encoder(tiles), cells).logits
        shares.append(float((logits > 0).float().mean()))
    assert shares[0] < 0.3
    assert shares[1] > 0.7


def test_tiles_of_biopsies_are_told_apart(shared: Path) -> None:
    archive = shared / "data" / "ebhi.zip"
    bundle, encoder = load_bundle("colon-biopsy"), load_encoder(device="cpu")
    right = []
    for label, kind in enumerate(("polyp", "low_grade_neoplasia", "adenocarcinoma")):
        tiles = read(archive, some(archive, f"{kind}/", 6))
        small = [Image.fromarray(tile).resize((192, 192), Image.Resampling.BOX) for tile in tiles]
        features = encoder(np.stack([np.asarray(each) for each in small]))
        for row in features:
            logits = run_span(
                bundle.slide_model(), row[np.newaxis], torch.zeros(1, 2).long()
            ).logits
            right.append(int(logits.argmax()) == label)
    # Most of them took part in the training.
    assert np.mean(right) >= 0.75


def test_skin_is_flagged_by_the_model_of_lymph_nodes(shared: Path) -> None:
    with open_slide(shared / "data/slides/CMU-1-Small-Region.svs") as slide:
        found = classify_slide(slide, load_bundle("lymph-node"), device="cpu")
    assert found.novelty is not None
    assert found.novelty > 1
    assert found.ledger.notes[0].startswith("It knows lymph nodes alone")


@pytest.mark.parametrize(
    "name",
    ["CMU-1-Small-Region.svs", pytest.param("tcga-cr-7395-01a-01-ts1.svs", marks=pytest.mark.slow)],
)
def test_other_organs_are_flagged_by_the_model_of_biopsies(name: str, shared: Path) -> None:
    """Skin and a tumour of the head and neck were called adenocarcinoma, and passed."""
    with open_slide(shared / "data/slides" / name) as slide:
        found = classify_slide(
            slide, load_bundle("colon-biopsy"), allow_unknown_scale=True, device="cpu"
        )
    assert found.flagged
    assert found.patch_novelty is not None
    assert len(found.patch_novelty) == len(found.attention)


def test_biopsies_are_not_flagged(shared: Path) -> None:
    archive = shared / "data" / "ebhi.zip"
    bundle, encoder = load_bundle("colon-biopsy"), load_encoder(device="cpu")
    assert bundle.known is not None
    assert bundle.known.patches is not None
    for kind in ("polyp", "low_grade_neoplasia", "adenocarcinoma"):
        tiles = read(archive, some(archive, f"{kind}/", 8))
        small = [Image.fromarray(tile).resize((192, 192), Image.Resampling.BOX) for tile in tiles]
        features = encoder(np.stack([np.asarray(each) for each in small]))
        assert bundle.known.patches.slide_novelty(features) < 1


def test_the_model_of_biopsies_says_that_other_organs_are_not_all_flagged() -> None:
    assert "not all flagged" in load_bundle("colon-biopsy").card.description
