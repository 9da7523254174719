"""The map of cells: points that are clicked and drawn around; without napari's window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtTest import QTest

from napari_sparseattn.plugin.population import map_box
from napari_sparseattn.plugin.population.map_box import MapBox
from napari_sparseattn.plugin.population.map_view import MapView, draw_points, inside_polygon
from napari_sparseattn.plugin.population.session import Population

NONE, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def box(population: Population, qtbot: Any) -> Iterator[MapBox]:
    made = MapBox(population)
    qtbot.addWidget(made)
    made.resize(600, 500)
    made.show()
    # Well apart, wherever random weights put them.
    places = np.array([(0, 0), (10, 0), (0, 10), (10, 10)], np.float32)
    made.view.set_places(places, "", ("", ""))
    yield made
    made.release()


def at(view: MapView, row: int) -> QPoint:
    return QPointF(*view.points()[row]).toPoint()


def lasso(view: MapView, corners: list[QPoint], modifiers: Any = NONE) -> None:
    QTest.mousePress(view, LEFT, modifiers, corners[0])
    for corner in corners[1:]:
        QTest.mouseMove(view, corner)
    QTest.mouseRelease(view, LEFT, modifiers, corners[-1])


def around(view: MapView, rows: tuple[int, ...]) -> list[QPoint]:
    """A box drawn around the points of rows."""
    points = view.points()[list(rows)]
    (left, top), (right, bottom) = points.min(0) - 8, points.max(0) + 8
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return [QPointF(*corner).toPoint() for corner in corners]


def test_the_map_is_made_when_it_is_seen(population: Population, qtbot: Any) -> None:
    made = MapBox(population)
    qtbot.addWidget(made)
    assert population.maps.found is None
    made.show()
    assert population.maps.found is not None
    assert made.view.places is population.maps.found.places
    assert made.view.axes[0].endswith("% of the spread")
    assert not made.waiting.isVisible()
    assert sum(int(part.split("</span>")[-1].replace("&nbsp;", ""))
               for part in made.legend.text().split(" &nbsp; ")) == 4  # fmt: skip
    made.release()


def test_a_click_on_a_point_goes_to_its_cell(box: MapBox, population: Population) -> None:
    shown = population.shown
    QTest.mouseClick(box.view, LEFT, NONE, at(box.view, 2))
    assert shown.picked.tolist() == [2]
    assert population.session.cells.selected == shown.results.cells.ids[2]
    QTest.mouseClick(box.view, LEFT, SHIFT, at(box.view, 1))
    assert shown.picked.tolist() == [1, 2]
    middle = QPoint(box.view.width() // 2, box.view.height() // 2)
    QTest.mouseClick(box.view, LEFT, NONE, middle)
    assert not len(shown.picked)


def test_a_lasso_picks_filters_and_annotates(box: MapBox, population: Population) -> None:
    shown, view = population.shown, box.view
    assert not box.only.isEnabled()
    lasso(view, around(view, (0, 1)))
    assert shown.picked.tolist() == [0, 1]
    lasso(view, around(view, (3,)), SHIFT)
    assert shown.picked.tolist() == [0, 1, 3]
    box.only.click()
    assert shown.rows.tolist() == [0, 1, 3]
    # What is not shown cannot be picked.
    lasso(view, around(view, (0, 1, 2, 3)))
    assert shown.picked.tolist() == [0, 1, 3]
    box.menu.aboutToShow.emit()
    names = population.annotating.classes.names
    box.menu.actions()[1].trigger()
    assert shown.annotated == dict.fromkeys((0, 1, 3), names[1])
    QTest.keyClick(view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not shown.annotated
    box.all.click()
    assert len(shown) == 4


def test_the_view_zooms_about_the_mouse_and_back(box: MapBox) -> None:
    view = box.view
    before = view.points()
    view.zoom(3.0, QPointF(*before[1]))
    np.testing.assert_allclose(view.points()[1], before[1], atol=1e-6)
    apart = np.linalg.norm(view.points()[0] - view.points()[1])
    assert apart == pytest.approx(3 * np.linalg.norm(before[0] - before[1]))
    QTest.mouseDClick(view, LEFT)
    np.testing.assert_allclose(view.points(), before)


def test_arrow_keys_go_to_the_next_point_that_way(box: MapBox, population: Population) -> None:
    shown, view = population.shown, box.view
    shown.pick((0,))
    walked = []
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Left, Qt.Key.Key_Down):
        QTest.keyClick(view, key)
        walked.append(shown.current)
    assert walked == [1, 3, 2, 0]
    QTest.keyClick(view, Qt.Key.Key_Escape)
    assert not len(shown.picked)


def test_without_umap_it_is_greyed_and_says_how(
    population: Population, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (False, True):
        monkeypatch.setattr(map_box, "umap_is_installed", lambda there=there: there)
        made = MapBox(population)
        qtbot.addWidget(made)
        assert made.method.model().item(1).isEnabled() is there
        tip = made.method.itemData(1, Qt.ItemDataRole.ToolTipRole)
        assert ("pip install" in tip) is not there
        made.release()


def test_the_last_disc_lies_on_top() -> None:
    points = np.array([(20.0, 10), (22, 10), (np.nan, 3), (-50, 4)])
    red, blue = (255, 0, 0, 255), (0, 0, 255, 255)
    drawn = draw_points(points, np.array([red, blue, red, red], np.uint8), (20, 40), 3)
    assert drawn[10, 18].tolist() == list(red)
    assert drawn[10, 21].tolist() == list(blue)
    rows, columns = np.indices((20, 40))
    covered = np.minimum(np.hypot(rows - 10, columns - 20), np.hypot(rows - 10, columns - 22)) <= 3
    np.testing.assert_array_equal(drawn[..., 3] > 0, covered)
    faint = draw_points(points[:1], np.array([(200, 100, 0, 51)], np.uint8), (20, 40), 1)
    assert faint[10, 20].tolist() == [40, 20, 0, 51]


def test_what_lies_in_a_polygon() -> None:
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(0)
    points, corners = rng.uniform(0, 10, (2000, 2)), rng.uniform(0, 10, (9, 2))
    star = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]
    inside = shapely.contains_xy(shapely.Polygon(star), *points.T)
    np.testing.assert_array_equal(inside_polygon(points, star), inside)


def test_cells_are_picked_by_class_without_a_lasso(box: MapBox) -> None:
    box.pick_menu.aboutToShow.emit()
    actions = {each.text(): each for each in box.pick_menu.actions() if each.text()}
    results = box.shown.results
    assert results is not None
    for name, number in results.counts().items():
        found = [each for words, each in actions.items() if words == f"{name} ({number})"]
        assert len(found) == (1 if number else 0)
        if number:
            found[0].trigger()
            wanted = np.flatnonzero(results.class_index == results.class_names.index(name))
            np.testing.assert_array_equal(box.shown.picked, wanted)
    actions["All that are shown (4)"].trigger()
    assert box.shown.picked.tolist() == [0, 1, 2, 3]
    box.pick_menu.aboutToShow.emit()
    next(each for each in box.pick_menu.actions() if each.text() == "None").trigger()
    assert len(box.shown.picked) == 0


def test_only_what_is_shown_is_picked(box: MapBox) -> None:
    box.shown.set_filter(among=frozenset({1, 2}))
    QTest.keyClick(box.view, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    assert box.shown.picked.tolist() == [1, 2]
    assert "2 cells are picked" in box.view.accessibleDescription()


def test_shift_and_arrows_pick_more(box: MapBox) -> None:
    box.shown.pick((0,), 0)
    QTest.keyClick(box.view, Qt.Key.Key_Right, SHIFT)
    assert box.shown.picked.tolist() == [0, 1]
    assert box.shown.current == 1
    QTest.keyClick(box.view, Qt.Key.Key_Up, SHIFT)
    assert box.shown.picked.tolist() == [0, 1, 3]
