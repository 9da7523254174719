"""The gallery: pictures by class, picked, dragged, looked into; without napari's window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_sparseattn.plugin.population.gallery_box import GalleryBox
from napari_sparseattn.plugin.population.layout import Spot
from napari_sparseattn.plugin.population.session import Population
from napari_sparseattn.plugin.population.wall import Wall, mime_of, rows_of

NONE = Qt.KeyboardModifier.NoModifier
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def box(population: Population, qtbot: Any) -> Iterator[GalleryBox]:
    made = GalleryBox(population)
    qtbot.addWidget(made)
    made.resize(900, 500)
    made.show()
    yield made
    made.release()


def place_of(wall: Wall, row: int) -> QPoint:
    """The middle of a cell's picture on the viewport."""
    spot = wall.spot_of(row)
    assert spot is not None
    x, y = wall.layout_.corner(spot)
    return QPoint(x + 40, y + 40 - wall.verticalScrollBar().value())


def click(wall: Wall, row: int, modifiers: Any = NONE) -> None:
    wall.show_row(row)
    at = place_of(wall, row)
    QTest.mouseClick(wall.viewport(), Qt.MouseButton.LeftButton, modifiers, at)


def drop(target: QWidget, at: QPoint, rows: list[int]) -> tuple[bool, bool]:
    """Drag rows over a widget and drop them; return whether each was taken."""
    data, move = mime_of(rows), Qt.DropAction.MoveAction
    left = Qt.MouseButton.LeftButton
    target.dragEnterEvent(QDragEnterEvent(at, move, data, left, NONE))
    moved = QDragMoveEvent(at, move, data, left, NONE)
    target.dragMoveEvent(moved)
    dropped = QDropEvent(QPointF(at), move, data, left, NONE)
    dropped.ignore()
    target.dropEvent(dropped)
    return moved.isAccepted(), dropped.isAccepted()


def test_all_cells_are_there_by_class_with_their_pictures(
    box: GalleryBox, population: Population
) -> None:
    wall = box.wall
    assert sorted(np.concatenate(list(wall.groups.values())).tolist()) == [0, 1, 2, 3]
    assert all(population.picture(row) is not None for row in range(4))
    listed = [box.targets.item(i).text() for i in range(box.targets.count())]
    assert len(listed) == 3
    assert [text.split()[0] for text in listed] == ["1", "2", "3"]
    assert sum(int(text.split()[-1]) for text in listed) == 4
    for row in range(4):
        assert wall.row_at(place_of(wall, row)) == row


def test_the_order_within_a_class_is_the_chosen_one(
    box: GalleryBox, population: Population
) -> None:
    words = [box.sorting.itemText(i) for i in range(box.sorting.count())]
    assert words[:3] == ["by number", "least sure first", "most sure first"]
    assert "most faithful first" not in words  # where that is not measured
    box.sorting.setCurrentIndex(2)
    box.sorting.activated.emit(2)
    assert population.shown.sorting == ("confidence", True)
    for rows in box.wall.groups.values():
        assert (np.diff(population.shown.results.confidence[rows]) <= 0).all()
    population.shown.sort("size")
    assert box.sorting.currentText() == "as in the table: size, µm"


def test_clicks_pick_and_go_to_the_cell(box: GalleryBox, population: Population) -> None:
    wall, shown = box.wall, population.shown
    click(wall, 2)
    assert shown.picked.tolist() == [2]
    assert population.session.cells.selected == shown.results.cells.ids[2]
    click(wall, 0, CONTROL)
    assert shown.picked.tolist() == [0, 2]
    click(wall, 0, CONTROL)
    assert shown.picked.tolist() == [2]
    order = wall._order().tolist()
    click(wall, order[0])
    click(wall, order[-1], SHIFT)
    assert sorted(shown.picked.tolist()) == [0, 1, 2, 3]
    # And what is picked elsewhere is marked here.
    shown.pick((1,))
    assert np.flatnonzero(wall._picked).tolist() == [1]


def test_keys_walk_through_all(box: GalleryBox, population: Population) -> None:
    wall, shown = box.wall, population.shown
    order = wall._order().tolist()
    wall.setFocus()
    QTest.keyClick(wall, Qt.Key.Key_Home)
    walked = [shown.current]
    for _ in range(3):
        QTest.keyClick(wall, Qt.Key.Key_Right)
        walked.append(shown.current)
    assert walked == order
    QTest.keyClick(wall, Qt.Key.Key_Left, SHIFT)
    assert sorted(shown.picked.tolist()) == sorted(order[2:])
    assert population.session.cells.selected == shown.results.cells.ids[order[3]]
    QTest.keyClick(wall, Qt.Key.Key_A, CONTROL)
    spot = wall.spot_of(shown.current)
    assert shown.picked.tolist() == sorted(wall._rows(spot.section).tolist())


def test_a_drop_on_a_class_annotates(box: GalleryBox, population: Population) -> None:
    wall, shown = box.wall, population.shown
    names = population.annotating.classes.names
    new = next(name for name in names if name != population.group_of(0))
    item = next(i for i in range(3) if box.targets.item(i).data(Qt.ItemDataRole.UserRole) == new)
    at = box.targets.visualItemRect(box.targets.item(item)).center()
    assert drop(box.targets, at, [0, 2]) == (True, True)
    assert shown.annotated == {0: new, 2: new}
    assert {0, 2} <= set(wall.groups[new].tolist())
    # On the wall it is the section, wherever in it.
    other = next(name for name in wall.groups if name != new) if len(wall.groups) > 1 else None
    if other is not None:
        row = int(wall.groups[other][0])
        wall.show_row(row)
        assert drop(wall, place_of(wall, row), [2]) == (True, True)
        assert shown.annotated[2] == other
        QTest.keyClick(wall, Qt.Key.Key_Z, CONTROL)
    QTest.keyClick(wall, Qt.Key.Key_Z, CONTROL)
    assert not shown.annotated
    assert rows_of(mime_of([3, 1])) == [3, 1]


def test_class_keys_and_the_menu_annotate_what_is_picked(
    box: GalleryBox, population: Population
) -> None:
    shown, names = population.shown, population.annotating.classes.names
    shown.pick((1, 3))
    QTest.keyClick(box.wall, Qt.Key.Key_2)
    assert shown.annotated == {1: names[1], 3: names[1]}
    box._show_menu(QPoint(0, 0))
    texts = [action.text() for action in box.menu.actions() if action.text()]
    assert texts[0] == "Go to this cell"
    assert "Remove 2 annotations" in texts
    next(a for a in box.menu.actions() if a.text().endswith("(3)")).trigger()
    assert shown.annotated == {1: names[2], 3: names[2]}
    next(a for a in box.menu.actions() if a.text().startswith("Remove")).trigger()
    box.menu.close()
    assert not shown.annotated


def test_hovering_shows_what_was_looked_at(box: GalleryBox, population: Population) -> None:
    wall = box.wall
    wall.setFocus()
    QTest.keyClick(wall, Qt.Key.Key_Home)
    QTest.keyClick(wall, Qt.Key.Key_Space)
    assert wall.popup.isVisible()
    assert population.evidence(population.shown.current) is not None
    assert wall.popup.why == "bright: what the model looked at"
    assert wall.popup.words.startswith("Cell ")
    QTest.keyClick(wall, Qt.Key.Key_End)
    assert not wall.popup.isVisible()


def test_a_folded_class_has_no_pictures(box: GalleryBox) -> None:
    wall = box.wall
    name = next(iter(wall.groups))
    n = len(wall.groups[name])
    tall = wall.layout_.height
    QTest.mouseClick(wall.viewport(), Qt.MouseButton.LeftButton, NONE, QPoint(40, 8))
    assert wall.folded == {name}
    assert wall.layout_.counts[0] == 0
    assert wall.layout_.height < tall
    assert len(wall._order()) == 4 - n
    assert wall._spot_at(QPoint(40, 8)) == Spot(0, -1)
    QTest.mouseClick(wall.viewport(), Qt.MouseButton.LeftButton, NONE, QPoint(40, 8))
    assert not wall.folded


def test_only_what_is_near_the_view_is_asked_for(
    box: GalleryBox, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(population, "ask_pictures", lambda rows: asked.append(list(rows)))
    wall = box.wall
    # There are no such cells to draw.
    wall.viewport().setUpdatesEnabled(False)
    wall.set_groups({"a": np.arange(10_000, dtype=np.intp)})
    wall.verticalScrollBar().setValue(wall.layout_.height // 2)
    rows = asked[-1]
    assert 0 < len(rows) < 300
    assert set(range(min(rows), max(rows) + 1)) == set(rows)
    # What is seen comes first.
    top = wall.row_at(QPoint(10, 60))
    assert rows[0] <= top < rows[0] + 2 * wall.layout_.across


def test_a_class_is_folded_by_a_key_and_opened_again(box: GalleryBox) -> None:
    wall = box.wall
    wall.shown.pick((0,), 0)
    name = next(each for each, rows in wall.groups.items() if 0 in rows)
    others = [each for each in wall.groups if each != name]
    QTest.keyClick(wall, Qt.Key.Key_Minus)
    assert wall.folded == {name}
    assert wall.spot_of(0) is None
    if others:
        assert wall.shown.current in wall.groups[others[0]]
    QTest.keyClick(wall, Qt.Key.Key_Plus)
    assert not wall.folded


def test_enter_goes_to_a_class(box: GalleryBox) -> None:
    items = [box.targets.item(i) for i in range(box.targets.count())]
    name = next(iter(box.wall.groups))
    box.wall.fold(name)
    wanted = next(item for item in items if item.data(Qt.ItemDataRole.UserRole) == name)
    box.targets.itemActivated.emit(wanted)
    assert name not in box.wall.folded
