"""The docks of all cells in the real window: opened, placed, linked, closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QMainWindow

from napari_sparseattn.plugin.cells.counts_box import GALLERY, MAP, TABLE
from napari_sparseattn.plugin.core.docks import dock_of, is_open, open_dock
from napari_sparseattn.plugin.widgets.places import was_closed

from ..conftest import CENTRES, add_labels, add_picture
from ..main.test_window import Window, canvases


@pytest.fixture
def window(
    make_napari_viewer_proxy: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Window]:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))
    before = set(canvases())
    made = Window(make_napari_viewer_proxy(show=True), qtbot)
    (made.canvas,) = set(canvases()) - before
    made.open_dock()
    add_picture(made.viewer)
    add_labels(made.session, made.viewer)
    made.session.cells.classify_all()
    made.until(lambda: made.session.cells.results is not None)
    yield made
    made.canvas = made.dock = None


@pytest.mark.slow
def test_the_docks_open_below_the_image_and_follow_each_other(window: Window) -> None:
    viewer, session = window.viewer, window.session
    shown, results = session.cells.shown, session.cells.results
    # By itself, as cells were classified.
    assert is_open(viewer, TABLE)
    table = open_dock(viewer, TABLE)
    dock = dock_of(table)
    assert dock is not None
    main = dock.parent()
    assert isinstance(main, QMainWindow)
    bottom = Qt.DockWidgetArea.BottomDockWidgetArea
    window.until(lambda: main.dockWidgetArea(dock) == bottom)
    window.dock.counts_box.buttons[GALLERY].click()
    gallery = open_dock(viewer, GALLERY)
    window.dock.counts_box.buttons[MAP].click()
    cell_map = open_dock(viewer, MAP)
    window.until(lambda: dock in main.tabifiedDockWidgets(dock_of(cell_map)))
    window.until(lambda: cell_map.box.view.places is not None)
    # A click on a point of the map: image, answer, table and gallery go there.
    view = cell_map.box.view
    x, y = view.points()[3]
    QTest.mouseClick(view, Qt.MouseButton.LeftButton, pos=QPoint(round(x), round(y)))
    picked = shown.current
    assert picked is not None
    window.until(lambda: session.cells.selected == results.cells.ids[picked])
    dock.raise_()
    window.until(table.isVisible)
    assert table.box.model.cell(table.box.table.currentIndex().row()) == picked
    dock_of(gallery).raise_()
    window.until(gallery.isVisible)
    assert np.flatnonzero(gallery.box.wall._picked).tolist() == [picked]
    # A click in the image goes the other way.
    image = session.selection.image
    other = (picked + 1) % 4
    window.click(image.data_to_world(CENTRES[other]))
    window.until(lambda: shown.current == other)
    assert np.flatnonzero(gallery.box.wall._picked).tolist() == [other]
    # What the gallery gives is in the table; the pictures have come meanwhile.
    population = gallery.population
    window.until(lambda: all(population.picture(row) is not None for row in range(4)))
    window.until(lambda: population.annotating.files.chosen is not None)
    new = next(n for n in population.annotating.classes.names if n != population.group_of(other))
    gallery.box.wall.dropped.emit([other], new)
    assert shown.annotated == {other: new}
    dock.raise_()
    window.until(table.isVisible)
    titles = [table.box.model.headerData(i, Qt.Orientation.Horizontal)
              for i in range(table.box.model.columnCount())]  # fmt: skip
    assert titles[-1] == "annotated"


def test_a_table_that_was_closed_does_not_open_by_itself(window: Window) -> None:
    viewer, session = window.viewer, window.session
    table = open_dock(viewer, TABLE)
    window.until(lambda: dock_of(table) is not None and table.isVisible())
    viewer.window.remove_dock_widget(table)
    assert was_closed(TABLE)
    session.cells.classify_all()
    window.until(lambda: not session.status.running)
    assert not is_open(viewer, TABLE)
    window.dock.counts_box.buttons[TABLE].click()
    assert is_open(viewer, TABLE)
    window.until(lambda: not was_closed(TABLE))
