"""napari 0.9.2 dies on Mesa's software OpenGL: a Shapes layer is removed, then points are added.

    xvfb-run -a python scripts/napari_shapes_crash.py

Without this plugin. vispy deletes the buffers of the removed layer late, by when their numbers
belong to those of the new one. Ends with a segmentation fault within a few rounds; with
``--without`` in place of the Shapes layer nothing is drawn, and all rounds pass.
"""

from __future__ import annotations

import faulthandler
import sys

import napari
import numpy as np
from qtpy.QtTest import QTest

ROUNDS, DRAWN_MS = 10, 120


def main() -> None:
    """Add and remove layers until all rounds are done, or napari has died."""
    faulthandler.enable()
    viewer, rng = napari.Viewer(), np.random.default_rng(0)
    for number in range(ROUNDS):
        viewer.add_image(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8), rgb=True)
        QTest.qWait(DRAWN_MS)
        viewer.add_points(300 * rng.random((40, 2)), size=18, face_color="transparent")
        QTest.qWait(DRAWN_MS)
        if "--without" not in sys.argv:
            corners = np.array([(10, 10), (10, 60), (60, 60), (60, 10)])
            viewer.add_shapes(
                [corners],
                face_color="transparent",
                features={"text": ["a"]},
                text={"string": "{text}"},
            )
        QTest.qWait(DRAWN_MS)
        viewer.layers.clear()
        QTest.qWait(DRAWN_MS)
        print("round", number + 1, flush=True)
    viewer.close()


if __name__ == "__main__":
    main()
