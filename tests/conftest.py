"""What all tests share: the folder of real data, and a look for leaked Qt objects."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before napari is imported: neither settings nor what is kept by whoever runs
# the tests may change them, or be changed by them.
_OURS = tempfile.TemporaryDirectory(prefix="napari-sparseattn-tests-")
for _name, _place in {
    "NAPARI_CONFIG": "settings.yaml",
    "NAPARI_SPARSEATTN_ANNOTATIONS": "annotations",
    "NAPARI_SPARSEATTN_CACHE": "cache",
    "NAPARI_SPARSEATTN_MODELS": "models",
}.items():
    os.environ[_name] = str(Path(_OURS.name) / _place)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, and all windows, which share one display, in one."""
    windows = ROOT / "tests" / "plugin"
    for item in items:
        group = "windows" if windows in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    # They take longest together, so they begin first.
    items.sort(key=lambda item: windows not in item.path.parents)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data, or skip where it is absent."""
    folder = Path(os.environ.get("NAPARI_SPARSEATTN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs real data: {folder} is absent (set NAPARI_SPARSEATTN_SHARED)")
    return folder


def _own_widgets() -> list[str]:
    """Describe the living Qt widgets whose class is ours."""
    from qtpy.QtWidgets import QApplication

    return [
        f"{type(widget).__qualname__} {widget.objectName()!r}"
        for widget in QApplication.allWidgets()
        if type(widget).__module__.startswith("napari_sparseattn")
    ]


@pytest.fixture(autouse=True)
def no_qt_leaks() -> Iterator[None]:
    """Fail a test that leaves a widget of ours alive or work of ours running.

    Autouse, so set up first and torn down last: after the viewer's own fixture.
    """
    yield
    if "qtpy.QtWidgets" not in sys.modules:
        return
    from qtpy.QtCore import QCoreApplication, QEvent, QThreadPool

    if QCoreApplication.instance() is None:
        return
    assert QThreadPool.globalInstance().waitForDone(10_000), "work is still running after the test"
    for _ in range(3):
        QCoreApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        if not (left := _own_widgets()):
            return
        gc.collect()
    pytest.fail(f"widgets outlived their test: {left}")
