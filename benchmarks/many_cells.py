"""How long the window does not answer with 10 000 cells in table, gallery and map.

    python benchmarks/many_cells.py [--cells 10000] [--pictures FOLDER]

Opens a window on an image of so many drawn cells and puts a result beside it that is made up:
classes, probabilities, novelty and states are drawn by lot, as classifying them would say nothing
of the docks. The pictures are cut from the image, in lanes, as they are for a user. Then it
scrolls, sorts, filters, picks, draws lassos and annotates in each dock. A timer of the main thread
that is due every 5 ms measures what it is kept from:

wall       the longest gap between two beats: what a user would feel, other programs included
processor  the most that this thread computed between two beats: what the docks cost

The aim is 50 ms. On a machine that other programs keep busy, the second says more.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, QPointF, Qt, QThreadPool, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_sparseattn.images.fields.cells import Cells
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.plugin.core.docks import open_dock
from napari_sparseattn.plugin.core.selection import Results
from napari_sparseattn.plugin.core.sources import displayed_plane
from napari_sparseattn.plugin.session import Session

TICK_MS, AFTER_MS, AIM_MS = 5, 120, 50.0
PITCH, PIXEL = 40, 0.3


class Heartbeat:
    """Gaps between the beats of a timer of the main thread, in ms, wall and processor."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._last = (time.perf_counter(), time.thread_time())
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        self.gaps.append((1000 * (now[0] - self._last[0]), 1000 * (now[1] - self._last[1])))
        self._last = now


def drawn_cells(n: int) -> tuple[Any, Any]:
    """Return an image of n cells in rows, and their centres."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(n)))
    y, x = np.indices((PITCH, PITCH)) - PITCH / 2
    tiles = []
    for _ in range(60):
        tile = np.full((PITCH, PITCH, 3), (225, 220, 215), np.float32)
        tile[np.hypot(y, x) < 15] = (205, 190, 215)
        for a, b in rng.normal(0, 4, (rng.integers(1, 4), 2)):
            tile[np.hypot(y - a, x - b) < 7] = rng.normal((105, 70, 160), 12)
        tiles.append((tile + rng.normal(0, 4, tile.shape)).clip(0, 255).astype(np.uint8))
    chosen = rng.integers(0, len(tiles), (side, side))
    image = np.concatenate(
        [np.concatenate([tiles[i] for i in row], axis=1) for row in chosen], axis=0
    )
    centres = np.stack(np.divmod(np.arange(n), side), axis=1) * PITCH + PITCH / 2
    return image, centres.astype(np.float64)


def made_up(centres: Any, names: tuple[str, ...], model_hash: str) -> Predictions:
    """Return a result that no network gave."""
    rng, n = np.random.default_rng(1), len(centres)
    boxes = np.hstack([centres - 15, centres + 15])
    cells = Cells(centres, boxes, np.zeros(n, bool), np.arange(1, n + 1), None, PIXEL)
    kind = rng.integers(0, len(names), n)
    shares = rng.dirichlet(np.full(len(names), 0.3), n).astype(np.float32)
    shares[np.arange(n), kind] += rng.uniform(0.2, 4, n).astype(np.float32)
    shares /= shares.sum(1, keepdims=True)
    states = rng.normal(0, 1, (n, 96)) + rng.normal(0, 2, (len(names), 96))[kind]
    return Predictions(
        cells, names, shares, (), ReadingLedger(1, 1, 1, 0.1, "cpu"), model_hash,
        measures={"evidence_gain": rng.normal(0.3, 0.2, n)},
        novelty=rng.gamma(4, 0.2, n).astype(np.float32),
        none_of_these=np.zeros(n, bool), states=states.astype(np.float16),
    )  # fmt: skip


class Bench:
    """A window with many cells, and its docks."""

    def __init__(self, n: int) -> None:
        self.viewer = napari.Viewer()
        QTest.qWait(500)
        self.viewer.window.resize(1600, 1000)
        image, centres = drawn_cells(n)
        self.layer = self.viewer.add_image(
            image, rgb=True, name="smear", scale=(PIXEL, PIXEL), units=("um", "um")
        )
        self.viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
        self.session = Session.of(self.viewer)
        self.wait(lambda: self.session.selection.model is not None)
        bundle = self.session.selection.model.bundle
        names, colours = bundle.card.shown_names, bundle.card.colours
        results = made_up(centres, names, bundle.hash)
        plane = displayed_plane(self.viewer, self.layer)
        selection = self.session.selection
        # These are its cells: a click need not look for any.
        key = selection.ask_fields(self.layer)["cells_key"]
        selection.keep_cells(self.layer, plane, key, results.cells)
        selection.record_of(self.layer).results = Results(plane, results, colours)
        self.session.cells.show_all(self.layer, plane.index, results, colours)
        self.session.cells.results_changed.emit(results)
        self.shown = self.session.cells.shown
        self.settle(1500)
        self.worst: dict[str, list[tuple[str, float, float]]] = {}
        self.beat = Heartbeat()

    def wait(self, until: Callable[[], bool], seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"waited in vain: {self.session.status.message.text}")
            QApplication.processEvents()
            time.sleep(0.001)

    def settle(self, milliseconds: int) -> None:
        end = time.monotonic() + milliseconds / 1000
        self.wait(lambda: time.monotonic() > end)

    def measure(self, place: str, what: str, *acts: Callable[[], object]) -> None:
        """Do things one after the other, each followed by some time, and keep the worst gaps."""
        self.settle(AFTER_MS)
        self.beat.gaps.clear()
        for act in acts:
            act()
            self.settle(AFTER_MS)
        wall, processor = np.array(self.beat.gaps).max(0)
        self.worst.setdefault(place, []).append((what, float(wall), float(processor)))

    def rest(self) -> None:
        self.measure("window", "nothing", *[lambda: None] * 10)

    def table(self) -> None:
        box, shown = open_dock(self.viewer, "Table of cells").box, self.shown
        self.settle(1000)
        bar, view = box.table.verticalScrollBar(), box.table
        steps = np.linspace(0, bar.maximum(), 25).astype(int)
        self.measure("table", "scroll", *[lambda to=int(to): bar.setValue(to) for to in steps])
        self.measure(
            "table", "sort",
            *[lambda i=i, way=way: view.sortByColumn(i, way)
              for i in range(box.model.columnCount())
              for way in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder)],
        )  # fmt: skip
        search = box.filter_bar.search
        self.measure(
            "table", "search",
            *[lambda text=text: search.setText(text) for text in ("n", "ne", "neu", "1", "12", "")],
        )  # fmt: skip
        names = self.shown.results.class_names
        self.measure(
            "table", "filter",
            *[lambda low=low: box.filter_bar.histogram.chosen.emit(low, 1.0)
              for low in (0.2, 0.5, 0.8, 0.0)],
            *[lambda i=i: shown.set_filter(classes=frozenset(names[:i])) for i in (1, 3, 5)],
            shown.show_all,
        )  # fmt: skip
        self.measure("table", "select all", view.selectAll, view.clearSelection)
        some = np.random.default_rng(0).permutation(shown.total)
        self.measure(
            "table", "picked elsewhere",
            *[lambda k=k: shown.pick(some[:k]) for k in (1, 100, 3000, 10_000, 0)],
        )  # fmt: skip
        view.setFocus()
        view.selectRow(0)
        # The first answer makes the layers that show it.
        self.wait(lambda: self.session.answer is not None)
        self.settle(2000)
        self.measure(
            "table", "arrow keys", *[lambda: QTest.keyClick(view, Qt.Key.Key_Down)] * 10
        )  # fmt: skip
        self.settle(1500)

    def gallery(self) -> None:
        dock = open_dock(self.viewer, "Gallery of cells")
        self.settle(3000)
        wall, shown, population = dock.box.wall, self.shown, dock.population
        bar = wall.verticalScrollBar()
        steps = np.linspace(0, bar.maximum(), 25).astype(int)
        self.measure("gallery", "scroll", *[lambda to=int(to): bar.setValue(to) for to in steps])
        bar.setValue(0)
        self.measure(
            "gallery", "wheel, 60 steps", *[lambda: bar.setValue(bar.value() + 60)] * 60
        )  # fmt: skip
        self.measure(
            "gallery", "sort",
            *[lambda key=key, way=way: shown.sort(key, descending=way)
              for key in ("confidence", "novelty", "evidence_gain", "") for way in (True, False)],
        )  # fmt: skip
        self.measure(
            "gallery", "filter",
            *[lambda low=low: shown.set_filter(confidence=(low, 1.0)) for low in (0.3, 0.7, 0.0)],
            *[lambda text=text: shown.set_filter(text=text) for text in ("l", "ly", "")],
        )  # fmt: skip
        names = list(wall.groups)
        self.measure("gallery", "fold", *[lambda name=name: wall.fold(name) for name in names * 2])
        some = np.random.default_rng(0).permutation(shown.total)
        self.measure(
            "gallery", "pick", *[lambda k=k: shown.pick(some[:k]) for k in (1, 100, 10_000, 0)]
        )
        classes = population.annotating.classes.names
        self.wait(lambda: population.annotating.files.chosen is not None)
        # The layer of annotations is made once, by napari.
        population.give([0], classes[1])
        self.settle(2500)
        self.measure(
            "gallery", "annotate one",
            *[lambda row=row: population.give([row], classes[1]) for row in range(20, 26)],
        )  # fmt: skip
        self.measure(
            "gallery", "annotate 100", lambda: population.give(some[:100].tolist(), classes[2])
        )
        self.measure("gallery", "undo", population.annotating.files.undo)
        self.settle(1500)

    def map(self) -> None:
        dock = open_dock(self.viewer, "Map of cells")
        view, maps = dock.box.view, dock.population.maps
        self.wait(lambda: maps.found is not None)
        self.settle(2000)
        shown = self.shown
        middle = QPointF(view.width() / 2, view.height() / 2)
        self.measure(
            "map", "zoom", *[lambda by=by: view.zoom(by, middle) for by in [1.3] * 8 + [0.7] * 8]
        )
        self.measure("map", "lasso", *[lambda k=k: self._lasso(view, k) for k in (0.2, 0.5, 0.9)])
        self.measure("map", "show only these, and all", dock.box.only.click, shown.show_all)
        self.measure(
            "map", "filter",
            *[lambda low=low: shown.set_filter(confidence=(low, 1.0)) for low in (0.3, 0.7, 0.0)],
        )  # fmt: skip
        self.measure(
            "map", "mouse",
            *[lambda x=x: QTest.mouseMove(view, QPoint(x, view.height() // 2))
              for x in range(10, view.width(), 40)],
        )  # fmt: skip
        view.setFocus()
        self.measure(
            "map", "arrow keys", *[lambda: QTest.keyClick(view, Qt.Key.Key_Right)] * 10
        )  # fmt: skip
        self.settle(1500)

    @staticmethod
    def _lasso(view: Any, share: float) -> None:
        """Draw around the middle of the map, as a mouse does."""
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        radius = share * view.height() / 2
        turns = np.linspace(0, 2 * np.pi, 60)
        places = [
            QPoint(
                int(view.width() / 2 + radius * np.cos(a)),
                int(view.height() / 2 + radius * np.sin(a)),
            )
            for a in turns
        ]
        QTest.mousePress(view, left, none, places[0])
        for place in places[1:]:
            QTest.mouseMove(view, place)
            QApplication.processEvents()
        QTest.mouseRelease(view, left, none, places[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each dock")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_SPARSEATTN_MODELS"] = str(Path(folder) / "models")
        os.environ["NAPARI_SPARSEATTN_ANNOTATIONS"] = str(Path(folder) / "project")
        bench = Bench(options.cells)
        print(
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python "
            f"{platform.python_version()}, napari {napari.__version__}, load "
            f"{os.getloadavg()[0]:.1f}"
        )
        print(f"{options.cells} cells, a result that is made up; longest gap in ms:", flush=True)
        for part in (bench.rest, bench.table, bench.gallery, bench.map):
            part()
            if options.pictures:
                path = str(options.pictures / f"many-{part.__name__}.png")
                bench.viewer.screenshot(path, canvas_only=False, flash=False)
            place = next(reversed(bench.worst))
            for what, wall, processor in bench.worst[place]:
                late = "  above the aim" if processor > AIM_MS else ""
                print(
                    f"{place:8s} {what:26s} wall {wall:6.0f}  processor {processor:6.0f}{late}",
                    flush=True,
                )
        docks = [each for place in ("table", "gallery", "map") for each in bench.worst[place]]
        print(
            f"worst: wall {max(x[1] for x in docks):.0f} ms, processor "
            f"{max(x[2] for x in docks):.0f} ms"
        )
        bench.viewer.close()
        QThreadPool.globalInstance().waitForDone(10_000)


if __name__ == "__main__":
    main()
