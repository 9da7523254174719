"""Ctrl+Z in the real window, and long work in napari's own list of activities."""

from __future__ import annotations

from typing import Any

import pytest
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_sparseattn.plugin.core.activity import Activity
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.core.status import Progress

from ..conftest import CENTRES, add_picture
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


def press(window: Window, widget: QWidget, key: Qt.Key, shift: bool = False) -> None:
    modifiers = Qt.KeyboardModifier.ControlModifier
    if shift:
        modifiers |= Qt.KeyboardModifier.ShiftModifier
    QTest.keyClick(widget, key, modifiers)
    QApplication.processEvents()


@pytest.mark.slow
def test_a_removed_layer_comes_back_by_its_key_on_canvas_and_dock(window: Window) -> None:
    image = add_picture(window.viewer)
    window.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: window.session.answer is not None)
    layer = next(each for each in window.viewer.layers if is_own(each))
    for widget in (window.canvas, window.dock.actions_box.all):
        window.viewer.layers.remove(layer)
        press(window, widget, Qt.Key.Key_Z)
        assert layer in window.viewer.layers
    press(window, window.canvas, Qt.Key.Key_Z, shift=True)
    assert layer not in window.viewer.layers
    # Who draws in a layer of their own uses napari's own undo.
    mine = window.viewer.add_shapes(name="mine")
    mine.mode = "add_polygon"
    press(window, window.canvas, Qt.Key.Key_Z)
    assert layer not in window.viewer.layers


class Job:
    changed = Signal(object)

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.changed.emit(None)


def listed() -> list[Any]:
    # Those that are closed are deleted some time later.
    bars = (w for w in QApplication.allWidgets() if type(w).__name__ == "QtLabeledProgressBar")
    return [bar for bar in bars if not bar.isHidden()]


@pytest.mark.slow
def test_a_bar_among_the_activities_cancels(window: Window) -> None:
    job = Job()
    Activity.of(window.viewer).follow("Counting", (job.changed,), job.cancel)
    job.changed.emit(Progress(2, 8, 5.0, "cells"))
    window.until(lambda: bool(listed()))
    (bar,) = listed()
    assert bar.description_label.text().startswith("Counting: 2 of 8 cells, 5 s left")
    assert (bar.qt_progress_bar.value(), bar.qt_progress_bar.maximum()) == (2, 8)
    bar.cancel_button.click()
    assert job.cancelled
    window.until(lambda: not listed())
