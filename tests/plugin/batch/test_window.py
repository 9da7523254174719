"""The dock "Batch" in the real window, with real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qtpy.QtCore import QMimeData, QUrl
from qtpy.QtWidgets import QFileDialog

from napari_sparseattn.plugin.core.sources import is_own

from ..conftest import picture, wait_until
from ..main.test_window import Window, make_window, window
from ..test_opening import drop

__all__ = ["make_window", "window"]  # fixtures


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
