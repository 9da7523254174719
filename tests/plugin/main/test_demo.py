"""The demo: the whole image first, then one cell; what is cleared is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_sparseattn.plugin.commands import demo
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.main import demo as demo_parts
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.widgets.flight import Flight

from ..conftest import CENTRES, add_picture, wait_until
from .test_window import Window


def in_view(viewer: Any) -> np.ndarray[Any, Any]:
    """Lower and upper corner of what the canvas shows of the world."""
    camera = viewer.scene.camera
    half = np.asarray(viewer.canvas.size) / 2 / camera.zoom
    middle = np.asarray(camera.center[-2:])
    return np.array([middle - half, middle + half])


@pytest.mark.slow
def test_the_demo_shows_the_whole_then_one_cell(
    make_napari_viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It waits, however slow the machine is, until the view of the whole was looked at.
    monkeypatch.setattr(demo_parts, "_LOOK_MS", 10_000_000)
    viewer = make_napari_viewer(show=True)
    demo(viewer)
    session = Session.of(viewer)
    wait_until(qtbot, lambda: session.cells.results is not None)
    whole = session.selection.image.extent.world
    wait_until(
        qtbot,
        lambda: bool(
            (in_view(viewer)[0] <= whole[0]).all() and (in_view(viewer)[1] >= whole[1]).all()
        ),
    )
    assert session.answer is None
    (dock,) = [w for w in viewer.window.dock_widgets.values() if hasattr(w, "start_box")]
    dock.findChild(QTimer, "demo").setInterval(0)
    wait_until(qtbot, lambda: session.answer is not None)
    frame = session.answer.evidence.frame
    place = np.asarray(session.selection.image.data_to_world((frame.row, frame.column)))
    wait_until(qtbot, lambda: np.allclose(viewer.scene.camera.center[-2:], place, atol=1.0))
    low, high = in_view(viewer)
    side = frame.side * session.selection.image.scale[-1]
    assert side < min(high - low) < 3 * side


def test_a_flight_goes_ever_closer_and_ends_at_its_goal(window: Window) -> None:
    add_picture(window.viewer)
    camera = window.viewer.scene.camera
    camera.center, camera.zoom = (0.0, 20.0, 40.0), 4.0
    flight = Flight(window.viewer, (30.0, 10.0), 60.0, 1000, window.dock)
    seen = []
    flight.start()
    flight.pause()
    for time in range(0, 1001, 100):
        flight.setCurrentTime(time)
        seen.append((camera.zoom, *camera.center[-2:]))
    zooms, rows, columns = zip(*seen, strict=True)
    assert list(zooms) == sorted(zooms)
    assert list(rows) == sorted(rows)
    assert list(columns) == sorted(columns, reverse=True)
    np.testing.assert_allclose(seen[-1], (60.0, 30.0, 10.0))


@pytest.mark.slow
def test_who_moves_the_camera_has_it(window: Window) -> None:
    add_picture(window.viewer)
    camera = window.viewer.scene.camera
    flight = Flight(window.viewer, (30, 30), 50.0, 60_000, window.dock)
    flight.start()
    window.until(lambda: flight.currentTime() > 100)
    camera.center = (0.0, 5.0, 5.0)
    window.until(lambda: flight.state() == Flight.State.Stopped)
    assert tuple(camera.center[-2:]) == (5.0, 5.0)


@pytest.mark.slow
def test_clear_takes_every_result_layer_and_leaves_the_image(window: Window) -> None:
    image = add_picture(window.viewer)
    session = window.session
    window.dock.actions_box.all.click()
    window.until(lambda: session.cells.results is not None)
    session.cells.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: session.answer is not None)
    window.dock.result_box.boxes["attention"].click()
    assert [layer for layer in window.viewer.layers if is_own(layer)]
    window.dock.clear.click()
    QApplication.processEvents()
    assert list(window.viewer.layers) == [image]
    assert session.answer is None
    assert session.cells.results is None
    assert window.dock.actions_box.all.property("next")
    session.cells.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: session.answer is not None)
