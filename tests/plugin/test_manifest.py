"""What the manifest promises is there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as imageio
import numpy as np
import pooch
import pytest
import requests
from npe2 import PluginManifest
from npe2.manifest.utils import import_python_name
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QMenu

import napari_sparseattn
from bad_slides import write_svs
from napari_sparseattn.plugin.main.dock import SparseAttentionDock
from napari_sparseattn.plugin.session import Session

from .conftest import add_picture, wait_until

MANIFEST = PluginManifest.from_file(Path(napari_sparseattn.__file__).with_name("napari.yaml"))


@pytest.mark.parametrize("command", MANIFEST.contributions.commands, ids=lambda c: c.id)
def test_commands_can_be_called(command: Any) -> None:
    assert command.id.startswith("napari-sparseattn.")
    assert callable(import_python_name(command.python_name))


def test_it_claims_no_files_that_napari_reads() -> None:
    recordings, slides, annotations, addresses = MANIFEST.contributions.readers
    assert set(recordings.filename_patterns) == {"*.rtdc", "*.h5", "*.hdf5"}
    # A second reader of .tif would make napari ask for every TIFF.
    assert not {"*.tif", "*.tiff", "*.ome.tif", "*.png"} & set(slides.filename_patterns)
    assert {"*.svs", "*.ndpi", "*.mrxs", "*.scn"} <= set(slides.filename_patterns)
    assert set(annotations.filename_patterns) == {"*.geojson", "*.geojson.gz"}
    assert not recordings.accepts_directories
    assert not slides.accepts_directories
    # Those of other machines only, which napari reads whole or not at all.
    assert all(pattern.startswith("[hs]*://*.") for pattern in addresses.filename_patterns)


def test_napari_opens_a_slide_as_lazy_levels(make_napari_viewer: Any, tmp_path: Path) -> None:
    path = write_svs(tmp_path / "slide.svs", pixel_size="0.25")
    viewer = make_napari_viewer()
    (layer,) = viewer.open(str(path), plugin="napari-sparseattn")
    assert layer.multiscale
    assert [level.shape for level in layer.data] == [(1024, 1024, 3), (512, 512, 3), (256, 256, 3)]
    np.testing.assert_allclose(layer.scale, 0.25)


def actions(menu: QMenu) -> list[QAction]:
    found: list[QAction] = []
    for action in menu.actions():
        found += actions(action.menu()) if action.menu() else [action]
    return found


def choose(viewer: Any, menu: str, wanted: str) -> None:
    """Choose an entry of napari's menu bar."""
    bar = viewer.window._qt_window.menuBar()
    menus = [action.menu() for action in bar.actions() if action.menu()]
    (found,) = [one for one in menus if one.title().replace("&", "") == menu]
    (action,) = [a for a in actions(found) if a.text().startswith(wanted)]
    action.trigger()


@pytest.mark.slow
def test_the_menu_opens_the_dock_and_classifies_the_active_image(
    make_napari_viewer: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    add_picture(viewer)
    choose(viewer, "Layers", "Classify all cells of this image")
    session = Session.of(viewer)
    wait_until(qtbot, lambda: session.cells.results is not None)
    assert len(session.cells.results) == 4


def test_a_sample_opens_and_can_be_classified(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample("napari-sparseattn", "phase-cell")
    (layer,) = viewer.layers
    session = Session.of(viewer)
    session.attach()
    assert session.selection.image is layer
    assert session.selection.settings.modality == "phase"
    assert session.selection.settings.pixel_size == pytest.approx(0.107)
    session.detach()


@pytest.mark.slow
def test_a_sample_that_cannot_be_fetched_is_one_line(
    make_napari_viewer: Any,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its lookup of the name fails at once; napari would wait on the main thread for it."""
    asked_in: list[threading.Thread] = []

    def offline(*_: object, **__: object) -> None:
        asked_in.append(threading.current_thread())
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.delenv("NAPARI_SPARSEATTN_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", offline)
    viewer = make_napari_viewer(show=True)
    status = Session.of(viewer).status
    choose(viewer, "File", "Fetch a stained blood smear")
    wait_until(qtbot, lambda: status.message.level == "error" and not status.running)
    assert asked_in[0] is not threading.main_thread()
    assert "could not be fetched" in status.message.text
    assert "\n" not in status.message.text
    assert not list(viewer.layers)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_fetching_a_sample_shows_how_far_it_is_and_can_be_cancelled(
    make_napari_viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go_on = threading.Semaphore(1)

    def slow(url: str, **_: object) -> str:
        assert go_on.acquire(timeout=600)
        path = tmp_path / url.rpartition("/")[2]
        imageio.imwrite(path, np.full((480, 640, 3), 200, np.uint8))
        return str(path)

    monkeypatch.delenv("NAPARI_SPARSEATTN_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", slow)
    viewer = make_napari_viewer(show=True)
    session = Session.of(viewer)
    choose(viewer, "File", "Fetch a stained blood smear")
    (dock,) = [x for x in viewer.window.dock_widgets.values() if isinstance(x, SparseAttentionDock)]
    bar, cancel = dock.actions_box.bar, dock.actions_box.cancel
    wait_until(qtbot, lambda: bar.value() == 1)
    assert bar.text() == "1 of 4 fields fetched"
    # The model that is loaded meanwhile does not end it.
    wait_until(qtbot, lambda: session.selection.model is not None)
    QTest.mouseClick(cancel, Qt.MouseButton.LeftButton)
    assert not session.status.running
    assert "was not fetched" in session.status.message.text
    go_on.release(8)
    choose(viewer, "File", "Fetch a stained blood smear")
    wait_until(qtbot, lambda: bool(list(viewer.layers)))
    assert viewer.layers[0].name == "blood smear"
    assert not session.status.running
    assert session.selection.settings.pixel_size == pytest.approx(0.073)


def test_napari_opens_hdf5_with_the_reader(make_napari_viewer: Any, tmp_path: Path) -> None:
    path = tmp_path / "cell.rtdc.h5"
    with h5py.File(path, "w") as file:
        file["phase/raw"] = np.full((20, 30), 0.5, np.float32)
        file["amplitude/raw"] = np.ones((20, 30), np.float32)
    viewer = make_napari_viewer()
    (layer,) = viewer.open(str(path), plugin="napari-sparseattn")
    assert layer.data.shape == (20, 30)
    session = Session.of(viewer)
    session.attach()
    assert session.selection.settings.modality == "phase"
    session.detach()
