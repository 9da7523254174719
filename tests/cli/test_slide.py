"""``napari-sparseattn slide`` and ``train --kind span``: slides without a window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.cli import app as cli
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.training.loop.slides import encoder_spec
from slides_to_write import write_slide
from small_model import small_bundle
from small_span import small_span_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SPAN of random weights on features of the embedded encoder."""
    path = tmp_path_factory.mktemp("models") / "span.safetensors"
    spec = encoder_spec(load_encoder("stain-texture", "cpu"))
    crop = CropSpec(size=224, field_of_view_um=112.0)
    save_bundle(small_span_bundle(encoder=spec, crop=crop), path)
    return path


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def test_slides_are_classified_as_python_does(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    rows = json.loads(
        run(
            *("slide", tmp_path / "one.tif", tmp_path / "broken.svs", "--model", model),
            *("--out", tmp_path / "out", "--device", "cpu", "--json"),
            status=1,
        )
    )
    assert "error" in rows[1]
    row = rows[0]
    with open_slide(tmp_path / "one.tif") as slide:
        expected = classify_slide(slide, load_bundle(model), device="cpu")
    assert row["class"] == expected.label
    assert row["confidence"] == pytest.approx(expected.confidence)
    assert row["patches"] == len(expected.attention)
    assert set(row["stages"]) == {"tissue", "features", "attention"}
    assert row["scale_known"]
    table = pd.read_csv(row["csv"])
    np.testing.assert_allclose(table["attention_1"], expected.to_frame()["attention_1"], rtol=1e-4)
    told = json.loads(Path(row["json"]).read_text())
    assert told["attention"]["patches"] == row["patches"]
    assert told["encoder"] == "stain-texture"
    with Image.open(row["picture"]) as picture:
        # The slide and three levels beside it.
        assert picture.width > 4 * 400
    assert Path(row["features"]).parent == tmp_path / "out" / "features"


def test_a_slide_of_dyes_is_refused_by_name(tmp_path: Path, model: Path) -> None:
    planes = np.full((2, 600, 600), 900, np.uint16)
    options = {"photometric": "minisblack", "tile": (128, 128)}
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    about["Channel"] = {"Name": ["DAPI", "FITC"]}
    with tifffile.TiffWriter(tmp_path / "dyes.ome.tif", ome=True) as file:
        file.write(planes, subifds=1, metadata=about, **options)
        file.write(planes[:, ::2, ::2], subfiletype=1, **options)
    call = ("slide", tmp_path / "dyes.ome.tif", "--model", model, "--out", tmp_path / "o", "--json")
    with pytest.raises(ValueError, match=r"2 channels of 16 bits \(DAPI, FITC\)"):
        run(*call)


@pytest.mark.slow
def test_a_second_run_takes_the_features_of_the_first(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    call = ("slide", tmp_path / "one.tif", "--model", model, "--out", tmp_path / "o", "--json")
    (first,) = json.loads(run(*call))
    made = Path(first["features"]).stat()
    (second,) = json.loads(run(*call))
    assert second["confidence"] == first["confidence"]
    assert Path(second["features"]).stat().st_mtime_ns == made.st_mtime_ns
    (given,) = json.loads(run(*call, "--features", first["features"]))
    assert given["confidence"] == pytest.approx(first["confidence"])


@pytest.mark.slow
def test_an_unknown_scale_is_asked_for(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True, scale_known=False)
    call = ("slide", tmp_path / "one.tif", "--model", model, "--out", tmp_path / "o", "--json")
    with pytest.raises(ValueError, match="µm per pixel"):
        run(*call)
    (row,) = json.loads(run(*call, "--pixel-size", 0.5))
    assert row["scale_known"]
    (row,) = json.loads(run(*call, "--allow-unknown-scale"))
    assert not row["scale_known"]


def test_models_that_are_no_span_are_refused(tmp_path: Path) -> None:
    model, slide = tmp_path / "cells.safetensors", tmp_path / "x.svs"
    save_bundle(small_bundle(), model)
    slide.touch()
    with pytest.raises(ValueError, match="is no SPAN"):
        run("slide", slide, "--model", model, "--out", tmp_path)


def test_training_on_a_table_of_slides(tmp_path: Path) -> None:
    lines = ["slide,label,split"]
    for i, part in enumerate(["train", "train", "validation", "test"]):
        for label in ("dark", "pale"):
            write_slide(tmp_path / f"{label}{i}.tif", 2 * i, dark=label == "dark")
            lines.append(f"{label}{i}.tif,{label},{part}")
    (tmp_path / "slides.csv").write_text("\n".join(lines))
    out = tmp_path / "mine.safetensors"
    said = json.loads(
        run(
            *("train", tmp_path / "slides.csv", "--kind", "span", "--out", out),
            *("--encoder", "stain-texture"),
            *("--epochs", 6, "--device", "cpu", "--json"),
        )
    )
    assert said["n_slides"] == {"train": 4, "validation": 2, "test": 2}
    bundle = load_bundle(out)
    assert bundle.card.class_names == ("dark", "pale")
    assert bundle.card.encoder is not None
    with open_slide(tmp_path / "dark3.tif") as slide:
        found = classify_slide(slide, bundle, device="cpu")
    # Nothing is easier to tell apart than this.
    assert found.label == "dark"
    assert said["test"]["accuracy"] == 1


@pytest.mark.slow
def test_training_on_outlined_regions(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    halves = {"Tumor": [112, 448], "Stroma": [448, 784]}
    for i in range(8):
        write_slide(folder / f"s{i}.tif", i, dark=True)
        image = tifffile.imread(folder / f"s{i}.tif")
        image[96:544, 448:784] = 255 - (255 - image[96:544, 448:784]) // 3
        size = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(folder / f"s{i}.tif", image, tile=(128, 128), photometric="rgb", **size)
        features = [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x0, 96], [x1, 96], [x1, 544], [x0, 544], [x0, 96]]],
                },
                "properties": {"classification": {"name": name}},
            }
            for name, (x0, x1) in halves.items()
        ]
        (folder / f"s{i}.geojson").write_text(
            json.dumps({"type": "FeatureCollection", "features": features})
        )
    out = tmp_path / "mine.safetensors"
    call = ("train", folder, "--kind", "span-regions", "--out", out, "--epochs", 8)
    call += ("--encoder", "stain-texture")
    with pytest.raises(ValueError, match="needs --wanted"):
        run(*call)
    said = json.loads(run(*call, "--wanted", "Tumor", "--device", "cpu", "--json"))
    bundle = load_bundle(out)
    assert bundle.card.segments
    assert bundle.card.class_names == ("not Tumor", "Tumor")
    assert said["dice"] > 0.9


def test_options_that_would_change_nothing_are_refused(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    call = ("slide", tmp_path / "one.tif", "--model", model, "--out", tmp_path / "out")
    for words, said in (
        (("--threshold", 0.9), "--threshold is of a SPAN that finds tissue"),
        (("--least-patches", 5), "--least-patches is of a SPAN that finds tissue"),
        (("--snap",), "--snap is for --features"),
    ):
        with pytest.raises(ValueError, match=said):
            run(*call, *words)
    assert not (tmp_path / "out").exists()


def test_a_span_is_no_model_of_whole_fields(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    with pytest.raises(ValueError, match="classifies slides by their patches"):
        run(
            *("classify", tmp_path / "one.tif", "--whole", "--model", model),
            *("--out", tmp_path / "out"),
        )


def test_a_slide_that_is_too_coarse_for_the_model_is_said_to_be(
    tmp_path: Path, model: Path
) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    call = ("slide", tmp_path / "one.tif", "--model", model, "--device", "cpu", "--json")
    for size, said in ((0.5, False), (1.0, True)):
        row = json.loads(run(*call, "--pixel-size", size, "--out", tmp_path / str(size)))[0]
        assert any("patches were enlarged 2 times" in note for note in row["notes"]) == said


def test_features_of_another_scale_than_the_pixel_size_given_are_refused(
    tmp_path: Path, model: Path
) -> None:
    write_slide(tmp_path / "one.tif", 0, dark=True)
    call = ("slide", tmp_path / "one.tif", "--model", model, "--device", "cpu")
    run(*call, "--pixel-size", 0.5, "--out", tmp_path / "out")
    (features,) = (tmp_path / "out" / "features").glob("*.h5")
    run(*call, "--pixel-size", 0.5, "--features", features, "--out", tmp_path / "same")
    with pytest.raises(ValueError, match=r"112 µm wide, and 560 µm by the pixel size of 2\.5"):
        run(*call, "--pixel-size", 2.5, "--features", features, "--out", tmp_path / "other")
