"""The real window: mouse, threads, docks that open and close."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.plugin.cells.counts_box import TABLE
from napari_sparseattn.plugin.core.docks import open_dock
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.layers import slide_layer
from small_model import knowing

from ..conftest import CENTRES, add_picture, wait_until


class Window:
    """One viewer with the dock open, and a mouse."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        before = set(canvases())
        self.viewer = viewer
        self.qtbot = qtbot
        self.dock: QWidget | None = None
        self.session = Session.of(viewer)
        self.canvas = next(iter(set(canvases()) - before), None)

    def open_dock(self) -> None:
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Sparse attention"
        )
        self.until(lambda: self.session.selection.model is not None)

    @property
    def table(self) -> Any:
        """What the dock "Table of cells" holds; opened if it is not."""
        return open_dock(self.viewer, TABLE).box

    def close_dock(self) -> None:
        self.viewer.window.remove_dock_widget(self.dock)
        self.dock = None

    def until(self, true: Callable[[], bool]) -> None:
        wait_until(self.qtbot, true)

    def point(self, world: tuple[float, ...]) -> QPoint:
        camera = self.viewer.scene.camera
        down, right = (np.asarray(world)[-2:] - camera.center[-2:]) * camera.zoom
        middle = self.canvas.rect().center()
        return QPoint(round(middle.x() + right), round(middle.y() + down))

    def click(self, world: tuple[float, ...]) -> None:
        self.drag(world, world)

    def drag(self, start: tuple[float, ...], end: tuple[float, ...]) -> None:
        a, b = self.point(start), self.point(end)
        none = Qt.KeyboardModifier.NoModifier
        QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, none, a)
        for step in range(1, 5):
            QTest.mouseMove(self.canvas, a + (b - a) * step / 4)
            QApplication.processEvents()
        QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, none, b)
        QApplication.processEvents()


def canvases() -> list[QWidget]:
    return [w for w in QApplication.allWidgets() if type(w).__name__ == "CanvasBackendDesktop"]


@pytest.fixture
def make_window(make_napari_viewer_proxy: Any, qtbot: Any) -> Iterator[Callable[[], Window]]:
    opened: list[Window] = []

    def make() -> Window:
        before = set(canvases())
        viewer = make_napari_viewer_proxy(show=True)
        window = Window(viewer, qtbot)
        (window.canvas,) = set(canvases()) - before
        opened.append(window)
        return window

    yield make
    for window in opened:
        window.canvas = window.dock = None


@pytest.fixture
def window(make_window: Callable[[], Window]) -> Window:
    window = make_window()
    window.open_dock()
    return window


@pytest.mark.slow
def test_a_second_click_takes_the_overlays_along(window: Window) -> None:
    """The layers are moved without the viewer being told: they must be drawn there all the same."""
    viewer, session = window.viewer, window.session
    image = add_picture(viewer)
    # Far apart: no frame reaches the other cell; the second is at the edge, where it is cut.
    first, second = CENTRES[0], CENTRES[3]
    window.click(image.data_to_world(first))
    window.until(lambda: session.answer is not None)
    frame = next(each for each in viewer.layers if each.name.endswith("clicked cell"))
    QTest.qWait(300)
    before, started = viewer.screenshot(flash=False).astype(int), session.answer
    corner_then = np.asarray(frame.data_to_world(frame.data[0]))
    window.click(image.data_to_world(second))
    window.until(lambda: session.answer is not started)
    QTest.qWait(300)
    after = viewer.screenshot(flash=False).astype(int)
    corner_now = np.asarray(frame.data_to_world(frame.data[0]))
    assert not np.allclose(corner_then, corner_now)
    scale = after.shape[1] / window.canvas.width()

    def changed(world: np.ndarray[Any, Any]) -> float:
        at = window.point(tuple(world))
        row, column = round(at.y() * scale), round(at.x() * scale)
        place = (slice(max(row - 6, 0), row + 7), slice(max(column - 6, 0), column + 7))
        return float(np.abs(after[place] - before[place])[..., :3].max())

    # The frame's corner has left the one place and come to the other.
    assert changed(corner_then) > 30
    assert changed(corner_now) > 30
    # What measures the layers finds them where they are drawn.
    low, high = viewer.layers.extent.world
    assert (low <= corner_now + 1e-6).all()
    assert (high >= corner_now - 1e-6).all()


def test_a_click_lights_up_the_cell(window: Window) -> None:
    image = add_picture(window.viewer)
    window.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: window.session.answer is not None)
    frame = window.session.answer.evidence.frame
    np.testing.assert_allclose((frame.row, frame.column), CENTRES[3], atol=2)
    names = {layer.name for layer in window.viewer.layers if is_own(layer)}
    assert names == {"[smear] selected pixels", "[smear] clicked cell"}
    bars = window.dock.result_box.bars.rows
    assert bars[0][0] == window.session.answer.label
    assert bars[0][1] == pytest.approx(window.session.answer.confidence)


@pytest.mark.slow
def test_the_badge_stands_on_flagged_answers_alone(window: Window) -> None:
    model = window.session.selection.model
    assert model is not None
    image = add_picture(window.viewer)
    for threshold, flagged in ((1e-3, True), (1e6, False)):
        bundle = knowing(model.bundle, threshold)
        window.session.selection.set_model(dataclasses.replace(model, bundle=bundle))
        window.session.press(image.data_to_world(CENTRES[3]))
        window.until(
            lambda flagged=flagged: (
                window.session.answer is not None and window.session.answer.flagged is flagged
            )
        )
        box = window.dock.result_box
        assert box.badge.isVisibleTo(box) is flagged
        if flagged:
            assert box.badge.text() == "Unlike the cells this model knows"
    window.session.selection.set_model(model)


@pytest.mark.slow
def test_a_drag_moves_the_view_and_classifies_nothing(window: Window) -> None:
    image = add_picture(window.viewer)
    asked: list[object] = []
    window.session.asked.connect(asked.append)
    window.drag(image.data_to_world(CENTRES[0]), image.data_to_world(CENTRES[2]))
    assert asked == []
    window.click(image.data_to_world(CENTRES[0]))
    assert len(asked) == 1
    window.until(lambda: window.session.answer is not None)


@pytest.mark.slow
def test_a_click_beside_the_cells_says_so(window: Window) -> None:
    image = add_picture(window.viewer)
    window.click(image.data_to_world((110, 100)))
    label = window.dock.message_line.label
    window.until(lambda: "No cell was found here" in label.text())


@pytest.mark.slow
def test_click_to_classify_can_be_turned_off(window: Window) -> None:
    image = add_picture(window.viewer)
    asked: list[object] = []
    window.session.asked.connect(asked.append)
    window.dock.actions_box.clicking.click()
    window.click(image.data_to_world(CENTRES[0]))
    assert asked == []


@pytest.mark.slow
def test_many_quick_clicks_answer_the_last(window: Window) -> None:
    image = add_picture(window.viewer)
    for cell in (0, 1, 2, 0, 3):
        window.session.cells.click(image.data_to_world(CENTRES[cell]))
    window.until(lambda: window.session.answer is not None)
    window.qtbot.wait(100)
    frame = window.session.answer.evidence.frame
    np.testing.assert_allclose((frame.row, frame.column), CENTRES[3], atol=2)


@pytest.mark.slow
def test_work_that_fails_is_a_message_and_the_next_click_is_answered(window: Window) -> None:
    image = add_picture(window.viewer)
    # Hidden: napari 0.9.2 with software OpenGL crashes when points that were
    # drawn are removed and other layers are added after, also without this plugin.
    theirs = window.viewer.add_points([(3000, 3000)], size=18, visible=False)
    window.session.selection.set_cell_layer(Session.of(window.viewer).selection.cell_layers()[0])
    window.session.cells.click((30, 30))
    window.until(lambda: window.session.status.message.level == "error")
    assert "outside of the image" in window.dock.message_line.label.text()
    window.viewer.layers.remove(theirs)
    window.session.cells.click(image.data_to_world(CENTRES[0]))
    window.until(lambda: window.session.answer is not None)


@pytest.mark.slow
def test_overlay_boxes_and_layer_list_agree(window: Window) -> None:
    image = add_picture(window.viewer)
    box = window.dock.result_box.boxes["pixels"]
    window.click(image.data_to_world(CENTRES[0]))
    window.until(lambda: window.session.answer is not None)
    box.click()
    window.session.cells.click(image.data_to_world(CENTRES[1]))
    window.qtbot.wait(200)
    pixels = window.viewer.layers["[smear] selected pixels"]
    assert not pixels.visible
    pixels.visible = True
    assert box.isChecked()
    window.dock.result_box.boxes["attention"].click()
    attention = window.viewer.layers["[smear] attention map"]
    assert attention.visible
    attention.visible = False
    assert not window.dock.result_box.boxes["attention"].isChecked()


@pytest.mark.slow
def test_two_windows_are_independent(make_window: Callable[[], Window]) -> None:
    first, second = make_window(), make_window()
    first.open_dock()
    second.open_dock()
    image = add_picture(first.viewer)
    add_picture(second.viewer)
    first.session.cells.click(image.data_to_world(CENTRES[0]))
    first.until(lambda: first.session.answer is not None)
    assert second.session.answer is None
    assert not any(is_own(layer) for layer in second.viewer.layers)
    second.dock.result_box.boxes["pixels"].click()
    assert first.session.selection.choice.pixels


@pytest.mark.slow
def test_reopening_the_dock_doubles_nothing(window: Window) -> None:
    image = add_picture(window.viewer)
    callbacks = len(window.viewer.mouse_drag_callbacks)
    window.close_dock()
    assert len(window.viewer.mouse_drag_callbacks) == callbacks - 1
    window.qtbot.wait(50)
    window.open_dock()
    assert len(window.viewer.mouse_drag_callbacks) == callbacks
    answers: list[object] = []
    window.session.answer_changed.connect(answers.append)
    window.click(image.data_to_world(CENTRES[0]))
    window.until(lambda: bool(answers))
    window.qtbot.wait(100)
    assert len(answers) == 1


def many_points(viewer: Any) -> Any:
    rng = np.random.default_rng(0)
    return viewer.add_points(
        rng.uniform((5, 5), (115, 175), (20_000, 2)), scale=(0.5, 0.5), size=18, visible=False
    )


def start_long_run(window: Window) -> Any:
    image = add_picture(window.viewer)
    window.session.selection.set_cell_layer(
        next(iter(window.session.selection.cell_layers()), None)
    )
    window.session.selection.set_cell_layer(many_points(window.viewer))
    progress: list[Any] = []
    window.session.status.progress_changed.connect(progress.append)
    window.dock.actions_box.all.click()
    window.until(lambda: any(p is not None and p.done for p in progress))
    window.session.status.progress_changed.disconnect(progress.append)
    return image


@pytest.mark.slow
def test_cancel_stops_a_run_and_keeps_its_cells(window: Window) -> None:
    start_long_run(window)
    window.dock.actions_box.cancel.click()
    assert not window.session.status.running
    model = window.table.model
    assert 0 < model.rowCount() < 20_000
    assert window.session.status.message.text.startswith(f"Cancelled: {model.rowCount()} of 20000")
    assert window.dock.actions_box.all.isVisible()


@pytest.mark.slow
def test_removing_the_image_during_a_run_stops_it(window: Window) -> None:
    image = start_long_run(window)
    window.viewer.layers.remove(image)
    assert not window.session.status.running
    assert "'smear' was removed" in window.dock.message_line.label.text()


@pytest.mark.slow
def test_closing_the_window_during_a_run_is_harmless(window: Window) -> None:
    start_long_run(window)
    window.viewer.close()
    window.qtbot.wait(200)
    assert not window.session.status.running


@pytest.mark.slow
def test_closing_the_dock_during_a_run_stops_it(window: Window) -> None:
    start_long_run(window)
    window.close_dock()
    window.qtbot.wait(100)
    assert not window.session.status.running


def test_a_broken_model_file_is_a_message_not_a_crash(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"PK\x03\x04 not a model")
    window.dock.model_box.load_file(str(path))
    window.until(lambda: window.session.status.message.level == "error")
    assert "pickle" in window.dock.message_line.label.text()
    assert window.session.selection.model is None


@pytest.mark.slow
def test_a_pixel_size_only_the_file_knows_is_found(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "smear.ome.tif"
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
    size |= {"PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm", "axes": "YX"}
    tifffile.imwrite(path, np.zeros((40, 50), dtype=np.uint8), metadata=size)
    window.viewer.open(str(path), plugin="napari")
    window.until(lambda: window.session.selection.settings.origin == "file")
    assert window.session.selection.settings.pixel_size == pytest.approx(0.25)
    assert window.dock.image_box.pixel_size.value() == pytest.approx(0.25)
    assert not window.dock.image_box.hint.isVisible()


@pytest.mark.slow
def test_the_dock_asks_for_an_unknown_pixel_size(window: Window) -> None:
    add_picture(window.viewer, scale=(1, 1), units=None)
    box = window.dock.image_box
    assert box.hint.isVisible()
    assert box.pixel_size.text() == "unknown"
    box.pixel_size.setValue(0.5)
    assert window.session.selection.settings.pixel_size == 0.5
    assert not box.hint.isVisible()


@pytest.mark.slow
def test_a_row_of_the_table_goes_to_its_cell(window: Window) -> None:
    image = add_picture(window.viewer)
    window.dock.actions_box.all.click()
    table = window.table
    window.until(lambda: table.model.rowCount() == 4)
    table.table.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    cell = table.model.cell(0)
    assert cell == 3
    rect = table.table.visualRect(table.model.index(0, 1))
    QTest.mouseClick(
        table.table.viewport(),
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
        rect.center(),
    )
    window.until(lambda: window.session.answer is not None)
    centre = window.session.cells.results.cells.centres[cell]
    np.testing.assert_allclose(
        window.viewer.scene.camera.center[-2:], image.data_to_world(centre), atol=1e-6
    )
    window.session.cells.click(image.data_to_world(window.session.cells.results.cells.centres[1]))
    window.until(lambda: table.table.currentIndex().row() == table.model.row(1))


def test_a_field_its_crops_and_the_dial(window: Window, tnet_model: Model) -> None:
    add_picture(window.viewer)
    dock, session = window.dock, window.session
    assert not dock.actions_box.field.isVisible()
    assert not dock.locations_box.isVisible()
    session.selection.set_model(tnet_model)
    dock.actions_box.field.click()
    window.until(lambda: session.answer is not None)
    model = dock.traversal_box.model
    assert model.rowCount() == len(session.crops.traversal)
    assert "crops of 16" in dock.result_box.facts.text()
    table = dock.traversal_box.table
    rect = table.visualRect(dock.traversal_box.sorted.index(2, 0))
    none = Qt.KeyboardModifier.NoModifier
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, none, rect.center())
    assert session.crops.crop == 2
    assert "Crop 3" in dock.traversal_box.facts.text()
    before = session.answer
    for value in (3, 4, 5):
        dock.locations_box.sliders[0].setValue(value)
    window.until(lambda: session.answer is not before)
    assert session.crops.locations == (5, 1)
    assert len(session.crops.trials) == 2
    assert "not measured" in dock.locations_box.measured.text()


@pytest.mark.slow
def test_the_dial_says_what_its_settings_were_worth(window: Window, tnet_model: Model) -> None:
    rows = [{"locations": [2, 1], "accuracy": 0.925, "n": 1598}]
    card = tnet_model.bundle.card.model_copy(update={"metrics": {"by_locations": rows}})
    bundle = dataclasses.replace(tnet_model.bundle, card=card)
    box = window.dock.locations_box
    window.session.selection.set_model(dataclasses.replace(tnet_model, bundle=bundle))
    box.sliders[0].setValue(2)
    assert box.measured.text() == "92.5 % correct on 1598 held-out images."
    box.sliders[0].setValue(3)
    assert "not measured" in box.measured.text()


def slow_slide(viewer: Any) -> Any:
    """A slide of which a tile of the full resolution takes a tenth of a second."""

    def render(level: int, y: int, x: int, height: int, width: int) -> Any:
        if level == 0:
            time.sleep(0.1)
        return np.full((height, width, 3), 200, np.uint8)

    pyramid = VirtualPyramid(render, 20_000, 20_000, pixel_size=0.25, name="slow", cache_bytes=0)
    data, attributes, _ = slide_layer(pyramid)
    return viewer.add_image(data, **attributes)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "close dock", "close window"])
def test_a_field_can_be_stopped(window: Window, tnet_model: Model, how: str) -> None:
    slow_slide(window.viewer)
    session = window.session
    session.selection.set_model(tnet_model)
    session.crops.set_locations((9, 1))
    progress: list[Any] = []
    session.status.progress_changed.connect(progress.append)
    window.dock.actions_box.field.click()
    window.until(lambda: any(p is not None and p.done for p in progress))
    session.status.progress_changed.disconnect(progress.append)
    if how == "cancel":
        assert window.dock.actions_box.cancel.isVisible()
        window.dock.actions_box.cancel.click()
        assert window.dock.actions_box.field.isVisible()
    elif how == "close dock":
        window.close_dock()
    else:
        window.viewer.close()
    window.qtbot.wait(300)
    assert not session.status.running
    assert session.answer is None
