"""Fine-tuning on the command line, on class folders and on a project."""

from __future__ import annotations

import json
from pathlib import Path

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
from small_model import small_bundle

app = typer.Typer()
app.command()(fine_tune)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_bundle(small_bundle(), tmp_path / "small.safetensors").path)


def told(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(
        app, [*arguments, "--json", "--epochs", "1", "--device", "cpu"], catch_exceptions=False
    )
    assert result.exit_code == 0
    answer: dict[str, object] = json.loads(result.stdout)
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
    assert not (tmp_path / "new.checkpoint").exists()


def test_a_project_finds_its_images_where_they_moved_to(model: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    (tmp_path / "moved").mkdir()
    Image.fromarray(pixels).save(tmp_path / "moved" / "smear.png")
    field = open_field(tmp_path / "moved" / "smear.png", pixel_size=0.5)
    assert isinstance(field, Field)
    project = Project(tmp_path / "project")
    record = ImageRecord(image_hash(field), "smear", field.shape, 0.5, "/nowhere/smear.png")
    book = project.book(record)
    for i in range(60):
        book.add("cell", "ab"[i % 2], position=(10.0 + 20 * (i % 9), 10.0 + 40 * (i // 9)))
    book.close()
    out = tmp_path / "new.safetensors"
    said = told(model, str(project.folder), "--out", str(out), "--images", str(tmp_path / "moved"))
    assert load_bundle(out).card.class_names[3:] == ("a", "b")
    assert isinstance(said["cells"], list)
    with pytest.raises(ValueError, match="not at hand"):
        told(model, str(project.folder), "--out", str(out))


def test_senseless_options_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        told(model, str(tmp_path), "--out", "x.pt")
    with pytest.raises(ValueError, match="--freeze must be"):
        told(model, str(tmp_path), "--out", "x.safetensors", "--freeze", "some")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        told(model, str(tmp_path / "none"), "--out", "x.safetensors")
