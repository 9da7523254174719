"""``napari-sparseattn batch``: arguments, reports, exit status."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from batch_folders import write_field
from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.images.normalise import Normalisation
from small_model import small_bundle
from small_span import small_span_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two fields and a broken one, and a model."""
    write_field(tmp_path / "in" / "a.png", 0)
    write_field(tmp_path / "in" / "b" / "a.png", 1)
    (tmp_path / "in" / "b" / "broken.png").write_bytes(b"no image")
    save_bundle(small_bundle(), tmp_path / "small.safetensors")
    return tmp_path


def run(*arguments: object, status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(
        cli.app, ["batch", *(str(a) for a in arguments)], catch_exceptions=False
    )
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def test_failures_are_named_and_make_the_status_2(folder: Path) -> None:
    out = folder / "out"
    call = [folder / "in", "--model", folder / "small.safetensors", "--out", out, "--workers", 1]
    call += ["--pixel-size", 0.5, "--device", "cpu"]
    said, failures = run(*call, status=2)
    assert "3 files: 2 done, 0 up to date (verified), 1 failed" in said
    assert "b/broken.png" in failures
    assert "is not a TIFF" in failures
    assert (out / "a.png.csv").is_file()
    assert (out / "b" / "a.png.csv").is_file()
    with (out / "batch.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["item"], row["state"]) for row in rows] == [
        ("a.png", "done"),
        ("b/a.png", "done"),
        ("b/broken.png", "failed"),
    ]
    # The same with what can be read only, for machines: all is there.
    said, _ = run(*call, "--pattern", "a.*", "--json")
    assert [(row["item"], row["state"]) for row in json.loads(said)] == [
        ("a.png", "skipped"),
        ("b/a.png", "skipped"),
    ]
    assert [Path(p).name for p in json.loads(said)[0]["outputs"]][:1] == ["a.png.csv"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--formats", "xyz"], "there is no format 'xyz'"),
        (["--formats", ","], "at least one format"),
        (["--task", "cell"], "task must be one of auto, cells"),
        (["--kind", "x"], "kind must be one of hologram"),
        (["--pattern", "*.svs"], r"matches '\*\.svs'"),
        (["--model", "nobody"], "No model named 'nobody'"),
        (["--settings", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(folder: Path, extra: list[str], said: str) -> None:
    call = [folder / "in", "--model", folder / "small.safetensors", "--out", folder / "out"]
    with pytest.raises((ValueError, OSError), match=said):
        run(*call, *extra)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--locations", "4,2"], "--locations is of a TNet, which 'small' is not"),
        (["--task", "cells", "--kind", "opd"], "--kind is of recordings"),
        (["--allow-unknown-scale"], "--allow-unknown-scale is of a SPAN"),
        (["--task", "whole", "--method", "phase"], "--method is for finding cells"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    folder: Path, extra: list[str], said: str
) -> None:
    call = [folder / "in", "--model", folder / "small.safetensors", "--out", folder / "out"]
    with pytest.raises(ValueError, match=said):
        run(*call, *extra)
    assert not (folder / "out").exists()


def test_a_batch_of_slides_refuses_what_is_of_fields(folder: Path) -> None:
    save_bundle(small_span_bundle(), folder / "span.safetensors")
    call = [folder / "in", "--model", folder / "span.safetensors", "--out", folder / "out"]
    with pytest.raises(ValueError, match="--axes and --method are of fields"):
        run(*call, "--axes", "CYX", "--method", "phase")
    with pytest.raises(ValueError, match="--kind is of recordings"):
        run(*call, "--kind", "opd")


def test_the_unit_of_grey_values_can_be_given(folder: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (60, 60)).astype(np.float32)
    values[20:36, 20:36] += 200
    (folder / "opd").mkdir()
    tifffile.imwrite(folder / "opd" / "a.tif", values)
    save_bundle(
        small_bundle(1, modality="opd", unit="nm", normalisation=Normalisation("fixed", 40, 80)),
        folder / "nm.safetensors",
    )
    call = [folder / "opd", "--model", folder / "nm.safetensors", "--pixel-size", 0.5]
    call += ["--workers", 1, "--device", "cpu"]
    _, failures = run(*call, "--out", folder / "without", status=2)
    assert "takes values in nm" in failures
    said, _ = run(*call, "--out", folder / "with", "--unit", "nm")
    assert "1 done" in said
