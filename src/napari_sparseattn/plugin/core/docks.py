"""Our docks, opened or brought to the front from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari
    from qtpy.QtWidgets import QDockWidget, QWidget

__all__ = [
    "DOCKS",
    "dock_of",
    "is_open",
    "open_dock",
    "open_holograms",
    "open_main",
    "open_training",
]

#: The class of each dock by its name in the menu, as in ``napari.yaml``.
DOCKS = {
    "Sparse attention": "main.dock:SparseAttentionDock",
    "Holograms": "holograms.dock:HologramDock",
    "Annotate and train": "train.dock:TrainDock",
    "Batch": "batch.dock:BatchDock",
    "Table of cells": "population.table_dock:TableDock",
    "Gallery of cells": "population.gallery_dock:GalleryDock",
    "Map of cells": "population.map_dock:MapDock",
}


def open_dock(viewer: napari.viewer.Viewer, title: str) -> QWidget:
    """Open one of our docks, or bring it to the front, whoever opened it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its window gets the dock.
    title : str
        The dock's name in the menu.

    Returns
    -------
    QWidget
        What the dock holds.
    """
    from importlib import import_module

    from qtpy.QtCore import QTimer

    module, name = DOCKS[title].split(":")
    kind = getattr(import_module(f"..{module}", __package__), name)
    # As napari names it when it is opened from the menu, which then shows and hides this one.
    full = f"{title} (Sparse attention)"
    viewer = getattr(viewer, "__wrapped__", viewer)
    there = viewer.window.dock_widgets
    found = next((there[n] for n in there if isinstance(there[n], kind)), None)
    if found is None:
        found = kind(viewer)
        viewer.window.add_dock_widget(found, name=full)
    dock = dock_of(found)
    if dock is not None:
        dock.show()
        dock.raise_()
        # Another dock of ours may be about to join this one, and would then lie before it.
        QTimer.singleShot(0, dock.raise_)
    return found


def is_open(viewer: napari.viewer.Viewer, title: str) -> bool:
    """Whether one of our docks is in the viewer's window, also behind another."""
    window = getattr(viewer, "window", None)
    there = {} if window is None else window.dock_widgets
    name = DOCKS[title].split(":")[1]
    return any(type(widget).__name__ == name for widget in there.values())


def open_main(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Sparse attention, or bring it to the front."""
    open_dock(viewer, "Sparse attention")


def open_holograms(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Holograms, or bring it to the front."""
    open_dock(viewer, "Holograms")


def open_training(viewer: napari.viewer.Viewer) -> None:
    """Open the dock Annotate and train, or bring it to the front."""
    open_dock(viewer, "Annotate and train")


def dock_of(widget: QWidget) -> QDockWidget | None:
    """Return the dock that a widget lies in, or None."""
    from qtpy.QtWidgets import QDockWidget

    parent = widget.parent()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    return parent
