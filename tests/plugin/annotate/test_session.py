"""Annotating without a window: layers, files, keys, classes, projects, suggestions."""

from __future__ import annotations

import ast
import dataclasses
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points, Shapes

from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.plugin.annotate.classes import key_of
from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.plugin.core.lanes import AtOnce, Lanes, Runner
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.selection import Results
from napari_sparseattn.plugin.core.sources import PlaneRef, is_own
from napari_sparseattn.training.data.annotations import Annotation, ImageAnnotations, ImageRecord
from napari_sparseattn.training.data.project import Project, read_annotations

from ..conftest import CENTRES, add_labels, add_picture, label_image, picture
from ..made_slides import add_slide


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, and no one of the user's."""
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    return tmp_path / "project"


class Waiting:
    """Does no work until it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, ...]] = []

    def start(self, work: Any, *, given: Any, failed: Any, finished: Any) -> Any:
        self.waiting.append((work, given, finished))
        return lambda: None

    def later(self, milliseconds: int, call: Any) -> None:
        call()

    def work(self) -> Any:
        """Do the work that was asked for first, and return what gives the answer."""
        work, given, finished = self.waiting.pop(0)
        found = work()

        def answer() -> None:
            given(found)
            finished()

        return answer

    def work_all(self) -> None:
        while self.waiting:
            self.work()()


def begin(viewer: ViewerModel, runner: Runner | None = None) -> Annotating:
    Lanes.of(viewer).runner = runner or AtOnce()
    annotating = Annotating.of(viewer)
    annotating.attach()
    return annotating


@pytest.fixture
def annotating(viewer: ViewerModel) -> Iterator[Annotating]:
    """Annotating in a viewer with the picture; classes 'a' and 'b', no model."""
    found = begin(viewer)
    add_picture(viewer)
    found.classes.add("a")
    found.classes.add("b")
    found.classes.choose("a")
    yield found
    found.detach()
    viewer.layers.clear()


def cell_layer(annotating: Annotating) -> Points:
    assert annotating.files.chosen is not None
    assert annotating.files.chosen.cells is not None
    return annotating.files.chosen.cells.layer


def region_layer(annotating: Annotating) -> Shapes:
    assert annotating.files.chosen is not None
    assert annotating.files.chosen.regions is not None
    return annotating.files.chosen.regions.layer


def kept(annotating: Annotating) -> ImageAnnotations:
    found = annotating.files.annotations(annotating.session.selection.image)
    assert found is not None
    return found


def placed(annotating: Annotating) -> list[tuple[str, tuple[float, float] | None]]:
    return [(item.label, item.position) for item in kept(annotating)]


def on_disk(folder: Path) -> list[Annotation]:
    files = sorted((folder / "images").glob("*.jsonl"))
    return [item for file in files for item in read_annotations(file)]


def lock_of(folder: Path, hash_: str) -> FileLock:
    """Return the lock of an image's file, as another program would hold it."""
    return FileLock(folder / "images" / f"{hash_}.jsonl.lock", timeout=0)


def agree(annotating: Annotating) -> None:
    """Fail unless the layer and what is kept show the same cells, classes and colours."""
    layer = cell_layer(annotating)
    shown = sorted(
        (tuple(point[-2:]), label)
        for point, label in zip(layer.data.tolist(), layer.features["class"], strict=True)
    )
    there = sorted((x.position, x.label) for x in kept(annotating) if x.kind == "cell")
    assert shown == there
    for label, colour in zip(layer.features["class"], layer.border_color, strict=True):
        wanted = [int(annotating.classes.colours[label][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        np.testing.assert_allclose(colour[:3], wanted, atol=1e-6)


# -- layers


def test_looking_at_an_image_writes_nothing(annotating: Annotating, folder: Path) -> None:
    assert annotating.files.chosen is not None
    assert annotating.files.chosen.layers() == []
    assert not (folder / "images").exists() or not list((folder / "images").iterdir())


def test_an_annotated_cell_is_a_ring_on_the_image(annotating: Annotating) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b", diameter=18.0)
    layer, image = cell_layer(annotating), annotating.session.selection.image
    assert layer.name == "smear · annotations"
    np.testing.assert_allclose(layer.data_to_world((30, 40)), image.data_to_world((30, 40)))
    assert layer.units == image.units
    assert layer.size.tolist() == [18.0]
    agree(annotating)


def test_points_that_are_added_get_the_current_class(annotating: Annotating, folder: Path) -> None:
    annotating.mark_cells()
    layer = cell_layer(annotating)
    assert layer.mode == "add"
    layer.add([[10, 20]])
    annotating.give_key(2)
    layer.add([[30, 40]])
    layer.add([[50, 60]])
    assert placed(annotating) == [("a", (10, 20)), ("b", (30, 40)), ("b", (50, 60))]
    agree(annotating)
    assert [item.label for item in on_disk(folder)] == ["a", "b", "b"]


def test_moves_and_removals_are_followed_and_undone(annotating: Annotating) -> None:
    annotating.mark_cells()
    layer = cell_layer(annotating)
    layer.add([[10, 20], [30, 40], [50, 60]])
    ids = [item.id for item in kept(annotating)]
    layer.mode = "select"
    layer.selected_data = {1}
    moved = layer.data.copy()
    moved[1] = (33, 44)
    layer.data = moved
    assert [item.id for item in kept(annotating)] == ids
    assert kept(annotating).get(ids[1]).position == (33, 44)
    layer.selected_data = {0, 2}
    layer.remove_selected()
    assert placed(annotating) == [("a", (33, 44))]
    annotating.files.undo()
    assert len(layer.data) == 3
    agree(annotating)
    annotating.files.undo()
    assert {position for _, position in placed(annotating)} == {(10, 20), (30, 40), (50, 60)}
    agree(annotating)
    annotating.files.undo()
    assert len(layer.data) == 0
    for _ in range(3):
        annotating.files.redo()
    assert placed(annotating) == [("a", (33, 44))]
    agree(annotating)


def test_a_class_that_is_changed_in_the_features_is_followed(annotating: Annotating) -> None:
    annotating.mark_cells()
    layer = cell_layer(annotating)
    layer.add([[10, 20], [30, 40]])
    layer.features = {"class": np.array(["a", "c"])}
    assert placed(annotating) == [("a", (10, 20)), ("c", (30, 40))]
    assert annotating.classes.names == ("a", "b", "c")
    agree(annotating)


def test_pasted_points_are_new_annotations(annotating: Annotating) -> None:
    annotating.targets.annotate_cell((10.0, 20.0), "b")
    layer = cell_layer(annotating)
    layer.data = np.array([(10.0, 20.0), (10.0, 20.0)])
    assert placed(annotating) == [("b", (10, 20)), ("a", (10, 20))]
    assert len({item.id for item in kept(annotating)}) == 2


def test_dragging_is_one_change(annotating: Annotating) -> None:
    """As napari's tool does it: many moves without an event of data, then one with."""
    annotating.targets.annotate_cell((10.0, 20.0), "a")
    layer = cell_layer(annotating)
    with layer.events.data.blocker():
        for step in range(5):
            layer.data[0] = (10 + step, 20)
            layer.events.features()
    layer.events.data(value=layer.data, action="changed", data_indices=(0,), vertex_indices=((),))
    assert placed(annotating) == [("a", (14, 20))]
    annotating.files.undo()
    assert placed(annotating) == [("a", (10, 20))]


def test_regions_are_what_shapes_enclose(annotating: Annotating) -> None:
    annotating.draw_regions()
    layer = region_layer(annotating)
    square = np.array([(10, 10), (10, 50), (50, 50), (50, 10)], dtype=float)
    layer.add(square, shape_type="rectangle")
    layer.add(square, shape_type="ellipse")
    layer.add(square[:2], shape_type="line")
    regions = list(kept(annotating))
    assert [item.kind for item in regions] == ["region", "region"]
    np.testing.assert_allclose(regions[0].outline, square)
    radius = np.hypot(*(regions[1].outline - 30).T)
    np.testing.assert_allclose(radius, 20, atol=1e-4)
    layer.mode = "select"
    layer.selected_data = {1}
    annotating.give_key(2)
    assert [item.label for item in kept(annotating)] == ["a", "b"]
    layer.remove([0])
    assert [item.label for item in kept(annotating)] == ["b"]
    annotating.files.undo()
    assert sorted(item.label for item in kept(annotating)) == ["a", "b"]
    assert sorted(layer.features["class"].tolist()) == ["a", "a", "b"]  # with the line


def test_annotations_of_a_stack_belong_to_their_plane(viewer: ViewerModel, folder: Path) -> None:
    annotating = begin(viewer)
    viewer.add_image(np.random.default_rng(0).random((4, 3, 40, 50)), name="stack")
    viewer.dims.set_point(0, 2)
    viewer.dims.set_point(1, 1)
    annotating.targets.annotate_cell((10.0, 20.0), "a")
    annotating.targets.annotate_image("a")
    viewer.dims.set_point(0, 3)
    annotating.targets.annotate_image("b")
    assert [(x.kind, x.label, x.t, x.z) for x in kept(annotating)] == [
        ("cell", "a", 2, 1), ("image", "a", 2, 1), ("image", "b", 3, 1)
    ]  # fmt: skip
    shown: list[str] = []
    annotating.changed.connect(keep := lambda: shown.append(annotating.targets.image_class))
    viewer.dims.set_point(0, 2)
    assert shown[-1] == "a"
    viewer.dims.set_point(0, 3)
    assert shown[-1] == "b"
    annotating.changed.disconnect(keep)
    np.testing.assert_array_equal(cell_layer(annotating).data, [(2, 1, 10, 20)])
    annotating.draw_regions()
    outline = [(3, 1, 1, 1), (3, 1, 1, 9), (3, 1, 9, 9)]
    region_layer(annotating).add(np.array(outline, dtype=float), shape_type="polygon")
    region = kept(annotating)[-1]
    assert (region.t, region.z) == (3, 1)
    annotating.detach()


def test_slides_are_annotated_in_pixels_of_the_full_resolution(viewer: ViewerModel) -> None:
    annotating = begin(viewer)
    layer = add_slide(viewer)
    annotating.targets.annotate_image("tumour")
    annotating.draw_regions()
    outline = np.array([(100, 100), (100, 900), (900, 900)], dtype=float)
    region_layer(annotating).add(outline, shape_type="polygon")
    assert annotating.targets.image_class == "tumour"
    np.testing.assert_allclose(kept(annotating)[-1].outline, outline)
    record = kept(annotating).image
    assert record.shape == tuple(layer.data[0].shape[:2])
    assert annotating.files.opener()(record) is layer.metadata["napari-sparseattn"]["pyramid"]
    annotating.detach()


# -- keys


def test_a_key_is_ours_but_where_the_user_draws_or_has_bound_it(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    mine = viewer.add_points([(1.0, 1.0)], name="mine")
    viewer.layers.selection.active = mine
    mine.mode = "pan_zoom"
    assert annotating.press_key("2")
    assert annotating.classes.current == "b"
    mine.mode = "select"
    assert not annotating.press_key("1")
    assert annotating.press_key("1", on_layers=False)
    assert annotating.classes.current == "a"
    mine.mode = "pan_zoom"
    mine.bind_key("2", lambda layer: None)
    assert not annotating.press_key("2")
    annotating.mark_cells()
    assert viewer.layers.selection.active is cell_layer(annotating)
    assert annotating.press_key("2")
    assert annotating.classes.current == "b"
    annotating.detach()
    assert not annotating.press_key("1")
    annotating.attach()


def test_the_tenth_class_has_the_key_0(annotating: Annotating) -> None:
    for name in "cdefghijk":
        annotating.classes.add(name)
    assert annotating.press_key("0")
    assert annotating.classes.current == "j"
    assert [key_of(row) for row in (0, 8, 9, 10)] == ["1", "9", "0", ""]


def test_the_image_whose_annotations_are_selected_is_the_chosen_one(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    first, layer = annotating.session.selection.image, cell_layer(annotating)
    second = viewer.add_image(np.eye(60), name="second")
    assert annotating.session.selection.image is second
    annotating.targets.annotate_cell((3.0, 4.0), "b")
    # Annotating, which adds a layer, has not changed what is chosen.
    assert annotating.session.selection.image is second
    viewer.layers.selection.active = layer
    assert annotating.session.selection.image is first
    annotating.files.undo()
    assert len(annotating.files.annotations(first)) == 0
    assert len(annotating.files.annotations(second)) == 1
    viewer.layers.selection.active = second
    assert annotating.session.selection.image is second


def test_a_key_relabels_what_is_selected(annotating: Annotating) -> None:
    annotating.mark_cells()
    layer = cell_layer(annotating)
    layer.add([[10, 20], [30, 40], [50, 60]])
    layer.mode = "select"
    layer.selected_data = {0, 2}
    annotating.give_key(2)
    assert [label for label, _ in placed(annotating)] == ["b", "a", "b"]
    assert set(layer.selected_data) == {0, 2}
    agree(annotating)
    annotating.files.undo()
    assert [label for label, _ in placed(annotating)] == ["a", "a", "a"]
    agree(annotating)


def test_a_key_while_points_are_added_changes_none_of_them(annotating: Annotating) -> None:
    annotating.mark_cells()
    cell_layer(annotating).add([[10, 20]])
    annotating.give_key(2)
    assert [label for label, _ in placed(annotating)] == ["a"]
    assert annotating.classes.current == "b"


def test_a_key_without_a_class_says_so(annotating: Annotating) -> None:
    annotating.give_key(7)
    assert "no class 7" in annotating.session.status.message.text


# -- corrections


@pytest.fixture
def classified(annotating: Annotating, viewer: ViewerModel, model: Model) -> Annotating:
    """All four cells of the picture classified by the small model."""
    from ..conftest import Worker as SessionAtOnce

    session = annotating.session
    session.selection.set_model(model)
    session.worker = SessionAtOnce(session)
    add_labels(session, viewer)
    session.cells.classify_all()
    return annotating


def test_the_models_classes_follow_those_of_the_project(classified: Annotating) -> None:
    assert classified.classes.names == ("a", "b", "round", "lobed", "small")
    assert classified.classes.project.classes().keys() == {"a", "b"}
    classified.give("small")
    classified.targets.annotate_cell((30.0, 40.0))
    # All at once, so that keys stay as they were shown.
    assert tuple(classified.classes.project.classes()) == classified.classes.names


def test_a_clicked_cell_is_corrected(classified: Annotating) -> None:
    session = classified.session
    session.cells.click(session.selection.image.data_to_world(CENTRES[2]))
    assert session.answer is not None
    classified.give("a")
    (item,) = kept(classified)
    assert item.origin == "corrected"
    assert item.predicted == session.answer.label
    assert item.model == session.selection.model.bundle.hash
    np.testing.assert_allclose(item.position, CENTRES[2], atol=1)
    assert item.diameter_px == pytest.approx(19, abs=1)
    classified.give(session.answer.label)
    (again,) = kept(classified)
    assert (again.id, again.origin) == (item.id, "placed")


def test_a_row_of_the_table_is_corrected(classified: Annotating) -> None:
    results = classified.session.cells.results
    classified.targets.correct(1, "b")
    (item,) = kept(classified)
    np.testing.assert_allclose(item.position, results.cells.centres[1])
    assert (item.label, item.predicted) == ("b", results.labels[1])


def test_another_click_is_another_cell(classified: Annotating) -> None:
    session = classified.session
    for centre, label in ((CENTRES[0], "a"), (CENTRES[1], "b")):
        session.cells.click(session.selection.image.data_to_world(centre))
        classified.give(label)
    assert [label for label, _ in placed(classified)] == ["a", "b"]


def test_an_annotation_waits_until_the_image_is_known(viewer: ViewerModel) -> None:
    runner = Waiting()
    annotating = begin(viewer, runner)
    add_picture(viewer)
    annotating.classes.add("a")
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    assert annotating.files.chosen is None
    runner.work_all()
    assert placed(annotating) == [("a", (30.0, 40.0))]
    annotating.detach()


# -- classes


def test_classes_are_renamed_recoloured_removed_everywhere(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    first = annotating.session.selection.image
    viewer.add_image(np.eye(60), name="second")
    annotating.targets.annotate_cell((3.0, 4.0), "a")
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    assert annotating.files.counts == {"a": 2, "b": 1}
    assert annotating.files.counts_here == {"a": 1, "b": 1}
    viewer.layers.remove(first)
    colours = list(annotating.classes.colours.values())
    annotating.rename_class("a", "granulocyte")
    assert list(annotating.classes.project.classes().items()) == [
        ("granulocyte", colours[0]), ("b", colours[1])
    ]  # fmt: skip
    assert annotating.files.counts == {"granulocyte": 2, "b": 1}
    annotating.classes.recolour("granulocyte", "#123456")
    assert annotating.classes.project.classes()["granulocyte"] == "#123456"
    agree(annotating)
    annotating.remove_class("b")
    assert "b" in annotating.classes.names
    annotating.classes.add("c")
    annotating.remove_class("c")
    assert annotating.classes.names == ("granulocyte", "b")


def test_a_rename_that_fails_is_taken_back(annotating: Annotating, folder: Path) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    elsewhere = Project(folder).open(ImageRecord("0" * 64, "elsewhere"))
    elsewhere.add("cell", "a", position=(1, 2))
    elsewhere.close()
    # As another program would: the lock belongs to the open file, not to the process.
    with lock_of(folder, "0" * 64):
        annotating.rename_class("a", "z")
    assert "elsewhere" in annotating.session.status.message.text
    assert [label for label, _ in placed(annotating)] == ["a"]
    assert "a" in annotating.classes.names


def test_names_of_classes_are_tidied_and_told_apart_without_case(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    add = annotating.classes.add
    add("  large\n blast \t")
    assert annotating.classes.names == ("a", "b", "large blast")
    add("Large Blast")
    assert annotating.classes.names == ("a", "b", "large blast")
    assert "already" in annotating.session.status.message.text
    assert annotating.classes.current == "large blast"
    add("x" * 500)
    assert annotating.classes.names[-1] == "x" * 60
    annotating.rename_class("x" * 60, " Y\nz ")
    assert annotating.classes.names[-1] == "Y z"
    annotating.rename_class("Y z", "y z")
    assert annotating.classes.names[-1] == "y z"
    annotating.rename_class("y z", "B")
    assert annotating.classes.names == ("a", "b", "large blast")
    # Also where a layer's features, or a layer of the user's, name them.
    annotating.mark_cells()
    layer = cell_layer(annotating)
    layer.add([[10, 20], [30, 40]])
    layer.features = {"class": np.array(["LARGE  blast", "new\none"])}
    assert [label for label, _ in placed(annotating)] == ["large blast", "new one"]
    agree(annotating)
    mine = viewer.add_points(
        [(15, 20), (20, 25), (25, 30)], features={"class": ["A", "Q", "q"]}, units=("um", "um")
    )
    annotating.import_classes(mine)
    assert [label for label, _ in placed(annotating)][2:] == ["a", "Q", "Q"]


def test_a_class_that_is_added_while_the_model_loads_gets_the_next_key_and_colour(
    annotating: Annotating, model: Model, model_file: Path
) -> None:
    session = annotating.session
    session.models.cards, session.models.paths = {"small": model.bundle.card}, {"small": "x"}
    Lanes.of(session.viewer).runner = Waiting()
    session.load("x")
    assert session.selection.loading
    assert annotating.classes.names == ("a", "b", "round", "lobed", "small")
    Lanes.of(session.viewer).runner = AtOnce()
    annotating.classes.add("blast")
    loading = annotating.classes.colours
    session.selection.set_model(model)
    assert annotating.classes.names == ("a", "b", "round", "lobed", "small", "blast")
    assert annotating.classes.colours == loading
    assert len(set(loading.values())) == 6


# -- keeping


def test_the_same_pixels_find_their_annotations_again(
    annotating: Annotating, viewer: ViewerModel, tmp_path: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    annotating.draw_regions()
    square = np.array([(10, 10), (10, 50), (50, 50)], dtype=float)
    region_layer(annotating).add(square, shape_type="polygon")
    annotating.targets.annotate_image("a")
    viewer.layers.clear()
    assert annotating.files.chosen is None
    again = ViewerModel()
    other = begin(again)
    add_picture(again, name="another name", scale=(2, 2))
    assert [layer.name for layer in again.layers] == [
        "another name", "another name · annotations", "another name · regions"
    ]  # fmt: skip
    assert (other.files.counts_here, other.targets.image_class) == ({"a": 2, "b": 1}, "a")
    np.testing.assert_allclose(cell_layer(other).scale, (2, 2))
    np.testing.assert_allclose(region_layer(other).data[0], square)
    other.files.undo()  # reaches back over the reopening
    assert other.targets.image_class == ""
    again.layers.clear()
    other.detach()


def test_other_pixels_are_another_image(annotating: Annotating, viewer: ViewerModel) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    image = annotating.session.selection.image
    changed = picture()
    changed[0, 0] += 1
    image.data = changed
    assert annotating.files.annotations(image) is None
    assert [layer.name for layer in viewer.layers] == ["smear"]
    image.data = picture()
    assert placed(annotating) == [("b", (30.0, 40.0))]


def test_removed_layers_lose_nothing(
    annotating: Annotating, viewer: ViewerModel, folder: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    viewer.layers.remove(cell_layer(annotating))
    assert annotating.files.counts_here == {"a": 0, "b": 1}
    annotating.show_layers()
    agree(annotating)
    # With the image its annotations go from view, and are free for others.
    image, hash_ = annotating.session.selection.image, kept(annotating).image.hash
    viewer.layers.remove(image)
    assert len(viewer.layers) == 0
    lock = lock_of(folder, hash_)
    lock.acquire()
    lock.release()
    add_picture(viewer)
    agree(annotating)


def test_annotations_stay_as_long_as_another_layer_shows_their_image(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    first = annotating.session.selection.image
    add_picture(viewer, name="again")
    viewer.layers.remove(first)
    agree(annotating)
    annotating.targets.annotate_cell((80.0, 60.0), "a")
    agree(annotating)


def test_a_copy_of_annotations_is_said_to_be_one(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    layer = cell_layer(annotating)
    data, state, kind = layer.as_layer_data_tuple()
    copy = Layer.create(data, {**state, "name": f"{layer.name} copy"}, kind)
    viewer.add_layer(copy)
    assert "is a copy" in annotating.session.status.message.text
    assert is_own(layer)
    assert annotating.importable() == [copy]
    copy.add([[80, 60]])
    assert len(kept(annotating)) == 1
    viewer.layers.remove(copy)
    agree(annotating)


def test_annotated_cells_can_be_chosen_as_the_cells(
    classified: Annotating, viewer: ViewerModel
) -> None:
    session = classified.session
    session.selection.set_cell_layer(None)
    # Where nothing is found.
    classified.targets.annotate_cell((110.0, 20.0), "a", diameter=18.0)
    classified.targets.annotate_cell(tuple(CENTRES[0]), "b", diameter=18.0)
    session.cells.classify_all()
    assert classified.suggestions.missed == 1
    classified.suggestions.classify_missed()
    layer = cell_layer(classified)
    assert session.selection.cell_layer is layer
    np.testing.assert_allclose(session.cells.results.cells.centres, layer.data)
    assert classified.suggestions.missed == 0
    viewer.add_image(np.eye(60), name="other")
    # They are cells of this image only.
    assert session.selection.cell_layer is None


def test_an_answer_that_comes_late_is_kept_at_the_plane_that_was_clicked(
    viewer: ViewerModel, model: Model
) -> None:
    annotating = begin(viewer)
    stack = np.stack([picture()] * 3)
    viewer.add_image(
        stack, rgb=True, name="stack", scale=(1, 0.5, 0.5), units=("pixel", "um", "um")
    )
    session = annotating.session
    session.selection.set_model(model)
    viewer.dims.set_point(0, 1)
    runner = Waiting()
    Lanes.of(viewer).runner = runner
    session.cells.click(session.selection.image.data_to_world((1, *CENTRES[0])))
    viewer.dims.set_point(0, 2)
    runner.work_all()
    assert session.answer is not None
    annotating.give("x")
    runner.work_all()
    assert [(item.kind, item.t) for item in kept(annotating)] == [("cell", 1)]
    annotating.detach()


def test_what_waits_for_an_image_to_be_known_is_done_to_that_one(viewer: ViewerModel) -> None:
    runner = Waiting()
    annotating = begin(viewer, runner)
    first = add_picture(viewer)
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    second = viewer.add_image(np.eye(60), name="second")
    runner.work_all()
    assert annotating.session.selection.image is second
    assert [item.label for item in annotating.files.annotations(first)] == ["a"]
    assert annotating.files.annotations(second) is None
    annotating.detach()


def test_what_is_done_while_no_dock_is_open_is_kept(annotating: Annotating, folder: Path) -> None:
    annotating.mark_cells()
    annotating.detach()
    cell_layer(annotating).add([[10, 20]])
    assert [item.position for item in on_disk(folder)] == [(10, 20)]
    annotating.attach()
    agree(annotating)


def test_two_windows_share_the_annotations_of_an_image(annotating: Annotating) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    window = ViewerModel()
    second = begin(window)
    add_picture(window)
    assert second.files.message == ""
    cell_layer(second).add([[1, 2]])
    assert len(kept(annotating)) == 2
    agree(annotating)
    agree(second)
    window.layers.clear()
    second.detach()
    annotating.files.undo()
    agree(annotating)


def test_what_another_program_has_open_can_only_be_looked_at(
    annotating: Annotating, viewer: ViewerModel, folder: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    hash_ = kept(annotating).image.hash
    viewer.layers.clear()
    with lock_of(folder, hash_):
        add_picture(viewer)
        assert "Another program has the annotations of smear open" in annotating.files.message
        layer = cell_layer(annotating)
        assert not layer.editable
        layer.add([[1, 2]])
        agree(annotating)
        assert len(kept(annotating)) == 1
        assert "smear are open in another program" in annotating.session.status.message.text
        viewer.layers.clear()


def test_another_project(annotating: Annotating, viewer: ViewerModel, tmp_path: Path) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    assert annotating.open_project(tmp_path / "second")
    assert annotating.classes.names == ()
    assert [layer.name for layer in viewer.layers] == ["smear"]
    annotating.targets.annotate_cell((50.0, 60.0), "x")
    assert annotating.open_project(tmp_path / "project")
    assert placed(annotating) == [("b", (30.0, 40.0))]
    agree(annotating)


def test_a_damaged_project_is_not_opened(annotating: Annotating, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "project.json").write_text("{")
    assert not annotating.open_project(bad)
    assert "damaged" in annotating.session.status.message.text
    assert annotating.classes.project.folder == tmp_path / "project"


def test_the_pixel_size_that_was_given_comes_back(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    image = viewer.add_image(np.eye(70), name="no scale")
    annotating.session.selection.set_settings(image, pixel_size=0.5, origin="user")
    annotating.targets.annotate_cell((3.0, 4.0), "a")
    # Also after the file has been written.
    annotating.session.selection.set_settings(image, pixel_size=0.25, origin="user")
    viewer.layers.clear()
    again = viewer.add_image(np.eye(70), name="no scale")
    assert annotating.session.selection.settings_of(again).pixel_size == 0.25


def test_images_are_opened_for_training(
    annotating: Annotating, viewer: ViewerModel, tmp_path: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "b")
    opened = annotating.files.opener()
    ((record, _),) = annotating.classes.project.annotations()
    field = opened(record)
    np.testing.assert_array_equal(field.plane(), picture())
    assert field.pixel_size == 0.5
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).random((5, 8, 9)))
    there = ImageRecord("1" * 64, "stack", (8, 9), 0.5, str(tmp_path / "stack.npy"))
    assert opened(there).plane(4).shape == (8, 9, 1)
    assert opened(ImageRecord("2" * 64, "gone", (8, 9), None, "/nowhere.tif")) is None
    with pytest.raises(ValueError, match="pixels now"):
        opened(ImageRecord("3" * 64, "changed", (80, 9), None, there.path))


# -- classes of other layers


def test_a_points_layer_of_the_users_is_imported(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    mine = viewer.add_points(
        [(15, 20), (20, 25), (25, 30)],
        name="mine",
        features={"n": [1, 2, 3], "Class": ["a", "c", ""]},
        units=("um", "um"),
    )
    assert annotating.importable() == [mine]
    before = mine.data.copy()
    annotating.import_classes(mine)
    # Half a micrometre per pixel: the layer's own pixels are micrometres.
    assert placed(annotating) == [("a", (30, 40)), ("c", (40, 50))]
    assert {item.origin for item in kept(annotating)} == {"imported"}
    np.testing.assert_array_equal(mine.data, before)
    annotating.files.undo()
    assert len(kept(annotating)) == 0


def test_labels_and_shapes_of_the_users_are_imported(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    place = {"scale": (0.5, 0.5), "units": ("um", "um")}
    labels = viewer.add_labels(
        label_image(), features={"index": [1, 3], "class": ["a", "b"]}, **place
    )
    square = np.array([(10, 10), (10, 50), (50, 50), (50, 10)])
    shapes = viewer.add_shapes(
        [square, square[:2]], shape_type=["rectangle", "line"],
        features={"label": ["a", "b"]}, **place,
    )  # fmt: skip
    annotating.import_classes(labels)
    found = list(kept(annotating))
    assert [item.label for item in found] == ["a", "b"]
    np.testing.assert_allclose([item.position for item in found], CENTRES[[0, 2]], atol=0.5)
    annotating.import_classes(shapes)
    assert [item.kind for item in kept(annotating)] == ["cell", "cell", "region"]


# -- suggestions


def results_of(annotating: Annotating, shares: list[float]) -> Predictions:
    """Cells in a row, with these probabilities of the first of two classes, put as results."""
    centres = np.array([(20.0, 15.0 + 20 * i) for i in range(len(shares))])
    cells = cells_from_points(centres, (120, 180), diameter=10, pixel_size=0.5)
    first = np.array(shares, dtype=np.float32)
    ledger = ReadingLedger(0, 0, 0, 0.0, "cpu")
    found = Predictions(cells, ("a", "b"), np.stack([first, 1 - first], 1), (), ledger, "m" * 64)
    session = annotating.session
    plane = PlaneRef(None, (), True, "smear")
    session.selection.record.results = Results(plane, found, ("#000000", "#ffffff"))
    session.cells.results_changed.emit(found)
    return found


def test_the_least_sure_cells_are_asked_about_first(
    annotating: Annotating, viewer: ViewerModel
) -> None:
    shares = [0.99, 0.5, 0.9, 0.2, 0.8]
    results = results_of(annotating, shares)
    asked: list[int] = []
    annotating.suggestions.candidate_changed.connect(asked.append)
    annotating.suggestions.next()
    assert annotating.suggestions.candidate == 1
    assert annotating.suggestions.why == "the model wavers between a 50 % and b 50 %"
    assert annotating.session.status.message.text.startswith("This cell next: the model wavers")
    centre = annotating.session.selection.image.data_to_world(results.cells.centres[1])
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], centre)
    (mark,) = viewer.layers["smear · suggested cell"].data
    np.testing.assert_allclose(mark, results.cells.centres[1])
    annotating.give_key(1)
    (item,) = kept(annotating)
    np.testing.assert_allclose(item.position, results.cells.centres[1])
    while annotating.suggestions.candidate is not None and len(asked) < 20:
        annotating.give_key(2)
    assert sorted(row for row in asked if row is not None) == [0, 1, 2, 3, 4]
    assert annotating.files.counts_here == {"a": 1, "b": 4}
    corrected = {item.predicted for item in kept(annotating) if item.origin == "corrected"}
    assert corrected == {"a"}
    assert "smear · suggested cell" not in viewer.layers


def test_cells_that_are_passed_or_annotated_are_not_asked_about(annotating: Annotating) -> None:
    results = results_of(annotating, [0.5, 0.6, 0.7])
    annotating.targets.annotate_cell(tuple(results.cells.centres[0]), "a")
    annotating.suggestions.next()
    assert annotating.suggestions.candidate == 1
    annotating.suggestions.next()
    assert annotating.suggestions.candidate == 2
    annotating.suggestions.next()
    assert annotating.suggestions.candidate is None
    assert len(kept(annotating)) == 1


def test_cells_unlike_the_annotated_come_first(annotating: Annotating) -> None:
    results = results_of(annotating, [0.5] * 6)
    # Three kinds, two of each.
    states = np.repeat(np.eye(3), 2, axis=0).astype(np.float16)
    results = dataclasses.replace(results, states=states)
    record = annotating.session.selection.record
    record.results = dataclasses.replace(record.results, predictions=results)
    annotating.session.cells.results_changed.emit(results)
    for row in (0, 2):
        annotating.targets.annotate_cell(tuple(results.cells.centres[row]), "a")
    annotating.suggestions.next()
    assert annotating.suggestions.candidate in (4, 5)
    assert "unlike the cells that have a class" in annotating.suggestions.why


def test_next_without_classified_cells_says_what_to_do(annotating: Annotating) -> None:
    annotating.suggestions.next()
    assert "Classify all" in annotating.session.status.message.text


# -- the end of the process

_CHILD = """
import sys, numpy as np
from napari.components import ViewerModel
from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.plugin.core.lanes import AtOnce, Lanes
viewer = ViewerModel()
annotating = Annotating.of(viewer)
Lanes.of(viewer).runner = AtOnce()
annotating.attach()
viewer.add_image(np.eye(200), name="image")
annotating.mark_cells()
layer = annotating.files.chosen.cells.layer
layer.mode = "select"
rng = np.random.default_rng(int(sys.argv[1]))
print("begun", flush=True)
while True:
    kind = rng.integers(4)
    if kind < 2 or len(layer.data) < 3:
        layer.add(rng.integers(0, 200, (1, 2)))
    elif kind == 2:
        layer.selected_data = {int(rng.integers(len(layer.data)))}
        annotating.give(annotating.classes.names[0])
    else:
        layer.selected_data = {0}
        layer.remove_selected()
    shown = sorted(map(tuple, layer.data.astype(int).tolist()))
    print(repr(shown), flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_a_killed_process_loses_nothing_that_was_shown(folder: Path, seed: int) -> None:
    command = [sys.executable, "-c", _CHILD, str(seed)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    time.sleep(random.Random(seed).uniform(0.05, 0.6))
    child.send_signal(signal.SIGKILL)
    said = [line for line in child.stdout.read().split("\n") if line.endswith("]")]
    child.wait()
    there = sorted(tuple(map(int, item.position)) for item in on_disk(folder))
    last = [tuple(point) for point in ast.literal_eval(said[-1] if said else "[]")]
    # One more change may have been made before it could be printed.
    assert abs(len(there) - len(last)) <= 1
    assert len(set(there) ^ set(last)) <= 1


def test_a_slow_answer_about_a_layer_that_has_gone_is_dropped(
    annotating: Annotating, viewer: ViewerModel, folder: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    record = kept(annotating).image
    viewer.layers.clear()
    runner = Waiting()
    Lanes.of(viewer).runner = runner
    image: Image = add_picture(viewer)
    answer = runner.work()
    lock = lock_of(folder, record.hash)
    with pytest.raises(Timeout):
        lock.acquire()
    viewer.layers.remove(image)
    answer()
    assert annotating.files.open_annotations() == {}
    lock.acquire()
    lock.release()
