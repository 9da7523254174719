"""The lines and the command that are copied give the same result again: both are run here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from batch_folders import write_field
from copied_scripts import assert_same, run_command, run_python
from napari_sparseattn.bundle import Bundle, save_bundle
from napari_sparseattn.images.fields.cells import cells_from_points, find_cells
from napari_sparseattn.images.fields.marked import read_cells, write_cells
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.holograms.holography import reconstruct
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_file
from napari_sparseattn.process.script import Recipe, write_command, write_python
from napari_sparseattn.simulate import Optics, hologram_with_truth
from small_model import small_bundle
from small_tnet import small_tnet_bundle


@pytest.fixture
def model(tmp_path: Path) -> Bundle:
    return save_bundle(small_bundle(), tmp_path / "my model.safetensors")


def recipe_of(path: Path, model: Bundle, options: ProcessOptions, **more: Any) -> Recipe:
    return Recipe("cells", path, options, str(model.path), model.hash, **more)


def check_both(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    with process_file(recipe.path, recipe.model, recipe.options) as result:
        wanted = result.to_frame()
    assert_same(run_python(write_python(recipe))["table"], wanted)
    out = run_command(write_command(recipe), tmp_path, monkeypatch)
    (written,) = out.glob("*.csv")
    assert_same(pd.read_csv(written), wanted, places=1e-5)
    return wanted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "white-cells"},
        {"classes": ("round", "small"), "icc": False},
        {"modality": "brightfield", "frame": 0},
    ],
)
def test_cells_of_a_file(
    options: dict[str, Any], model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_field(tmp_path / "a smear's field.png", 3)
    chosen = ProcessOptions(task="cells", pixel_size=0.5, device="cpu", **options)
    check_both(recipe_of(path, model, chosen), tmp_path, monkeypatch)


def test_one_cell_and_marked_cells(
    model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_field(tmp_path / "f.png", 3)
    field = open_field(path, pixel_size=0.5)
    cells = find_cells(field)
    place = tuple(cells.centres[1].tolist())
    options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu", at=place)
    assert len(check_both(recipe_of(path, model, options), tmp_path, monkeypatch)) == 1

    points = cells_from_points(cells.centres[:3] + 0.123456789, field.shape, diameter=9)
    for marked in (cells, points):
        file = tmp_path / ("cells.tif" if marked.labels is not None else "cells.csv")
        write_cells(marked, file)
        options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu", cells=file)
        folder = tmp_path / file.suffix[1:]
        folder.mkdir()
        found = check_both(recipe_of(path, model, options), folder, monkeypatch)
        np.testing.assert_array_equal(found["row"], marked.centres[:, 0])
        np.testing.assert_array_equal(found["id"], marked.ids)


def test_a_plane_of_a_stack(model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = [open_field(write_field(tmp_path / f"{i}.png", i)).data for i in range(4)]
    path = tmp_path / "stack.ome.tif"
    stack = np.stack(planes).reshape(2, 2, *planes[0].shape)
    tifffile.imwrite(path, stack, photometric="rgb", metadata={"axes": "TZYXS"})
    options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu", frame=1, slice=0)
    found = check_both(recipe_of(path, model, options), tmp_path, monkeypatch)
    with process_file(
        tmp_path / "2.png", model, ProcessOptions(task="cells", pixel_size=0.5, device="cpu")
    ) as alone:
        np.testing.assert_allclose(found["confidence"], alone.prediction.confidence, atol=1e-6)


def test_a_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = save_bundle(small_bundle(channels=1), tmp_path / "grey.safetensors")
    pixels = open_field(write_field(tmp_path / "f.png", 3)).data.astype(np.float32)
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, np.moveaxis(pixels[..., :2], -1, 0), metadata={"axes": "CYX"})
    options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu", channel=1)
    check_both(recipe_of(path, grey, options), tmp_path, monkeypatch)


def test_a_field_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tnet = save_bundle(small_tnet_bundle(), tmp_path / "tnet.safetensors")
    path = write_field(tmp_path / "f.png", 3)
    options = ProcessOptions(
        task="whole", pixel_size=0.5, device="cpu", locations=(3, 2), halt=False
    )
    check_both(recipe_of(path, tnet, options), tmp_path, monkeypatch)


@pytest.fixture
def hologram(tmp_path: Path) -> Path:
    optics = Optics(wavelength=633.0, pixel_size=0.12)
    frames = [hologram_with_truth((200, 200), seed, optics, n_cells=3)[0] for seed in (1, 2)]
    path = tmp_path / "holo.tif"
    tifffile.imwrite(path, np.stack([recording.frame(0) for recording in frames]))
    return path


SETTINGS = HologramSettings(
    wavelength=633.0, pixel_size=0.12, filter_radius=0.3, profile="curved", flip=True
)


def test_a_reconstruction(hologram: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ProcessOptions(task="hologram", settings=SETTINGS, kind="hologram")
    recipe = Recipe("OPD of holo", hologram, options)
    wanted = reconstruct(open_hologram(hologram, kind="hologram"), SETTINGS).data
    found = run_python(write_python(recipe))["opd"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    out = run_command(write_command(recipe), tmp_path, monkeypatch)
    written = tifffile.imread(out / "holo.tif_opd.tif")
    np.testing.assert_allclose(written, wanted, rtol=1e-6)


def test_cells_of_a_hologram(
    hologram: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opd = small_bundle(channels=1, modality="opd")
    opd = save_bundle(opd, tmp_path / "opd.safetensors")
    settings = dataclasses.replace(SETTINGS, flip=False)
    options = ProcessOptions(task="hologram", settings=settings, kind="hologram", device="cpu")
    with process_file(hologram, opd, options) as result:
        every = result.to_frame()
    wanted = every[every["frame"] == 1].drop(columns=["frame", "image"]).reset_index(drop=True)
    recipe = recipe_of(hologram, opd, options, frame=1)
    found = run_python(write_python(recipe))["table"].drop(columns="image")
    assert_same(found, wanted)
    command = write_command(recipe)
    assert "frame = 1" in command
    out = run_command(command, tmp_path, monkeypatch)
    table = pd.read_csv(out / "holo.tif.csv")
    table = table[table["frame"] == 1].drop(columns=["frame", "image"]).reset_index(drop=True)
    assert_same(table, wanted, places=1e-5)


def test_another_model_of_that_name_is_refused(model: Bundle, tmp_path: Path) -> None:
    path = write_field(tmp_path / "f.png", 3)
    recipe = recipe_of(path, model, ProcessOptions(task="cells", pixel_size=0.5))
    text = write_python(recipe)
    save_bundle(small_bundle(seed=1), tmp_path / "my model.safetensors")
    with pytest.raises(SystemExit, match="other weights"):
        run_python(text)


def test_what_is_to_be_done_first_comes_first(model: Bundle, tmp_path: Path) -> None:
    options = ProcessOptions(task="cells")
    before = ("save the layer 'a' as a.tif",)
    recipe = recipe_of(Path("a.tif"), model, options, before=before)
    for text in (write_python(recipe), write_command(recipe)):
        assert text.splitlines()[1] == "# First: save the layer 'a' as a.tif"


def test_files_of_cells_that_say_too_little_are_refused(tmp_path: Path) -> None:
    field = open_field(write_field(tmp_path / "f.png", 3))
    table = tmp_path / "cells.csv"
    for text, said in (
        ("a,b\n1,2\n", "columns row and column"),
        ("row,column\n1,2\n", "pixel size"),
        ("row,column,diameter_px\n1,x,3\n", "a number in the column"),
        ("row,column,diameter_px\n1,99999,3\n", "outside the image"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_cells(table, field)
    with pytest.raises(ValueError, match="label image"):
        read_cells(tmp_path / "cells.doc", field)
    table.write_text("index,axis-0,axis-1\n0,10.5,20\n")
    sized = open_field(tmp_path / "f.png", pixel_size=0.5)
    np.testing.assert_array_equal(read_cells(table, sized).centres, [[10.5, 20]])
