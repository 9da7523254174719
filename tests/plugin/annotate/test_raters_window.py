"""Several raters and files of other programs in the real window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QUrl
from qtpy.QtWidgets import QPushButton

from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.plugin.core.docks import open_dock
from napari_sparseattn.plugin.train.dock import TrainDock
from napari_sparseattn.training.data.annotations import new_annotation
from napari_sparseattn.training.data.project import Project

from ..conftest import add_picture
from ..main.test_window import Window, make_window, window
from ..test_opening import drop
from .test_window import folder

__all__ = ["folder", "make_window", "window"]  # fixtures


@pytest.fixture
def annotating(window: Window) -> Annotating:
    """A window with the picture and the dock, and two raters who differ on one of two cells."""
    add_picture(window.viewer)
    found = Annotating.of(window.viewer)
    open_dock(window.viewer, "Annotate and train")
    window.until(lambda: found.files.chosen is not None)
    return found


def dock_of(window: Window) -> TrainDock:
    dock = open_dock(window.viewer, "Annotate and train")
    assert isinstance(dock, TrainDock)
    return dock


def geojson(path: Path) -> Path:
    ring = [[20, 10], [60, 10], [60, 50], [20, 50], [20, 10]]
    one = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "clump"}},
    }
    path.write_text(json.dumps([one]))
    return path


def files(*paths: Path) -> QMimeData:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    return data


@pytest.mark.slow
def test_two_raters_are_compared_and_one_decides(
    window: Window, annotating: Annotating, folder: Path
) -> None:
    box = dock_of(window).raters_box
    assert box.name.text() == ""
    box.name.setText(" Anna ")
    box.name.editingFinished.emit()
    assert (box.name.text(), annotating.raters.name) == ("Anna", "Anna")
    annotating.targets.annotate_cell((30.0, 40.0), "round", diameter=10.0)
    annotating.targets.annotate_cell((90.0, 140.0), "round", diameter=10.0)
    window.until(lambda: annotating.files.counts_here.get("round") == 2)
    assert annotating.files.chosen is not None
    other = Project(folder.parent / "ben <b>")
    book = other.open(annotating.files.chosen.record)
    for place, label in (((30.0, 41.0), "round"), ((90.0, 141.0), "lobed")):
        book.put([new_annotation("cell", label, position=place, rater="ben", diameter_px=10.0)])
    book.close()
    annotating.raters.add_project(other.folder)
    window.until(lambda: annotating.files.counts_here.get("lobed") == 1)
    box.compare.click()
    window.until(lambda: annotating.raters.found is not None)
    assert "Anna</span> and <span>ben" in box.agreement.text()
    assert "Cohen's κ" in box.agreement.text()
    assert "1 with different classes" in box.agreement.text()
    box.next.click()
    image = annotating.session.selection.image
    wanted = image.data_to_world((90.0, 140.5))
    window.until(lambda: np.allclose(window.viewer.scene.camera.center[-2:], wanted, atol=1e-3))
    answers = [b for b in box.answers.findChildren(QPushButton) if not b.isHidden()]
    assert [b.text().split(",")[0] for b in answers] == ["round – Anna", "lobed – ben"]
    answers[1].click()
    window.until(lambda: annotating.raters.n_open == 0)
    ((_, items),) = Project(folder).labelled()
    assert [(x.label, x.rater) for x in items if x.settles] == [("lobed", "Anna")]
    # It is gone from the dock when there is nothing left; Previous brings it back as decided.
    assert box.answers.isHidden()
    box.previous.click()
    window.until(lambda: not box.answers.isHidden())
    assert "Decided: lobed by Anna" in box.question.text()
    # Another project has raters of its own.
    annotating.open_project(folder.parent / "empty")
    window.until(lambda: annotating.files.chosen is not None)
    assert box.agreement.isHidden()
    assert box.answers.isHidden()


@pytest.mark.slow
def test_a_file_is_dropped_on_a_dock(
    window: Window, annotating: Annotating, tmp_path: Path
) -> None:
    path = geojson(tmp_path / "one.geojson")
    assert drop(files(path), dock_of(window).annotate_box)
    window.until(lambda: annotating.files.counts_here.get("clump") == 1)
    geojson(tmp_path / "two.geojson")
    path = tmp_path / "two.geojson"
    path.write_text(path.read_text().replace("60, 50", "70, 50").replace("clump", "heap"))
    assert drop(files(path), window.dock)
    window.until(lambda: annotating.files.counts_here.get("heap") == 1)


@pytest.mark.slow
def test_napari_opens_a_file_of_annotations_onto_the_image(window: Window, tmp_path: Path) -> None:
    add_picture(window.viewer)
    before = list(window.viewer.layers)
    path = geojson(tmp_path / "one.geojson")
    window.viewer.open(str(path), plugin="napari-sparseattn")
    annotating = Annotating.of(window.viewer)
    window.until(lambda: annotating.files.counts_here.get("clump") == 1)
    (added,) = [layer for layer in window.viewer.layers if layer not in before]
    assert added.name == "smear · regions"


@pytest.mark.slow
def test_without_an_image_the_file_asks_for_one(window: Window, tmp_path: Path) -> None:
    path = geojson(tmp_path / "one.geojson")
    window.viewer.open(str(path), plugin="napari-sparseattn")
    assert "Open the image that one.geojson is of" in window.session.status.message.text
    assert len(window.viewer.layers) == 0


@pytest.mark.slow
def test_the_name_is_remembered(window: Window, annotating: Annotating) -> None:
    from napari_sparseattn.plugin.core.preferences import preferences

    annotating.raters.set_name("Anna")
    assert preferences().rater == "Anna"
    annotating.raters.set_name("")
    assert preferences().rater == ""
