"""``--formats``, ``export annotations`` and ``import annotations``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from pycocotools.coco import COCO
from typer.testing import CliRunner

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.cli.classify import FORMATS as ALWAYS
from napari_sparseattn.cli.options import Formats
from napari_sparseattn.export.formats import FORMATS
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.training.data.annotations import ImageRecord, image_hash
from napari_sparseattn.training.data.project import Project
from small_model import small_bundle
from small_tnet import small_tnet_bundle


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A field of three violet discs, and two models."""
    image = np.full((120, 160, 3), (225, 220, 215), np.uint8)
    rows, columns = np.indices(image.shape[:2])
    for row, column in ((30, 40), (60, 110), (90, 50)):
        image[np.hypot(rows - row, columns - column) <= 9] = (95, 60, 150)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "smear.tif", image, photometric="rgb")
    save_bundle(small_bundle(), tmp_path / "cells.safetensors")
    save_bundle(small_tnet_bundle(), tmp_path / "tnet.safetensors")
    return tmp_path


def test_cells_in_more_formats(folder: Path) -> None:
    out = folder / "out"
    (row,) = json.loads(
        run(
            *("classify", folder / "images" / "smear.tif", "--model", folder / "cells.safetensors"),
            *("--pixel-size", 0.5, "--out", out, "--json", "--device", "cpu"),
            *("--formats", "geojson, anndata,html,coco"),
        )
    )
    names = {Path(path).name for path in row["files"]}
    endings = (".geojson", ".h5ad", ".html", ".coco.json", ".csv-metadata.json")
    assert names == {f"smear.tif{ending}" for ending in endings}
    table = pd.read_csv(row["csv"])
    assert len(table) == 3
    features = json.loads((out / "smear.tif.geojson").read_text())["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == table["class"].tolist()
    assert features[0]["properties"]["measurements"]["Selected pixels"] == 38
    x = anndata.read_h5ad(out / "smear.tif.h5ad").X
    np.testing.assert_allclose(x, table[["p_round", "p_lobed", "p_small"]], atol=1e-6)


def test_wholes_in_more_formats(folder: Path) -> None:
    told = run(
        *("classify", "--whole", folder / "images" / "smear.tif", "--out", folder / "out"),
        *("--model", folder / "tnet.safetensors", "--pixel-size", 0.5, "--device", "cpu"),
        *("--formats", "csv,overlay,ome-zarr,ome-zarr-0.4"),
    )
    assert "smear.tif_overlay.png" in told
    newer, older = (folder / "out" / f"smear.tif_maps{v}.ome.zarr" for v in ("", "_0.4"))
    assert (newer / "zarr.json").is_file()
    assert (older / ".zattrs").is_file()
    crops = pd.read_csv(folder / "out" / "smear.tif.csv")
    said = json.loads((folder / "out" / "smear.tif.json").read_text())
    assert len(crops) == len(said["traversal"]["crops"])


@pytest.mark.parametrize(
    ("verb", "formats", "message"),
    [
        ("classify", "xlsx", "no format 'xlsx'"),
        ("slide", "coco", "'coco' cannot hold this result; these can: csv"),
    ],
)
def test_unfit_formats_are_refused_before_any_work(
    folder: Path, verb: str, formats: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(
            verb, folder / "none.tif", "--model", "x", "--out", folder / "out", "--formats", formats
        )
    assert not (folder / "out").exists()


def test_formats_that_need_a_dicom_slide_say_so(folder: Path) -> None:
    with pytest.raises(ValueError, match="refer to places on a DICOM slide, and smear is none"):
        run(
            *("classify", folder / "images" / "smear.tif", "--model", folder / "cells.safetensors"),
            *("--pixel-size", 0.5, "--out", folder / "out", "--formats", "dicom-annotations"),
        )
    assert not (folder / "out").exists()


def test_help_names_each_format() -> None:
    said = get_args(Formats)[1].help
    assert {*said.partition(": ")[2].rstrip(".").split(", "), *ALWAYS} == {*FORMATS}


def test_annotations_go_out_and_come_back(folder: Path) -> None:
    image = open_image(folder / "images" / "smear.tif")
    project = Project(folder / "project")
    record = ImageRecord(
        image_hash(image), "smear", image.shape, None, str(folder / "images" / "smear.tif")
    )
    book = project.open(record)
    book.add("cell", "lobed", position=(30.0, 40.0), diameter_px=18.0)
    book.add("region", "round", polygon=((0.0, 0.0), (0.0, 9.0), (9.0, 9.0)))
    book.close()
    coco = folder / "all.json"
    assert "1 lobed, 1 round" in run("export", "annotations", folder / "project", "--out", coco)
    assert len(COCO(str(coco)).getAnnIds()) == 2
    files = json.loads(
        run(
            *("export", "annotations", folder / "project", "--format", "geojson"),
            *("--out", folder / "qupath", "--json"),
        )
    )["files"]
    assert [Path(path).name for path in files] == ["smear.geojson"]
    arguments = ("import", "annotations", coco, folder / "new", "--images", folder / "images")
    assert "2 annotations added" in run(*arguments)
    ((found, items),) = Project(folder / "new").annotations()
    assert found.hash == record.hash
    assert [(item.kind, item.label, item.origin) for item in items] == [
        ("cell", "lobed", "imported"), ("region", "round", "imported"),
    ]  # fmt: skip
    # A second time there is nothing new.
    assert "0 annotations added" in run(*arguments)
    # And as GeoJSON, by the folder that was written or one file of it.
    for source, images in (("qupath", "images"), ("qupath/smear.geojson", "images/smear.tif")):
        said = run(
            *("import", "annotations", folder / source, folder / "newer"),
            *("--images", folder / images, "--json"),
        )
    assert json.loads(said) == {"added": 0, "changed": 0, "failed": {}, "notes": {}}
    ((_, newer),) = Project(folder / "newer").annotations()
    ((_, made),) = project.annotations()
    assert [(x.id, x.label, x.position, x.polygon, x.time) for x in newer] == [
        (x.id, x.label, x.position, x.polygon, pytest.approx(x.time, abs=1e-5)) for x in made
    ]


def test_annotations_of_another_image_are_told(folder: Path) -> None:
    image = open_image(folder / "images" / "smear.tif")
    record = ImageRecord(
        image_hash(image), "smear", image.shape, None, str(folder / "images" / "smear.tif")
    )
    book = Project(folder / "project").open(record)
    book.add("cell", "lobed", position=(30.0, 40.0), diameter_px=18.0)
    book.close()
    run("export", "annotations", folder / "project", "--out", folder / "all.json")
    run(
        *("export", "annotations", folder / "project", "--format", "geojson"),
        *("--out", folder / "qupath"),
    )
    pixels = np.array(image.plane())
    tifffile.imwrite(folder / "changed.tif", pixels[::-1], photometric="rgb")
    tifffile.imwrite(folder / "half.tif", pixels[::2, ::2], photometric="rgb")
    height, width = image.shape
    for n, source in enumerate((folder / "all.json", folder / "qupath")):
        call = ("import", "annotations", source, folder / f"new{n}", "--images")
        said = run(*call, folder / "changed.tif")
        assert "exported of other pixels than those of changed.tif" in said
        said = json.loads(run(*call, folder / "half.tif", "--json", status=1))
        (reason,) = said["failed"].values()
        assert f"made on an image of {width} x {height} pixels, and half.tif has" in reason
        assert said["added"] == 0


def test_geojson_of_another_program_goes_into_a_project(folder: Path) -> None:
    square = [[[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]], [[5, 5], [9, 5], [9, 9], [5, 5]]]
    one = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": square},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Round", "color": [1, 2, 3]},
        },
    }
    plain = {**one, "properties": {"objectType": "detection"}}
    (folder / "smear.geojson").write_text(json.dumps([one, plain]))
    project = Project(folder / "project")
    project.add_classes(["round"])
    arguments = ("import", "annotations", folder / "smear.geojson", folder / "project")
    said = run(*arguments, "--images", folder / "images", "--rater", "anna")
    assert "1 annotations added" in said
    assert "1 left out: they have no class" in said
    run(*arguments, "--images", folder / "images", "--class", "cell", "--rater", "anna")
    ((_, items),) = project.annotations()
    assert [(x.kind, x.label, x.rater, len(x.rings)) for x in items] == [
        # Spelt as it is there.
        ("region", "round", "anna", 2), ("cell", "cell", "anna", 0),
    ]  # fmt: skip
    (folder / "images" / "smear.png").write_bytes(b"")
    said = json.loads(run(*arguments, "--images", folder / "images", "--json", status=1))
    assert "smear.png, smear.tif" in said["failed"]["smear.geojson"]
    (folder / "other.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"takes GeoJSON .* and COCO JSON"):
        run("import", "annotations", folder / "other.csv", folder / "project", "--images", folder)
    helped = run("import", "annotations", "--help")
    assert "GeoJSON" in helped
    assert "COCO" in helped


def test_raters_merge_and_are_compared(folder: Path) -> None:
    record = ImageRecord("a" * 16, "=smear", (120, 160))
    for rater, said in (("anna", "aab"), ("ben", "abb")):
        project = Project(folder / rater)
        book = project.open(record)
        for number, label in enumerate(said):
            book.add("cell", label, position=(10.0, 30.0 * number), diameter_px=9.0)
        book.close()
    both = (folder / "anna", folder / "ben")
    said = json.loads(run("merge", *both, "--out", folder / "both", "--json"))
    assert (said["annotations"], said["raters"], said["shared_images"]) == (6, ["anna", "ben"], 1)
    printed = run("agreement", folder / "both", "--out", folder / "differ.csv")
    # By hand: 2 of 3 agree, (2 * 1 + 1 * 2) / 9 by chance.
    assert "Cohen's kappa 0.40 [" in printed
    assert "n = 3, 67 % agree" in printed
    table = pd.read_csv(folder / "differ.csv")
    wanted = ["image", "column", "said by anna", "said by ben", "class", "by"]
    assert table.loc[0, wanted].tolist() == ["'=smear", 30.0, "a", "b", "b", "latest"]
    assert len(table) == 1
    # Without merging them first, and under other names.
    parts = ("agreement", *both, "--rater", "A", "--rater", "B", "--json", "--distance", 1)
    (found,) = json.loads(run(*parts))["agreement"]
    assert (found["raters"], found["overall"]["n"], found["disputed"]) == (["A", "B"], 3, 1)
    assert found["overall"]["value"] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no annotations by two raters"):
        run("agreement", folder / "anna")


def test_images_that_are_missing_are_named(folder: Path) -> None:
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {
        "images": [
            {"id": 1, "file_name": "../../etc/gone.tif", "height": 9, "width": 9},
            {"id": 2, "file_name": "smear.tif", "height": 120, "width": 160},
        ],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [row, row | {"id": 2, "image_id": 2}],
    }
    (folder / "c.json").write_text(json.dumps(content))
    said = json.loads(
        run(
            *("import", "annotations", folder / "c.json", folder / "new"),
            *("--images", folder / "images", "--json"),
            status=1,
        )
    )
    assert said["added"] == 1
    assert list(said["failed"]) == ["../../etc/gone.tif"]
    assert "there is no 'gone.tif' in" in said["failed"]["../../etc/gone.tif"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        run("export", "annotations", folder / "nowhere", "--out", folder / "x.json")
