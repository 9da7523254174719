"""Time from the mouse button to the updated layers, in a real window.

    python benchmarks/interaction.py [--clicks 120] [--verdicts 20] [--model NAME]

Opens a window on a picture of 140 drawn cells, loads the model, then presses and
releases the mouse on one cell after another and waits for the answer. Two times
are printed, both from the release of the button:

layers     all overlay layers and the result panel are updated
drawn      the canvas has been painted again (by software where there is no GPU)

and of each how long the main thread computed from the answer on, which other programs lengthen
less. With ``--verdicts``, so many clicks wait for what is measured of the answer, too: whether
those pixels decided.

The first click also makes the layers; it is printed apart, also in processor time of
the main thread, which other programs do not lengthen: from the arrival of the answer
until the layers are there, and until they are drawn, colour bar included.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.session import Session

KINDS = ("layers", "drawn", "layers, processor", "drawn, processor")


def cells_image(rows: int = 10, columns: int = 14, pitch: int = 90) -> tuple[Any, Any]:
    """Return a smear of one nucleus per tile, and the nuclei's centres."""
    rng = np.random.default_rng(0)
    image = np.full((rows * pitch, columns * pitch, 3), (225, 220, 215), dtype=float)
    y, x = np.indices((pitch, pitch)) - pitch / 2
    centres = []
    for i in range(rows):
        for j in range(columns):
            lobes = rng.normal(0, 8, (3, 2))
            disc = np.any([np.hypot(y - a, x - b) < 14 for a, b in lobes], axis=0)
            tile = image[i * pitch : (i + 1) * pitch, j * pitch : (j + 1) * pitch]
            tile[np.hypot(y, x) < 30] = (205, 190, 215)
            tile[disc] = (105, 70, 160)
            centres.append((i * pitch + pitch / 2, j * pitch + pitch / 2))
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), np.array(centres)


class Bench:
    """A window, its mouse, and a clock."""

    def __init__(self, model: str | None) -> None:
        self.viewer = napari.Viewer()
        QTest.qWait(500)
        # After it is shown: napari restores the size of the last session.
        self.viewer.window.resize(1400, 900)
        image, self.centres = cells_image()
        self.layer = self.viewer.add_image(
            image, rgb=True, name="smear", scale=(0.2, 0.2), units=("um", "um")
        )
        # The cells are given: the benchmark is about a click, not about finding cells.
        points = self.viewer.add_points(
            self.centres, scale=(0.2, 0.2), units=("um", "um"), size=60, visible=False
        )
        self.viewer.layers.selection.active = self.layer
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Sparse attention"
        )
        self.session = Session.of(self.viewer)
        self.wait(lambda: self.session.selection.model is not None)
        if model:
            self.dock.model_box.load_file(model)
            self.wait(lambda: self.session.selection.model is not None)
        self.session.selection.set_cell_layer(points)
        self.canvas: QWidget = next(
            w for w in QApplication.allWidgets() if type(w).__name__ == "CanvasBackendDesktop"
        )
        self.answered = False
        self.shown = self.computed = 0.0
        #: Processor time of this thread when the answer came and when its layers were there.
        self.came = self.made = 0.0
        self.session.cells._click._given = self._time(self.session.cells._click._given)
        self.session.answer_changed.connect(self._on_answer)
        self.session.status.message_changed.connect(self._on_message)

    def _time(self, given: Any) -> Any:
        def timed(*arguments: object) -> None:
            self.came = time.thread_time()
            given(*arguments)
            self.made = time.thread_time()

        return timed

    def _on_answer(self, answer: object) -> None:
        self.answered = answer is not None

    def _on_message(self, message: object) -> None:
        # The last thing the session does with an answer is to say so.
        if self.answered:
            self.shown, self.computed = time.perf_counter(), time.thread_time()

    def wait(self, until: Any, seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(
                    f"waited {seconds} s in vain: {self.session.status.message.text}"
                )
            # Not without rest, which no window does: it would keep Python from the worker.
            QTest.qWait(1)

    def click(self, centre: Any) -> list[float]:
        """Click a cell; return ms from release to each of KINDS."""
        camera = self.viewer.scene.camera
        world = np.asarray(self.layer.data_to_world(centre))
        down, right = (world - camera.center[-2:]) * camera.zoom
        middle = self.canvas.rect().center()
        at = QPoint(round(middle.x() + right), round(middle.y() + down))
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QTest.mousePress(self.canvas, left, none, at)
        QApplication.processEvents()
        self.answered, self.shown = False, 0.0
        start = time.perf_counter()
        QTest.mouseRelease(self.canvas, left, none, at)
        self.wait(lambda: self.shown > 0)
        # napari paints the canvas in the events its layers have queued.
        QApplication.processEvents()
        end, ended = time.perf_counter(), time.thread_time()
        # From the answer on: before, this thread only waits for it.
        spent = [1000 * (t - self.came) for t in (self.computed, ended)]
        return [*(1000 * (t - start) for t in (self.shown, end)), *spent]

    def verdict(self, centre: Any) -> float:
        """Click a cell; return ms from release until it is known whether those pixels decided."""
        evidence = AnswerFaithfulness.of(self.viewer)
        start = time.perf_counter()
        self.click(centre)
        self.wait(lambda: evidence.measured is not None)
        return 1000 * (time.perf_counter() - start)


def machine() -> str:
    import torch

    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}, napari {napari.__version__}, torch {torch.__version__} "
        f"with {torch.get_num_threads()} thread(s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=120)
    parser.add_argument("--verdicts", type=int, default=0)
    parser.add_argument("--model", help="a model file; by default the one the window opens with")
    options = parser.parse_args()
    bench = Bench(options.model)
    bundle = bench.session.selection.model.bundle
    rng = np.random.default_rng(1)
    order = rng.integers(0, len(bench.centres), options.clicks + 6)
    first = bench.click(bench.centres[order[0]])
    end = time.monotonic() + 1
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    spent = [bench.made - bench.came, time.thread_time() - bench.came]
    for i in order[1:6]:
        bench.click(bench.centres[i])
        QTest.qWait(50)
    times = []
    for i in order[6:]:
        times.append(bench.click(bench.centres[i]))
        QTest.qWait(50)
    verdicts = []
    for i in rng.integers(0, len(bench.centres), options.verdicts):
        verdicts.append(bench.verdict(bench.centres[i]))
        QTest.qWait(50)
    print(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}")
    device = bench.session.selection.model.device
    print(f"model: {bundle.card.name}, {bundle.n_parameters} parameters, on {device}")
    print(f"{options.clicks} clicks, ms from the button's release (first, with new layers):")
    for name, column, one in zip(KINDS, np.array(times).T, first, strict=True):
        median, p95 = np.percentile(column, [50, 95])
        print(
            f"{name:17s} median {median:6.1f}  p95 {p95:6.1f}  max {column.max():6.1f}  ({one:.0f})"
        )
    if verdicts:
        median, p95 = np.percentile(verdicts, [50, 95])
        print(f"{options.verdicts} clicks to the verdict, ms: median {median:.0f}  p95 {p95:.0f}")
    print(
        f"first click, s of processor time from its answer: layers made {spent[0]:.2f}, "
        f"all drawn {spent[1]:.2f}"
    )
    bench.viewer.close()


if __name__ == "__main__":
    main()
