"""Commands of the menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

    from ..inference.prediction import Predictions

__all__ = [
    "classify_layer",
    "demo",
    "open_holograms",
    "open_main",
    "open_slide_file",
    "reconstruct_layer",
]


def classify_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock and classify all cells of the active image."""
    from .session import Session

    open_main(viewer)
    session = Session.of(viewer)
    if session.model is not None:
        session.classify_all()
        return

    def ready(model: object) -> None:
        if model is not None:
            session.model_changed.disconnect(ready)
            session.classify_all()

    session.model_changed.connect(ready)


def open_main(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Sparse attention, or bring it to the front."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    dock.raise_()


def open_holograms(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Holograms, or bring it to the front."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Holograms")
    dock.raise_()


def reconstruct_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Holograms and reconstruct the active layer."""
    from .hologram import Holograms

    open_holograms(viewer)
    holograms = Holograms.of(viewer)
    # napari may hand over a proxy, whose layers are proxies too.
    active = None if holograms.viewer is None else holograms.viewer.layers.selection.active
    if active is not None and active is not holograms.layer:
        holograms.say(f"'{active.name}' is no hologram, phase or OPD image.", "warning")
        return
    holograms.reconstruct()


def open_slide_file(viewer: napari.viewer.Viewer) -> None:
    """Ask for a slide and open it, also one in a file that napari would read whole."""
    from qtpy.QtWidgets import QFileDialog

    from ..images.slides import SLIDE_SUFFIXES

    endings = " ".join(f"*{ending}" for ending in (*SLIDE_SUFFIXES, ".tif", ".tiff"))
    paths, _ = QFileDialog.getOpenFileNames(
        None, "Open slides", "", f"Slides ({endings});;All files (*)"
    )
    for path in paths:
        open_slide_at(viewer, path)


def open_slide_at(viewer: napari.viewer.Viewer, path: str) -> None:
    """Open one slide as a layer, or say why it cannot be."""
    from napari.layers import Layer
    from napari.utils.notifications import show_error

    from .slide_layers import read_slide

    try:
        found = read_slide(path)
    except (ValueError, OSError) as error:
        show_error(str(error))
        return
    for data in found:
        viewer.add_layer(Layer.create(*data))


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
            session.results_changed.disconnect(show_one)
            centres = results.cells.centres
            middle = centres.mean(axis=0)
            session.click_cell(int(((centres - middle) ** 2).sum(axis=1).argmin()))

    session.results_changed.connect(show_one)
    # The canvas has its size once the dock has been laid out.
    QTimer.singleShot(300, viewer.fit_to_view)
