"""Commands of the menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.docks import open_holograms, open_main
from .core.notifications import notify
from .opening import open_addresses, open_files

if TYPE_CHECKING:
    import napari

__all__ = [
    "classify_layer",
    "demo",
    "fetch_smear",
    "open_slide_address",
    "open_slide_file",
    "open_slide_folder",
    "reconstruct_layer",
    "take_tour",
]


def classify_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock and classify all cells of the active image, or the slide by a SPAN."""
    from .session import Session

    open_main(viewer)
    Session.of(viewer).ask_all()


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


def open_slide_address(viewer: napari.viewer.Viewer) -> None:
    """Ask for the address of a slide on another machine, and open it."""
    from .widgets.file_dialogs import choose_address

    open_addresses(viewer, choose_address(), notify)


def take_tour(viewer: napari.viewer.Viewer) -> None:
    """Open the dock, with a sample where no image is open, and show how it is used."""
    from .main.tour import start_tour

    start_tour(viewer)


def fetch_smear(viewer: napari.viewer.Viewer) -> None:
    """Open the dock, fetch a stained blood smear, and open it."""
    from .samples import SmearFetching

    open_main(viewer)
    SmearFetching.of(viewer).start()


def demo(viewer: napari.viewer.Viewer) -> None:
    """Open the simulated smear, classify its cells, and go to what decided one of them."""
    from .main.demo import start_demo

    start_demo(viewer)
