"""Names that look like HTML, or are long: shown as they are, in docks that stay narrow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtGui import QTextDocument
from qtpy.QtWidgets import QLabel, QWidget

from napari_sparseattn.batch.run import ItemState
from napari_sparseattn.plugin.batch.queue_box import BatchQueueBox
from napari_sparseattn.plugin.batch.session import Batch
from napari_sparseattn.plugin.batch.source_box import BatchOptionsBox, BatchSourceBox
from napari_sparseattn.plugin.compare.box import CompareBox
from napari_sparseattn.plugin.compare.session import Compare
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.evidence.box import FaithfulnessBox
from napari_sparseattn.plugin.evidence.cells_box import CellFaithfulnessBox
from napari_sparseattn.plugin.evidence.cells_session import CellFaithfulness
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.evidence.what_if_box import WhatIfBox
from napari_sparseattn.plugin.evidence.what_if_session import WhatIfSession
from napari_sparseattn.plugin.export.box import ExportBox
from napari_sparseattn.plugin.export.session import ExportSession
from napari_sparseattn.plugin.holograms.actions_box import HologramActionsBox
from napari_sparseattn.plugin.holograms.options_box import HologramOptionsBox
from napari_sparseattn.plugin.holograms.preview_box import PreviewBox
from napari_sparseattn.plugin.holograms.requests import Failure
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.holograms.source_box import HologramSourceBox
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.process.inputs import InputFile
from small_model import small_bundle

from .conftest import CENTRES, add_labels, add_picture
from .made_holograms import add_hologram

CLASSES = ("CD8<dim>", "CD8<bright>", "a_class_of_28_letters_or_so_")
FILE = "a_file_name_that_is_longer_than_any_dock_is_wide_" * 3 + "<1>.png"
#: Of the docks, less margins, the edge of a section and a scroll bar.
WIDTH = 340 - 30


def read(text: str) -> str:
    """Return what Qt shows of a text in a label or tooltip."""
    if not Qt.mightBeRichText(text):
        return text
    document = QTextDocument()
    document.setHtml(text)
    return document.toPlainText().replace("\u00a0", " ")


def shown(label: QLabel) -> str:
    """Return what a label shows."""
    return label.text() if label.textFormat() == Qt.TextFormat.PlainText else read(label.text())


@pytest.fixture
def named(session: Session, viewer: ViewerModel, at_once: None) -> Session:
    """All cells of the picture are classified, and one is clicked."""
    bundle = small_bundle(class_names=CLASSES, name="m" * 64)
    session.selection.set_model(Model(bundle, "cpu", "CPU", ("cpu",)))
    add_picture(viewer, name=FILE)
    add_labels(session, viewer)
    session.selection.set_settings(session.selection.image, modality="brightfield")
    for kind in (AnswerFaithfulness, CellFaithfulness, WhatIfSession, Compare, ExportSession):
        kind.of(viewer).attach()
    session.cells.classify_all()
    session.cells.click(session.selection.image.data_to_world(CENTRES[2]))
    assert session.answer.label in CLASSES
    return session


@pytest.fixture
def put(qtbot: Any) -> Iterator[Any]:
    """Put a box where a dock has room for it; it must not ask for more."""
    boxes: list[Any] = []

    def make(box: Any) -> Any:
        qtbot.addWidget(box)
        box.resize(WIDTH, 800)
        box.show()
        boxes.append(box)
        return box

    yield make
    for box in boxes:
        fits(box)
        box.release()


def fits(box: QWidget) -> None:
    assert box.minimumSizeHint().width() <= WIDTH
    for child in box.findChildren(QWidget):
        if child.isVisibleTo(box) and child.window() is box.window():
            place = child.mapTo(box, child.rect().topRight())
            inside = any(
                parent.metaObject().className().endswith(("View", "Widget")) and parent is not box
                for parent in parents(child, box)
            )
            assert inside or place.x() < WIDTH, child


def parents(child: QWidget, top: QWidget) -> Iterator[QWidget]:
    parent = child.parentWidget()
    while parent is not None and parent is not top:
        yield parent
        parent = parent.parentWidget()


def test_compared_answers(named: Session, put: Any) -> None:
    compare = Compare.of(named.viewer)
    compare.set_number(7)
    box = put(CompareBox(compare))
    compare.compare()
    found = dataclasses.replace(
        compare.one,
        probabilities=(np.array([[0.9, 0.1, 0]]), np.array([[0.2, 0.8, 0]])),
    )
    compare.one = compare.every = found
    box.show_all()
    text = shown(box.answers)
    assert "CD8<dim>" in text
    assert "CD8<bright>" in text
    assert "CD8<dim> 90%  |  CD8<bright> 80%" in box.differing.item(0).text()


def test_what_if_answers(named: Session, put: Any) -> None:
    what_ifs = WhatIfSession.of(named.viewer)
    box = put(WhatIfBox(what_ifs))
    assert what_ifs.draw("lasso")
    layer = what_ifs.layers.outlines(named.selection.image, (), make=False)
    row, column = CENTRES[2]
    layer.add_polygons([np.array([(row - 4, column - 4), (row - 4, column + 4), (row, column)])])
    what_ifs.ask("remove")
    text = shown(box.compared)
    assert all(name in text for name in CLASSES[:2])
    label = what_ifs.entries[0].found.after.label.replace("_", " ")
    assert box.table.item(0, 2).text() == label
    assert read(box.table.item(0, 2).toolTip()) == what_ifs.entries[0].found.summary()


def test_faithfulness(named: Session, put: Any) -> None:
    faithfulness = AnswerFaithfulness.of(named.viewer)
    box = put(FaithfulnessBox(faithfulness))
    assert named.answer.label.replace("_", " ") in read(box.verdict.toolTip())
    box.curves.click()
    named.viewer.layers.clear()
    cells = CellFaithfulness.of(named.viewer)
    assert cells.why_not()


def test_faithfulness_per_cell(named: Session, put: Any) -> None:
    cells = CellFaithfulness.of(named.viewer)
    box = put(CellFaithfulnessBox(cells))
    cells.measure_all()
    row = box.highest.patches()[0]
    label = cells.cells()[row].found.label.replace("_", " ")
    assert read(box.highest.item(0).toolTip()).startswith(label)
    assert box.summary.textFormat() == Qt.TextFormat.PlainText


def test_export(named: Session, put: Any, tmp_path: Path) -> None:
    exporting = ExportSession.of(named.viewer)
    box = put(ExportBox(exporting))
    folder = tmp_path / "<i>"
    exporting.set_folder(folder)
    exporting.export()
    written = shown(box.written).replace("\u200b", "")
    assert all(path.name in written for path in exporting.written[:3])
    assert str(exporting.written[0]) in read(box.written.toolTip())
    assert box.folder.text() == str(folder)


def test_the_queue_of_a_batch(session: Session, viewer: ViewerModel, put: Any) -> None:
    batch = Batch.of(viewer)
    boxes = [put(make(batch)) for make in (BatchQueueBox, BatchSourceBox, BatchOptionsBox)]
    path = Path("/data") / FILE
    state = ItemState(InputFile(FILE, path), "failed", f"{FILE} is no image.")
    batch.states = [state]
    batch.choices.inputs, batch.choices.out = (str(path),), path.parent
    batch.items_changed.emit()
    batch.changed.emit()
    queue, source, _ = boxes
    assert shown(source.inputs) == FILE
    assert FILE in read(source.inputs.toolTip())
    queue.table.selectRow(0)
    assert shown(queue.detail) == f"{FILE} is no image."
    index = queue.model.index(0, 0)
    assert FILE in read(queue.model.data(index, Qt.ItemDataRole.ToolTipRole))


def test_holograms(panel: Holograms, viewer: ViewerModel, put: Any) -> None:
    actions = put(HologramActionsBox(panel))
    for make in (HologramSourceBox, PreviewBox, HologramOptionsBox):
        put(make(panel))
    add_hologram(viewer, name=FILE, wavelength=None, pixel_size=None)
    failure = Failure(FILE, "it is no hologram")
    panel.work._set_failures((failure,))
    assert str(failure) in shown(actions.failed)
    assert read(actions.failed.toolTip()) == str(failure)
