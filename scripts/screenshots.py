"""Take the pictures of the real window that the README shows.

Run with a display, e.g. ``make docs-pictures``. The pictures are kept in the
repository, so they show the simulated sample: fetched images are not stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from napari_sparseattn.plugin.session import Session

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    """Let Qt work until something is true."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain")
        QApplication.processEvents()
        time.sleep(0.01)


def settle() -> None:
    """Let the window draw itself."""
    end = time.monotonic() + 1.5
    wait(lambda: time.monotonic() > end)


def look_at(viewer: napari.Viewer, row: float, column: float, zoom: float) -> None:
    viewer.scene.camera.center = (0.0, row, column)
    viewer.scene.camera.zoom = zoom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", default="simulated-smear", help="a sample's key")
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    viewer = napari.Viewer()
    settle()
    # After it is shown: napari restores the size of the last session.
    viewer.window.resize(1400, 900)
    viewer.open_sample("napari-sparseattn", options.sample)
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    wait(lambda: session.model is not None or session.message.level == "error")
    settle()

    viewer.fit_to_view()
    session.classify_all()
    wait(lambda: not session.running)
    print(session.message)
    settle()
    viewer.screenshot(options.out / "classify-all.png", canvas_only=False, flash=False)

    cells = session.results.cells
    # The cell that lies most in the middle shows best.
    middle = np.array(session.image.data.shape[:2]) / 2
    first = int(np.argmin(np.hypot(*(cells.centres - middle).T)))
    session.click_cell(first)
    wait(lambda: session.answer is not None)
    row, column = session.image.data_to_world(cells.centres[first])
    side = session.answer.evidence.frame.side * session.image.scale[-1]
    look_at(viewer, row, column, 0.7 * min(viewer.canvas.size) / side)
    print(session.message, session.answer.ranked()[:3])
    settle()
    viewer.screenshot(options.out / "window.png", canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
