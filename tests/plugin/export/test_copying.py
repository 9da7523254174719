"""What is copied of a result in the window gives that result again: it is run here, both ways."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from napari.layers import Image, Layer
from qtpy.QtWidgets import QApplication

from copied_scripts import assert_same, run_command, run_python
from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.export.copy_button import CopyButton
from napari_sparseattn.plugin.export.copying import Copying
from napari_sparseattn.plugin.export.session import ExportSession
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.opening import read_file
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.simulate import hologram_with_truth
from small_model import small_bundle

from ..conftest import CENTRES, add_labels, label_image, picture
from ..made_holograms import OPTICS
from ..made_slides import LEVELS, keep_features_in, span_model

#: What only files say.
_OF_FILES = ["model", "scale_known", "image"]


class Bench:
    """A session whose results are copied and run."""

    def __init__(self, session: Session, folder: Path, patch: pytest.MonkeyPatch) -> None:
        assert session.viewer is not None
        self.session, self.viewer, self.folder, self._patch = session, session.viewer, folder, patch
        self.exporting = ExportSession.of(session.viewer)
        self.exporting.set_folder(folder)
        self.copying = Copying.of(session.viewer)
        self.texts: list[str] = []
        self.copying.copied.connect(self.texts.append)

    def open(self, path: Path) -> Image:
        """Open a file as the window does, and choose it."""
        (data,) = [Layer.create(*each) for each in read_file(str(path)).layers][:1]
        self.viewer.add_layer(data)
        self.session.selection.set_image(data)
        return data

    def copy(self, what: Any, number: int = 0) -> str:
        before = len(self.texts)
        assert self.copying.copy(what, number) is not None
        assert len(self.texts) == before + 1, self.session.status.message.text
        return self.texts[-1]

    def python(self, number: int = 0) -> pd.DataFrame:
        self._patch.chdir(self.folder)
        table = run_python(self.copy("python", number))["table"]
        return table.drop(columns=[name for name in _OF_FILES if name in table])

    def command(self, number: int = 0) -> pd.DataFrame:
        out = self.folder / "results"
        shutil.rmtree(out, ignore_errors=True)
        run_command(self.copy("command", number), self.folder, self._patch)
        (written,) = out.glob("*.csv")
        table = pd.read_csv(written)
        return table.drop(columns=[name for name in _OF_FILES if name in table])

    def check(self, wanted: pd.DataFrame, number: int = 0) -> None:
        """Compare what both ways give with what the window has."""
        assert_same(self.python(number), wanted)
        assert_same(self.command(number), wanted, places=1e-5)


@pytest.fixture
def bench(
    session: Session, at_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    made = Bench(session, tmp_path, monkeypatch)
    made.exporting.attach()
    made.copying.attach()
    yield made
    made.copying.detach()
    made.exporting.detach()


@pytest.fixture
def smear(tmp_path: Path) -> Path:
    path = tmp_path / "my smear.ome.tif"
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    size |= {"PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, picture(), photometric="rgb", metadata={"axes": "YXS", **size})
    return path


def shown(session: Session) -> pd.DataFrame:
    results = session.cells.results
    assert results is not None
    return results.to_frame()


def test_there_is_nothing_to_copy_at_first(bench: Bench) -> None:
    assert bench.copying.copy("python") is None
    assert "Classify something first" in bench.session.status.message.text


def test_cells_that_were_found(bench: Bench, smear: Path) -> None:
    bench.open(smear)
    bench.session.cells.classify_all()
    bench.check(shown(bench.session))
    text = bench.copy("python")
    assert "pixel_size" not in text  # the file says it
    assert bench.session.selection.model.bundle.hash in text
    # As they were classified, whatever is chosen by now.
    bench.session.selection.set_cell_layer(None, "white-cells")
    assert "white-cells" not in bench.copy("python")


def test_what_the_user_has_said_of_image_and_cells(bench: Bench, smear: Path) -> None:
    image = bench.open(smear)
    names = bench.session.selection.model.bundle.card.class_names[:2]
    bench.session.selection.set_settings(image, pixel_size=0.4, origin="user", classes=names)
    bench.session.selection.set_cell_layer(None, "white-cells")
    bench.session.cells.classify_all()
    bench.check(shown(bench.session))
    for said in ("pixel_size=0.4", "white-cells", repr(names)):
        assert said in bench.copy("python")


@pytest.mark.parametrize("kind", ["labels", "points"])
def test_cells_that_a_layer_gives(bench: Bench, smear: Path, kind: str) -> None:
    image = bench.open(smear)
    if kind == "labels":
        add_labels(bench.session, bench.viewer)
    else:
        points = bench.viewer.add_points(
            CENTRES[::-1] + 0.123456789, size=17, scale=image.scale, units=image.units
        )
        bench.session.selection.set_cell_layer(points)
    bench.session.cells.classify_all()
    # A second time the cells are known already.
    bench.session.cells.classify_all()
    bench.check(shown(bench.session))
    assert "written just now" in bench.session.status.message.text
    suffix = {"labels": "tif", "points": "csv"}[kind]
    # Each copy has a file of its own, and replaces none.
    names = sorted(path.name for path in bench.folder.glob("*_cells*"))
    assert names == [f"my-smear.ome_cells-2.{suffix}", f"my-smear.ome_cells.{suffix}"] or names == [
        f"my-smear_cells-2.{suffix}", f"my-smear_cells.{suffix}",
    ]  # fmt: skip


@pytest.mark.parametrize("found", [True, False])
def test_a_cell_that_was_clicked(bench: Bench, smear: Path, found: bool) -> None:
    image = bench.open(smear)
    place = CENTRES[1] if found else CENTRES[1] + (1.5, 25.0)
    bench.session.cells.click(image.data_to_world(place), found=found)
    answer = bench.session.answer
    table = bench.python()
    assert len(table) == 1
    np.testing.assert_allclose(
        table[[f"p_{name}" for name in answer.class_names]].iloc[0].astype(float),
        answer.probabilities, atol=1e-6,
    )  # fmt: skip
    assert_same(bench.command(), table, places=1e-5)


def test_a_plane_of_a_stack(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    stack = np.stack([np.full_like(picture(), 220), picture()])
    tifffile.imwrite(path, stack, photometric="rgb", metadata={"axes": "TYXS"})
    image = bench.open(path)
    bench.session.selection.set_settings(image, pixel_size=0.5, origin="user")
    bench.viewer.dims.set_point(0, 1)
    bench.session.cells.classify_all()
    assert len(shown(bench.session)) == 4
    bench.check(shown(bench.session))


def test_a_channel_of_an_image(bench: Bench, tmp_path: Path) -> None:
    grey = save_bundle(small_bundle(channels=1), tmp_path / "grey.safetensors")
    bench.session.selection.set_model(Model(grey, "cpu", "CPU", ("cpu",)))
    path = tmp_path / "two.ome.tif"
    two = 255 - np.moveaxis(picture()[..., :2], -1, 0).astype(np.float32)
    tifffile.imwrite(path, two, metadata={"axes": "CYX"})
    image = bench.open(path)
    bench.session.selection.set_settings(image, pixel_size=0.5, origin="user", modality="phase")
    bench.viewer.dims.set_point(0, 1)
    bench.session.cells.classify_all()
    bench.check(shown(bench.session))
    assert "channel=1" in bench.copy("python")


def test_an_image_in_memory_is_to_be_saved_first(bench: Bench) -> None:
    image = bench.viewer.add_image(picture(), rgb=True, name="my / smear")
    bench.session.selection.set_image(image)
    bench.session.selection.set_settings(image, pixel_size=0.5, origin="user")
    bench.session.cells.classify_all()
    text = bench.copy("python")
    assert "# First: save the layer 'my / smear' as my---smear.tif" in text
    assert "Before you run it" in bench.session.status.message.text
    image.save(str(bench.folder / "my---smear.tif"))
    bench.check(shown(bench.session))


def test_pixels_that_are_not_those_of_the_file_are_to_be_saved(bench: Bench, smear: Path) -> None:
    image = bench.open(smear)
    image.data = image.data[::-1].copy()
    bench.session.cells.classify_all()
    text = bench.copy("python")
    assert "its pixels are not those of my smear.ome.tif" in text
    (name,) = {
        line.split(" as ")[1].split(" (")[0] for line in text.splitlines() if "First" in line
    }
    image.save(str(bench.folder / name))
    bench.check(shown(bench.session))


def test_a_field_as_a_whole(bench: Bench, smear: Path, tnet_model: Model) -> None:
    from napari_sparseattn.export.tables import crops_table

    bench.session.selection.set_model(tnet_model)
    bench.open(smear)
    bench.session.crops.ask("whole")
    bench.check(crops_table(bench.session.answer))


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "slide.tif"
    per_cm = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for i, level in enumerate(LEVELS):
            size = {k: (tuple(v / 2**i for v in n) if k == "resolution" else n)
                    for k, n in per_cm.items()}  # fmt: skip
            file.write(level, tile=(128, 128), photometric="rgb",
                       subfiletype=int(i > 0), **size)  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.parametrize("segments", [False, True])
def test_a_slide_and_its_regions(
    bench: Bench, slide: Path, segments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_features_in(monkeypatch, bench.folder / "cache")
    made = span_model(segments)
    saved = save_bundle(made.bundle, bench.folder / "span.safetensors")
    bench.session.selection.set_model(dataclasses.replace(made, bundle=saved))
    bench.open(slide)
    task = bench.session.slides
    task.ask("whole")
    bench.check(bench.session.answer.to_frame())
    if segments:
        task.set_foci(float(np.median(task.attention.patch_probabilities)), 1)
        names = run_python(bench.copy("python"))
        assert names["foci"].to_dict() == task.foci.to_dict()
    bench.session.selection.set_model(None)


@pytest.mark.slow
def test_tissue_that_was_drawn(bench: Bench, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_features_in(monkeypatch, bench.folder / "cache")
    made = span_model()
    saved = save_bundle(made.bundle, bench.folder / "span.safetensors")
    bench.session.selection.set_model(dataclasses.replace(made, bundle=saved))
    image = bench.open(slide)
    task = bench.session.slides
    task.find_tissue()
    outlines = task.maps.layer(image, "tissue")
    square = np.array([(200.0, 200), (200, 1300), (1200, 1300), (1200, 200)])
    outlines.data = [(square - 0.5, "polygon")]
    task.ask("whole")
    assert_same(bench.python(), bench.session.answer.to_frame())
    assert "take the Python lines" in bench.copy("command")
    bench.session.selection.set_model(None)


@pytest.mark.slow
def test_a_hologram_and_its_cells(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [hologram_with_truth((200, 220), n, OPTICS, n_cells=3)[0].frame(0) for n in (1, 2)]
    path = tmp_path / "holo.tif"
    tifffile.imwrite(path, np.stack(frames), metadata={"axes": "TYX"})
    source = bench.open(path)
    panel = Holograms.of(bench.viewer)
    panel.attach()
    panel.source.set_layer(source)
    panel.set_settings(
        HologramSettings(wavelength=633.0, pixel_size=0.2, profile="curved", filter_radius=0.3)
    )
    panel.work.reconstruct()
    layer = panel.result
    assert layer is not None
    bench.session.selection.set_image(layer)
    (thing,) = bench.copying.things()
    assert thing.title == "Reconstruction holo OPD"
    found = run_python(bench.copy("python"))["opd"]
    np.testing.assert_allclose(found, layer.data, rtol=1e-6, atol=1e-6)
    run_command(bench.copy("command"), tmp_path, monkeypatch)
    written = tifffile.imread(tmp_path / "results" / "holo.tif_opd.tif")
    np.testing.assert_allclose(written, layer.data, rtol=1e-6, atol=1e-6)
    assert "633 nm" in bench.copy("methods")

    opd = save_bundle(small_bundle(channels=1, modality="opd"), tmp_path / "opd.safetensors")
    bench.session.selection.set_model(Model(opd, "cpu", "CPU", ("cpu",)))
    bench.viewer.dims.set_point(0, 1)
    bench.session.cells.classify_all()
    wanted = shown(bench.session)
    assert_same(bench.python(), wanted)
    table = bench.command()
    table = table[table["frame"] == 1].drop(columns="frame").reset_index(drop=True)
    assert_same(table, wanted, places=1e-5)
    methods = bench.copy("methods")
    assert "became maps of optical path difference" in methods
    assert f"{len(wanted)} cells" in methods or "cell" in methods
    panel.detach()


def test_methods_of_cells_and_of_one(bench: Bench, smear: Path) -> None:
    image = bench.open(smear)
    bench.session.cells.classify_all()
    text = bench.copy("methods")
    assert text.startswith("4 cells of the image")
    assert bench.session.selection.model.bundle.hash[:16] in text
    bench.session.cells.click(image.data_to_world(CENTRES[0]))
    assert bench.copying.things()[0].title.startswith("Clicked cell")
    assert bench.copy("methods").startswith("1 cell of the image")


def test_a_model_that_is_in_no_file_cannot_be_given(bench: Bench, smear: Path) -> None:
    loose = dataclasses.replace(bench.session.selection.model.bundle, path=None)
    bench.session.selection.set_model(Model(loose, "cpu", "CPU", ("cpu",)))
    bench.open(smear)
    bench.session.cells.classify_all()
    bench.copying.copy("python")
    assert not bench.texts
    assert "in memory only" in bench.session.status.message.text


def test_the_button_lists_results_and_fills_the_clipboard(
    bench: Bench, smear: Path, qtbot: Any
) -> None:
    button = CopyButton(bench.session)
    qtbot.addWidget(button)
    assert button.isHidden()
    image = bench.open(smear)
    bench.session.cells.classify_all()
    bench.session.cells.click(image.data_to_world(CENTRES[0]))
    assert not button.isHidden()
    button.fill()
    texts = [action.text() for action in button.menu.actions()]
    assert len(texts) == 8
    assert [text.startswith("  As ") for text in texts] == ([False] + 3 * [True]) * 2
    button.menu.actions()[6].trigger()
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    assert "napari-sparseattn classify" in clipboard.text()
    assert open_field(smear).shape == label_image().shape
    button.release()
