"""``napari-sparseattn hologram``: from files of holograms to maps, tables and scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.simulate import Optics, hologram_with_truth
from small_model import small_bundle


@pytest.fixture(scope="module")
def recording() -> Recording:
    made, *_ = hologram_with_truth(
        (200, 200), 1, Optics(), kinds=["lymphocyte-like"], n_cells=3, background=True
    )
    return made


@pytest.fixture
def folder(tmp_path: Path, recording: Recording) -> Path:
    """`cells.tif` of two frames, `empty.tif` without cells, and a model."""
    frame, plain = recording.frame(0), recording.background_of(0)
    tifffile.imwrite(tmp_path / "cells.tif", np.stack([frame, frame]))
    tifffile.imwrite(tmp_path / "empty.tif", plain)
    save_bundle(small_bundle(1, modality="opd", unit="nm"), tmp_path / "small.safetensors")
    return tmp_path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def error_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["napari-sparseattn", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    return capsys.readouterr().err


KNOWN = ("--wavelength", 633, "--pixel-size", 0.12)


def test_one_file_becomes_one_map(folder: Path) -> None:
    out = folder / "opd.tif"
    shown = run(
        "hologram", folder / "cells.tif", *KNOWN, "--background", folder / "empty.tif", "--out", out
    )
    assert "2 frames of hologram, peak" in shown
    field = open_field(out)
    assert (field.axes, field.unit, field.pixel_size) == ("TYX", "nm", 0.12)
    assert 100 < field.data.max() < 1000


def test_a_model_adds_a_table(folder: Path) -> None:
    out = folder / "results"
    row = json.loads(
        run(
            *("hologram", folder / "cells.tif", *KNOWN, "--out", out, "--json"),
            *("--background", folder / "empty.tif", "--model", folder / "small.safetensors"),
        )
    )[0]
    table = pd.read_csv(row["csv"])
    assert row["cells"] == len(table) == 6
    assert table["frame"].tolist() == [0, 0, 0, 1, 1, 1]
    assert (table["dry_mass_pg"] > 1).all()
    assert table["area_um2"].between(10, 200).all()
    assert Path(row["opd"]) == out / "cells.tif_opd.tif"
    assert row["scale_known"] is True
    assert sum(row["counts"].values()) == 6


def test_settings_of_the_window_are_used(folder: Path) -> None:
    settings = HologramSettings(wavelength=633.0, pixel_size=0.12, flip=True)
    settings.to_json(folder / "s.json")
    run(
        *("hologram", folder / "cells.tif", "--settings", folder / "s.json"),
        *("--background", folder / "empty.tif", "--out", folder / "flipped.tif"),
    )
    field = open_field(folder / "flipped.tif")
    assert field.unit == "nm"
    assert field.data.min() < -100
    assert field.data.max() < 100


def test_what_is_unknown_is_said(folder: Path) -> None:
    shown = run("hologram", folder / "cells.tif", "--out", folder / "phase.tif")
    assert "give --wavelength" in shown
    assert "give --pixel-size" in shown
    assert open_field(folder / "phase.tif").unit == "rad"


def test_one_bad_file_does_not_stop_the_others(folder: Path) -> None:
    (folder / "broken.tif").write_bytes((folder / "cells.tif").read_bytes()[:5000])
    rows = json.loads(
        run(
            *("hologram", folder / "broken.tif", folder / "cells.tif", *KNOWN),
            *("--out", folder / "out", "--json"),
            code=1,
        )
    )
    assert "incomplete" in rows[0]["error"]
    assert Path(rows[1]["opd"]).exists()


def test_files_of_one_name_do_not_overwrite_each_other(folder: Path) -> None:
    (folder / "b").mkdir()
    other = folder / "b" / "cells.tif"
    other.write_bytes((folder / "cells.tif").read_bytes())
    rows = json.loads(run("hologram", folder / "cells.tif", other, "--out", folder / "o", "--json"))
    names = [Path(row["opd"]).relative_to(folder / "o").as_posix() for row in rows]
    assert names == ["cells.tif_opd.tif", "b/cells.tif_opd.tif"]


def test_rtdc_gets_its_scores(folder: Path, recording: Recording) -> None:
    source = folder / "run.rtdc"
    frame, plain = recording.frame(0), recording.background_of(0)
    with h5py.File(source, "w") as file:
        file.attrs["experiment:event count"] = 2
        file.attrs["imaging:pixel size"] = 0.12
        file.attrs["qpi:wavelength"] = 633.0
        file.attrs["qpi:medium index"] = 1.335
        file["events/qpi_oah"] = np.stack([frame, frame])
        file["events/qpi_oah_bg"] = np.stack([plain, plain])
        file["events/area_um"] = np.array([1.0, 2.0])
    row = json.loads(
        run(
            *("hologram", source, "--out", folder / "out", "--scores", "--json"),
            *("--model", folder / "small.safetensors"),
        )
    )[0]
    assert (row["wavelength_nm"], row["pixel_size_um"]) == (633.0, 0.12)
    with h5py.File(row["scores"]) as file:
        names = [name for name in file["events"] if name.startswith("ml_score_")]
        scores = np.stack([file["events"][name][:] for name in names])
        assert np.array_equal(file["events/area_um"][:], [1, 2])
    assert len(names) == 3
    assert np.allclose(scores.sum(axis=0), 1, atol=1e-5)
    assert "ml_score" not in " ".join(h5py.File(source)["events"])
    # People are told where they are, too.
    shown = run(
        *("hologram", source, "--out", folder / "out", "--scores"),
        *("--model", folder / "small.safetensors", "--overwrite"),
    )
    assert row["scores"] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cells.tif", "empty.tif", "--out", "one.tif"], "give a folder"),
        (["cells.tif", "--out", "one.png"], "folder or end in .tif"),
        (["cells.tif", "--out", "o", "--scores"], "give one, e.g. opd-simulated"),
        (["cells.tif", "--out", "o", "--profile", "cubic"], "profile must be one of"),
        (["cells.tif", "--out", "o", "--method", "phase"], "--method is for cells"),
        (["cells.tif", "--out", "o", "--focus", "3", "--autofocus", "5"], "two ways to a focus"),
        (["cells.tif", "--out", "o", "--focus", "3"], "wavelength and the pixel size"),
        (["none.tif", "--out", "o"], "there is no file"),
        (["cells.tif", "--out", "o", "--model", "small.safetensors"], "trained on opd"),
        (["cells.tif", "--out", "o", "--background", "none.tif"], "none.tif"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    error = error_of(monkeypatch, capsys, "hologram", *arguments)
    assert message in error
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


def test_classify_says_that_it_takes_the_first_frame(folder: Path) -> None:
    run("hologram", folder / "cells.tif", *KNOWN, "--out", folder / "opd.tif")
    shown = run(
        *("classify", folder / "opd.tif", "--model", folder / "small.safetensors"),
        *("--out", folder / "classified"),
    )
    assert "only the first of 2 frames" in shown
    assert "dry_mass_pg" in (folder / "classified" / "opd.tif.csv").read_text().splitlines()[0]
