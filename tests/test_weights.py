"""The bundled models are what their cards say."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_sparseattn.bundle import find_bundles, load_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.holograms.holography import reconstruct
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.simulate import KINDS, Optics, hologram_with_truth, smear_with_truth
from napari_sparseattn.training.data.datasets import hash_folds
from napari_sparseattn.training.loop.fit import predict_states


def test_the_bundled_model_keeps_its_limits() -> None:
    bundle = load_bundle("blood-cells")
    card = bundle.card
    assert len(card.class_names) == 8
    assert card.architecture["token"] == "pixel", "the claim is that nothing else was seen"
    assert card.architecture["k"] <= 0.15 * card.crop.size**2
    assert bundle.n_parameters <= 300_000
    assert find_bundles()["blood-cells"].stat().st_size <= 2_000_000
    assert card.training.licence == "CC BY 4.0"
    assert "Acevedo" in card.training.citation
    confusion = np.array(card.metrics["confusion"])
    assert confusion.sum() == card.metrics["n"] == card.training.n_test
    assert np.trace(confusion) / confusion.sum() == pytest.approx(card.metrics["accuracy"])


def test_a_simulated_smear_gives_confident_evidence() -> None:
    field, cells = smear_with_truth(seed=0)
    predictions = classify_cells(field, cells, load_bundle("blood-cells"), "cpu")
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-5)
    assert predictions.ledger.share == pytest.approx(0.05, abs=1e-4)
    for selection in predictions.evidence:
        assert selection.receptive_field == 1
        assert selection.k == 461


# 200 images: three standard errors below the cards' 96.8 and 95.4 %.
@pytest.mark.parametrize(("model", "least"), [("blood-cells", 0.93), ("blood-cells-tnet", 0.905)])
def test_held_out_cells_are_told_apart_as_the_card_says(
    model: str, least: float, shared: Path, tmp_path: Path
) -> None:
    """Every eighth of the test images, through the command line."""
    with zipfile.ZipFile(shared / "data" / "pbc.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        held_out = [name for name, fold in zip(names, hash_folds(names), strict=True) if fold == 0]
        assert len(held_out) == load_bundle(model).card.training.n_test
        for name in held_out[::8]:
            archive.extract(name, tmp_path)
    result = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path), "--model", model, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["n"] == len(held_out[::8])
    assert report["accuracy"] > least


def test_the_bundled_tnet_is_what_its_card_says() -> None:
    bundle = load_bundle("blood-cells-tnet")
    card = bundle.card
    assert card.kind == "tnet"
    assert card.class_names == load_bundle("blood-cells").card.class_names
    assert card.training.licence == "CC BY 4.0"
    assert find_bundles()["blood-cells-tnet"].stat().st_size <= 3_000_000
    confusion = np.array(card.metrics["confusion"])
    assert confusion.sum() == card.metrics["n"] == card.training.n_test
    assert np.trace(confusion) / confusion.sum() == pytest.approx(card.metrics["accuracy"])


def test_a_simulated_smear_is_traversed_with_exact_shares() -> None:
    field, cells = smear_with_truth(seed=0)
    bundle = load_bundle("blood-cells-tnet")
    predictions = classify_cells(field, cells, bundle, "cpu")
    assert bundle.card.novelty is not None
    assert predictions.novelty is not None
    spec = bundle.card.novelty
    temperatures = np.maximum(predictions.novelty / spec.softening_from, 1) ** spec.softening
    temperatures *= bundle.card.temperature
    seen = zip(predictions.evidence, predictions.probabilities, temperatures, strict=True)
    for way, probabilities, temperature in seen:
        logits = way.contribution.sum(0) / temperature
        shares = np.exp(logits - logits.max())
        np.testing.assert_allclose(shares / shares.sum(), probabilities, atol=1e-4)
        assert len(way) == 7


def test_the_opd_model_says_that_it_is_simulated() -> None:
    bundle = load_bundle("opd-simulated")
    card = bundle.card
    assert card.training.simulated
    assert card.description.startswith("SIMULATED")
    assert "SIMULATED" in card.summary()
    assert (card.modality, card.unit, card.channels) == ("opd", "nm", ("OPD",))
    assert card.class_names == KINDS
    assert card.architecture["token"] == "pixel"
    assert card.architecture["k"] <= 0.15 * card.crop.size**2
    assert bundle.n_parameters <= 300_000
    assert find_bundles()["opd-simulated"].stat().st_size <= 2_000_000
    assert "hologram" in card.training.split
    assert np.array(card.metrics["confusion"]).sum() == card.metrics["n"] == card.training.n_test


def test_cells_of_a_new_simulated_hologram_are_told_apart() -> None:
    """From the camera's pixels to the class, through the public functions."""
    optics = Optics(speckle=0.03, tilt=(1.0, -2.0), carrier=(-0.24, 0.22))
    recording, _, truth, kinds = hologram_with_truth((640, 640), 77, optics)
    field = reconstruct(recording)
    cells = find_cells(field)
    bundle = load_bundle("opd-simulated")
    predictions = classify_cells(field, cells, bundle, "cpu")
    named = np.array(bundle.card.class_names)[predictions.probabilities.argmax(1)]
    right = 0
    for centre, kind in zip(truth.centres, kinds, strict=True):
        nearest = cells.nearest(centre)
        right += nearest is not None and named[nearest] == kind
    assert len(kinds) >= 12
    assert right >= 0.8 * len(kinds)
    assert predictions.ledger.share <= 0.15


@pytest.mark.parametrize("name", ["blood-cells", "blood-cells-tnet"])
def test_models_of_blood_know_what_lies_around_white_cells(name: str, shared: Path) -> None:
    """Cut as for the model's file, but around cells that took no part."""
    bundle = load_bundle(name)
    spec, known = bundle.card.novelty, bundle.known
    assert spec is not None
    assert known is not None
    assert spec.others == ("red cell", "background")
    assert spec.flagged_test is not None
    assert spec.flagged_test <= 0.05
    with zipfile.ZipFile(shared / "data" / "pbc.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        held_out = [name for name, fold in zip(names, hash_folds(names), strict=True) if fold == 0]
        cells = np.stack([np.asarray(Image.open(archive.open(name))) for name in held_out[::8]])
    size = bundle.card.crop.size
    corners = np.concatenate([cells[:, :48, :48], cells[:, -48:, -48:]])
    # Pale all over: nothing but background, repeated to the size of a crop.
    pale = corners[corners[..., 1].min((1, 2)) > 150]
    assert len(pale) >= 20
    wide = np.pad(pale, ((0, 0), (40, 40), (40, 40), (0, 0)), mode="reflect")
    novelty = known.novelty(
        predict_states(bundle.cell_model(), wide, bundle.card.normalisation, size)
    )
    assert (novelty > 1).mean() > 0.9
