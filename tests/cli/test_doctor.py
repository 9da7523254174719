"""What is installed, and what to do about what is not."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from napari_sparseattn.cli import app as cli
from napari_sparseattn.cli import doctor


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"napari-sparseattn {metadata.version('napari-sparseattn')}"


def test_what_is_installed_is_said_with_the_device() -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["device"] in found["devices"]
    text = CliRunner().invoke(cli.app, ["doctor"]).stdout
    assert f"torch              {metadata.version('torch')}" in text
    assert found["device_text"] in text


def test_what_is_missing_comes_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version

    def without(name: str) -> str:
        if name in ("wsidicom", "napari", "PyQt6", "PySide6", "PyQt5", "PySide2"):
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", without)
    found = doctor.examine()
    assert "wsidicom" in found["extras"]["slides"]["missing"]
    assert any(each.endswith('"napari-sparseattn[all]"') for each in found["advice"])
    assert any("slides" in each and "pip install" in each for each in found["advice"])


def test_two_qt_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    two = {"PyQt6": "6.7", "PySide6": "6.8"}
    monkeypatch.setattr(metadata, "version", lambda name: two.get(name) or installed(name))
    assert any("PyQt6, PySide6" in each for each in doctor.examine()["advice"])
