"""Several raters and other programs' files, without a window."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from shapely.geometry import Polygon, shape

from napari_sparseattn.images.opening import open_field
from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.training.data.annotations import ImageRecord, image_hash, new_annotation
from napari_sparseattn.training.data.project import Project

from ..conftest import picture
from .test_session import (
    agree,
    annotating,
    begin,
    cell_layer,
    folder,
    kept,
    on_disk,
    region_layer,
)

__all__ = ["annotating", "folder"]  # fixtures

HOLED = [
    [[20, 10], [60, 10], [60, 50], [20, 50], [20, 10]],
    [[30, 20], [30, 30], [40, 30], [40, 20], [30, 20]],
]


def feature(geometry: dict[str, Any], name: str, colour: list[int]) -> dict[str, Any]:
    kind = {"objectType": "annotation", "classification": {"name": name, "color": colour}}
    return {"type": "Feature", "geometry": geometry, "properties": kind}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As QuPath exports it: a region with a hole, and points."""
    made = [
        feature({"type": "Polygon", "coordinates": HOLED}, "tumour", [0, 128, 64]),
        feature({"type": "MultiPoint", "coordinates": [[5.5, 6.5], [9.5, 9.5]]}, "A", [1, 2, 3]),
    ]
    path = tmp_path / "smear.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": made}))
    return path


def notes(annotating: Annotating) -> str:
    return str(annotating.session.status.message)


# -- files of other programs


def test_a_file_of_qupath_becomes_layers(annotating: Annotating, file: Path) -> None:
    assert annotating.incoming.import_file(str(file))
    region, *cells = kept(annotating)
    assert [item.position for item in cells] == [(6.0, 5.0), (9.0, 9.0)]
    # 'A' is the class 'a' that is there, with its colour; the new one has its own.
    assert [item.label for item in cells] == ["a", "a"]
    assert annotating.classes.colours["tumour"] == "#008040"
    outer, hole = (ring[:, ::-1] + 0.5 for ring in region.rings)
    assert Polygon(outer, [hole]).equals(shape({"type": "Polygon", "coordinates": HOLED}))
    agree(annotating)
    layer = region_layer(annotating)
    inside, in_hole = layer.to_labels((80, 80))[[15, 25], [25, 35]]
    assert (bool(inside), bool(in_hole)) == (True, False)
    # Moved as a whole, it keeps its hole.
    moved = [np.asarray(corners) + 7.5 for corners in layer.data]
    layer.data = moved
    assert len(kept(annotating)[0].rings) == 2 or len(kept(annotating)[-1].rings) == 2
    assert "3 annotations imported from smear.geojson" in notes(annotating)


def test_an_import_is_taken_back_at_once(annotating: Annotating, file: Path) -> None:
    annotating.incoming.import_file(str(file))
    annotating.press_key("Ctrl+Z")
    assert len(kept(annotating)) == 0
    annotating.press_key("Ctrl+Shift+Z")
    assert len(kept(annotating)) == 3
    annotating.incoming.import_file(str(file))
    assert len(kept(annotating)) == 3
    assert "Nothing in smear.geojson is new" in notes(annotating)


def test_files_that_cannot_be_imported_say_why(annotating: Annotating, tmp_path: Path) -> None:
    path = tmp_path / "far.geojson"
    far = feature({"type": "Point", "coordinates": [9e4, 9e4]}, "a", [1, 1, 1])
    path.write_text(json.dumps([far]))
    annotating.incoming.import_file(str(path))
    assert "lie outside of 'smear'" in notes(annotating)
    path.write_text("x")
    annotating.incoming.import_file(str(path))
    assert "it takes GeoJSON" in notes(annotating)


def test_without_an_image_nothing_is_imported(viewer: ViewerModel, file: Path) -> None:
    found = begin(viewer)
    assert not found.incoming.import_file(str(file))
    assert "Open the image that smear.geojson is of" in notes(found)
    found.detach()


# -- who


def test_annotations_are_signed_with_the_name_that_was_given(
    annotating: Annotating, folder: Path
) -> None:
    annotating.targets.annotate_cell((30.0, 40.0), "a")
    assert [item.rater for item in on_disk(folder)] == [""]
    annotating.raters.set_name("  Anna  B. ")
    annotating.targets.annotate_cell((60.0, 70.0), "a")
    cell_layer(annotating).add([9.0, 9.0])
    assert [item.rater for item in on_disk(folder)] == ["", "Anna B.", "Anna B."]
    annotating.raters.set_name("")
    assert annotating.raters.name == ""


def test_two_raters_in_one_project_do_not_overwrite_each_other(annotating: Annotating) -> None:
    annotating.raters.set_name("anna")
    annotating.targets.annotate_cell((30.0, 40.0), "a", diameter=10.0)
    annotating.raters.set_name("ben")
    annotating.targets.annotate_cell((31.0, 40.0), "b", diameter=10.0)
    assert [(x.rater, x.label) for x in kept(annotating)] == [("anna", "a"), ("ben", "b")]
    # Ben's is now the one that a key changes.
    annotating.targets.annotate_cell((31.0, 40.0), "a", diameter=10.0)
    assert [(x.rater, x.label) for x in kept(annotating)] == [("anna", "a"), ("ben", "a")]
    agree(annotating)
    # Also where a class is changed in the layer itself.
    layer = cell_layer(annotating)
    features = layer.features.copy()
    features.loc[0, "class"] = "b"
    layer.features = features
    assert [(x.rater, x.label) for x in kept(annotating)] == [("anna", "a"), ("ben", "b")]
    agree(annotating)


# -- a colleague's project


def colleague(
    annotating: Annotating, tmp_path: Path, said: dict[tuple[float, float], str]
) -> Project:
    """A project of another rater on the same image, and on one more."""
    assert annotating.files.chosen is not None
    other = Project(tmp_path / "ben")
    for record in (annotating.files.chosen.record, ImageRecord("f" * 16, "far", (50, 50))):
        book = other.open(record)
        for place, label in said.items():
            book.add("cell", label, position=place, diameter_px=10.0)
        book.close()
    return other


def compared(annotating: Annotating, tmp_path: Path) -> None:
    """Anna in the window and ben in another project; they differ on two of three cells."""
    annotating.raters.set_name("anna")
    for place in ((30.0, 40.0), (60.0, 70.0), (90.0, 20.0)):
        annotating.targets.annotate_cell(place, "a", diameter=10.0)
    said = {(30.5, 40.0): "b", (60.0, 70.5): "a", (90.0, 21.0): "b", (5.0, 5.0): "b"}
    other = colleague(annotating, tmp_path, said)
    annotating.raters.add_project(other.folder)
    annotating.raters.compare()


def test_a_colleagues_project_is_added_and_taken_out(
    annotating: Annotating, tmp_path: Path, folder: Path
) -> None:
    compared(annotating, tmp_path)
    assert len(kept(annotating)) == 7
    assert {item.rater for item in kept(annotating)} == {"anna", "ben"}
    agree(annotating)
    assert len(on_disk(folder)) == 11
    annotating.press_key("Ctrl+Z")
    assert {item.rater for item in on_disk(folder)} == {"anna"}
    annotating.press_key("Ctrl+Shift+Z")
    assert len(on_disk(folder)) == 11
    # Once more it adds nothing.
    annotating.raters.add_project(tmp_path / "ben")
    assert "Nothing in 'ben' is new" in notes(annotating)
    assert len(on_disk(folder)) == 11
    annotating.raters.add_project(folder)
    assert "This is the project that is open" in notes(annotating)
    annotating.raters.add_project(tmp_path)
    assert "holds no project" in notes(annotating)


def test_disagreements_are_gone_through_and_decided(
    annotating: Annotating, tmp_path: Path, folder: Path
) -> None:
    compared(annotating, tmp_path)
    raters, viewer = annotating.raters, annotating.session.viewer
    assert raters.found is not None
    (found,) = raters.found
    assert (found.overall.n, found.disputed, found.alone) == (3, 2, {"anna": 0, "ben": 5})
    assert len(raters.disputes) == 2
    raters.next()
    assert raters.current is not None
    assert viewer is not None
    image = annotating.session.selection.image
    wanted = image.data_to_world((30.25, 40.0))
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], wanted, atol=1e-6)
    (mark,) = [layer for layer in viewer.layers if "disagreement" in layer.name]
    np.testing.assert_allclose(mark.data[0], (30.25, 40.0))
    raters.set_name("")
    assert not raters.settle("b")
    assert "Write your name first" in notes(annotating)
    raters.set_name("dora")
    # The key of any class decides, and the next one comes.
    annotating.press_key("2")
    decision = on_disk(folder)[-1] if on_disk(folder)[-1].settles else kept(annotating)[-1]
    assert (decision.label, decision.rater, len(decision.settles)) == ("b", "dora", 2)
    assert raters.at == 1
    assert raters.n_open == 1
    # Going back shows it as decided; taken back, it is open again.
    raters.previous()
    assert raters.current is not None
    assert raters.current.thing.settled == decision
    annotating.press_key("Ctrl+Z")
    assert raters.current.thing.settled is None
    assert raters.stale
    annotating.press_key("Ctrl+Shift+Z")
    raters.next()
    assert raters.at == 1
    assert raters.settle("a")
    assert "All 2 disagreements have been decided" in notes(annotating)
    assert raters.at is None
    assert not [layer for layer in viewer.layers if "disagreement" in layer.name]
    # What is learned from has one class of each cell.
    learned = {
        item.position: item.label
        for record, items in Project(folder).labelled()
        if record.hash == kept(annotating).image.hash
        for item in items
    }
    assert learned == {
        (30.25, 40.0): "b", (60.0, 70.5): "a", (90.0, 20.5): "a", (5.0, 5.0): "b",
    }  # fmt: skip


def test_another_rater_may_decide_anew(annotating: Annotating, tmp_path: Path) -> None:
    compared(annotating, tmp_path)
    annotating.raters.next()
    annotating.raters.set_name("dora")
    annotating.raters.settle("b")
    annotating.raters.previous()
    annotating.raters.set_name("emil")
    assert annotating.raters.settle("a")
    said = [(x.rater, x.label) for x in kept(annotating) if x.settles]
    assert said == [("dora", "b"), ("emil", "a")]
    assert Project(tmp_path / "project").labelled()


def test_an_image_that_is_not_open_is_opened(
    annotating: Annotating, tmp_path: Path, folder: Path
) -> None:
    tifffile.imwrite(tmp_path / "second.tif", picture()[::-1], photometric="rgb")
    field = open_field(tmp_path / "second.tif")
    record = ImageRecord(
        image_hash(field), "second", field.shape, None, str(tmp_path / "second.tif")
    )
    book = Project(folder).open(record)
    for rater, label in (("anna", "a"), ("ben", "b")):
        item = new_annotation("cell", label, position=(20.0, 30.0), rater=rater, diameter_px=9.0)
        book.put([item])
    book.close()
    annotating.raters.set_name("dora")
    annotating.raters.next()
    assert annotating.session.selection.image.name == "second"
    assert annotating.raters.settle("b")
    assert [x.label for x in kept(annotating) if x.settles] == ["b"]
    # One that is nowhere is asked for.
    book = Project(folder).open(dataclasses.replace(record, hash="e" * 16, path="/gone.tif"))
    for rater, label in (("anna", "a"), ("ben", "b")):
        book.put([new_annotation("cell", label, position=(2.0, 3.0), rater=rater)])
    book.close()
    annotating.raters.compare()
    annotating.raters.next()
    assert "is not open, and not where it was" in notes(annotating)


def test_a_table_of_what_they_differ_on(annotating: Annotating, tmp_path: Path) -> None:
    compared(annotating, tmp_path)
    annotating.raters.save_table(str(tmp_path / "differ.csv"))
    lines = (tmp_path / "differ.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("said by anna,said by ben,class,by,settled_by,settled_on")
    assert "2 disagreements written to differ.csv" in notes(annotating)
