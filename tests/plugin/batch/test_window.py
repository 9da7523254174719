"""The dock "Batch" in the real window, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qtpy.QtCore import QMimeData, Qt, QUrl
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_sparseattn.plugin.core.sources import is_own

from ..conftest import picture, wait_until
from ..main.test_window import Window, make_window, window
from ..test_opening import drop

__all__ = ["make_window", "window"]  # fixtures

#: As a user writes it: nothing asks whether it is the main module.
_SCRIPT = """
import time
from pathlib import Path
import napari
from qtpy.QtWidgets import QApplication

print("said begun", flush=True)
viewer = napari.Viewer()
_, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Batch")
_, main = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
batch = dock.batch

def until(true):
    while not true():
        QApplication.processEvents()
        time.sleep(0.01)

main.session.load(main.session.models.paths["small"])
until(lambda: batch.session.selection.model is not None)
batch.choices.set_out(Path({out!r}))
batch.choices.set_pixel_size(0.5)
batch.choices.set_workers(1)
batch.add_inputs([{folder!r}])
until(lambda: batch.states and not batch.searching)
batch.start()
until(lambda: any(state.state == "done" for state in batch.states))
dock.queue_box.cancel.click()
until(lambda: not batch.running)
print("said cancelled", flush=True)
batch.start()
until(lambda: not batch.running)
states = [state.state for state in batch.states]
good = states.count("done") + states.count("skipped")
print("said finished", good, "done,", states.count("failed"), "failed", flush=True)
viewer.close()
"""


@pytest.fixture
def dock(window: Window) -> Any:
    _, dock = window.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Batch")
    yield dock
    window.viewer.window.remove_dock_widget(dock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    for name in ("p1/a.png", "p2/a.png", "p2/c.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(images / name)
    (images / "p1" / "b.png").write_bytes(b"no image")
    return images


def until(window: Window, true: Callable[[], bool]) -> None:
    """Wait; each process loads torch first, which takes long where the machine is busy."""
    wait_until(window.qtbot, true)


def shown(dock: Any) -> list[tuple[str, str]]:
    model = dock.queue_box.model
    return [
        tuple(model.data(model.index(row, column)) for column in (0, 1))
        for row in range(model.rowCount())
    ]


def test_a_folder_from_drop_to_overlay(window: Window, dock: Any, folder: Path) -> None:
    box, batch = dock.queue_box, dock.batch
    assert box.empty.isVisible()
    assert not box.start.isEnabled()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(folder))])
    assert drop(data, dock.source_box.inputs)
    until(window, box.start.isEnabled)
    assert shown(dock)[:2] == [("a.png · p1", "waiting"), ("b.png · p1", "waiting")]
    assert dock.source_box.model.text() == "small"
    assert dock.source_box.out.text() == str(folder / "results")

    box.start.click()
    assert box.cancel.isVisible()
    assert not dock.source_box.folder.isEnabled()
    assert not dock.options_box.isEnabled()
    # The window lives on while other processes work.
    rounds = 0
    while batch.running:
        window.qtbot.wait(5)
        rounds += 1
    assert rounds > 20
    assert [state for _, state in shown(dock)] == ["done", "failed", "done", "done"]
    assert box.bar.value() == 4
    assert not box.bar.isVisible()
    assert (folder / "results" / "p2" / "c.png.csv").is_file()

    box.failed_only.setChecked(True)
    assert shown(dock) == [("b.png · p1", "failed")]
    box.table.selectRow(0)
    assert "is not a TIFF" in box.detail.text()
    assert not box.show_result.isEnabled()
    box.failed_only.setChecked(False)
    assert not box.detail.isVisible()

    index = box.model.index(2, 0)
    box.table.selectRow(2)
    assert box.show_result.isEnabled()
    box.table.doubleClicked.emit(index)
    until(window, lambda: len(window.viewer.layers) == 2)
    assert [is_own(layer) for layer in window.viewer.layers] == [False, True]
    # Its table is there too.
    results = window.session.cells.results
    assert results is not None
    box.table.selectRow(3)
    box.table.setFocus()
    QTest.keyClick(box.table, Qt.Key.Key_Return)
    until(window, lambda: len(window.viewer.layers) == 4)


@pytest.mark.slow
def test_names_are_whole_where_there_is_room(window: Window, dock: Any, tmp_path: Path) -> None:
    name = "patient-0123_smear-2_field-00017_brightfield.png"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture()).save(tmp_path / folder / name)
    dock.batch.add_inputs([str(tmp_path)])
    box = dock.queue_box
    until(window, lambda: box.model.rowCount() == 2)
    text = shown(dock)[0][0]
    needed = box.table.fontMetrics().horizontalAdvance(text)
    box.resize(needed + 400, box.height())
    assert box.table.columnWidth(0) > needed
    box.resize(330, box.height())
    # In a narrow dock it is cut in its middle, and something is left for the result.
    assert box.table.columnWidth(0) < needed
    assert box.table.columnWidth(2) >= 90
    assert name in box.model.data(box.model.index(0, 0), Qt.ItemDataRole.ToolTipRole)


@pytest.mark.slow
def test_a_script_with_a_window_need_not_guard_itself(
    folder: Path, model_file: Path, tmp_path: Path
) -> None:
    """Its processes would open a window each, and what waits for them would never end."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(folder=str(folder), out=str(tmp_path / "out")))
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, "NAPARI_SPARSEATTN_MODELS": str(model_file.parent)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stdout.splitlines() if line.startswith("said")]
    assert said == ["said begun", "said cancelled", "said finished 3 done, 1 failed"]


@pytest.mark.slow
def test_cancel_and_go_on(
    window: Window, dock: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    chosen = iter([str(folder), str(out)])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: next(chosen))
    dock.source_box.folder.click()
    dock.source_box.choose_out.click()
    box, batch = dock.queue_box, dock.batch
    until(window, box.start.isEnabled)
    box.start.click()
    until(window, lambda: any(state == "done" for _, state in shown(dock)))
    box.cancel.click()
    until(window, lambda: not batch.running)
    before = [name for name, state in shown(dock) if state == "done"]
    assert "running" not in [state for _, state in shown(dock)]
    box.start.click()
    until(window, lambda: not batch.running)
    after = dict(shown(dock))
    assert all(after[name] == "skipped" for name in before)
    assert sorted(after.values()).count("failed") == 1
    assert "waiting" not in after.values()


@pytest.mark.slow
def test_options_reach_the_batch(dock: Any) -> None:
    options, choices = dock.options_box, dock.batch.choices
    options.formats["geojson"].click()
    assert choices.formats == ("csv", "geojson")
    options.pixel_size.setValue(0.25)
    assert choices.pixel_size == 0.25
    options.workers.setValue(2)
    assert choices.workers == 2
    options.task.setCurrentIndex(options.task.findData("hologram"))
    options.task.activated.emit(options.task.currentIndex())
    assert choices.task == "hologram"


@pytest.mark.slow
def test_closing_the_dock_stops_the_batch(window: Window, folder: Path) -> None:
    _, dock = window.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Batch")
    batch = dock.batch
    batch.add_inputs([str(folder)])
    until(window, lambda: bool(batch.states))
    dock.queue_box.start.click()
    window.viewer.window.remove_dock_widget(dock)
    assert not batch.running
    _, again = window.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Batch")
    assert "was stopped" in again.message_line.label.text()
    assert again.queue_box.start.isEnabled()
    window.viewer.window.remove_dock_widget(again)
