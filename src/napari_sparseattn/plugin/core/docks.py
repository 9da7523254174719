"""Our docks, opened or brought to the front from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari
    from qtpy.QtWidgets import QWidget

__all__ = ["open_holograms", "open_main", "open_training"]


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
