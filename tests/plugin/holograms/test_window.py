"""The dock Holograms in the real window: threads, mouse, docks that open and close."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_sparseattn.bundle import read_card, save_bundle
from napari_sparseattn.card import CropSpec, Training
from napari_sparseattn.export.opd import write_opd
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.plugin.commands import reconstruct_layer
from napari_sparseattn.plugin.core import models
from napari_sparseattn.plugin.core.docks import open_holograms
from napari_sparseattn.plugin.holograms.dock import HologramDock
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session
from small_model import small_bundle

from ..conftest import wait_until
from ..made_holograms import OPTICS, add_recording, simulated


class Panel:
    """One viewer with the dock open."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer = viewer
        self.qtbot = qtbot
        self.holograms = Holograms.of(viewer)
        self.previews: list[Any] = []
        self.dock: HologramDock | None = None
        self.open_dock()

    def open_dock(self) -> None:
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Holograms")

    def close_dock(self) -> None:
        self.viewer.window.remove_dock_widget(self.dock)
        self.dock = None

    def until(self, true: Callable[[], bool]) -> None:
        wait_until(self.qtbot, true)

    def until_previewed(self) -> None:
        def current() -> bool:
            answer = self.holograms.previews.shown
            return (
                answer is not None
                and answer.request.generation == self.holograms.previews.generation
            )

        self.until(current)

    def add_hologram(self, **known: Any) -> Any:
        recording, _, _ = simulated()
        return add_recording(self.viewer, dataclasses.replace(recording, **known))


@pytest.fixture
def panel(make_napari_viewer_proxy: Any, qtbot: Any) -> Iterator[Panel]:
    panel = Panel(make_napari_viewer_proxy(show=True), qtbot)
    yield panel
    panel.dock = None


@pytest.fixture
def opd_model(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second model to choose from: for OPD, and simulated."""
    path = tmp_path / "opd-simulated.safetensors"
    card = {
        "name": "opd-simulated",
        "modality": "opd",
        "unit": "nm",
        "crop": CropSpec(size=16, field_of_view_um=12.0),
        "training": Training(data="none: random weights", simulated=True),
    }
    save_bundle(small_bundle(1, **card), path)
    found = {"small": model_file, "opd-simulated": path}
    monkeypatch.setattr(models, "find_bundles", lambda: found)
    return path


def test_from_hologram_to_a_classified_cell(panel: Panel, opd_model: Path) -> None:
    viewer = panel.viewer
    _, main = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    panel.until(lambda: session.selection.model is not None)
    assert session.selection.model.bundle.card.modality == "brightfield"
    panel.add_hologram()
    assert "Reconstruct it first" in main.message_line.label.text()
    main.image_box.reconstruct.click()
    panel.until_previewed()
    panel.dock.actions_box.reconstruct.click()
    panel.until(lambda: panel.holograms.result is not None and not panel.holograms.work.running)
    layer = panel.holograms.result
    assert session.selection.image is layer
    assert session.selection.settings.modality == "opd"
    # The model was not the user's choice, so one that fits takes its place.
    panel.until(
        lambda: (
            session.selection.model is not None
            and session.selection.model.bundle.card.modality == "opd"
        )
    )
    panel.dock.actions_box.classify.click()
    panel.until(main.model_box.simulated.isVisible)
    _, _, cells = simulated()
    session.cells.click(layer.data_to_world(cells.centres[0]))
    panel.until(lambda: session.answer is not None)
    frame = session.answer.evidence.frame
    np.testing.assert_allclose((frame.row, frame.column), cells.centres[0], atol=2)
    assert session.answer.scale_known


@pytest.mark.slow
def test_a_model_that_the_user_chose_stays(panel: Panel, opd_model: Path) -> None:
    viewer = panel.viewer
    _, main = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    panel.until(lambda: session.selection.model is not None)
    small = main.model_box.models.findText("small")
    main.model_box.models.setCurrentIndex(small)
    main.model_box.models.activated.emit(small)
    panel.until(lambda: session.selection.model is not None)
    viewer.add_image(np.zeros((40, 50)), name="map")
    session.selection.set_settings(session.selection.image, modality="opd")
    assert session.selection.model is not None
    assert session.selection.model.bundle.card.name == "small"
    assert "Choose opd-simulated under Model" in main.message_line.label.text()
    assert read_card(opd_model).training.simulated


@pytest.mark.slow
def test_what_nobody_knows_is_asked_for(panel: Panel) -> None:
    panel.add_hologram(wavelength=None, pixel_size=None)
    box, preview = panel.dock.source_box, panel.dock.preview_box
    assert box.wavelength.text() == "unknown"
    assert box.pixel_size.text() == "unknown"
    assert "Give the wavelength" in box.hint.text()
    panel.until_previewed()
    assert preview.shown == "phase"
    assert not preview.tabs["opd"].isEnabled()
    box.wavelength.setValue(OPTICS.wavelength)
    box.pixel_size.setValue(OPTICS.pixel_size)
    panel.until_previewed()
    assert preview.shown == "opd"
    assert preview.bar.unit == "nm"
    assert not box.hint.isVisible()
    _, truth, _ = simulated()
    low, high = preview.bar.limits
    assert abs(low) < 30
    assert high == pytest.approx(np.percentile(truth, 99.9), rel=0.1)


@pytest.mark.slow
def test_many_changes_make_few_previews(panel: Panel) -> None:
    panel.add_hologram()
    panel.until_previewed()
    shown: list[object] = []
    panel.holograms.previews.changed.connect(shown.append)
    for radius in np.linspace(0.2, 0.4, 40):
        panel.dock.preview_box.radius.setValue(radius)
    panel.until_previewed()
    assert len(shown) == 1
    assert shown[0].settled.filter_radius == pytest.approx(0.4)
    panel.holograms.previews.changed.disconnect(shown.append)


@pytest.mark.slow
def test_the_sideband_is_moved_with_the_mouse_and_found_again(panel: Panel) -> None:
    panel.add_hologram()
    panel.until_previewed()
    found = panel.holograms.previews.shown.settled.sideband
    box = panel.dock.preview_box
    box.tabs["spectrum"].click()
    assert box.disk.isVisible()
    side = box.picture.shape[0]
    # The mirror image: the other sign.
    row, column = (side // 2 + 0.5 - part * side for part in found)
    at = box.picture.mapFromScene(column, row)
    QTest.mouseClick(box.picture.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(at))
    given = panel.holograms.settings.sideband
    np.testing.assert_allclose(given, [-part for part in found], atol=2 / side)
    assert box.state.text() == "set by hand"
    panel.until_previewed()
    assert np.median(panel.holograms.previews.shown.retrieved.opd) == pytest.approx(0, abs=20)
    assert panel.holograms.previews.shown.retrieved.opd.min() < -100
    box.find.click()
    panel.until_previewed()
    assert panel.holograms.previews.shown.retrieved.opd.max() > 100
    assert box.state.text() == "found"


@pytest.mark.slow
def test_tab_comes_to_the_picture_that_is_shown(panel: Panel) -> None:
    panel.add_hologram()
    panel.until_previewed()
    tabs = panel.dock.preview_box.tabs
    for chosen in ("opd", "spectrum"):
        tabs[chosen].click()
        reached = [n for n, b in tabs.items() if b.focusPolicy() & Qt.FocusPolicy.TabFocus]
        assert reached == [chosen]


def test_a_picture_without_fringes_is_not_said_to_have_a_sideband(panel: Panel) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 100)).astype(np.uint8)
    panel.viewer.add_image(noise)
    panel.until_previewed()
    assert panel.dock.preview_box.state.text() == "not found"
    assert "No fringes" in panel.dock.message_line.label.text()


@pytest.mark.slow
def test_the_dock_fits_in_its_width(panel: Panel) -> None:
    panel.add_hologram()
    panel.until_previewed()
    dock = panel.dock
    boxes = (dock.source_box, dock.preview_box, dock.options_box, dock.actions_box)
    assert max(box.minimumSizeHint().width() for box in boxes) <= dock.minimumWidth() - 12


@pytest.mark.slow
def test_a_file_opens_lazily_and_a_broken_one_is_a_message(panel: Panel, tmp_path: Path) -> None:
    recording, _, _ = simulated()
    stack, broken = tmp_path / "stack.tif", tmp_path / "broken.h5"
    tifffile.imwrite(stack, np.stack([recording.frame(0)] * 5), photometric="minisblack")
    broken.write_bytes(b"\x89HDF\r\n\x1a\n broken")
    panel.holograms.open_file(stack)
    panel.until(lambda: len(panel.viewer.layers) == 1)
    assert not isinstance(panel.viewer.layers[0].data, np.ndarray)
    assert panel.dock.source_box.layers.currentText() == "stack"
    panel.holograms.open_file(broken)
    panel.until(lambda: panel.holograms.status.message.level == "error")
    assert "broken.h5" in panel.dock.message_line.label.text()


@pytest.mark.slow
def test_behind_another_dock_no_previews_are_made(panel: Panel) -> None:
    panel.add_hologram()
    panel.until_previewed()
    panel.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    panel.until(lambda: panel.dock.visibleRegion().isEmpty())
    panel.until(lambda: Session.of(panel.viewer).selection.model is not None)
    panel.holograms.change_settings(flip=True)
    panel.qtbot.wait(400)
    assert not panel.holograms.previews.shown.request.settings.flip
    open_holograms(panel.viewer)
    panel.until_previewed()
    assert panel.holograms.previews.shown.request.settings.flip


@pytest.mark.slow
def test_the_menu_command_reconstructs_the_active_layer(panel: Panel) -> None:
    panel.add_hologram()
    reconstruct_layer(panel.viewer)
    panel.until(lambda: panel.holograms.result is not None)
    panel.viewer.add_image(np.zeros((20, 30, 3), np.uint8), rgb=True, name="smear")
    reconstruct_layer(panel.viewer)
    assert "'smear' is no hologram" in panel.holograms.status.message.text


@pytest.mark.slow
def test_our_own_opd_file_is_opd_again(panel: Panel, tmp_path: Path) -> None:
    _, truth, _ = simulated()
    path = tmp_path / "cells_opd.ome.tif"
    write_opd(Field(np.asarray(truth, np.float32), "YX", 0.2, "opd", "nm"), path)
    panel.viewer.open(str(path), plugin="napari")
    panel.until(lambda: panel.holograms.source.kind == "opd")
    assert panel.holograms.source.scale.pixel_size == pytest.approx(0.2)
    panel.until_previewed()
    assert panel.dock.preview_box.shown == "opd"


def start_long_work(panel: Panel) -> None:
    recording, _, _ = simulated()
    frames = np.broadcast_to(recording.frame(0), (3000, 120, 140))
    panel.viewer.add_image(frames, name="long", contrast_limits=(0, 255))
    told: list[Any] = []
    panel.holograms.work.progress_changed.connect(told.append)
    panel.dock.actions_box.reconstruct.click()
    panel.until(lambda: any(one is not None and one.done for one in told))
    panel.holograms.work.progress_changed.disconnect(told.append)


@pytest.mark.slow
def test_cancel_stops_the_work(panel: Panel) -> None:
    start_long_work(panel)
    panel.dock.actions_box.cancel.click()
    assert not panel.holograms.work.running
    assert panel.holograms.result is None
    assert panel.dock.message_line.label.text() == "Cancelled."
    assert panel.dock.actions_box.folder.isVisible()


@pytest.mark.slow
def test_closing_the_dock_stops_the_work_and_reopening_doubles_nothing(panel: Panel) -> None:
    start_long_work(panel)
    panel.close_dock()
    panel.qtbot.wait(50)
    assert not panel.holograms.work.running
    panel.open_dock()
    shown: list[object] = []
    panel.holograms.previews.changed.connect(shown.append)
    panel.holograms.change_settings(flip=True)
    panel.until_previewed()
    panel.qtbot.wait(100)
    assert len(shown) == 1
    panel.holograms.previews.changed.disconnect(shown.append)


@pytest.mark.slow
def test_closing_the_window_during_work_is_harmless(panel: Panel) -> None:
    start_long_work(panel)
    panel.viewer.close()
    panel.qtbot.wait(200)
    assert not panel.holograms.work.running


@pytest.mark.slow
def test_both_docks_share_one_place(panel: Panel) -> None:
    _, main = panel.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    window = main.window()
    mine = dock_of(panel.dock)
    panel.until(lambda: dock_of(main) in window.tabifiedDockWidgets(mine))
    panel.until(lambda: Session.of(panel.viewer).selection.model is not None)


def dock_of(widget: QWidget) -> QWidget:
    while type(widget.parent()).__name__ != type(widget.window()).__name__:
        widget = widget.parent()
    return widget
