"""ExportSession what is shown: which results, formats, files; without a window and in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from qtpy.QtWidgets import QFileDialog
from superqt import QCollapsible

from napari_sparseattn.export.formats import FORMATS
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.export.box import ExportBox, ExportButton
from napari_sparseattn.plugin.export.session import ExportSession, ModelExport
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, add_labels, add_picture
from ..held import Held
from ..made_slides import add_slide, keep_features_in
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


@pytest.fixture
def exporting(session: Session, viewer: ViewerModel, at_once: None) -> Iterator[ExportSession]:
    """An export whose work is done at once."""
    made = ExportSession.of(viewer)
    made.attach()
    yield made
    made.detach()


def choose(exporting: ExportSession, *formats: str) -> None:
    for name in FORMATS:
        exporting.choose(name, name in formats)


def test_there_is_nothing_to_export_at_first(exporting: ExportSession, session: Session) -> None:
    assert exporting.exportables() == []
    assert exporting.export() is None
    add_picture(session.viewer)
    assert exporting.exportables() == []


def test_cells_are_written_as_they_are_shown(
    exporting: ExportSession, session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_picture(viewer)
    add_labels(session, viewer)
    session.cells.classify_all()
    (result,) = exporting.exportables()
    assert result.title == "4 cells of smear"
    refused = {"dicom-annotations", "dicom-maps"}
    assert {each.name for each in exporting.formats(result)} == set(FORMATS) - refused
    exporting.set_folder(tmp_path)
    choose(exporting, "csv", "geojson", "ome-zarr")
    exporting.export()
    assert [path.name for path in exporting.written] == [
        "smear.csv", "smear.csv-metadata.json", "smear.geojson", "smear_maps.ome.zarr",
    ]  # fmt: skip
    assert "4 files written to" in session.status.message.text
    results = session.cells.results
    assert results is not None
    table = pd.read_csv(tmp_path / "smear.csv")
    assert table["class"].tolist() == results.labels
    np.testing.assert_allclose(table["confidence"], results.confidence, atol=1e-5)
    np.testing.assert_allclose(table[["row", "column"]], CENTRES, atol=0.01)
    # The run keeps no evidence; for the maps the cells were looked at again.
    assert not results.evidence
    location = parse_url(tmp_path / "smear_maps.ome.zarr")
    node = next(iter(Reader(location)()))
    selected = np.asarray(node.data[0])[
        node.metadata["channel_names"].index("selected pixels (x uniform)")
    ]
    assert np.isfinite(selected).sum() > 4 * 38
    said = json.loads((tmp_path / "smear.geojson").read_text())["napari-sparseattn"]
    assert (said["image"], said["pixel_size_um"]) == ("smear", 0.5)


def test_files_of_the_last_image_are_not_named_beside_the_next(
    exporting: ExportSession, session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_picture(viewer)
    session.cells.classify_all()
    exporting.set_folder(tmp_path)
    choose(exporting, "csv")
    exporting.export()
    assert exporting.written
    add_picture(viewer, name="other")
    assert exporting.exportables() == []
    assert exporting.written == ()


def test_nothing_in_the_folder_is_replaced(
    exporting: ExportSession, session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_picture(viewer)
    session.cells.classify_all()
    exporting.set_folder(tmp_path)
    (tmp_path / "smear.html").write_text("mine")
    choose(exporting, "csv")
    for _ in range(2):
        exporting.export()
    assert (tmp_path / "smear.html").read_text() == "mine"
    names = {path.name for path in tmp_path.glob("*.csv")}
    assert names == {"smear-2.csv", "smear-3.csv"}


def test_results_of_another_model_keep_their_card(
    exporting: ExportSession,
    session: Session,
    viewer: ViewerModel,
    tnet_model: Model,
    tmp_path: Path,
) -> None:
    add_picture(viewer)
    session.cells.classify_all()
    first = session.selection.model
    assert first is not None
    session.selection.set_model(tnet_model)
    assert exporting.exportables() == []  # nothing is known of the model that gave them
    session.models.cards = {first.bundle.card.name: first.bundle.card}
    (result,) = exporting.exportables()
    assert result.card is first.bundle.card
    exporting.set_folder(tmp_path)
    choose(exporting, "html")
    exporting.export()
    assert first.bundle.hash in (tmp_path / "smear.html").read_text()


def test_a_field_comes_before_its_cells(
    exporting: ExportSession,
    session: Session,
    viewer: ViewerModel,
    tnet_model: Model,
    tmp_path: Path,
) -> None:
    add_picture(viewer)
    session.selection.set_model(tnet_model)
    session.cells.classify_all()
    session.task.ask("whole")
    assert [each.title for each in exporting.exportables()] == ["Field smear", "4 cells of smear"]
    exporting.set_folder(tmp_path)
    choose(exporting, "csv", "coco", "overlay")
    assert exporting.ticked(exporting.exportables()[0]) == ("csv", "overlay")
    exporting.export(0)
    crops = pd.read_csv(tmp_path / "smear.csv")
    assert session.crops.traversal is not None
    assert len(crops) == len(session.crops.traversal)


def test_a_slide_with_its_features(
    exporting: ExportSession, session: Session, viewer: ViewerModel, span: Model, kept: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    keep_features_in(monkeypatch, kept)
    add_slide(viewer)
    session.selection.set_model(span)
    session.slides.classify()
    (result,) = exporting.exportables()
    assert result.title == "Slide s"
    exporting.set_folder(tmp_path)
    choose(exporting, "anndata", "geojson", "html")
    exporting.export()
    assert session.slides.attention is not None
    table = anndata.read_h5ad(tmp_path / "s.h5ad")
    assert table.n_obs == len(session.slides.attention)
    features = session.answer.features.read()  # type: ignore[union-attr]
    np.testing.assert_array_equal(table.X, features)


def test_failures_and_stops_are_said_and_leave_no_half(
    exporting: ExportSession, session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_picture(viewer)
    session.cells.classify_all()
    choose(exporting)
    assert exporting.export() is None
    assert session.status.message.text == "Tick at least one format to export."
    choose(exporting, "csv")
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    exporting.set_folder(blocked)
    exporting.export()
    assert session.status.message.level == "error"
    assert session.status.message.text.startswith("Not everything was written: ")
    assert not exporting.running
    exporting.set_folder(tmp_path / "new")
    held = Lanes.of(viewer).runner = Held()
    exporting.export()
    assert exporting.running
    exporting.cancel()
    held.go()
    assert not list((tmp_path / "new").iterdir())
    exporting.export()
    held.work()
    exporting.cancel()  # too late: it is written
    held.go()
    assert exporting.written == ()


def test_missing_packages_are_named(
    session: Session, viewer: ViewerModel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_sparseattn.export import formats

    find = formats.importlib.util.find_spec
    lacking = {"anndata", "spatialdata"}
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda x: None if x in lacking else find(x)
    )
    add_picture(viewer)
    session.cells.classify_all()
    box = ExportBox(ExportSession.of(viewer))
    qtbot.addWidget(box)
    assert not box.boxes["anndata"].isEnabled()
    assert box.boxes["csv"].isEnabled()
    # A line per extra.
    assert box.missing.text().splitlines() == [
        'For AnnData, type in a terminal: pip install "napari-sparseattn[exports]"',
        'For SpatialData, type in a terminal: pip install "napari-sparseattn[spatialdata]"',
    ]
    # Of an image that is no DICOM slide, nothing is offered that needs one.
    assert not {name for name in box.boxes if name.startswith("dicom")}
    box.release()


def test_the_window_writes_what_is_ticked(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box: ExportBox = window.dock.export_box
    fold = next(x for x in window.dock.findChildren(QCollapsible) if x.text() == "Export")
    assert not fold.isExpanded()
    fold.expand(animate=False)
    add_picture(window.viewer)
    assert box.empty.isVisible()
    assert not box.body.isVisible()
    window.dock.actions_box.all.click()
    window.until(box.body.isVisible)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    box.choose.click()
    assert box.folder.text() == str(tmp_path / "out")
    for name, tick in box.boxes.items():
        tick.setChecked(name in ("csv", "html", "anndata"))
    box.export.click()
    assert box.cancel.isVisible()
    window.until(lambda: not box.exporting.running)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"smear.csv", "smear.csv-metadata.json", "smear.h5ad", "smear.html"}
    assert "Open the folder" in box.written.text()
    window.until(box.export.isVisible)
    assert anndata.read_h5ad(tmp_path / "out" / "smear.h5ad").n_obs == len(
        window.session.cells.results
    )
    for untick in box.boxes.values():
        untick.setChecked(False)
    assert not box.export.isEnabled()


@pytest.mark.slow
def test_closing_the_dock_stops_the_work(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_picture(window.viewer)
    window.dock.actions_box.all.click()
    exporting: ExportSession = window.dock.export_box.exporting
    window.until(lambda: bool(exporting.exportables()))
    exporting.set_folder(tmp_path)
    request = exporting.export()
    assert request is not None
    window.close_dock()
    assert request.stop.is_set()
    assert not exporting.running
    window.open_dock()
    assert window.dock.export_box.body.isVisibleTo(window.dock.export_box)


def test_a_model_is_exported_one_at_a_time(
    session: Session, viewer: ViewerModel, held: Held, qtbot: Any, tmp_path: Path
) -> None:
    button, export = ExportButton(session), ModelExport.of(viewer)
    qtbot.addWidget(button)
    bundle = session.selection.model.bundle
    export.export(bundle, tmp_path / "first.safetensors", "safetensors")
    assert not button.button.isEnabled()
    export.export(bundle, tmp_path / "second.safetensors", "safetensors")
    assert session.status.message.text == "A model is being exported; wait until it is written."
    held.go()
    assert button.button.isEnabled()
    assert [path.name for path in tmp_path.iterdir()] == ["first.safetensors"]
    # The reason is the true one.
    export.export(bundle, tmp_path / "third.zip", "safetensors")
    held.go()
    assert session.status.message.text.startswith(
        "third.zip was not written: Files of safetensors copy"
    )
    assert not export.running
    button.release()
