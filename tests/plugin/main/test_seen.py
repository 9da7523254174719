"""What is on screen is what is classified: real mouse and keys in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QScrollArea

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.plugin.core import models
from napari_sparseattn.plugin.core.docks import open_dock
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.main.dock import SparseAttentionDock
from small_model import small_bundle

from ..conftest import CENTRES, add_picture
from .test_window import Window, canvases


def add(window: Window, **attributes: Any) -> Any:
    """Add the picture; the layer itself, not napari's proxy of it."""
    return add_picture(window.session.viewer, **attributes)


def classify_all(window: Window) -> None:
    window.dock.actions_box.all.click()
    window.until(lambda: not window.session.status.running)


def click_cell(window: Window, image: Any, cell: int) -> Any:
    before = window.session.answer
    window.click(image.data_to_world(CENTRES[cell]))

    def answered() -> bool:
        return window.session.answer is not None and window.session.answer is not before

    window.until(answered)
    return window.session.answer


@pytest.mark.slow
def test_however_it_is_opened_there_is_one_dock(window: Window) -> None:
    def docks() -> list[Any]:
        found = window.viewer.window.dock_widgets
        return [found[name] for name in found if isinstance(found[name], SparseAttentionDock)]

    assert open_dock(window.viewer, "Sparse attention") == window.dock
    assert len(docks()) == 1
    # As napari's menu names it.
    again = SparseAttentionDock(window.session.viewer)
    window.viewer.window.add_dock_widget(again, name="Sparse attention (Sparse attention)")
    window.until(lambda: docks() == [again])
    window.dock = again
    image = add(window)
    answers: list[object] = []
    window.session.answer_changed.connect(answers.append)
    answers.clear()
    click_cell(window, image, 0)
    window.qtbot.wait(50)
    assert len([answer for answer in answers if answer is not None]) == 1


@pytest.mark.slow
def test_the_topmost_image_under_the_mouse_is_asked_about(window: Window) -> None:
    below = add(window, name="below")
    above = add(window, name="above", translate=(0, 45))
    window.viewer.fit_to_view()
    window.session.choose_image(below)
    # Where both lie, the one above was hidden for the chosen one to be seen.
    assert not above.visible
    above.visible = True
    click_cell(window, above, 2)
    assert window.session.selection.image is above
    click_cell(window, below, 0)
    assert window.session.selection.image is below
    assert window.dock.image_box.image.currentText() == "below"


@pytest.mark.slow
def test_in_the_grid_it_is_that_of_the_cell_of_the_grid(window: Window) -> None:
    viewer = window.session.viewer
    images = [add(window, name=name) for name in ("first", "second")]
    viewer.canvas.grid.enabled = True
    viewer.fit_to_view()
    window.qtbot.wait(200)
    rows, columns = viewer.canvas.grid.actual_shape(list(viewer.layers))
    for number, image in enumerate(images):
        row, column = viewer.canvas.grid.position(number, list(viewer.layers))
        at = QPoint(
            round((column + 0.5) * window.canvas.width() / columns),
            round((row + 0.5) * window.canvas.height() / rows),
        )
        QTest.mouseMove(window.canvas, at)
        QTest.mouseClick(window.canvas, Qt.MouseButton.LeftButton, pos=at)
        window.until(lambda image=image: window.session.selection.image is image)


@pytest.mark.slow
def test_choosing_an_image_brings_it_into_view(window: Window) -> None:
    add(window, name="near")
    far = add(window, name="far", translate=(0, 4000))
    box = window.dock.image_box.image
    far.visible = False
    window.viewer.scene.camera.center = (0, 20, 30)
    window.viewer.scene.camera.zoom = 4
    box.setCurrentIndex(box.findText("far"))
    box.activated.emit(box.currentIndex())
    assert window.session.selection.image is far
    assert far.visible
    assert window.viewer.scene.camera.center[-1] == pytest.approx(4045, abs=1)
    box.setCurrentIndex(box.findText("near"))
    box.activated.emit(box.currentIndex())
    assert window.viewer.scene.camera.center[-1] == pytest.approx(45, abs=1)


@pytest.mark.slow
def test_a_result_belongs_to_its_settings(window: Window) -> None:
    image = add(window)
    classify_all(window)
    click_cell(window, image, 1)
    window.dock.image_box.pixel_size.setValue(0.3)
    assert window.session.cells.results is None
    assert window.session.answer is None
    assert not window.table.table.isVisible()
    assert not [layer for layer in window.session.viewer.layers if is_own(layer) and layer.visible]
    assert "classify it again" in window.dock.message_line.label.text()


@pytest.mark.slow
def test_a_click_that_is_refused_leaves_no_overlay(window: Window) -> None:
    image = add(window)
    click_cell(window, image, 1)
    shown = window.session.overlays.layer(image, "frame")
    assert shown.visible
    window.click(image.data_to_world((110, 100)))
    window.until(lambda: window.session.answer is None)
    assert not shown.visible
    click_cell(window, image, 2)
    assert window.session.overlays.layer(image, "frame") is shown
    assert shown.visible


def test_the_selection_is_a_cell_by_mouse_keys_and_sorting(window: Window) -> None:
    image = add(window)
    classify_all(window)
    session, box = window.session, window.table
    click_cell(window, image, 2)
    window.until(lambda: session.cells.selected is not None)
    picked = session.cells.selected
    ids = session.cells.results.cells.ids

    def shown() -> int:
        return int(ids[box.model.cell(box.table.currentIndex().row())])

    def ringed() -> list[int]:
        layer = session.overlays.layer(image, "cells")
        return [int(ids[i]) for i in layer.selected_data]

    assert shown() == picked
    box.table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    box.table.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    assert shown() == picked
    assert ringed() == [picked]
    row = box.table.currentIndex().row()
    box.table.setFocus()
    QTest.keyClick(box.table, Qt.Key.Key_Up if row else Qt.Key.Key_Down)
    assert shown() != picked
    window.until(lambda: session.cells.selected == shown())
    assert ringed() == [shown()]
    centre = session.cells.results.cells.centres[ids.tolist().index(shown())]
    np.testing.assert_allclose(
        window.viewer.scene.camera.center[-2:], image.data_to_world(centre), atol=1e-6
    )


@pytest.mark.slow
def test_arrows_and_enter_go_to_the_cell_of_the_row(window: Window) -> None:
    image = add(window)
    classify_all(window)
    session, box = window.session, window.table
    results = session.cells.results.cells
    ids = results.ids.tolist()
    box.table.setFocus()
    box.table.sortByColumn(3, Qt.SortOrder.AscendingOrder)

    def there(row: int) -> None:
        """Table, image and answer are all of the row's cell."""
        cell = box.model.cell(row)
        assert box.table.currentIndex().row() == row
        window.until(lambda: session.cells.selected == ids[cell])
        assert session.overlays.layer(image, "cells").selected_data == {cell}
        centre = results.centres[cell]
        np.testing.assert_allclose(
            window.viewer.scene.camera.center[-2:], image.data_to_world(centre), atol=1e-6
        )

        def answered() -> bool:
            frame = None if session.answer is None else session.answer.evidence.frame
            return frame is not None and np.allclose((frame.row, frame.column), centre)

        window.until(answered)

    for row, key in ((0, Qt.Key.Key_Down), (1, Qt.Key.Key_Down), (2, Qt.Key.Key_Down)):
        QTest.keyClick(box.table, key)
        there(row)
    QTest.keyClick(box.table, Qt.Key.Key_Up)
    there(1)
    # From elsewhere, and with the image hidden, Enter goes to the same cell again.
    window.viewer.scene.camera.center = (0, 0, 0)
    image.visible = False
    QTest.keyClick(box.table, Qt.Key.Key_Return)
    there(1)
    assert image.visible


@pytest.mark.slow
def test_a_run_that_finds_no_cells_leaves_no_table(window: Window) -> None:
    image = add(window)
    classify_all(window)
    assert window.table.table.isVisible()
    image.data = np.full_like(image.data, 220)
    classify_all(window)
    assert "No cells were found" in window.dock.message_line.label.text()
    assert window.session.cells.results is None
    assert not window.table.table.isVisible()
    assert not window.table.export.isVisible()
    assert not window.session.overlays.layer(image, "cells").visible


@pytest.mark.slow
def test_overlays_go_where_their_image_is_put(window: Window) -> None:
    image = add(window)
    classify_all(window)
    click_cell(window, image, 1)
    rings, frame = (window.session.overlays.layer(image, x) for x in ("cells", "frame"))
    before = [image.world_to_data(x.data_to_world(x.data[0])) for x in (rings, frame)]
    image.translate = (40, -30)
    after = [image.world_to_data(x.data_to_world(x.data[0])) for x in (rings, frame)]
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
def test_the_model_chosen_last_is_chosen_again_after_a_restart(
    make_napari_viewer_proxy: Any,
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("small", "small-tuned")}
    for name, path in paths.items():
        save_bundle(small_bundle(name=name), path)
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path))
    monkeypatch.setattr(models, "find_bundles", lambda: paths)

    def open_window() -> Window:
        before = set(canvases())
        made = Window(make_napari_viewer_proxy(show=True), qtbot)
        (made.canvas,) = set(canvases()) - before
        made.open_dock()
        return made

    def name_of(window: Window) -> str:
        model = window.session.selection.model
        return "" if model is None else model.bundle.card.name

    first = open_window()
    assert name_of(first) == "small"
    box = first.dock.model_box.models
    box.setFocus()
    QTest.keyClick(box, Qt.Key.Key_Down)
    first.until(lambda: name_of(first) == "small-tuned")
    first.viewer.close()
    first.canvas = first.dock = None
    second = open_window()
    assert name_of(second) == "small-tuned"
    assert second.dock.model_box.models.currentText() == "small-tuned"
    image = add(second)
    assert click_cell(second, image, 0) is not None
    assert name_of(second) == "small-tuned"
    second.canvas = second.dock = None


@pytest.mark.slow
def test_removing_an_image_removes_what_belongs_to_it(window: Window) -> None:
    image = add(window)
    other = add(window, name="other")
    for one in (image, other):
        window.session.choose_image(one)
        classify_all(window)
        click_cell(window, one, 0)
    window.session.overlays.layer(other, "cells").visible = False
    assert window.session.overlays.layer(image, "cells").visible
    window.viewer.layers.remove(other)
    assert not [
        layer.name for layer in window.session.viewer.layers if layer.name.startswith("[other]")
    ]
    again = add(window, name="other")
    window.session.choose_image(again)
    assert window.session.cells.results is None
    assert window.session.answer is None


@pytest.mark.parametrize("crops", [False, True], ids=["pixels", "crops"])
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_taking_all_layers_away_and_going_on_is_survived(
    window: Window, tnet_model: Model, rounds: int, crops: bool
) -> None:
    """On Mesa's OpenGL napari died of it within three rounds."""
    if crops:
        window.session.selection.model_is_chosen = True
        window.session.selection.set_model(tnet_model)
    for number in range(rounds):
        image = add(window, name=f"image {number}")
        classify_all(window)
        click_cell(window, image, number % 4)
        window.qtbot.wait(60)
        window.viewer.layers.clear()
        window.qtbot.wait(60)
    assert not list(window.viewer.layers)


@pytest.mark.slow
def test_no_name_makes_the_dock_wider(window: Window) -> None:
    image = add(window, name="x" * 200)
    window.session.status.notify("y" * 300, "warning")
    classify_all(window)
    click_cell(window, image, 0)
    for section in window.dock.sections.values():
        section.expand(animate=False)
    window.qtbot.wait(50)
    scroll = window.dock.findChild(QScrollArea)
    assert scroll.widget().minimumSizeHint().width() <= scroll.viewport().width()
    assert scroll.widget().width() <= scroll.viewport().width()
