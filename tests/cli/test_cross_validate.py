"""Cross-validation on the command line: by patient, with the predictions of every image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.cli.app import app
from small_model import small_bundle


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """FOLDER/class/patient/name.png, of two classes and six patients, one of both."""
    rng = np.random.default_rng(0)
    for name, level in (("round", 60), ("mine", 180)):
        for patient in range(3):
            folder = tmp_path / "cells" / name / ("both" if patient == 0 else f"{name} {patient}")
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = np.clip(rng.normal(level, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "cells"


def told(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def check_table(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    folds: dict[str, str] = {}
    for row in rows:
        assert folds.setdefault(row["group"], row["fold"]) == row["fold"]
    assert len(folds) == 5


def test_a_training_from_nothing(patients: Path, tmp_path: Path) -> None:
    said = told(
        "cross-validate", patients, "--out", tmp_path / "out", "--folds", 3, "--epochs", 1,
        "--size", 16, "--device", "cpu",
    )  # fmt: skip
    assert said["n_groups"] == 5
    assert said["learning_curve"] == []
    check_table(tmp_path / "out" / "predictions.csv")
    assert json.loads((tmp_path / "out" / "validation.json").read_text())["n"] == 18


@pytest.mark.slow
def test_fine_tuning(patients: Path, tmp_path: Path) -> None:
    model = save_bundle(small_bundle(), tmp_path / "small.safetensors").path
    said = told(
        "cross-validate", patients, "--model", model, "--out", tmp_path / "out", "--folds", 3,
        "--freeze", "head", "--device", "cpu", "--learning-curve",
    )  # fmt: skip
    check_table(tmp_path / "out" / "predictions.csv")
    # Of so few patients a quarter and a half are the same ones: nothing is extrapolated.
    assert len(said["learning_curve"]) == 3
    assert said["with_twice_as_many_groups"] is None
    # Bright and dark squares are told apart by anyone who has seen both.
    assert said["accuracy"] > 0.8
