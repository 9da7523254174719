"""``napari-sparseattn evidence``: how far evidence can be believed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.faithfulness import CARD, faithfulness_of_field
from napari_sparseattn.simulate import smear
from small_model import small_bundle
from small_tnet import small_tnet_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `fields` of one smear and one empty image, and two models."""
    (tmp_path / "fields").mkdir()
    plane = smear((200, 260), seed=1, n_white=2).plane()
    tifffile.imwrite(tmp_path / "fields" / "smear.tif", plane, photometric="rgb")
    blank = np.full((64, 64, 3), 230, np.uint8)
    tifffile.imwrite(tmp_path / "fields" / "blank.tif", blank, photometric="rgb")
    save_bundle(small_bundle(), tmp_path / "cells.safetensors")
    save_bundle(small_tnet_bundle(), tmp_path / "tnet.safetensors")
    return tmp_path


def run(*arguments: object) -> list[dict[str, object]]:
    given = [str(a) for a in ("evidence", *arguments, "--pixel-size", 0.25, "--json")]
    result = CliRunner().invoke(cli.app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def test_a_folder_of_fields_gives_tables_that_join_with_predictions(folder: Path) -> None:
    model, out = folder / "cells.safetensors", folder / "out"
    blank, made = run(folder / "fields", "--model", model, "--out", out, "--device", "cpu")
    assert blank["n"] == 0
    assert blank["notes"] == ["no cells"]
    with Path(str(made["csv"])).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    field = open_field(folder / "fields" / "smear.tif", pixel_size=0.25)
    cells = find_cells(field)
    predicted = classify_cells(field, cells, load_bundle(model), "cpu").to_frame()
    assert [int(row["id"]) for row in rows] == predicted["id"].tolist()
    assert [row["class"] for row in rows] == predicted["class"].tolist()
    assert float(rows[0]["p"]) == pytest.approx(predicted["confidence"][0], abs=1e-4)
    assert -1 <= float(rows[0]["gain_selection"]) <= 1
    report = json.loads(Path(str(made["json"])).read_text(encoding="utf-8"))
    assert report["n"] == len(rows) == made["n"]
    assert set(report["verdicts"]["selection"]) == {
        "random", "edges", "centre", "dark", "dark blurred",
    }  # fmt: skip
    # One plain sentence comes first, of the pixels that a SparseAttnNet chose.
    assert str(made["sentence"]).startswith("Removing these pixels changes the answer")
    assert report["tested"] == len(rows)


def test_a_whole_image_is_measured_as_python_does(folder: Path) -> None:
    path, model = folder / "fields" / "smear.tif", folder / "tnet.safetensors"
    (row,) = run(path, "--model", model, "--whole", "--out", folder / "out", "--device", "cpu")
    found = faithfulness_of_field(
        open_field(path, pixel_size=0.25), load_bundle(model), None, CARD, "cpu"
    )
    report = json.loads(Path(str(row["json"])).read_text(encoding="utf-8"))
    mine = report["each"][0]["orders"]["contribution"]["gain"]
    assert mine == pytest.approx(found.orders["contribution"].gain, abs=1e-5)
    assert row["verdicts"] == {to: found.verdict(to) for to in found.baselines}


def test_fewer_cells_on_request(folder: Path) -> None:
    (row,) = run(
        folder / "fields" / "smear.tif", "--model", folder / "cells.safetensors",
        "--cells", 1, "--out", folder / "out", "--device", "cpu",
    )  # fmt: skip
    assert row["n"] == 1
    assert "too few" in str(row["verdicts"])


def test_options_of_cells_are_refused_for_a_whole(folder: Path) -> None:
    words = (folder / "fields" / "smear.tif", "--model", folder / "tnet.safetensors", "--whole")
    with pytest.raises(ValueError, match="--cells and --method are of cells"):
        run(*words, "--cells", 3, "--method", "phase", "--out", folder / "out")


def test_it_says_which_frame_and_of_what_scale(folder: Path) -> None:
    plane = smear((200, 260), seed=1, n_white=2).plane()
    stated = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        folder / "two.tif", np.stack([plane] * 2), photometric="rgb", metadata={"axes": "TYXS"},
        **stated,
    )  # fmt: skip
    row = run(
        *(folder / "two.tif", "--model", folder / "cells.safetensors"),
        *("--cells", 1, "--out", folder / "out"),
    )[0]
    notes = row["notes"]
    assert isinstance(notes, list)
    assert "only the first of 2 frames was measured" in notes
    assert "the pixel size given, 0.25 µm, replaces 0.5 µm, which the file says" in notes
    assert json.loads(Path(str(row["json"])).read_text())["notes"] == notes


def test_the_unit_of_grey_values_can_be_given(folder: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (60, 60)).astype(np.float32)
    values[20:36, 20:36] += 200
    tifffile.imwrite(folder / "opd.tif", values)
    fixed = Normalisation("fixed", 40, 80)
    bundle = small_bundle(1, modality="opd", unit="nm", normalisation=fixed)
    model = save_bundle(bundle, folder / "nm.safetensors").path
    with pytest.raises(ValueError, match="--unit nm"):
        run(folder / "opd.tif", "--model", model, "--out", folder / "out")
    row = run(folder / "opd.tif", "--model", model, "--unit", "nm", "--out", folder / "out")[0]
    assert row["n"] == 1
