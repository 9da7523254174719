"""Annotating with many annotations in one image: what the main thread spends on one step.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/annotating.py [--annotations 2000]

Opens a real window with two images of noise, each with so many annotated cells of eight classes
in a project of its own folder, and the box for annotating. Each step is done twelve times;
printed are the median and the largest of the milliseconds of processor time that the main thread
spends in the call, and in the call with the events that follow it, drawing included. Time of
other processes does not count. The same steps on an ordinary Points layer of napari, which
nothing follows, tell what of it is napari's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CLASSES = "abcdefgh"
ROUNDS = 12


class Bench:
    """A window, and a clock."""

    def __init__(self, annotations: int) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        from napari_sparseattn.plugin.annotate.box import AnnotateBox
        from napari_sparseattn.plugin.annotate.session import Annotating

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1400, 900)
        self.app = QApplication.instance()
        self.annotating = Annotating.of(self.viewer)
        self.box = AnnotateBox(self.annotating)
        self.viewer.window.add_dock_widget(self.box, name="Annotate")
        rng = np.random.default_rng(0)
        self.images = []
        for name in ("one", "two"):
            pixels = rng.integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
            self.images.append(self.viewer.add_image(pixels, rgb=True, name=name))
            self.until(lambda: self.annotating.files.chosen is not None)
            self._fill(rng.uniform(0, 1900, (annotations, 2)))

    def _fill(self, positions: np.ndarray) -> None:
        from napari_sparseattn.training.data.annotations import new_annotation

        for name in CLASSES:
            self.annotating.classes.add(name)
        image = self.annotating.files.chosen
        assert image is not None
        image.open().put(
            new_annotation("cell", CLASSES[i % len(CLASSES)], position=(float(y), float(x)))
            for i, (y, x) in enumerate(positions)
        )
        image.cell_layer()

    def until(self, true: Callable[[], bool]) -> None:
        """Let the window work until something is so."""
        for _ in range(6000):
            self.app.processEvents()
            if true():
                return
            time.sleep(0.01)
        raise TimeoutError

    def measure(self, name: str, step: Callable[[int], object]) -> None:
        """Do a step twelve times, and print what it takes."""
        calls, wholes = [], []
        for i in range(ROUNDS):
            began = time.thread_time()
            step(i)
            calls.append(1000 * (time.thread_time() - began))
            self.app.processEvents()
            wholes.append(1000 * (time.thread_time() - began))
            for _ in range(4):
                self.app.processEvents()
                time.sleep(0.02)
        print(
            f"| {name} | {statistics.median(calls):.1f} | {max(calls):.1f} "
            f"| {statistics.median(wholes):.1f} | {max(wholes):.1f} |",
            flush=True,
        )


def run(annotations: int) -> None:
    """Print a table of all steps."""
    from napari.layers import Points

    bench = Bench(annotations)
    annotating, viewer = bench.annotating, bench.viewer
    layer = annotating.files.chosen.cells.layer
    colours = np.array(layer.border_color)
    print(
        f"{annotations} annotations in each of two images; ms of the main thread's processor time"
    )
    print("| step | call, median | max | with events, median | max |\n|---|---|---|---|---|")
    plain = Points(np.array(layer.data), face_color="transparent", border_color=colours)
    viewer.add_layer(plain)
    plain.mode = "add"
    bench.measure("napari alone: add a point", lambda i: plain.add([[100 + i, 100.0]]))

    def recolour(i: int) -> None:
        plain.border_color = plain.border_color[::-1]

    bench.measure("napari alone: other colours", recolour)
    viewer.layers.remove(plain)
    annotating.mark_cells()
    bench.measure("add a point in the layer", lambda i: layer.add([[100 + i, 100.0]]))
    layer.mode = "select"

    def relabel(rows: set[int], i: int) -> None:
        layer.selected_data = rows
        annotating.give(CLASSES[i % len(CLASSES)])

    def remove(i: int) -> None:
        layer.selected_data = {i}
        layer.remove_selected()

    some = set(range(min(500, annotations // 4)))
    bench.measure("give one a class", lambda i: relabel({7 * i}, i))
    bench.measure(f"give {len(some)} a class", lambda i: relabel(some, i))
    bench.measure("undo that", lambda i: annotating.files.undo())
    bench.measure("redo that", lambda i: annotating.files.redo())
    bench.measure("remove one", remove)
    layer.mode = "pan_zoom"
    bench.measure(
        "change the image", lambda i: annotating.session.selection.set_image(bench.images[i % 2])
    )
    bench.measure(
        "change the class", lambda i: annotating.classes.choose(CLASSES[i % len(CLASSES)])
    )
    bench.box.release()
    viewer.close()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_SPARSEATTN_ANNOTATIONS"] = str(Path(folder) / "project")
        run(arguments.annotations)


if __name__ == "__main__":
    main()
