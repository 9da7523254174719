"""The command line: results on success, one clear line and status 1 otherwise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.export.opd import write_opd
from napari_sparseattn.export.summary import describe
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.simulate import smear
from small_model import small_bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "small.safetensors"
    save_bundle(small_bundle(crop={"size": 16, "field_of_view_um": 32.0}), path)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["napari-sparseattn", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code != 0
    return capsys.readouterr().err


def smear_file(folder: Path) -> Path:
    path = folder / "my smear é.png"
    Image.fromarray(smear(shape=(240, 320), seed=1).data).save(path)
    return path


def class_folders(
    folder: Path, names: tuple[str, ...] = ("round", "lobed", "small"), n: int = 4
) -> Path:
    rng = np.random.default_rng(0)
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            values = rng.integers(80 * c, 80 * c + 60, (20, 20, 3))
            Image.fromarray(values.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_classify_writes_a_table_and_a_picture(tmp_path: Path, model: Path) -> None:
    image, out = smear_file(tmp_path), tmp_path / "out"
    rows = json.loads(
        run("classify", image, "--model", model, "--out", out, "--pixel-size", 0.25, "--json")
    )
    table = pd.read_csv(out / "my smear é.png.csv")
    assert rows[0]["cells"] == len(table) > 0
    assert sum(rows[0]["counts"].values()) == len(table)
    assert rows[0]["scale_known"] is True
    assert Image.open(out / "my smear é.png_overlay.png").size == (320, 240)
    text = run("classify", image, "--model", model, "--out", out)
    assert "pixel size unknown" in text
    assert not pd.read_csv(out / "my smear é.png.csv")["scale_known"].any()


def test_only_the_classes_named_are_given(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["classify", smear_file(tmp_path), "--model", model, "--pixel-size", 0.25]
    out = tmp_path / "out"
    rows = json.loads(run(*asked, "--out", out, "--only", "round, small", "--json"))
    assert rows[0]["counts"].get("lobed", 0) == 0
    assert sum(rows[0]["counts"].values()) == rows[0]["cells"] > 0
    assert "Not considered: lobed." in rows[0]["notes"]
    told = fails(monkeypatch, capsys, *asked, "--out", out, "--only", "blast")
    assert "knows no blast" in told


def test_one_bad_field_does_not_stop_the_others(tmp_path: Path, model: Path) -> None:
    (tmp_path / "bad.tif").write_text("no image")
    images = [str(tmp_path / "bad.tif"), str(smear_file(tmp_path))]
    arguments = ["classify", *images, "--model", str(model), "--out", str(tmp_path / "o"), "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    bad, good = json.loads(result.stdout)
    assert "bad.tif" in bad["error"]
    assert Path(good["csv"]).exists()


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path, model: Path) -> None:
    images = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        images.append(smear_file(tmp_path / folder))
    rows = json.loads(run("classify", *images, "--model", model, "--out", tmp_path / "o", "--json"))
    assert rows[0]["csv"] != rows[1]["csv"]
    names = {path.relative_to(tmp_path / "o").as_posix() for path in (tmp_path / "o").rglob("*.*")}
    endings = (".csv", ".csv-metadata.json", ".json", "_overlay.png")
    assert names == {f"{f}/my smear é.png{e}" for f in ("one", "two") for e in endings}


def test_evaluate_agrees_with_the_table(tmp_path: Path, model: Path) -> None:
    folder = class_folders(tmp_path / "set")
    (folder / "small" / "broken.png").write_bytes(b"no image")
    result = json.loads(run("evaluate", folder, "--model", model, "--json"))
    assert result["n"] == 12
    assert next(iter(result["unreadable"])).endswith("broken.png")
    confusion = np.array(result["confusion"])
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / 12)
    for key in ("balanced_accuracy", "macro_f1", "per_class", "ece", "cells_per_second"):
        assert key in result
    assert "balanced accuracy" in run("evaluate", folder, "--model", model)
    # How crops were cut is said, to machines and to people.
    assert "the whole of each image was taken as the crop" in result["notes"][0]
    assert "note: the whole of each image" in run("evaluate", folder, "--model", model)
    cut = json.loads(run("evaluate", folder, "--model", model, "--pixel-size", 0.25, "--json"))
    assert "around each image's centre were cut" in cut["notes"][0]


def test_train_writes_a_model_that_loads(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", n=25)
    out = tmp_path / "mine.safetensors"
    result = json.loads(run("train", folder, "--out", out, "--epochs", 2, "--size", 16, "--json"))
    assert result["hash"] == load_bundle(out).hash
    assert load_bundle(out).card.class_names == ("lobed", "round", "small")
    assert len(result["history"]) == 2


def test_train_a_tnet_with_its_dial(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", n=25)
    out = tmp_path / "closer.safetensors"
    arguments = ("--kind", "tnet", "--out", out, "--epochs", 1, "--size", 32)
    result = json.loads(run("train", folder, *arguments, "--json"))
    bundle = load_bundle(out)
    assert result["hash"] == bundle.hash
    assert bundle.card.kind == "tnet"
    assert result["by_locations"] == bundle.card.metrics["by_locations"]
    first = bundle.card.accuracy_at((3, 1))
    assert first is not None
    assert first[1] == bundle.card.training.n_validation
    said = run("train", folder, *arguments)
    assert "test accuracy" in said
    assert f"{100 * first[0]:5.1f} %" in said
    evaluated = json.loads(run("evaluate", folder, "--model", out, "--json"))
    assert evaluated["n"] == 75


def test_train_on_one_channel_scales_by_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for level, name in ((60, "dark"), (120, "light")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(25):
            values = rng.integers(level, level + 40, (16, 16)).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / "set" / name / f"{i}.png")
    out = tmp_path / "grey.safetensors"
    arguments = ("--out", out, "--epochs", 1, "--size", 16, "--channels", 1, "--json")
    run("train", tmp_path / "set", *arguments)
    card = load_bundle(out).card
    assert card.channels == ("intensity",)
    assert card.normalisation.kind == "fixed"
    assert card.normalisation.mean == pytest.approx(109.5 / 255, abs=0.01)


def test_train_on_opd_keeps_nanometres(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for level, name in ((100, "thin"), (400, "thick")):
        for i in range(25):
            values = rng.normal(level, 20, (16, 16)).astype(np.float32)
            field = Field(values, "YX", 0.1, "opd", "nm")
            write_opd(field, tmp_path / "set" / name / f"{i}.tif")
    out = tmp_path / "opd.safetensors"
    arguments = ("--channels", 1, "--modality", "opd", "--epochs", 1, "--size", 16, "--out", out)
    run("train", tmp_path / "set", *arguments)
    card = load_bundle(out).card
    assert (card.modality, card.unit) == ("opd", "nm")
    assert card.normalisation.mean == pytest.approx(250, abs=5)
    assert card.normalisation.std == pytest.approx(150, abs=10)


def test_models_lists_cards_and_broken_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(model.parent))
    (model.parent / "bad.safetensors").write_bytes(b"nonsense, and long enough")
    found = json.loads(run("models", "--json"))
    assert found["models"]["small"]["class_names"] == ["round", "lobed", "small"]
    assert "bad" in found["broken"]
    assert "3 classes: round, lobed, small" in run("models")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("classify", "absent.png", "--out", "x"), "absent.png"),
        (("classify", ".", "--out", "x", "--model", "nothing"), "No model named 'nothing'"),
        (("evaluate", "absent"), "no folder"),
        (("train", "absent", "--out", "m.pt"), ".safetensors"),
        (("train", "absent", "--out", "m.safetensors", "--kind", "resnet"), "sparse-attn-net"),
        (("train", "absent", "--out", "m.safetensors", "--modality", "x-ray"), "modality must be"),
        (
            ("train", "absent", "--out", "m.safetensors", "--kind", "tnet", "--size", "16"),
            "at least 32",
        ),
        (("classify", "x.png"), "--out"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] != "train" and "--model" not in arguments:
        arguments = (*arguments, "--model", str(model))
    error = fails(monkeypatch, capsys, *arguments)
    assert message in error
    assert "Traceback" not in error


def test_folders_match_classes_but_for_case_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "models" / "small.safetensors"
    save_bundle(small_bundle(class_names=("round cell", "lobed_cell", "small")), path)
    folder = class_folders(tmp_path / "set", names=("Round-Cell", "lobed cell"))
    result = json.loads(run("evaluate", folder, "--model", path, "--json"))
    support = {name: row["support"] for name, row in result["per_class"].items()}
    assert support == {"round cell": 4, "lobed_cell": 4, "small": 0}


def test_folders_that_are_no_classes_are_named(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(tmp_path / "set", names=("round", "oval"))
    assert "no class named oval" in fails(monkeypatch, capsys, "evaluate", folder, "--model", model)


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "none.tif", "--out", "o"],
        ["slide", "none.svs", "--model", "colon-biopsy", "--out", "o"],
        ["evaluate", "none"],
    ],
)
def test_a_missing_file_is_told_before_torch_is_loaded(
    arguments: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from napari_sparseattn.cli.app import main\n"
        f"sys.argv = ['napari-sparseattn', *{arguments!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(f"here is no (file|folder).* '?{arguments[1]}", done.stderr)
    assert done.stdout.strip() == "False"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), [(path, each) for path, each in _commands(get_command(cli.app))]
)
def test_help_cuts_no_sentence(path: tuple[str, ...], command: Any) -> None:
    """At the width of an ordinary terminal."""
    wide = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    shown = CliRunner().invoke(cli.app, [*path, "--help"], env=wide).output
    # Names of options may be long; sentences are the last column.
    columns = [line.rstrip("│ ").split("  ")[-1] for line in shown.splitlines()]
    told = [each.help or "" for each in command.params if getattr(each, "help", None)]
    told += [each.get_short_help_str(1000) for each in getattr(command, "commands", {}).values()]
    there = "".join(columns)
    assert there.count("…") == "".join(told).count("…"), [x for x in columns if "…" in x]
    for text in told:
        for word in text.split():
            assert word in shown, (word, text)


def test_the_demo_replaces_what_an_earlier_version_of_it_wrote_and_nothing_else(
    tmp_path: Path,
) -> None:
    run("demo", "--no-window", "--out", tmp_path)
    identity = json.loads((tmp_path / "smear.json").read_text(encoding="utf-8"))
    now = identity["model"]
    for source, replaced in (("simulated smear", True), ("/mine/smear.tif", False)):
        earlier = json.dumps(identity | {"model": "blood-cells@0123456789ab", "input": source})
        (tmp_path / "smear.json").write_text(earlier, encoding="utf-8")
        result = CliRunner().invoke(
            cli.app, ["demo", "--no-window", "--out", str(tmp_path)], catch_exceptions=True
        )
        there = json.loads((tmp_path / "smear.json").read_text(encoding="utf-8"))
        assert (result.exit_code == 0) == replaced
        assert (there["model"] == now) == replaced


def test_crops_that_hold_more_pixels_than_there_are_are_no_share_of_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "smear.tif", smear((200, 200), n_white=1).plane())
    call = ("classify", tmp_path / "smear.tif", "--model", "blood-cells-tnet", "--device", "cpu")
    call += ("--pixel-size", 0.25, "--formats", "html")
    shown = run(*call, "--locations", "5,5", "--out", tmp_path / "many")
    assert "looked at 1.9 times as many pixels as there are" in shown
    assert "1.9 times as many" in (tmp_path / "many" / "smear.tif.html").read_text()
    shown = run(*call, "--out", tmp_path / "few")
    assert "looked at 43.8 % of the pixels" in shown


def test_a_scale_that_is_doubted_is_not_called_unknown(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "smear.tif", smear().plane(), photometric="rgb")
    call = ("classify", tmp_path / "smear.tif", "--pixel-size", 1.0, "--out", tmp_path / "out")
    shown = run(*call, "--formats", "html,methods", "--device", "cpu")
    assert "scale in doubt" in shown
    assert "pixel size unknown" not in shown
    row = json.loads((tmp_path / "out" / "smear.tif.json").read_text())
    assert (row["pixel_size_um"], row["scale_known"]) == (1.0, False)
    assert describe(row).endswith("; scale in doubt")
    page = (tmp_path / "out" / "smear.tif.html").read_text()
    assert "The scale is in doubt" in page
    assert "Pixel size unknown" not in page
    methods = (tmp_path / "out" / "smear.tif_methods.txt").read_text()
    assert "by a pixel size that is in doubt" in methods
