"""How long the window does not answer while a model is fine-tuned: thread against process.

    python benchmarks/training_stall.py [--ways nothing thread process] [--no-pan]

Opens a window on a drawn smear of 300 cells, 25 of each of two new classes
annotated, and fine-tunes the model ``blood-cells`` on them while the view is
panned, thirty times a second. A timer of the main thread that is due every
5 ms measures what it is kept from: the longest gap is how long the window did
not answer. The same is measured with nothing in the background.

nothing  panning alone
thread   ``fine_tune`` in another thread of the window's process
process  as the plugin does it: in a process of its own, at a lower priority

``--no-pan`` leaves the view alone. Annotated cells are cut out in a thread of the
window either way (``gathering``); cells that nobody annotated are looked for in
that thread too, or in the process. ``report``: showing what training gave.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QThreadPool, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.training.data.annotations import new_annotation

WAYS = ("nothing", "thread", "process")
TICK_MS, PAN_MS = 5, 33
PITCH, ROWS, COLUMNS, PIXEL = 150, 15, 20, 0.2


def smear() -> tuple[Any, Any]:
    """Return drawn cells of one or of three lobes, and their centres."""
    rng = np.random.default_rng(0)
    image = np.full((ROWS * PITCH, COLUMNS * PITCH, 3), (225, 220, 215), dtype=np.float32)
    y, x = np.indices((PITCH, PITCH)) - PITCH / 2
    centres = []
    for i in range(ROWS * COLUMNS):
        row, column = divmod(i, COLUMNS)
        tile = image[row * PITCH : (row + 1) * PITCH, column * PITCH : (column + 1) * PITCH]
        tile[np.hypot(y, x) < 32] = (205, 190, 215)
        for a, b in rng.normal(0, 9, (1 + 2 * (i % 2), 2)):
            tile[np.hypot(y - a, x - b) < 14] = (105, 70, 160)
        centres.append((row * PITCH + PITCH / 2, column * PITCH + PITCH / 2))
    image += rng.normal(0, 4, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), np.array(centres)


class Heartbeat:
    """Gaps between the beats of a timer of the main thread, in ms."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.marks: list[tuple[str, int]] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def mark(self, name: str) -> None:
        """Count what follows under a name."""
        self.marks.append((name, len(self.gaps)))

    def stop(self) -> None:
        self._timer.stop()

    def parts(self) -> dict[str, Any]:
        """Return the gaps by what went on."""
        ends = [start for _, start in self.marks[1:]] + [len(self.gaps)]
        found: dict[str, list[float]] = {}
        for (name, start), end in zip(self.marks, ends, strict=True):
            found.setdefault(name, []).extend(self.gaps[start:end])
        return {name: np.array(gaps) for name, gaps in found.items() if gaps}

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(1000 * (now - self._last))
        self._last = now


class Bench:
    """A window with annotated cells."""

    def __init__(self, pan: bool, folder: str) -> None:
        self.folder = folder
        self.viewer = napari.Viewer()
        QTest.qWait(500)
        self.viewer.window.resize(1400, 900)
        image, self.centres = smear()
        scale = {"scale": (PIXEL, PIXEL), "units": ("um", "um")}
        self.layer = self.viewer.add_image(image, rgb=True, name="smear", **scale)
        _, self.main = self.viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Sparse attention"
        )
        self.wait(lambda: self.main.session.selection.model is not None)
        self.main.model_box.load_file(self._path("blood-cells"))
        self.wait(lambda: self.main.session.selection.model is not None)
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Annotate and train"
        )
        self.tuning: FineTuning = self.dock.tuning
        self._annotate()
        self.pan = QTimer()
        self.pan.setInterval(PAN_MS)
        self.pan.timeout.connect(self._pan)
        self.panning, self.step = pan, 0
        self.ended = threading.Event()

    def wait(self, until: Callable[[], bool], seconds: float = 1800.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s in vain")
            QApplication.processEvents()
            time.sleep(0.0005)

    def measure(self, way: str, seconds: float) -> Heartbeat:
        """Train in one of the ways, or wait so long; return the gaps."""
        QTest.qWait(1000)
        beat = Heartbeat()
        beat.mark("rest")
        if self.panning:
            self.pan.start()
        if way == "nothing":
            end = time.monotonic() + seconds
            self.wait(lambda: time.monotonic() > end)
        elif way == "process":
            self._in_process(beat)
        else:
            self._in_thread(beat)
        self.pan.stop()
        beat.stop()
        return beat

    def _in_process(self, beat: Heartbeat) -> None:
        def told(state: str) -> None:
            if state != "idle":
                beat.mark("gathering" if state == "preparing" else "training")

        def reported(report: object) -> None:
            if report is not None:
                beat.mark("report")

        self.tuning.state_changed.connect(told)
        self.tuning.outcome.changed.connect(reported)
        self.tuning.start()
        self.wait(lambda: not self.tuning.working)
        QTest.qWait(1000)
        self.tuning.state_changed.disconnect(told)
        self.tuning.outcome.changed.disconnect(reported)
        assert self.tuning.outcome.report is not None, self.tuning.session.status.message.text
        print(f"  {len(self.tuning.epochs)} epochs: {self.tuning.outcome.report.sentence}")

    def _in_thread(self, beat: Heartbeat) -> None:
        import torch

        from napari_sparseattn.training.data.annotated import cut_unannotated_cells
        from napari_sparseattn.training.data.datasets import CropSet
        from napari_sparseattn.training.runs.data import gather_cells
        from napari_sparseattn.training.runs.runs import read_images
        from napari_sparseattn.training.tune.fine_tune import fine_tune

        request = self.tuning.request()
        told: list[str] = []

        def work() -> None:
            gathering = gather_cells(request, Path(self.folder))
            while True:
                try:
                    next(gathering)
                except StopIteration as end:
                    found = end.value
                    break
            fields = read_images(Path(self.folder))
            others = cut_unannotated_cells(
                self.tuning.annotating.classes.project,
                lambda image: fields.get(image.hash),
                request.model.bundle.card,
            )
            told.append("training")
            # As many threads as the process is given.
            torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
            arrays = found.arrays
            data = CropSet(
                arrays["crops"], arrays["labels"], found.class_names, found.names, found.groups
            )
            options = {"device": "cpu", "seconds": request.choices.seconds}
            fine_tune(request.model.bundle, data, unlabelled=others, **options)
            told.append("end")

        beat.mark("gathering")
        thread = threading.Thread(target=work)
        thread.start()
        self.wait(lambda: bool(told) or not thread.is_alive())
        beat.mark("training")
        self.wait(lambda: not thread.is_alive())
        assert told[-1] == "end"

    def _annotate(self) -> None:
        annotating = self.tuning.annotating
        order = np.random.default_rng(1).permutation(len(self.centres))
        names = ("one lobe", "three lobes")
        chosen = [i for kind in (0, 1) for i in [j for j in order if j % 2 == kind][:25]]
        places = [tuple(map(float, self.centres[i])) for i in chosen]
        annotating.targets.annotate_cell(places[0], names[chosen[0] % 2], diameter=64.0)
        self.wait(lambda: annotating.files.annotations(self.layer) is not None)
        annotating.files.annotations(self.layer).put(
            new_annotation("cell", names[i % 2], position=place, diameter_px=64.0)
            for i, place in list(zip(chosen, places, strict=True))[1:]
        )
        self.wait(lambda: self.tuning.survey.text.startswith("50 "))

    def _pan(self) -> None:
        self.step += 1
        camera = self.viewer.scene.camera
        middle = np.array(self.layer.data_to_world((ROWS * PITCH / 2, COLUMNS * PITCH / 2)))
        turn = self.step / 20
        camera.center = (0.0, *(middle + 60 * np.array([np.sin(turn), np.cos(turn)])))

    def _path(self, name: str) -> str:
        from napari_sparseattn.bundle import find_bundles

        return str(find_bundles()[name])


def told(name: str, gaps: Any) -> str:
    late = gaps[gaps > 50]
    middle, high = np.percentile(gaps, [50, 99])
    return (
        f"  {name:10s} longest {gaps.max():6.0f} ms  99 % {high:5.0f} ms  median {middle:4.0f} ms  "
        f"{len(late)} of {len(gaps)} over 50 ms, {gaps.sum() / 1000:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for `nothing`")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training, about")
    parser.add_argument("--no-pan", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_SPARSEATTN_MODELS"] = str(Path(folder) / "models")
        os.environ["NAPARI_SPARSEATTN_ANNOTATIONS"] = str(Path(folder) / "project")
        bench = Bench(not options.no_pan, folder)
        bench.tuning.set_choices(seconds=options.budget)
        import torch

        print(
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python "
            f"{platform.python_version()}, napari {napari.__version__}, torch "
            f"{torch.__version__} with {torch.get_num_threads()} thread(s), load "
            f"{os.getloadavg()[0]:.1f}"
        )
        for way in options.ways:
            began = time.monotonic()
            print(f"{way}:", flush=True)
            beat = bench.measure(way, options.seconds)
            for name, gaps in beat.parts().items():
                print(told(name, gaps))
            print(f"  {time.monotonic() - began:.0f} s in all", flush=True)
        bench.viewer.close()
        QThreadPool.globalInstance().waitForDone(10_000)


if __name__ == "__main__":
    sys.exit(main())
