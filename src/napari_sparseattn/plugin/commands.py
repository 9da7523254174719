"""Commands of the menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.opening import open_files

if TYPE_CHECKING:
    import napari
    from qtpy.QtWidgets import QWidget

    from ..inference.prediction import Predictions
    from .core.status import Level

__all__ = [
    "choose_slide_folder",
    "choose_slides",
    "classify_layer",
    "demo",
    "open_holograms",
    "open_main",
    "open_slide_file",
    "open_slide_folder",
    "open_training",
    "reconstruct_layer",
]


def classify_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock and classify all cells of the active image, or the slide by a SPAN."""
    from .core.session import Session

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


def _bring_to_front(dock: QWidget) -> None:
    from qtpy.QtCore import QTimer

    dock.raise_()
    # Another dock of ours may be about to join this one, and would then lie before it.
    QTimer.singleShot(0, dock.raise_)


def open_main(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Sparse attention, or bring it to the front."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    _bring_to_front(dock)


def open_holograms(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Holograms, or bring it to the front."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Holograms")
    _bring_to_front(dock)


def open_training(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Annotate and train, or bring it to the front."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Annotate and train")
    _bring_to_front(dock)


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
    open_files(viewer, choose_slides(), notify, as_slides=True)


def open_slide_folder(viewer: napari.viewer.Viewer) -> None:
    """Ask for the folder of a slide in OME-Zarr or DICOM, and open it."""
    open_files(viewer, choose_slide_folder(), notify, as_slides=True)


def choose_slides(parent: QWidget | None = None) -> list[str]:
    """Let the user choose slides; none where that is cancelled."""
    from qtpy.QtWidgets import QFileDialog

    from ..images.slides.opening import SLIDE_SUFFIXES

    endings = " ".join(f"*{ending}" for ending in (*SLIDE_SUFFIXES, ".tif", ".tiff"))
    paths, _ = QFileDialog.getOpenFileNames(
        parent, "Open slides", "", f"Slides ({endings});;All files (*)"
    )
    return list(paths)


def choose_slide_folder(parent: QWidget | None = None) -> list[str]:
    """Let the user choose the folder of a slide; none where that is cancelled."""
    from qtpy.QtWidgets import QFileDialog

    path = QFileDialog.getExistingDirectory(parent, "Open the folder of an OME-Zarr or DICOM slide")
    return [path] if path else []


def notify(text: str, level: Level) -> None:
    """Let napari show what went wrong; what only goes on is not worth a notification."""
    from napari.utils.notifications import show_error, show_warning

    if level != "info":
        (show_error if level == "error" else show_warning)(text)


def demo(viewer: napari.viewer.Viewer) -> None:
    """Open the simulated smear, classify its cells, and show what decided one of them."""
    from qtpy.QtCore import QTimer

    from .core.session import Session

    viewer.window.resize(1400, 900)
    viewer.open_sample("napari-sparseattn", "simulated-smear")
    classify_layer(viewer)
    session = Session.of(viewer)

    def show_one(results: Predictions | None) -> None:
        if results is not None and len(results):
            session.cells.results_changed.disconnect(show_one)
            centres = results.cells.centres
            middle = centres.mean(axis=0)
            session.cells.click_cell(int(((centres - middle) ** 2).sum(axis=1).argmin()))

    session.cells.results_changed.connect(show_one)
    # The canvas has its size once the dock has been laid out.
    QTimer.singleShot(300, viewer.fit_to_view)
