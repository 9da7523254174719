"""Annotating in the real window: mouse, keys, threads, the box that closes and opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from napari.components import ViewerModel
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QColorDialog,
    QFileDialog,
    QTableView,
    QTableWidget,
    QWidget,
)

from napari_sparseattn.plugin.annotate.box import AnnotateBox
from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.plugin.widgets.frame import DockFrame
from napari_sparseattn.training.data.annotations import ImageAnnotations
from napari_sparseattn.training.data.project import Project

from ..conftest import CENTRES, add_picture, picture
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, and no one of the user's."""
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    return tmp_path / "project"


class AnnotateDock(DockFrame):
    """Nothing but the box."""

    def __init__(self, viewer: ViewerModel) -> None:
        annotating = Annotating.of(viewer)
        super().__init__(annotating.session.status)
        inner = QWidget(self)
        self.box = AnnotateBox(annotating, inner)
        self.lay_out(inner, [self.box])
        self.end_with([self.box])


class Annotated:
    """A window with the picture, both docks, and what is needed to work in it."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.annotating = Annotating.of(window.viewer)
        self.image = add_picture(window.viewer)
        self.dock: AnnotateDock | None = None
        self.open()

    def open(self) -> None:
        self.dock = AnnotateDock(self.window.viewer)
        self.window.viewer.window.add_dock_widget(self.dock, name="Annotate")
        self.window.until(lambda: self.annotating.files.chosen is not None)
        self.window.until(self.dock.box.isVisible)

    def close(self) -> None:
        self.window.viewer.window.remove_dock_widget(self.dock)
        self.dock = None

    @property
    def box(self) -> AnnotateBox:
        assert self.dock is not None
        return self.dock.box

    @property
    def book(self) -> ImageAnnotations:
        book = self.annotating.files.annotations(self.image)
        assert book is not None
        return book

    @property
    def labels(self) -> list[str]:
        return [item.label for item in self.book]

    def key(self, key: Qt.Key, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        QTest.keyClick(self.window.canvas, key, modifier)
        QApplication.processEvents()

    def click_cell(self, cell: int) -> None:
        """Click with the mouse; on a busy machine a click may be too slow to be one."""
        asked: list[object] = []
        self.window.session.asked.connect(asked.append)
        self.window.until(
            lambda: bool(self.window.click(self.image.data_to_world(CENTRES[cell])) or asked)
        )
        self.window.session.asked.disconnect(asked.append)
        self.window.until(lambda: self.window.session.answer is not None)


@pytest.fixture
def annotated(window: Window) -> Annotated:
    return Annotated(window)


def click_on(table: QTableView, index: QModelIndex) -> None:
    table.scrollTo(index)
    QTest.mouseClick(
        table.viewport(),
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
        table.visualRect(index).center(),
    )
    QApplication.processEvents()


def texts(table: QTableWidget, column: int) -> list[str]:
    return [table.item(row, column).text() for row in range(table.rowCount())]


def test_a_cell_is_clicked_and_corrected_by_a_key(annotated: Annotated, folder: Path) -> None:
    viewer = annotated.window.viewer
    assert texts(annotated.box.classes.table, 1) == ["round", "lobed", "small"]
    annotated.click_cell(2)
    answer = annotated.window.session.answer
    assert answer.label in annotated.box.target.text()
    wrong = next(i for i in range(3) if answer.class_names[i] != answer.label)
    annotated.key(Qt.Key(int(Qt.Key.Key_1) + wrong))
    (item,) = annotated.book
    assert (item.label, item.predicted) == (answer.class_names[wrong], answer.label)
    assert item.origin == "corrected"
    np.testing.assert_allclose(item.position, CENTRES[2], atol=2)
    assert texts(annotated.box.classes.table, 2)[wrong] == "1"
    assert viewer.layers.selection.active.name == "smear"
    annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert len(annotated.book) == 0
    annotated.box.redo.click()
    assert annotated.labels == [answer.class_names[wrong]]
    (_, items), = Project(folder).annotations()  # fmt: skip
    assert items == (item,)


@pytest.mark.slow
def test_a_class_is_taken_back_and_another_given(annotated: Annotated, folder: Path) -> None:
    window = annotated.window
    for _ in range(2):
        annotated.click_cell(2)
        annotated.key(Qt.Key.Key_1)
        assert annotated.labels == ["round"]
        annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert annotated.labels == []
        annotated.key(Qt.Key.Key_2)
        assert annotated.labels == ["lobed"]
        annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert annotated.labels == []
        hash_ = annotated.book.image.hash
        # As after a restart: nothing is locked, and what was taken back is gone.
        window.viewer.layers.clear()
        with FileLock(folder / "images" / f"{hash_}.jsonl.lock", timeout=0):
            assert not annotated.annotating.files.any_open
        annotated.image = add_picture(window.viewer)
        window.until(lambda: annotated.annotating.files.chosen is not None)


@pytest.mark.slow
def test_undo_is_of_the_image_whose_annotations_are_selected(annotated: Annotated) -> None:
    window, files = annotated.window, annotated.annotating.files
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    layer = files.chosen.cells.layer
    other = window.viewer.add_image(np.eye(60), name="other")
    window.until(lambda: files.of(other) is not None)
    annotated.annotating.targets.annotate_cell((3.0, 4.0), "small")
    window.viewer.layers.selection.active = layer
    assert window.dock.image_box.image.currentText() == "smear"
    annotated.box.undo.click()
    assert annotated.labels == []
    annotated.box.redo.click()
    annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert annotated.labels == []
    assert [item.label for item in files.annotations(other)] == ["small"]


@pytest.mark.slow
def test_class_keys_work_wherever_a_hand_rests_but_in_text(annotated: Annotated) -> None:
    window, annotating = annotated.window, annotated.annotating
    viewer, dock, classes = window.viewer, window.dock, annotating.classes
    window.session.cells.classify_all()
    window.until(lambda: window.session.cells.results is not None)

    def press(widget: QWidget, key: Qt.Key) -> str:
        QTest.keyClick(widget, key)
        QApplication.processEvents()
        return classes.current

    # After a click on a row of the table, which is the cell that the key is about.
    table = window.table.table
    click_on(table, table.model().index(1, 1))
    window.until(lambda: window.session.answer is not None)
    assert press(table, Qt.Key.Key_2) == "lobed"
    (item,) = annotated.book
    np.testing.assert_allclose(item.position, window.session.cells.results.cells.centres[1])
    # After a click on a class, which gives it as its key does.
    names = annotated.box.classes.table
    click_on(names, names.model().index(2, 1))
    assert annotated.labels == ["small"]
    assert press(names, Qt.Key.Key_1) == "round"
    assert annotated.labels == ["round"]
    # Arrow keys choose a class for new annotations, and give it to nothing.
    assert press(names, Qt.Key.Key_Down) == "lobed"
    assert annotated.labels == ["round"]
    press(names, Qt.Key.Key_N)
    window.until(lambda: annotating.suggestions.candidate is not None)
    annotating.suggestions.stop()
    # After another image is chosen in the dock, and after that has been removed.
    other = viewer.add_image(np.eye(60), name="other")
    window.until(lambda: annotating.files.of(other) is not None)
    images = dock.image_box.image
    assert images.currentText() == "other"
    QTest.keyClick(images, Qt.Key.Key_Up if images.currentIndex() else Qt.Key.Key_Down)
    assert window.session.selection.image.name == "smear"
    assert press(images, Qt.Key.Key_3) == "small"
    assert window.session.selection.image.name == "smear"
    viewer.layers.remove(other)
    assert press(window.canvas, Qt.Key.Key_1) == "round"
    # A layer of points of ours, or of the user's, is not changed to adding points.
    rings = next(layer for layer in viewer.layers if "cells" in layer.name)
    mine = viewer.add_points([(5.0, 5.0)], name="mine")
    for layer in (rings, mine):
        viewer.layers.selection.active = layer
        layer.mode = "pan_zoom"
        assert press(window.canvas, Qt.Key.Key_2) == "lobed"
        assert press(window.canvas, Qt.Key.Key_1) == "round"
        assert layer.mode == "pan_zoom"
        assert len(layer.data) in (1, 4)
    # A digit in a text that cannot be written to is nothing, and reaches napari no more.
    dock.sections["Export"].expand(animate=False)
    before = annotated.labels
    for text in (dock.export_box.folder, annotated.box.classes.name):
        assert press(text, Qt.Key.Key_2) == "round"
        assert press(text, Qt.Key.Key_N) == "round"
    assert annotated.box.classes.name.text().lower() == "2n"
    assert annotated.labels == before
    assert mine.mode == "pan_zoom"


@pytest.mark.slow
def test_a_removed_image_takes_its_annotations_from_view_and_frees_them(
    annotated: Annotated, folder: Path
) -> None:
    viewer = annotated.window.viewer
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    hash_ = annotated.book.image.hash
    other = viewer.add_image(np.eye(60), name="other")
    annotated.window.until(lambda: annotated.annotating.files.of(other) is not None)
    viewer.layers.selection = {viewer.layers["smear"], viewer.layers["smear · annotations"]}
    viewer.layers.remove_selected()
    annotated.window.until(lambda: [layer.name for layer in viewer.layers] == ["other"])
    with FileLock(folder / "images" / f"{hash_}.jsonl.lock", timeout=0):
        pass
    annotated.image = add_picture(viewer)
    annotated.window.until(
        lambda: annotated.annotating.files.annotations(annotated.image) is not None
    )
    assert annotated.labels == ["round"]
    viewer.layers.remove("smear")
    annotated.window.until(lambda: [layer.name for layer in viewer.layers] == ["other"])


@pytest.mark.slow
def test_a_duplicate_of_annotations_is_said_to_be_a_copy(annotated: Annotated) -> None:
    viewer = annotated.window.viewer
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    viewer.layers.selection.active = viewer.layers["smear · annotations"]
    _duplicate_layer(viewer.layers)
    annotated.window.until(lambda: "is a copy" in annotated.window.dock.message_line.label.text())
    viewer.layers["smear · annotations copy"].add([[50, 60]])
    assert annotated.labels == ["round"]


@pytest.mark.slow
def test_an_answer_that_comes_after_the_slider_moved_is_of_the_plane_that_was_clicked(
    annotated: Annotated,
) -> None:
    window = annotated.window
    viewer, session = window.viewer, window.session
    annotated.image = viewer.add_image(
        np.stack([picture()] * 3), rgb=True, name="stack", scale=(1, 0.5, 0.5),
        units=("pixel", "um", "um"),
    )  # fmt: skip
    window.until(lambda: annotated.annotating.files.of(annotated.image) is not None)
    viewer.dims.set_point(0, 1)
    asked: list[object] = []

    def move(request: object) -> None:
        asked.append(request)
        viewer.dims.set_point(0, 2)

    session.asked.connect(move)
    place = annotated.image.data_to_world((1, *CENTRES[2]))
    window.until(lambda: bool(window.click(place) or asked))
    window.until(lambda: session.answer is not None)
    annotated.key(Qt.Key.Key_2)
    assert [(item.label, item.t) for item in annotated.book] == [("lobed", 1)]


@pytest.mark.slow
def test_annotated_cells_that_are_not_found_are_offered(annotated: Annotated) -> None:
    window, session = annotated.window, annotated.window.session
    annotated.annotating.targets.annotate_cell((110.0, 20.0), "small", diameter=18.0)
    QTest.mouseClick(window.dock.actions_box.all, Qt.MouseButton.LeftButton)
    window.until(lambda: session.cells.results is not None)
    assert annotated.box.missed.isVisible()
    assert annotated.box.missed.text() == "Classify 1 annotated cell not found"
    found = session.cells.results
    QTest.mouseClick(annotated.box.missed, Qt.MouseButton.LeftButton)
    window.until(lambda: session.cells.results not in (None, found))
    np.testing.assert_allclose(session.cells.results.cells.centres, [(110, 20)])
    assert window.dock.image_box.cells.currentText().startswith("smear · annotations")
    assert not annotated.box.missed.isVisible()


@pytest.mark.slow
def test_annotations_can_be_chosen_as_the_cells(annotated: Annotated) -> None:
    """With the keyboard, as a list is chosen from; then what they mark is classified."""
    window, session = annotated.window, annotated.window.session
    for place in ((110.0, 20.0), (60.0, 120.0)):
        annotated.annotating.targets.annotate_cell(place, "small", diameter=18.0)
    cells = window.dock.image_box.cells
    window.until(lambda: cells.itemText(1).startswith("smear · annotations"))
    cells.setFocus()
    QTest.keyClick(cells, Qt.Key.Key_Down)
    assert cells.currentText().startswith("smear · annotations")
    QTest.mouseClick(window.dock.actions_box.all, Qt.MouseButton.LeftButton)
    window.until(lambda: session.cells.results is not None)
    np.testing.assert_allclose(session.cells.results.cells.centres, [(110, 20), (60, 120)])
    window.click(annotated.image.data_to_world((60, 120)))
    window.until(lambda: session.answer is not None)
    frame = session.answer.evidence.frame
    assert (frame.row, frame.column) == pytest.approx((60, 120))


@pytest.mark.slow
def test_cells_are_marked_selected_and_deleted_with_naparis_tools(annotated: Annotated) -> None:
    window, image = annotated.window, annotated.image
    annotated.box.mark.click()
    layer = annotated.annotating.files.chosen.cells.layer
    window.click(image.data_to_world(CENTRES[0]))
    annotated.key(Qt.Key.Key_3)
    window.click(image.data_to_world(CENTRES[1]))
    window.click(image.data_to_world(CENTRES[3]))
    assert annotated.labels == ["round", "small", "small"]
    np.testing.assert_allclose([x.position for x in annotated.book], CENTRES[[0, 1, 3]], atol=1)
    colours = [annotated.annotating.classes.colours[x] for x in annotated.labels]
    shown = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b, _ in (layer.border_color * 255).astype(int)]
    assert shown == [colour.lower() for colour in colours]
    annotated.box.edit.click()
    assert layer.mode == "select"
    window.click(image.data_to_world(CENTRES[1]))
    annotated.key(Qt.Key.Key_2)
    assert annotated.labels == ["round", "lobed", "small"]
    window.drag(image.data_to_world(CENTRES[1]), image.data_to_world(CENTRES[2]))
    np.testing.assert_allclose(annotated.book[1].position, CENTRES[2], atol=1)
    annotated.key(Qt.Key.Key_Delete)
    assert annotated.labels == ["round", "small"]
    annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    annotated.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_allclose(
        sorted(x.position for x in annotated.book), sorted(map(tuple, CENTRES[[0, 1, 3]])), atol=1
    )


@pytest.mark.slow
def test_a_region_is_drawn_with_the_mouse(annotated: Annotated) -> None:
    annotated.box.draw.click()
    layer = annotated.annotating.files.chosen.regions.layer
    assert layer.mode == "add_polygon"
    layer.mode = "add_rectangle"
    annotated.window.drag(
        annotated.image.data_to_world((20, 30)), annotated.image.data_to_world((90, 120))
    )
    (item,) = annotated.book
    assert (item.kind, item.label) == ("region", "round")
    np.testing.assert_allclose(item.outline.min(axis=0), (20, 30), atol=1)
    np.testing.assert_allclose(item.outline.max(axis=0), (90, 120), atol=1)
    # An outline that is not finished is no annotation yet.
    layer.mode = "add_polygon"
    annotated.window.click(annotated.image.data_to_world((10, 10)))
    assert len(layer.data) == 2
    assert len(annotated.book) == 1
    annotated.key(Qt.Key.Key_Escape)
    assert len(layer.data) == len(annotated.book) == 1


@pytest.mark.slow
def test_the_list_of_classes_does_not_move_under_the_mouse(annotated: Annotated) -> None:
    window, annotating, box = annotated.window, annotated.annotating, annotated.box
    table = box.classes.table
    place = table.mapTo(box, table.rect().topLeft())
    names = [table.item(row, 1).text() for row in range(table.rowCount())]
    seen = set()

    def look() -> None:
        QApplication.processEvents()
        seen.add((box.empty.isVisible(), box.target.isVisible(), box.hint.isVisible()))
        assert table.mapTo(box, table.rect().topLeft()) == place
        assert [table.item(row, 1).text() for row in range(table.rowCount())] == names

    look()
    window.session.cells.classify_all()
    window.until(lambda: window.session.cells.results is not None)
    look()
    box.next.click()
    window.until(lambda: annotating.suggestions.candidate is not None)
    look()
    annotating.give(annotating.classes.names[-1])
    look()
    window.session.selection.set_image(None)
    look()
    assert len(seen) > 2


@pytest.mark.slow
def test_the_next_cells_are_stepped_through_with_keys(annotated: Annotated) -> None:
    window, annotating = annotated.window, annotated.annotating
    assert not annotated.box.next.isEnabled()
    window.session.cells.classify_all()
    window.until(lambda: window.session.cells.results is not None)
    results = window.session.cells.results
    annotated.box.next.click()
    window.until(lambda: annotating.suggestions.candidate is not None)
    first = annotating.suggestions.candidate
    assert results.labels[first] in annotated.box.target.text()
    why = annotating.suggestions.why
    assert why[1:] in annotated.box.target.text()
    annotated.key(Qt.Key.Key_N)
    window.until(lambda: annotating.suggestions.candidate not in (None, first))
    second = annotating.suggestions.candidate
    annotated.key(Qt.Key.Key_2)
    window.until(lambda: annotating.suggestions.candidate not in (None, first, second))
    (item,) = annotated.book
    assert item.label == "lobed"
    np.testing.assert_allclose(item.position, results.cells.centres[second])


@pytest.mark.slow
def test_classes_are_added_renamed_and_coloured(
    annotated: Annotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, box = annotated.window, annotated.box.classes
    box.name.setText("blast")
    QTest.keyClick(box.name, Qt.Key.Key_Return)
    assert texts(box.table, 1) == ["round", "lobed", "small", "blast"]
    assert annotated.annotating.classes.current == "blast"
    annotated.annotating.targets.annotate_cell((30.0, 40.0))
    box.table.item(3, 1).setText("myeloblast")
    project = annotated.annotating.classes.project
    window.until(lambda: [*project.classes()] == ["round", "lobed", "small", "myeloblast"])
    assert annotated.labels == ["myeloblast"]
    assert texts(box.table, 0) == ["1", "2", "3", "4"]
    monkeypatch.setattr(QColorDialog, "show", lambda dialog: dialog.colorSelected.emit(
        type(dialog.currentColor())("#112233")))  # fmt: skip
    box.choose_colour()
    layer = annotated.annotating.files.chosen.cells.layer
    window.until(lambda: project.classes()["myeloblast"] == "#112233")
    window.until(lambda: np.allclose(layer.border_color[0, :3] * 255, (17, 34, 51), atol=1))


@pytest.mark.slow
def test_names_of_classes_are_shown_with_spaces_and_kept_as_they_are(annotated: Annotated) -> None:
    box, classes = annotated.box, annotated.annotating.classes
    classes.add("young_cell")
    assert texts(box.classes.table, 1)[3] == "young cell"
    annotated.annotating.targets.annotate_cell((30.0, 40.0))
    assert annotated.labels == ["young_cell"]
    assert "young cell" in [box.whole.itemText(i) for i in range(box.whole.count())]
    box.whole.setCurrentIndex(4)
    box.whole.activated.emit(4)
    assert annotated.annotating.targets.image_class == "young_cell"
    # Typed as it is shown, it is no other class.
    box.classes.table.item(3, 1).setText("young cell ")
    box.classes.table.item(3, 1).setText("young cell")
    assert classes.names == ("round", "lobed", "small", "young_cell")
    classes.add("Young cell")
    assert classes.names == ("round", "lobed", "small", "young_cell")


@pytest.mark.slow
def test_a_closed_dock_loses_nothing_and_its_keys_go(annotated: Annotated) -> None:
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    layer = annotated.annotating.files.chosen.cells.layer
    annotated.key(Qt.Key.Key_2)
    assert annotated.annotating.classes.current == "lobed"
    annotated.close()
    QApplication.processEvents()
    annotated.key(Qt.Key.Key_1)
    assert annotated.annotating.classes.current == "lobed"
    layer.add([[50, 60]])
    annotated.open()
    assert len(annotated.book) == 2
    annotated.key(Qt.Key.Key_1)
    assert annotated.annotating.classes.current == "round"
    annotated.box.project.setFocus()


@pytest.mark.slow
def test_another_project_is_chosen_and_the_first_one_again(
    annotated: Annotated, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    for chosen, count in ((tmp_path / "other", 0), (folder, 1)):
        monkeypatch.setattr(
            QFileDialog, "show", lambda dialog, to=chosen: dialog.fileSelected.emit(str(to))
        )
        annotated.box.choose_project()
        annotated.window.until(lambda: annotated.annotating.files.chosen is not None)
        assert sum(annotated.annotating.files.counts_here.values()) == count
        assert str(chosen) in annotated.box.where.toolTip()
    assert "1 in 1 image" in annotated.box.where.text()


@pytest.mark.slow
def test_a_second_window_shows_the_same(
    annotated: Annotated, make_window: Callable[[], Window]
) -> None:
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    other = make_window()
    other.open_dock()
    second = Annotated(other)
    assert not second.box.hint.isVisible()
    assert second.labels == ["round"]
    second.annotating.targets.annotate_cell((80.0, 60.0), "small")
    assert annotated.labels == ["round", "small"]
    assert len(annotated.annotating.files.chosen.cells.layer.data) == 2


@pytest.mark.slow
def test_what_another_program_has_open_may_be_looked_at(annotated: Annotated, folder: Path) -> None:
    annotated.annotating.targets.annotate_cell((30.0, 40.0), "round")
    hash_ = annotated.book.image.hash
    annotated.window.viewer.layers.clear()
    with FileLock(folder / "images" / f"{hash_}.jsonl.lock", timeout=0):
        annotated.image = add_picture(annotated.window.viewer)
        annotated.window.until(lambda: annotated.annotating.files.chosen is not None)
        assert annotated.box.hint.isVisible()
        assert "Another program" in annotated.box.hint.text()
        assert annotated.labels == ["round"]
        annotated.box.mark.click()
        assert annotated.annotating.files.chosen.cells.layer.mode == "pan_zoom"
        annotated.window.viewer.layers.clear()


@pytest.mark.slow
def test_a_result_can_be_corrected_where_it_is_shown(window: Window, folder: Path) -> None:
    image = add_picture(window.viewer)
    row = window.dock.result_box.wrong
    assert not row.isVisible()
    window.session.cells.click(image.data_to_world(CENTRES[1]))
    window.until(lambda: window.session.answer is not None)
    assert row.isVisible()
    assert not folder.exists()
    index = row.classes.findText("small")
    row.classes.setCurrentIndex(index)
    row.classes.activated.emit(index)
    annotating = Annotating.of(window.viewer)
    window.until(lambda: annotating.files.annotations(image) is not None)
    assert [item.label for item in annotating.files.annotations(image)] == ["small"]
    assert "smear · annotations" in window.viewer.layers
