"""What napari does with a file of annotations that is dropped on it: they go onto the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .incoming import is_annotations

__all__ = ["get_annotation_reader", "import_into"]

Reader = Callable[[str | list[str]], list[tuple[None]]]


def get_annotation_reader(path: str | list[str]) -> Reader | None:
    """Return a reader of GeoJSON, or None for other files; an npe2 command.

    Parameters
    ----------
    path : str or list of str
        One file or several.
    """
    paths = [path] if isinstance(path, str) else path
    return _read if paths and all(map(is_annotations, paths)) else None


def import_into(viewer: Any, paths: list[str]) -> None:
    """Open the dock *Annotate and train*, and take annotations for those of the chosen image."""
    from ..core.docks import open_training
    from .session import Annotating

    open_training(viewer)
    annotating = Annotating.of(getattr(viewer, "__wrapped__", viewer))
    for path in paths:
        annotating.incoming.import_file(path)


def _read(path: str | list[str]) -> list[tuple[None]]:
    import napari

    viewer = napari.current_viewer()
    if viewer is not None:
        import_into(viewer, [path] if isinstance(path, str) else path)
    # They are layers of annotations, which the dock makes; napari is to add none.
    return [(None,)]
