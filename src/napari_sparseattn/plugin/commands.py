"""Commands of the menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

__all__ = ["classify_layer"]


def classify_layer(viewer: napari.viewer.Viewer) -> None:
    """Open the dock and classify all cells of the active image."""
    from .session import Session

    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    if session.model is not None:
        session.classify_all()
        return

    def ready(model: object) -> None:
        if model is not None:
            session.model_changed.disconnect(ready)
            session.classify_all()

    session.model_changed.connect(ready)
