"""``napari-sparseattn classify --whole``: fields and slides by a TNet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cli import app as cli
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.images.slides.pyramid import Pyramid
from napari_sparseattn.inference.fields import classify_field
from small_model import small_bundle
from small_tnet import small_tnet_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiled pyramid `slide.tif`, a small `field.tif`, and two models."""
    rng = np.random.default_rng(0)
    slide = rng.integers(0, 255, (512, 640, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as file:
        options = {"tile": (128, 128), "photometric": "rgb"}
        file.write(slide, subifds=1, **options)
        file.write(slide[::4, ::4], subfiletype=1, **options)
    tifffile.imwrite(tmp_path / "field.tif", slide[:100, :120], photometric="rgb")
    save_bundle(small_tnet_bundle(), tmp_path / "tnet.safetensors")
    save_bundle(small_bundle(), tmp_path / "cells.safetensors")
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_fields_and_slides_are_classified_as_python_does(folder: Path) -> None:
    paths = [folder / "slide.tif", folder / "field.tif"]
    rows = json.loads(
        run(
            *("classify", *paths, "--whole", "--model", folder / "tnet.safetensors"),
            *("--pixel-size", 0.5, "--out", folder / "out", "--json"),
        )
    )
    bundle = load_bundle(folder / "tnet.safetensors")
    for path, row in zip(paths, rows, strict=True):
        image = open_image(path, pixel_size=0.5)
        assert isinstance(image, Pyramid) == (path.stem == "slide")
        expected = classify_field(image, bundle, device="cpu")
        assert row["class"] == expected.label
        assert list(row["probabilities"].values()) == pytest.approx(
            expected.probabilities.tolist(), abs=1e-5
        )
        written = json.loads(Path(row["json"]).read_text())
        assert len(written["traversal"]["crops"]) == row["crops"] == len(expected.traversal)
        assert written["model"].startswith("small-tnet@")
    assert rows[0]["tiles"] > 0


def test_more_locations_look_at_more(folder: Path) -> None:
    few, many = (
        json.loads(
            run(
                *("classify", folder / "field.tif", "--whole", "--locations", locations),
                *("--model", folder / "tnet.safetensors", "--out", folder / "out", "--json"),
            )
        )[0]["crops"]
        for locations in ("1,1", "3,2")
    )
    assert (few, many) == (1 + 1 + 1, 1 + 3 + 6)


def test_people_are_told_what_was_read(folder: Path) -> None:
    shown = run(
        *("classify", folder / "slide.tif", "--whole", "--out", folder / "out"),
        *("--model", folder / "tnet.safetensors"),
    )
    assert "% of the full resolution" in shown
    assert "pixel size unknown" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "tnet.safetensors", "--locations", "2;1"), "whole numbers such as 4,2"),
        (("--model", "cells.safetensors"), "classifies cells, not whole fields"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    command = ["napari-sparseattn", "classify", "field.tif", "--whole", "--out", "o", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_bad_file_does_not_stop_the_others(folder: Path) -> None:
    (folder / "bad.svs").write_bytes(b"not a slide")
    result = CliRunner().invoke(
        cli.app,
        [
            *("classify", str(folder / "bad.svs"), str(folder / "field.tif"), "--whole", "--json"),
            *("--model", str(folder / "tnet.safetensors"), "--out", str(folder / "out")),
        ],
    )
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert "error" in rows[0]
    assert rows[1]["class"] in ("left", "middle", "right")


def test_axes_and_image_say_what_a_file_does_not(folder: Path) -> None:
    colours = tifffile.imread(folder / "field.tif")
    tifffile.imwrite(folder / "planes.tif", colours.transpose(2, 0, 1), photometric="minisblack")
    with tifffile.TiffWriter(folder / "two.tif") as file:
        file.write(colours, photometric="rgb")
        file.write(np.zeros((200, 300, 3), np.uint8), photometric="rgb")
    rows = {}
    for name, more in (
        ("field.tif", ()),
        ("planes.tif", ("--axes", "CYX")),
        ("two.tif", ("--image", 0)),
    ):
        (rows[name],) = json.loads(
            run(
                *("classify", folder / name, "--whole", "--model", folder / "tnet.safetensors"),
                *("--pixel-size", 0.5, *more, "--out", folder / "out", "--json"),
            )
        )
    expected = rows["field.tif"]["probabilities"]
    assert rows["planes.tif"]["probabilities"] == rows["two.tif"]["probabilities"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "cells.safetensors", "--locations", "4,2"), "--locations is of a TNet"),
        (("--model", "cells.safetensors", "--no-halt"), "--no-halt is of an image as a whole"),
        (("--whole", "--method", "phase"), "--method is for finding cells"),
        (("--cells", "a.csv", "--method", "phase"), "--method is for finding cells"),
        (("--whole", "--frame", "3"), "field has no frame 3: it has one frame, 0"),
        (("--whole", "--slice", "1"), "field has no slice 1: it has one slice, 0"),
        (("--whole", "--channel", "3"), "no channel 3: there are 3"),
        (("--model", "cells.safetensors", "--frame", "1"), "field has no frame 1"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    arguments: tuple[str, ...], message: str, folder: Path
) -> None:
    model = () if "--model" in arguments else ("--model", "tnet.safetensors")
    words = [folder / word if word.endswith(".safetensors") else word for word in arguments + model]
    with pytest.raises(ValueError, match=message):
        run("classify", folder / "field.tif", *words, "--out", folder / "out")
    assert not (folder / "out" / "field.tif.csv").exists()


@pytest.mark.parametrize("option", ["frame", "slice", "channel"])
def test_planes_of_a_slide_are_refused(option: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"slide, which takes no {option}"):
        run(
            *("classify", folder / "slide.tif", "--whole", f"--{option}", 1),
            *("--model", folder / "tnet.safetensors", "--out", folder / "out"),
        )


def test_a_frame_that_is_not_there_does_not_stop_the_other_files(folder: Path) -> None:
    colours = tifffile.imread(folder / "field.tif")
    stack = np.stack([colours, colours[::-1]])
    tifffile.imwrite(folder / "two.tif", stack, photometric="rgb", metadata={"axes": "TYXS"})
    result = CliRunner().invoke(
        cli.app,
        [
            *("classify", str(folder / "field.tif"), str(folder / "two.tif"), "--whole", "--json"),
            *("--frame", "1", "--model", str(folder / "tnet.safetensors")),
            *("--out", str(folder / "out")),
        ],
    )
    rows = json.loads(result.stdout)
    assert "no frame 1" in rows[0]["error"]
    assert rows[1]["notes"] == ["only frame 1, slice 0 (from 0) of 2 planes was classified"]


def test_whole_stacks_say_which_frame_was_looked_at(folder: Path) -> None:
    colours = tifffile.imread(folder / "field.tif")
    stack = np.stack([colours, colours[::-1]])
    tifffile.imwrite(folder / "two.tif", stack, photometric="rgb", metadata={"axes": "TYXS"})
    shown = run(
        *("classify", folder / "two.tif", "--whole", "--model", folder / "tnet.safetensors"),
        *("--out", folder / "out"),
    )
    assert "only the first of 2 frames was classified" in shown


def test_a_pixel_size_that_replaces_a_slides_is_noted(folder: Path) -> None:
    slide = tifffile.imread(folder / "slide.tif")
    with tifffile.TiffWriter(folder / "stated.tif") as file:
        scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        options = {"tile": (128, 128), "photometric": "rgb"}
        file.write(slide, subifds=1, **scale, **options)
        file.write(slide[::4, ::4], subfiletype=1, **options)
    said = "the pixel size given, 5 µm, replaces 0.5 µm, which the file says"
    for size, notes in ((5.0, (said,)), (0.5, ())):
        with open_image(folder / "stated.tif", pixel_size=size) as slide_:
            assert isinstance(slide_, Pyramid)
            assert slide_.notes == notes


def test_of_an_image_in_memory_nothing_is_said_to_be_read(folder: Path) -> None:
    call = ("classify", folder / "field.tif", "--whole", "--model", folder / "tnet.safetensors")
    row = json.loads(run(*call, "--out", folder / "out", "--json"))[0]
    assert row["bytes_read"] == 0
    assert "(in memory)" in run(*call, "--out", folder / "out")
