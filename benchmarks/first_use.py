"""What a new user meets: controls in sight, clicks and seconds to a table and to a model.

    python benchmarks/first_use.py [--no-training] [--width 1280 --height 720]

Drives the real window with the mouse, from an empty window: *Try a smear*, *Classify all*; then
*Annotate and train…*, annotations (which are made for it: they are not counted), *Fine-tune*, *Use
new model*. Counted are controls of the dock that can be seen without scrolling, and presses of
the mouse. Times are of the wall, and of the processor (all threads, and processes that ended):
other programs do not lengthen the latter. Settings, annotations and models are kept in a folder of
its own, which is removed.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter(), time.process_time()
CONTROLS_AIM, TABLE_AIM, MODEL_AIM = 10, 2, 6


def processor_seconds() -> float:
    """Return what this process and those it started, once ended, have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class FirstUse:
    """A new user, with a mouse and a clock."""

    def __init__(self, width: int, height: int) -> None:
        import napari
        from qtpy.QtTest import QTest

        from napari_sparseattn.plugin.session import Session

        self.viewer = napari.Viewer()
        QTest.qWait(300)
        # After it is shown: napari restores the size of the last session.
        self.viewer.window.resize(width, height)
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Sparse attention"
        )
        self.session = Session.of(self.viewer)
        self.clicks = 0
        self.settle()

    def settle(self) -> None:
        from qtpy.QtTest import QTest

        QTest.qWait(400)

    def controls(self) -> list[str]:
        """Return the names of what can be pressed, typed in or moved, without scrolling."""
        from qtpy.QtWidgets import (
            QAbstractButton,
            QAbstractItemView,
            QAbstractSpinBox,
            QComboBox,
            QLineEdit,
            QSlider,
        )

        kinds = (
            QAbstractButton, QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit, QSlider,
        )  # fmt: skip
        found = [w for kind in kinds for w in self.dock.findChildren(kind)]
        seen = [w for w in found if not w.visibleRegion().isEmpty()]
        # The field of a spin box is a part of it; a "?" in a header is none.
        whole = [w for w in seen if isinstance(w, QAbstractButton) or w.parent() not in seen]
        return [w.text() if isinstance(w, QAbstractButton) else type(w).__name__ for w in whole]

    def press(self, widget: Any) -> None:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        if widget.visibleRegion().isEmpty():
            raise RuntimeError(f"'{widget.text()}' cannot be seen")
        self.clicks += 1
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton)

    def wait(self, until: Callable[[], object], seconds: float = 1800.0) -> None:
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(self.session.status.message.text)
            QApplication.processEvents()
            time.sleep(0.005)


def to_the_table(user: FirstUse) -> None:
    """Press *Try a smear* and *Classify all*."""
    print_controls("in an empty window", user.controls())
    began = time.perf_counter(), processor_seconds()
    user.press(user.dock.start_box.buttons["simulated-smear"])
    user.wait(lambda: user.session.selection.image is not None)
    user.settle()
    print_controls("with the smear", user.controls())
    user.press(user.dock.actions_box.all)
    user.wait(lambda: user.session.cells.results is not None)
    user.settle()
    cells = len(user.session.cells.results)
    print_row("a classified table", user.clicks, TABLE_AIM, began, f"{cells} cells")


def to_a_model(user: FirstUse) -> None:
    """Press what leads to a model of one's own; annotate in between."""
    import numpy as np

    from napari_sparseattn.plugin.train.session import FineTuning
    from napari_sparseattn.simulate.smears import smear_with_truth

    began = time.perf_counter(), processor_seconds()
    field, cells = smear_with_truth((1300, 1700), seed=3, n_white=110)
    user.viewer.add_image(field.data, rgb=True, name="mine", scale=(0.25, 0.25), units=("um", "um"))
    user.settle()
    # Of the first image there is a result: the button that leads on is there.
    user.session.choose_image(user.session.selection.images()[0])
    user.settle()
    user.press(user.dock.train)
    tuning = FineTuning.of(user.viewer)
    user.session.choose_image(user.session.selection.images()[-1])
    annotating = tuning.annotating
    large = cells.diameters > np.median(cells.diameters)
    for centre, diameter, is_large in zip(cells.centres, cells.diameters, large, strict=True):
        name = "large" if is_large else "small"
        annotating.targets.annotate_cell(tuple(map(float, centre)), name, diameter=float(diameter))
    user.settle()
    docks = user.viewer.window.dock_widgets
    dock = next(d for d in docks.values() if type(d).__name__ == "TrainDock")
    bring_to_view(dock.train_box.start)
    user.settle()
    user.press(dock.train_box.start)
    user.wait(lambda: tuning.outcome.report is not None)
    user.settle()
    bring_to_view(dock.report_box.use)
    user.press(dock.report_box.use)
    user.wait(lambda: user.session.selection.model is not None)
    print_row("one's own model", user.clicks, MODEL_AIM, began, "besides the annotations")


def bring_to_view(widget: Any) -> None:
    """Scroll to a widget."""
    from qtpy.QtWidgets import QScrollArea

    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    if parent is not None:
        parent.ensureWidgetVisible(widget)


def print_controls(where: str, found: list[str]) -> None:
    names = ", ".join(found)
    print(f"controls in sight {where}: {len(found)} (aim at most {CONTROLS_AIM}): {names}")


def print_row(what: str, clicks: int, aim: int, began: tuple[float, float], note: str) -> None:
    wall, processor = time.perf_counter() - began[0], processor_seconds() - began[1]
    print(
        f"clicks to {what}: {clicks} (aim at most {aim}; {note}); "
        f"{wall:.1f} s, {processor:.1f} s of processor"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--no-training", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ANNOTATIONS", "CACHE", "MODELS"):
            os.environ[f"NAPARI_SPARSEATTN_{name}"] = str(Path(folder) / name.lower())
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        user = FirstUse(options.width, options.height)
        wall, processor = time.perf_counter() - BEGAN[0], time.process_time() - BEGAN[1]
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"until the empty window: {wall:.1f} s, {processor:.1f} s of processor")
        to_the_table(user)
        if not options.no_training:
            to_a_model(user)
        user.viewer.close()


if __name__ == "__main__":
    main()
