"""Reads holograms and phase from HDF5 in napari; other files are napari's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["get_reader"]

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return a reader, or None for files that hold no holograms or phase; an npe2 command.

    Parameters
    ----------
    path : str or list of str
        One file. Several are a stack to napari, which HDF5 files already are.
    """
    if not isinstance(path, str):
        return None
    from ..images.hologram_files import open_hologram

    try:
        open_hologram(path)
    except (ValueError, OSError, KeyError, RuntimeError):
        return None
    return _read


def _read(path: str | list[str]) -> list[LayerData]:
    from ..images.hologram_files import open_hologram
    from .recordings import recording_layer

    paths = [path] if isinstance(path, str) else path
    return [recording_layer(open_hologram(one)) for one in paths]
