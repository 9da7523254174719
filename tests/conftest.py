"""What all tests share: the folder of real data, and a look for leaked Qt objects."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from xdist.scheduler import LoadScopeScheduling

from displays import can_start, start_display

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


# Property tests draw the same examples each time, and write nothing into the tree.
settings.register_profile(
    "tests",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    # A failure is told at once: --hypothesis-profile default looks for the smallest.
    phases=[Phase.explicit, Phase.generate],
    # tmp_path is one folder for all examples: each writes its files anew.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tests")

#: Files that take longest, quick or slow, which begin first: a process is then not left with one
#: in the end.
LONGEST = (
    "plugin/annotate/test_window.py",
    "export/test_onnx_model.py",
    "export/test_bioimage.py",
    "plugin/train/test_window.py",
    "plugin/test_opening.py",
    "plugin/main/test_seen.py",
    "plugin/main/test_window.py",
    "plugin/train/test_session.py",
    "plugin/batch/test_window.py",
    "plugin/main/test_first_use.py",
    "batch/test_run.py",
    "plugin/slides/test_window.py",
    "plugin/train/test_tables.py",
    "plugin/holograms/test_window.py",
    "process/test_process.py",
    "plugin/main/test_demo.py",
    "training/tune/test_fine_tune.py",
    "training/tune/test_slides.py",
    "training/tune/test_outcomes.py",
)


#: Displays of the processes that share the tests. The first process starts and ends them: one
#: that takes long to leave is killed, and would leave its display behind.
_servers: list[subprocess.Popen[bytes]] = []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if can_start():
        server, node.workerinput["display"] = start_display()
        _servers.append(server)


def pytest_configure(config: pytest.Config) -> None:
    if display := getattr(config, "workerinput", {}).get("display"):
        os.environ["DISPLAY"] = display
        os.environ.pop("WAYLAND_DISPLAY", None)


def pytest_unconfigure() -> None:
    while _servers:
        server = _servers.pop()
        server.terminate()
        server.wait()


class ByFile(LoadScopeScheduling):
    """Keeps a file's tests in one process, and all windows where processes share a display.

    xdist's own groups are names that it adds to those of tests; pytest 9.2 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _servers or not file.startswith("tests/plugin/") else "windows"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    places = {f"tests/{name}": place for place, name in enumerate(LONGEST)}

    def order(item: pytest.Item) -> tuple[int, bool]:
        file = item.nodeid.partition("::")[0]
        return places.get(file, len(places)), not file.startswith("tests/plugin/")

    items.sort(key=order)


def pytest_collection_finish() -> None:
    _freeze()


def _freeze() -> None:
    """Take what is there to stay out of the search for cycles: napari searches at removed layers.

    So do its viewers when they close, twice; over torch and napari each search takes a second.
    """
    gc.collect()
    gc.freeze()


#: As many objects that a test leaves behind are modules that it was the first to import.
_MANY_OBJECTS = 100_000


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
    assert QThreadPool.globalInstance().waitForDone(120_000), "work is still running after the test"
    for _ in range(3):
        QCoreApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        if not (left := _own_widgets()):
            if len(gc.get_objects()) > _MANY_OBJECTS:
                _freeze()
            return
        gc.collect()
    pytest.fail(f"widgets outlived their test: {left}")
