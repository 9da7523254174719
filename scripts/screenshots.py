"""Take the pictures of the real window that the README shows.

Run with a display, e.g. ``make docs-pictures``. The pictures are kept in the
repository, so they show simulated samples: fetched images are not stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication, QScrollArea

from napari_sparseattn.plugin.core.docks import open_main
from napari_sparseattn.plugin.core.models import prepare_model
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.simulate.smears import smear_with_truth

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


def new_viewer() -> napari.Viewer:
    viewer = napari.Viewer()
    settle()
    # After it is shown: napari restores the size of the last session.
    viewer.window.resize(1400, 900)
    return viewer


def smear(out: Path, sample: str) -> None:
    viewer = new_viewer()
    viewer.open_sample("napari-sparseattn", sample)
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    wait(lambda: session.selection.model is not None or session.status.message.level == "error")
    settle()

    viewer.fit_to_view()
    session.cells.classify_all()
    wait(lambda: not session.status.running)
    print(session.status.message)
    settle()
    viewer.screenshot(out / "classify-all.png", canvas_only=False, flash=False)

    cells = session.cells.results.cells
    # The cell that lies most in the middle shows best.
    middle = np.array(session.selection.image.data.shape[:2]) / 2
    large = np.flatnonzero(cells.diameters >= cells.diameters.max() / 2)
    apart = np.hypot(*(cells.centres - middle).T)
    first = int(large[apart[large].argmin()])
    session.cells.click_cell(first)
    wait(lambda: session.answer is not None)
    row, column = session.selection.image.data_to_world(cells.centres[first])
    side = session.answer.evidence.frame.side * session.selection.image.scale[-1]
    look_at(viewer, row, column, 0.7 * min(viewer.canvas.size) / side)
    print(session.status.message, session.answer.rank_classes()[:3])
    settle()
    viewer.screenshot(out / "window.png", canvas_only=False, flash=False)
    viewer.close()


def holograms(out: Path) -> None:
    viewer = new_viewer()
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Holograms")
    viewer.open_sample("napari-sparseattn", "simulated-hologram")
    panel, session = Holograms.of(viewer), Session.of(viewer)
    wait(lambda: panel.previews.shown is not None)
    settle()
    viewer.fit_to_view()
    settle()
    viewer.screenshot(out / "hologram.png", canvas_only=False, flash=False)

    panel.work.reconstruct()
    wait(lambda: not panel.work.running)
    open_main(viewer)
    wait(
        lambda: (
            session.selection.model is not None
            and session.selection.model.bundle.card.modality == "opd"
        )
    )
    settle()
    session.cells.classify_all()
    wait(lambda: not session.status.running)
    cells = session.cells.results.cells
    middle = np.array(session.selection.image.data.shape[:2]) / 2
    session.cells.click_cell(int(np.argmin(np.hypot(*(cells.centres - middle).T))))
    wait(lambda: session.answer is not None)
    viewer.fit_to_view()
    print(session.status.message)
    settle()
    viewer.screenshot(out / "opd-classified.png", canvas_only=False, flash=False)
    viewer.close()


def traversal(out: Path) -> None:
    viewer = new_viewer()
    viewer.open_sample("napari-sparseattn", "simulated-smear")
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    wait(lambda: session.selection.model is not None)
    session.selection.set_model(prepare_model("blood-cells-tnet", "cpu"))
    settle()
    viewer.fit_to_view()
    session.cells.classify_all()
    wait(lambda: not session.status.running)
    cells = session.cells.results.cells
    large = np.flatnonzero(cells.diameters >= cells.diameters.max() / 2)
    cell = int(large[cells.diameters[large].argmin()])
    session.cells.click_cell(cell)
    wait(lambda: session.answer is not None)
    first = session.answer
    session.crops.set_locations((5, 1))
    wait(lambda: session.answer is not first)
    row, column = session.selection.image.data_to_world(cells.centres[cell])
    look_at(viewer, row, column, 16)
    print(session.status.message, session.answer.rank_classes()[:3])
    settle()
    viewer.screenshot(out / "traversal.png", canvas_only=False, flash=False)
    viewer.close()


def slide(out: Path) -> None:
    viewer = new_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    viewer.open_sample("napari-sparseattn", "simulated-slide")
    session = Session.of(viewer)
    wait(lambda: session.selection.model is not None)
    session.selection.set_model(prepare_model("tissue-simulated", "cpu"))
    settle()
    viewer.fit_to_view()
    session.slides.classify()
    wait(lambda: not session.status.running, seconds=1800)
    print(session.status.message, session.answer.rank_classes()[:3])
    # The map of all patches; what one of them looked at would lie on top of it.
    session.slides.set_pyramid_choice(
        dataclasses.replace(session.slides.pyramid_choice, local=False)
    )
    session.slides.go_to_patch(int(session.slides.attention.rank_patches()[0]))
    viewer.fit_to_view()
    settle()
    scroll = dock.findChild(QScrollArea)
    scroll.verticalScrollBar().setValue(scroll.verticalScrollBar().maximum() // 2)
    settle()
    viewer.screenshot(out / "slide.png", canvas_only=False, flash=False)
    viewer.close()


def question(out: Path) -> None:
    """A clicked cell, how far its overlay holds, and what if a part were removed."""
    viewer = new_viewer()
    viewer.open_sample("napari-sparseattn", "simulated-smear")
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    wait(lambda: session.selection.model is not None)
    settle()
    session.cells.classify_all()
    wait(lambda: not session.status.running)
    cell = 1
    session.cells.click_cell(cell)
    evidence = AnswerFaithfulness.of(viewer)
    wait(lambda: evidence.measured is not None)
    dock.result_box.faithfulness.curves.click()
    row, column = session.selection.image.data_to_world(session.cells.results.cells.centres[cell])
    look_at(viewer, row, column, 16)
    settle()
    viewer.screenshot(out / "evidence.png", canvas_only=False, flash=False)
    viewer.close()


def training(out: Path) -> None:
    """Cells of two classes of one's own, and what the model gained."""
    viewer = new_viewer()
    field, cells = smear_with_truth((1300, 1700), seed=3, n_white=110)
    viewer.add_image(
        field.data, rgb=True, name="simulated smear", scale=(0.25, 0.25), units=("um", "um")
    )
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Annotate and train")
    session, tuning = Session.of(viewer), FineTuning.of(viewer)
    wait(lambda: session.selection.model is not None)
    annotating = tuning.annotating
    large = cells.diameters > np.median(cells.diameters)
    for centre, diameter, is_large in zip(cells.centres, cells.diameters, large, strict=True):
        name = "large white cell" if is_large else "small white cell"
        annotating.targets.annotate_cell(tuple(map(float, centre)), name, diameter=float(diameter))
        if len(annotating.files.counts_here) < 1:
            wait(lambda: bool(annotating.files.counts_here))
    settle()
    viewer.fit_to_view()
    dock.train_box.start.click()
    wait(lambda: tuning.outcome.report is not None, seconds=900)
    print(session.status.message)
    settle()
    viewer.screenshot(out / "training.png", canvas_only=False, flash=False)
    viewer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", default="simulated-smear", help="a sample's key")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument(
        "--only", choices=["smear", "holograms", "traversal", "slide", "question", "training"]
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Neither annotations nor models of whoever runs this shall show.
        os.environ["NAPARI_SPARSEATTN_ANNOTATIONS"] = f"{folder}/annotations"
        os.environ["NAPARI_SPARSEATTN_MODELS"] = f"{folder}/models"
        take(options)


def take(options: argparse.Namespace) -> None:
    if options.only in (None, "smear"):
        smear(options.out, options.sample)
    if options.only in (None, "holograms"):
        holograms(options.out)
    if options.only in (None, "traversal"):
        traversal(options.out)
    if options.only in (None, "slide"):
        slide(options.out)
    if options.only in (None, "question"):
        question(options.out)
    if options.only in (None, "training"):
        training(options.out)


if __name__ == "__main__":
    main()
