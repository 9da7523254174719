"""One file gives the same names and numbers by every road, and no road harms another's results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from batch_folders import finish, write_field
from napari_sparseattn.batch.plan import plan_batch
from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.cli import app as cli
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.holograms import iter_recording
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_file, process_image
from napari_sparseattn.process.result import ResultsExistError
from napari_sparseattn.simulate import Optics, hologram_with_truth
from napari_sparseattn.training.loop.slides import encoder_spec
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle

SETTINGS = HologramSettings(wavelength=633.0, pixel_size=0.12)
#: What differs between two runs of the same.
CLOCK = {"seconds", "stages", "bytes_read", "tiles", "share_read"}


@dataclasses.dataclass(frozen=True)
class Road:
    """One kind of file, with the verb and the options that lead to its results."""

    verb: tuple[str, ...]
    options: ProcessOptions
    file: str
    bundle: Bundle


def span(segments: bool = False) -> Bundle:
    crop = CropSpec(size=224, field_of_view_um=112.0)
    return small_span_bundle(
        segments, encoder=encoder_spec(load_encoder("stain-texture", "cpu")), crop=crop
    )


def fixed_tnet() -> Bundle:
    bundle = small_tnet_bundle()
    fixed = Normalisation(kind="fixed", mean=0.5, std=0.25)
    return dataclasses.replace(bundle, card=bundle.card.model_copy(update={"normalisation": fixed}))


ROADS = {
    "cells": Road(
        ("classify", "--pixel-size", "0.5"),
        ProcessOptions(task="cells", pixel_size=0.5),
        "smear one.png",
        small_bundle(),
    ),
    "whole": Road(("classify", "--whole"), ProcessOptions(task="whole"), "slide.tif", fixed_tnet()),
    "slide": Road(("slide",), ProcessOptions(), "slide.tif", span()),
    "regions": Road(("slide",), ProcessOptions(), "slide.tif", span(segments=True)),
    "hologram": Road(
        ("hologram", "--wavelength", "633", "--pixel-size", "0.12"),
        ProcessOptions(settings=SETTINGS),
        "holo.tif",
        small_bundle(1, modality="opd", unit="nm"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind."""
    made: Path = tmp_path_factory.mktemp("inputs")
    write_field(made / "smear one.png")
    rng = np.random.default_rng(0)
    slide = np.full((640, 896, 3), 242, np.uint8)
    slide[96:544, 112:784] = np.array([90, 40, 120]) + rng.integers(-30, 30, (448, 672, 3))
    size = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(made / "slide.tif") as file:
        file.write(slide, subifds=1, tile=(128, 128), photometric="rgb", **size)
        file.write(slide[::4, ::4], subfiletype=1, tile=(128, 128), photometric="rgb")
    recording, *_ = hologram_with_truth((200, 200), 1, Optics(), n_cells=3)
    tifffile.imwrite(made / "holo.tif", np.stack([recording.frame(0)] * 2))
    return made


def run(*arguments: object) -> list[dict[str, Any]]:
    given = [str(a) for a in (*arguments, "--device", "cpu", "--json")]
    result = CliRunner().invoke(cli.app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def named(out: Path) -> set[str]:
    """The results in a folder, without what is kept beside them."""
    kept = {"features", ".napari-sparseattn", "batch.csv"}
    return {path.name for path in out.iterdir()} - kept


def expected_rows(name: str, path: Path) -> pd.DataFrame:
    """What the functions of `inference` give, called one by one."""
    bundle, options = ROADS[name].bundle, ROADS[name].options
    if name == "cells":
        field = open_field(path, pixel_size=0.5)
        return classify_cells(field, find_cells(field), bundle, "cpu").to_frame()
    if name == "hologram":
        frames = iter_recording(open_hologram(path), options.settings, bundle, device="cpu")
        found = [frame.predictions for frame in frames]
        return pd.concat([part.to_frame() for part in found if part is not None])
    with open_slide(path) as slide:
        if name == "whole":
            way = classify_field(slide, bundle, device="cpu").traversal
            return pd.DataFrame({"top": way.top, "left": way.left, "height": way.height})
        return classify_slide(slide, bundle, device="cpu").to_frame()


@pytest.mark.parametrize(
    "name",
    ["cells", *(pytest.param(name, marks=pytest.mark.slow) for name in ROADS if name != "cells")],
)
def test_every_road_gives_the_same_names_and_numbers(
    name: str, folder: Path, tmp_path: Path
) -> None:
    road, path, model = ROADS[name], folder / ROADS[name].file, tmp_path / "m.safetensors"
    save_bundle(road.bundle, model)
    (row,) = run(*road.verb, path, "--model", model, "--out", tmp_path / "verb")
    # The same formats in a batch, in its processes, and from Python.
    formats = tuple(f for f in ("json", "csv", "overlay") if f in row)
    options = dataclasses.replace(road.options, formats=formats, device="cpu")
    plan = plan_batch([path], model, tmp_path / "batch", options)
    (state,) = finish(plan, workers=1)
    assert state.state == "done", state.reason
    with process_file(path, model, options) as result:
        written = result.write(tmp_path / "python")
        summary = result.summary()
    assert [paths[0].name for paths in written.values()] == [
        f"{path.name}{ending}" for ending in (".json", ".csv", "_overlay.png")[: len(written)]
    ]
    by_verb = named(tmp_path / "verb")
    opd = {f"{path.name}_opd.tif"} if name == "hologram" else set()
    assert by_verb - opd == named(tmp_path / "batch") == named(tmp_path / "python")
    tables = [pd.read_csv(tmp_path / o / f"{path.name}.csv") for o in ("verb", "batch", "python")]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    expected = expected_rows(name, path)
    assert len(expected) == len(tables[0]) > 0
    for column in expected.columns:
        shown = tables[0][column]
        if pd.api.types.is_float_dtype(shown):
            # What was not measured is NA in a table, and nothing in a file.
            right = pd.to_numeric(expected[column]).to_numpy(float, na_value=np.nan)
            np.testing.assert_allclose(shown, right, rtol=1e-4, atol=1e-5)
        else:
            assert shown.tolist() == expected[column].tolist(), column
    assert tables[0]["model"].unique().tolist() == [row["model"]]
    # One summary: printed, in the JSON of each, and returned.
    for out in ("verb", "batch", "python"):
        told = json.loads((tmp_path / out / f"{path.name}.json").read_text(encoding="utf-8"))
        for key, value in summary.items():
            if key not in CLOCK:
                assert told[key] == row[key] == json.loads(json.dumps(value)), (out, key)
        assert told["provenance"]["file"] in (path.name, "")


@pytest.mark.slow
def test_two_verbs_do_not_overwrite_each_other(folder: Path, tmp_path: Path) -> None:
    path, out = folder / "slide.tif", tmp_path / "out"
    models = {"slide": tmp_path / "span.safetensors", "whole": tmp_path / "tnet.safetensors"}
    for name, model in models.items():
        save_bundle(ROADS[name].bundle, model)
    run("slide", path, "--model", models["slide"], "--out", out)
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    whole = ("classify", "--whole", path, "--model", models["whole"], "--out", out)
    with pytest.raises(ResultsExistError, match=r"task slide.*Choose another folder.*--overwrite"):
        run(*whole)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    # Nor does a batch, which names them alike.
    options = ProcessOptions(device="cpu", task="whole")
    (state,) = finish(plan_batch([path], models["whole"], out, options), workers=1)
    assert state.state == "failed"
    assert "holds other results (task slide" in state.reason
    assert {p.name: p.read_bytes() for p in out.glob("slide.tif*")} == before
    # Whoever asks for it may.
    (row,) = run(*whole, "--overwrite")
    assert json.loads(Path(row["json"]).read_text())["task"] == "whole"


def test_the_same_command_replaces_its_own_results(folder: Path, tmp_path: Path) -> None:
    path, out, model = folder / "smear one.png", tmp_path / "out", tmp_path / "m.safetensors"
    save_bundle(small_bundle(), model)
    call = ("classify", path, "--model", model, "--out", out)
    (first,) = run(*call)
    assert first["scale_known"] is False
    (second,) = run(*call, "--pixel-size", 0.5, "--formats", "geojson")
    assert second["scale_known"] is True
    assert pd.read_csv(second["csv"])["scale_known"].all()
    # Another model, or another file of that name, is something else.
    save_bundle(small_bundle(seed=1), model)
    with pytest.raises(ResultsExistError, match="is there already"):
        run(*call)
    other = write_field(tmp_path / "elsewhere" / "smear one.png", 7)
    with pytest.raises(ResultsExistError, match="is there already"):
        run("classify", other, "--model", model, "--out", out)
    # A file of nobody's is kept as well.
    (tmp_path / "new").mkdir()
    mine = tmp_path / "new" / "smear one.png.csv"
    mine.write_text("my own")
    with pytest.raises(ResultsExistError, match=r"smear one\.png\.csv"):
        run(*call[:-1], tmp_path / "new")
    assert mine.read_text() == "my own"


def test_what_was_killed_before_it_was_whole_goes_on(folder: Path, tmp_path: Path) -> None:
    """JSON comes first: whatever else lies there is known to be of the same."""
    options = ProcessOptions(task="cells", formats=("csv", "overlay"), device="cpu")
    with process_file(folder / "smear one.png", small_bundle(), options) as result:
        written = result.write(tmp_path)
        assert next(iter(written)) == "json"
        for name in ("csv", "overlay"):
            written[name][0].unlink()
        assert {p.name for p in written["csv"]} <= {
            p.name for paths in result.write(tmp_path).values() for p in paths
        }


def test_results_of_one_recording_with_and_without_a_model(folder: Path, tmp_path: Path) -> None:
    path, out, model = folder / "holo.tif", tmp_path / "out", tmp_path / "m.safetensors"
    save_bundle(ROADS["hologram"].bundle, model)
    call = (*ROADS["hologram"].verb, path, "--out", out)
    (row,) = run(*call)
    assert "cells" not in row
    assert {p.name for p in out.iterdir()} == {"holo.tif_opd.tif", "holo.tif.json"}
    assert (row["frames"], row["unit"], row["wavelength_nm"]) == (2, "nm", 633)
    with pytest.raises(ResultsExistError, match="task hologram"):
        run(*call, "--model", model)
    run(*call)


def test_an_image_that_is_open_stays_open(folder: Path) -> None:
    bundle = ROADS["slide"].bundle
    with open_slide(folder / "slide.tif") as slide:
        with process_image(slide, bundle, ProcessOptions(device="cpu")) as result:
            assert result.task == "slide"
            assert result.summary()["patches"] == len(result.prediction.attention)
        assert slide.read_region(0, 0, 0, 8, 8).pixels.shape == (8, 8, 3)
    field = open_field(folder / "smear one.png")
    with pytest.raises(ValueError, match="is not a slide"):
        process_image(field, bundle)


def test_a_file_closes_its_slide_at_the_end(folder: Path) -> None:
    with process_file(
        folder / "slide.tif", ROADS["slide"].bundle, ProcessOptions(device="cpu")
    ) as result:
        slide = result.image
        assert slide.read_region(0, 0, 0, 8, 8).valid.all()
    with pytest.raises((ValueError, OSError)):
        slide.read_region(0, 0, 0, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"task": "cell"}, "task must be one of auto"), ({"method": "x"}, "method must be one of")],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ProcessOptions(**wrong)


def test_what_decides_about_results_is_in_the_hash() -> None:
    plain = ProcessOptions()
    assert dataclasses.replace(plain, formats=("html",), device="cuda").hash == plain.hash
    for change in ({"pixel_size": 0.5}, {"settings": SETTINGS}, {"background": Path("b.tif")}):
        assert dataclasses.replace(plain, **change).hash != plain.hash


def test_a_model_by_its_name(folder: Path) -> None:
    options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu")
    with process_file(folder / "smear one.png", "blood-cells", options) as result:
        assert result.bundle is not None
        assert result.bundle.hash == load_bundle("blood-cells").hash
