"""napari lives on when layers are removed and others drawn, also with Mesa's OpenGL."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CHILD = """
import napari, numpy as np
from qtpy.QtTest import QTest
from napari_sparseattn.plugin.widgets.canvas import guard_canvases

viewer = napari.Viewer()
viewer.add_image(np.eye(60))
for _ in range(2):
    guard_canvases(viewer.window._qt_viewer.window())
for what in ("points", "shapes"):
    for number in range(3):
        image = viewer.add_image(np.zeros((120, 180, 3), np.uint8), rgb=True)
        QTest.qWait(100)
        points = viewer.add_points([(30.0, 40.0)])
        QTest.qWait(100)
        if what == "shapes":
            viewer.add_shapes(
                [np.array([(10, 10), (10, 60), (60, 60), (60, 10)])],
                features={"text": ["a"]}, text={"string": "{text}"},
            )
            QTest.qWait(100)
            viewer.layers.clear()
        else:
            viewer.layers.remove(image)
            viewer.layers.remove(points)
        QTest.qWait(100)
        print(what, "round", number, flush=True)
"""


@pytest.mark.slow
def test_layers_are_removed_with_their_image_again_and_again() -> None:
    """In a process of its own: without the guard it dies in the second round."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert child.stdout.splitlines()[-1:] == ["shapes round 2"], child.stderr[-2000:]
