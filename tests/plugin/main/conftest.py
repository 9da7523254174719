"""The window that tests of the main dock share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .test_window import Window, canvases


@pytest.fixture
def window(make_napari_viewer_proxy: Any, qtbot: Any) -> Iterator[Window]:
    before = set(canvases())
    made = Window(make_napari_viewer_proxy(show=True), qtbot)
    (made.canvas,) = set(canvases()) - before
    made.open_dock()
    yield made
    made.canvas = made.dock = None
