"""The table of encoders: whole, without guesses, and what is missing is one sentence."""

from __future__ import annotations

import inspect
import json
import re
import sys

import pytest
from typer.testing import CliRunner

from napari_sparseattn.cli import app as cli
from napari_sparseattn.cli.cross_validate import cross_validate
from napari_sparseattn.cli.train import train
from napari_sparseattn.features.encoders import (
    TISSUE,
    EncoderError,
    MissingLibraryError,
    encoder_licence,
    load_encoder,
)
from napari_sparseattn.features.registry import ENCODERS, find_entry


def test_every_entry_is_whole() -> None:
    assert {"dinobloom-s", "hibou-b", "kaiko-vitb8", "lunit-vits8"} <= set(ENCODERS)
    for name, entry in ENCODERS.items():
        assert entry.name == name == name.lower()
        assert re.fullmatch(r"(timm|transformers):\S+", entry.source)
        assert entry.licence
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
        assert (entry.mean is None) == (entry.std is None)
        assert find_entry(entry.source) is entry
        assert encoder_licence(name) == encoder_licence(entry.source) == entry.licence
    assert "non-commercial" in ENCODERS["lunit-vits8"].licence
    assert find_entry("timm:nobody/knows") is None


def test_a_network_with_code_of_its_own_is_refused_with_a_way_out() -> None:
    with pytest.raises(EncoderError, match=r"hibou-b cannot be used here: .*TRIDENT"):
        load_encoder("hibou-b", "cpu")


@pytest.mark.parametrize(("name", "library"), [("dinobloom-s", "timm"), ("phikon", "transformers")])
def test_a_missing_library_is_one_sentence(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match="pip install") as caught:
        load_encoder(name, "cpu")
    assert "\n" not in str(caught.value)
    # On the command line too: an error of the user's, not a traceback.
    arguments = ["napari-sparseattn", "train", "x.csv", "--kind", "span", "--encoder", name]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", "m.safetensors", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_they_are_listed() -> None:
    result = CliRunner().invoke(cli.app, ["encoders", "--json"], catch_exceptions=False)
    assert {entry["name"] for entry in json.loads(result.stdout)} == set(ENCODERS)
    shown = CliRunner().invoke(cli.app, ["encoders"], catch_exceptions=False).stdout
    assert "dinobloom-s" in shown
    assert "not run here" in shown


@pytest.mark.parametrize("name", ["uni", "timm:resnet18", "transformers:some/network"])
@pytest.mark.parametrize("verb", ["train", "cross-validate"])
def test_a_scale_that_is_not_known_is_asked_for_before_anything_is_fetched(
    verb: str, name: str
) -> None:
    call = [verb, "x.csv", "--kind", "span", "--encoder", name, "--out", "m.safetensors"]
    result = CliRunner().invoke(cli.app, call)
    assert result.exit_code == 1
    with pytest.raises(ValueError, match=rf"'{name}' reads patches is not known.*--pixel-size"):
        raise result.exception


def test_slides_are_encoded_for_h_and_e_where_nobody_says_otherwise() -> None:
    for function, name in ((train, "encoder"), (cross_validate, "encoder"), (load_encoder, "name")):
        assert inspect.signature(function).parameters[name].default == TISSUE
