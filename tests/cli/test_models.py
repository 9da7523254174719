"""The verbs about models and the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cache import Cache
from napari_sparseattn.cli import app as cli
from small_model import small_bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_bundle(small_bundle(), path)
    return path


def test_a_model_is_copied_and_said(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    words = ["export-model", str(model), "--to", "safetensors", "--out", str(copy)]
    result = CliRunner().invoke(cli.app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == {
        "model": "small",
        "to": "safetensors",
        "file": str(copy),
        "bytes": copy.stat().st_size,
    }
    assert load_bundle(copy).hash == load_bundle(model).hash
    assert "small as safetensors" in CliRunner().invoke(cli.app, words).stdout


@pytest.mark.parametrize(
    ("to", "out", "says"),
    [
        ("torchscript", "x.pt", "no format 'torchscript'; choose one of onnx, bioimageio"),
        ("onnx", "x.zip", r"end in \.onnx"),
        ("bioimageio", "x.onnx", r"end in \.zip"),
        ("safetensors", "small.safetensors", "the model itself"),
    ],
)
def test_what_cannot_be_written_is_refused(
    to: str, out: str, says: str, model: Path, tmp_path: Path
) -> None:
    content = model.read_bytes()
    words = ["export-model", str(model), "--to", to, "--out", str(tmp_path / out)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 1
    with pytest.raises(ValueError, match=says):
        raise result.exception
    assert model.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_an_author_is_refused_where_nothing_keeps_it(model: Path, tmp_path: Path) -> None:
    words = ["export-model", str(model), "--to", "safetensors", "--author", "A. Name"]
    result = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "b.safetensors")])
    assert isinstance(result.exception, ValueError)
    assert "--author is for --to bioimageio" in str(result.exception)


def test_named_models_are_shown_alone(model: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["models", str(model), "--json"])
    assert list(json.loads(shown.stdout)["models"]) == [str(model)]
    every = CliRunner().invoke(cli.app, ["models", "--json"])
    assert "blood-cells" in json.loads(every.stdout)["models"]


def test_the_cache_is_shown_trimmed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path))
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE_GB", "0.000001")
    cache = Cache.default()
    for number in range(3):
        path = cache.section("features") / f"slide-{number:016x}.h5"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 400)

    def told(action: str) -> dict[str, object]:
        result = CliRunner().invoke(cli.app, ["cache", action, "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found

    shown = told("show")
    assert (shown["bytes"], shown["removed"]) == (1200, 0)
    assert shown["kinds"]["features"] == {"entries": 3, "bytes": 1200}
    assert (told("trim")["removed"], cache.size()) == (1, 800)
    assert "0.0 MB of 1e-06 GB" in CliRunner().invoke(cli.app, ["cache"]).stdout
    cleared = told("clear")
    assert (cleared["removed"], cleared["freed_bytes"], cleared["bytes"]) == (2, 800, 0)
    assert CliRunner().invoke(cli.app, ["cache", "burn"]).exit_code == 1
