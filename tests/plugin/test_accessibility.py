"""The real docks, measured by ``benchmarks/accessibility.py``: keys, names, contrast."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from qtpy.QtGui import QColor
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_sparseattn.plugin.core.docks import open_dock

from .conftest import CENTRES, add_labels, add_picture
from .main.test_window import Window, canvases

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "accessibility.py"


@pytest.fixture(scope="module")
def audit() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("accessibility_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def window(
    make_napari_viewer_proxy: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Window]:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    before = set(canvases())
    made = Window(make_napari_viewer_proxy(show=True), qtbot)
    (made.canvas,) = set(canvases()) - before
    made.open_dock()
    yield made
    made.canvas = made.dock = None


@pytest.mark.slow
def test_every_control_is_reached_named_and_seen(window: Window, audit: ModuleType) -> None:
    viewer, session = window.viewer, window.session
    image = add_picture(viewer)
    add_labels(session, viewer)
    session.cells.classify_all()
    window.until(lambda: session.cells.results is not None and not session.status.running)
    window.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: session.answer is not None)
    docks = [window.dock, *(open_dock(viewer, f"{kind} of cells") for kind in ("Gallery", "Map"))]
    window.until(lambda: docks[2].box.view.places is not None)
    found = []
    for dock in docks:
        audit.unfold(dock)
        audit.raise_dock(dock)
        window.until(dock.isVisible)
        QTest.qWait(50)
        found += audit.measure_keys("dark", type(dock).__name__, dock)
        found += audit.measure_contrast("dark", type(dock).__name__, dock)
    viewer.theme = "light"
    for dock in docks:
        audit.raise_dock(dock)
        window.until(lambda dock=dock: dock.isVisible() and dock._dark is False)
        QTest.qWait(50)
        found += audit.measure_contrast("light", type(dock).__name__, dock)
    # A table of what was looked at: were it empty, nothing would have been measured.
    kinds = [each.kind for each in found]
    for kind, least in {"reach": 60, "name": 60, "focus": 60, "text": 120, "edge": 40}.items():
        assert kinds.count(kind) >= least, (kind, kinds.count(kind))
    short = [(f.kind, round(f.value, 2), f.theme, f.place, f.widget) for f in found if f.fails]
    assert not short


@pytest.mark.slow
def test_the_queue_of_a_batch_is_reached_named_and_seen(
    window: Window, audit: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.tif").write_bytes(b"only looked for")
    dock = open_dock(window.viewer, "Batch")
    batch = dock.batch
    batch.add_inputs([str(tmp_path / "images")])
    window.until(lambda: len(batch.states) == 1 and not batch.searching)
    audit.unfold(dock)
    audit.raise_dock(dock)
    window.until(dock.queue_box.table.isVisible)
    QTest.qWait(50)
    found = audit.measure_keys("dark", "batch", dock)
    found += audit.measure_contrast("dark", "batch", dock)
    assert "_Table 'Files of the batch'" in {each.widget for each in found}
    assert not [(f.kind, round(f.value, 2), f.widget) for f in found if f.fails]


def test_the_measures_find_what_is_wrong(audit: ModuleType, qtbot: Any) -> None:
    """Else a test that finds nothing would say nothing."""
    outer = QWidget()
    qtbot.addWidget(outer)
    outer.setStyleSheet(
        "QWidget { background: #202020; } QPushButton { color: #505050; border: none; }"
        "QCheckBox { color: white; }"
        "QCheckBox::indicator { width: 16px; height: 16px; background: #2a2a2a; }"
    )
    pale, sign, box = QPushButton("pale"), QPushButton("+"), QCheckBox("ticked")
    column = QVBoxLayout(outer)
    for widget in (pale, sign, box):
        column.addWidget(widget)
    outer.show()
    qtbot.waitExposed(outer)
    ground = QColor("#202020")
    found = {
        (f.widget.split()[0], f.kind): f.value
        for f in audit.measure_contrast("dark", "here", outer)
    }
    letters = float(audit.contrast((0x50,) * 3, (0x20,) * 3))
    assert audit.contrast_of_letters(audit.draw(pale, ground)) == pytest.approx(letters, rel=0.05)
    assert found["QPushButton", "text"] < 4.5
    assert found["QCheckBox", "text"] > 4.5
    assert found["QCheckBox", "edge"] < 3
    assert audit.name_of(sign) == ""
    assert audit.name_of(pale) == "pale"
    assert not audit.come_before(pale, pale, outer)
    assert audit.come_before(pale, sign, outer)
    assert not audit.come_before(sign, pale, outer)
    np.testing.assert_allclose(audit.contrast((0, 0, 0), (255, 255, 255)), 21)
