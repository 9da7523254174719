"""Commands of the menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.docks import open_holograms, open_main
from .core.notifications import notify
from .opening import open_files

if TYPE_CHECKING:
    import napari

    from ..inference.prediction import Predictions

__all__ = [
    "classify_layer",
    "demo",
    "fetch_smear",
    "open_slide_file",
    "open_slide_folder",
    "reconstruct_layer",
]


def classify_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock and classify all cells of the active image, or the slide by a SPAN."""
    from .session import Session

    open_main(viewer)
    session = Session.of(viewer)

    def classify() -> None:
        session.task.ask("all" if session.advice.cells else "whole")

    if session.selection.model is not None:
        classify()
        return

    def ready(model: object) -> None:
        if model is not None:
            session.selection.model_changed.disconnect(ready)
            classify()

    session.selection.model_changed.connect(ready)


def reconstruct_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Holograms and reconstruct the active layer."""
    from .holograms.session import Holograms

    open_holograms(viewer)
    holograms = Holograms.of(viewer)
    # napari may hand over a proxy, whose layers are proxies too.
    active = None if holograms.viewer is None else holograms.viewer.layers.selection.active
    if active is not None and active is not holograms.source.layer:
        holograms.status.notify(f"'{active.name}' is no hologram, phase or OPD image.", "warning")
        return
    holograms.work.reconstruct()


def open_slide_file(viewer: napari.viewer.Viewer) -> None:
    """Ask for slides and open them, also in files that napari would read whole."""
    from .widgets.file_dialogs import choose_slides

    open_files(viewer, choose_slides(), notify, as_slides=True)


def open_slide_folder(viewer: napari.viewer.Viewer) -> None:
    """Ask for the folder of a slide in OME-Zarr or DICOM, and open it."""
    from .widgets.file_dialogs import choose_slide_folder

    open_files(viewer, choose_slide_folder(), notify, as_slides=True)


def fetch_smear(viewer: napari.viewer.Viewer) -> None:
    """Open the dock, fetch a stained blood smear, and open it."""
    from .samples import SmearFetching

    open_main(viewer)
    SmearFetching.of(viewer).start()


def demo(viewer: napari.viewer.Viewer) -> None:
    """Open the simulated smear, classify its cells, and show what decided one of them."""
    from qtpy.QtCore import QTimer

    from .session import Session

    viewer.window.resize(1400, 900)
    viewer.open_sample("napari-sparseattn", "simulated-smear")
    classify_layer(viewer)
    session = Session.of(viewer)

    def show_one(results: Predictions | None) -> None:
        if results is not None and len(results):
            session.cells.results_changed.disconnect(show_one)
            cells = results.cells
            # A white cell shows more than a platelet does.
            large = (cells.diameters >= cells.diameters.max() / 2).nonzero()[0]
            apart = ((cells.centres - cells.centres.mean(axis=0)) ** 2).sum(axis=1)
            session.cells.click_cell(int(large[apart[large].argmin()]))

    session.cells.results_changed.connect(show_one)
    # The canvas has its size once the dock has been laid out.
    QTimer.singleShot(300, viewer.fit_to_view)
