"""Reads slides, and holograms and phase from HDF5, in napari; other files are napari's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["get_reader", "get_slide_reader"]

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | list[str]], list[LayerData]]


def get_reader(path: str | list[str]) -> Reader | None:
    """Return a reader, or None for files that hold no holograms or phase; an npe2 command.

    Parameters
    ----------
    path : str or list of str
        One file. Several are a stack to napari, which HDF5 files already are.
    """
    if not isinstance(path, str):
        return None
    from ..images.holograms.files import open_hologram

    try:
        open_hologram(path)
    except (ValueError, OSError, KeyError, RuntimeError):
        return None
    return _read


def get_slide_reader(path: str | list[str]) -> Reader | None:
    """Return a reader of slides, or None for what is none; an npe2 command.

    Whatever is damaged inside is told when it is read: None would make napari
    say no more than that it found no reader.

    Parameters
    ----------
    path : str or list of str
        One file or folder. Several slides are opened one by one, not stacked.
    """
    if not isinstance(path, str):
        return None
    from ..images.slides.opening import is_slide

    try:
        found = Path(path).exists() and is_slide(path)
    except (ValueError, OSError):
        return None
    return _read_slides if found else None


def _read(path: str | list[str]) -> list[LayerData]:
    from ..images.holograms.files import open_hologram
    from .holograms.recordings import recording_layer

    paths = [path] if isinstance(path, str) else path
    return [recording_layer(open_hologram(one)) for one in paths]


def _read_slides(path: str | list[str]) -> list[LayerData]:
    from .slides.layers import read_slide
    from .slides.overviews import read_layers

    paths = [path] if isinstance(path, str) else path
    return [layer for one in paths for layer in read_slide(one, read_layers)]
