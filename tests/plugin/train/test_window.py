"""The dock Annotate and train in the real window: annotate, train, cancel, go on, use, reload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QScrollArea

from napari_sparseattn.bundle import find_bundles, save_bundle
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.plugin.annotate.targets import Target
from napari_sparseattn.plugin.core import models as model_list
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.train.dock import TrainDock
from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.training.data.annotations import new_annotation
from napari_sparseattn.training.runs.requests import Trained
from napari_sparseattn.training.tune.report import FineTuneReport, Paired
from small_model import small_bundle

from ..conftest import wait_until
from .test_session import field


class Window:
    """One viewer with both docks open, the second one by the button in the first."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        image, self.centres, self.kinds = field()
        self.layer = viewer.add_image(
            image, rgb=True, name="field", scale=(0.5, 0.5), units=("um", "um")
        )
        _, self.main = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
        self.session = Session.of(viewer)
        self.tuning = FineTuning.of(viewer)
        self.until(lambda: self.session.selection.model is not None)
        self.dock: TrainDock | None = None
        self.open_dock()

    def open_dock(self) -> None:
        self.main.train.click()
        # Whoever opens it, there is one of them.
        window = self.main.window()
        self.until(lambda: len(window.findChildren(TrainDock)) == 1)
        (self.dock,) = window.findChildren(TrainDock)

    def close_dock(self) -> None:
        self.viewer.window.remove_dock_widget(self.dock)
        self.dock = None

    def until(self, true: Callable[[], bool]) -> None:
        wait_until(self.qtbot, true)

    def annotate(self, cells: Sequence[int]) -> None:
        """Annotate one cell as a click does, and the others as one change."""
        annotating, kinds = self.tuning.annotating, self.kinds
        annotating.targets.annotate_cell(self.centres[cells[0]], kinds[cells[0]], diameter=12.0)
        # The first waits until it is known which image it is on.
        self.until(lambda: annotating.files.annotations(self.layer) is not None)
        annotating.files.annotations(self.layer).put(
            new_annotation("cell", kinds[i], position=self.centres[i], diameter_px=12.0)
            for i in cells[1:]
        )

    def until_counted(self, n: int) -> None:
        self.until(lambda: self.tuning.survey.text.startswith(f"{n} annotated"))

    def until_trained(self) -> None:
        self.until(lambda: not self.tuning.working)
        assert self.tuning.outcome.report is not None, self.session.status.message.text


@pytest.fixture
def window(
    make_napari_viewer_proxy: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Window]:
    models = tmp_path / "models"
    save_bundle(small_bundle(), models / "small.safetensors")
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(models))
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))

    def own() -> dict[str, Path]:
        return {name: path for name, path in find_bundles().items() if path.parent == models}

    monkeypatch.setattr(model_list, "find_bundles", own)
    window = Window(make_napari_viewer_proxy(show=True), qtbot)
    yield window
    window.dock = None


def test_a_model_is_trained_with_one_button_and_used_with_another(window: Window) -> None:
    tuning, session = window.tuning, window.session
    window.annotate(range(40))
    window.until_counted(40)
    tuning.set_choices(seconds=0.1)
    window.dock.train_box.start.click()
    window.until_trained()
    assert len(tuning.epochs) >= 1
    name = tuning.outcome.trained.path.stem
    window.dock.report_box.use.click()
    window.until(
        lambda: (
            session.selection.model is not None and session.selection.model.bundle.card.name == name
        )
    )
    assert window.main.model_box.models.currentText() == name
    assert {"disk", "ring"} <= set(session.selection.model.bundle.card.class_names)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_annotate_train_cancel_resume_correct_retrain_reload(window: Window) -> None:
    tuning, session = window.tuning, window.session
    box = window.dock.train_box
    assert not box.start.isEnabled()
    window.annotate(range(0, 120, 2))
    window.until_counted(60)
    assert box.start.isEnabled()

    # Train, pause, resume, and cancel: the best so far is kept.
    box.start.click()
    window.until(lambda: len(tuning.epochs) >= 1)
    box.pause.click()
    assert tuning.state == "paused"
    assert box.pause.text() == "Resume"
    box.pause.click()
    box.cancel.click()
    window.until_trained()
    assert any("Cancelled" in note for note in tuning.outcome.report.notes)
    assert len(tuning.epochs) < tuning.epochs_total
    first = tuning.outcome.trained.path.stem
    assert window.dock.report_box.use.isVisible()
    window.dock.report_box.keep.click()
    assert session.selection.model.bundle.card.name == "small"
    assert not window.dock.report_box.use.isVisible()
    assert window.main.model_box.models.findText(first) >= 0

    # Close the dock in the middle; it offers to go on.
    box.start.click()
    window.until(lambda: len(tuning.epochs) >= 1)
    window.close_dock()
    assert not tuning.working
    window.open_dock()
    box = window.dock.train_box
    window.until(box.resume_run.isVisible)
    tuning.set_choices(seconds=0.1)
    box.resume_run.click()
    window.until(lambda: len(tuning.epochs) >= 2)
    assert tuning.epochs[0].epoch == 1
    box.cancel.click()
    window.until_trained()

    # Correct some, annotate more, train again, and use it.
    label = window.kinds[0]
    other = next(kind for kind in window.kinds if kind != label)
    tuning.annotating.targets.annotate_cell(window.centres[0], other)
    window.annotate(range(1, 40, 2))
    window.until_counted(80)
    said = re.search(r"(\d+) to learn from, (\d+) held out", box.survey.text())
    QTest.mouseClick(box.start, Qt.MouseButton.LeftButton)
    window.until_trained()
    report = window.dock.report_box
    assert report.matrix.counts.sum() == tuning.outcome.report.all_cells.n
    # As many as was said before, and some of each class.
    assert said is not None, box.survey.text()
    tested_on = int(report.matrix.counts.sum())
    assert [int(n) for n in said.groups()] == [80 - tested_on, tested_on]
    tested = dict(zip(report.matrix.names, report.matrix.counts.sum(axis=1), strict=True))
    assert min(tested["disk"], tested["ring"]) > 0
    report.use.click()
    name = tuning.outcome.trained.path.stem
    window.until(
        lambda: (
            session.selection.model is not None and session.selection.model.bundle.card.name == name
        )
    )
    assert window.main.model_box.models.currentText() == name
    assert {first, name} <= set(find_bundles())
    assert {"disk", "ring"} <= set(session.selection.model.bundle.card.class_names)

    # Click a field of the matrix, then a cell in the list.
    row, column = divmod(int(report.matrix.counts.argmax()), len(report.matrix.names))
    middle = report.matrix.field_rect(row, column).center()
    QTest.mouseClick(
        report.matrix,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
        QPoint(round(middle.x()), round(middle.y())),
    )
    assert report.cells.count() == report.matrix.counts[row, column]
    cell = report.cells.item(0).data(Qt.ItemDataRole.UserRole)
    report.cells.itemClicked.emit(report.cells.item(0))
    place = tuning.annotating.files.annotations(window.layer).get(cell.id).position
    assert tuple(window.viewer.scene.camera.center[-2:]) == pytest.approx(
        (place[0] / 2, place[1] / 2)
    )


@pytest.mark.slow
def test_too_few_cells_are_said_before_training(window: Window) -> None:
    box = window.dock.train_box
    window.annotate(range(3))
    window.until_counted(3)
    assert box.hints.isVisible()
    assert "annotate at least 10" in box.hints.text()


def report_of(name: str) -> FineTuneReport:
    """A report of two held-out cells of a class."""
    probabilities = np.array([[0.2, 0.8], [0.6, 0.4]])
    right = classification_report(probabilities, np.array([1, 1]), ("round", name))
    paired = Paired(2, 1, 1, 0, 0, 1.0)
    return FineTuneReport(
        "too little data", f"Nothing can be said of '{name}'.", ("round", name), ("round",),
        right, right, paired, paired, paired, (), 1.0, (), 1, {name: 2}, {}, 1.0,
        (f"'{name}' was left out of {'f' * 64}.tif.",),
    )  # fmt: skip


@pytest.mark.slow
def test_the_dock_is_no_wider_than_itself(window: Window) -> None:
    classes = window.tuning.annotating.classes
    classes.add("W" * 60)
    window.tuning.annotating.targets.annotate_cell(window.centres[0], "W" * 60)
    window.tuning.annotating.targets.target = Target(window.centres[0], (), "W" * 60)
    window.tuning.annotating.changed.emit()
    window.until_counted(1)
    assert window.dock.annotate_box.target.isVisible()
    box, name = window.dock.report_box, "W" * 60
    window.tuning.outcome.show(Trained(Path(f"{'w' * 60}.safetensors"), report_of(name)))
    window.until(box.isVisible)
    scroll = window.dock.findChild(QScrollArea)
    # What is left of the narrowest dock: its margins and the scroll bar take the rest.
    margins = window.dock.layout().contentsMargins()
    room = window.dock.minimumWidth() - margins.left() - margins.right()
    room -= scroll.verticalScrollBar().sizeHint().width()
    assert scroll.widget().minimumSizeHint().width() <= room
    assert "&#x27;" not in box.verdict.text()
