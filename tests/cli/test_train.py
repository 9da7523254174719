"""Fine-tuning on the command line, on class folders and on a project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cli.train import fine_tune
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.training.data.annotations import ImageRecord, image_hash
from napari_sparseattn.training.data.project import Project
from napari_sparseattn.training.runs.runs import versions as find_versions
from small_model import small_bundle

app = typer.Typer()
app.command()(fine_tune)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_bundle(small_bundle(), tmp_path / "small.safetensors").path)


def told(*arguments: str, epochs: int = 1) -> dict[str, Any]:
    words = [*arguments, "--json", "--epochs", str(epochs), "--device", "cpu"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_class_folders_give_a_model_and_a_report(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("round", 60), ("mine", 180)):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(level, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cells" / name / f"{i}.png")
    out = tmp_path / "new.safetensors"
    said = told(model, str(tmp_path / "cells"), "--out", str(out))
    assert load_bundle(out).card.class_names == ("round", "lobed", "small", "mine")
    assert load_bundle(out).card.name == "new"
    assert said["hash"] == load_bundle(out).hash
    assert said["annotated"] == {"round": 12, "lobed": 0, "small": 0, "mine": 12}
    page = Path(str(said["report"])).read_text()
    assert str(said["sentence"]).split(":")[0] in page
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells", "new.html", "new.safetensors", "small.safetensors"
    ]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """60 cells of two classes in one image, which has moved."""
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    (tmp_path / "moved").mkdir()
    Image.fromarray(pixels).save(tmp_path / "moved" / "smear.png")
    field = open_field(tmp_path / "moved" / "smear.png", pixel_size=0.5)
    assert isinstance(field, Field)
    made = Project(tmp_path / "project")
    record = ImageRecord(image_hash(field), "smear", field.shape, 0.5, "/nowhere/smear.png")
    book = made.open(record)
    for i in range(60):
        book.add("cell", "ab"[i % 2], position=(10.0 + 20 * (i % 9), 10.0 + 40 * (i // 9)))
    book.close()
    return made


@pytest.mark.slow
def test_a_project_finds_its_images_where_they_moved_to(
    model: str, project: Project, tmp_path: Path
) -> None:
    out = tmp_path / "new.safetensors"
    said = told(model, str(project.folder), "--out", str(out), "--images", str(tmp_path / "moved"))
    assert load_bundle(out).card.class_names[3:] == ("a", "b")
    assert isinstance(said["cells"], list)
    with pytest.raises(ValueError, match="not at hand"):
        told(model, str(project.folder), "--out", str(out))


@pytest.mark.slow
def test_versions_are_kept_and_an_interrupted_one_is_resumed(
    model: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))
    asked = (model, str(project.folder), "--images", str(tmp_path / "moved"))

    class Killed(BaseException):
        """Ends the program after an epoch, as a kill does."""

    def stop(*_: object) -> None:
        raise Killed

    arguments = [*asked, "--epochs", "2", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("napari_sparseattn.cli.train._print_epoch", stop)
        with pytest.raises(Killed):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not find_versions()
    other = save_bundle(small_bundle(), tmp_path / "other.safetensors").path
    with pytest.raises(ValueError, match="name that model"):
        told(str(other), str(project.folder), "--resume")
    with pytest.raises(ValueError, match="with epochs 2 and not 1: leave --epochs out"):
        told(*asked, "--resume")
    with pytest.raises(ValueError, match="--rehearsal is read when a training begins"):
        told(*asked, "--resume", "--rehearsal", str(tmp_path), epochs=2)
    said = told(*asked, "--resume", epochs=2)
    assert "Went on after epoch 1 from a checkpoint." in said["notes"]
    assert len(said["history"]) == 2
    (version,) = find_versions()
    assert version.path == Path(str(said["model"]))
    assert version.report.is_file()
    assert Path(str(said["report"])).is_file()
    with pytest.raises(ValueError, match="was interrupted"):
        told(*asked, "--resume")
    told(*asked)
    assert len(find_versions()) == 2
    assert not list((project.folder / "training").iterdir())


def test_senseless_options_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        told(model, str(tmp_path), "--out", "x.pt")
    with pytest.raises(ValueError, match="give --out"):
        told(model, str(tmp_path))
    with pytest.raises(ValueError, match="leave --out away"):
        told(model, str(tmp_path), "--out", "x.safetensors", "--resume")
    with pytest.raises(ValueError, match="--images is of a project"):
        told(model, str(tmp_path), "--out", "x.safetensors", "--images", str(tmp_path))
    with pytest.raises(ValueError, match="--freeze must be"):
        told(model, str(tmp_path), "--out", "x.safetensors", "--freeze", "some")
    with pytest.raises(ValueError, match="leave --epochs out"):
        told(model, str(tmp_path), "--out", "x.safetensors", "--freeze", "head")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        told(model, str(tmp_path / "none"), "--out", "x.safetensors")


@pytest.mark.slow
def test_epochs_that_are_not_used_are_said(tmp_path: Path) -> None:
    """Of so few cells the last layer alone is fitted, beside what the model keeps of its own."""
    rng = np.random.default_rng(0)
    for name in ("lymphocyte", "mine"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(100, 200, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cells" / name / f"{i}.png")
    said = told("blood-cells", str(tmp_path / "cells"), "--out", str(tmp_path / "a.safetensors"))
    assert said["history"] == []
    assert any("--epochs was not used" in note for note in said["warnings"])
