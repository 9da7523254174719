"""Reads slides, and holograms and phase from HDF5, in napari; other files are napari's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..addresses import is_address

__all__ = ["get_address_reader", "get_reader", "get_slide_reader"]

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

    if is_address(path):
        return None
    try:
        found = Path(path).exists() and is_slide(path)
    except (ValueError, OSError):
        return None
    return _read_slides if found else None


def get_address_reader(path: str | list[str]) -> Reader | None:
    """Return a reader of slides on other machines, or None for other paths; an npe2 command.

    Nothing is loaded before it is used.

    Parameters
    ----------
    path : str or list of str
        One address.
    """
    if not isinstance(path, str) or not is_address(path):
        return None
    return _read_address


def _read(path: str | list[str]) -> list[LayerData]:
    from ..images.holograms.files import open_hologram
    from .holograms.recordings import recording_layer

    paths = [path] if isinstance(path, str) else path
    return [recording_layer(open_hologram(one)) for one in paths]


def _read_address(path: str | list[str]) -> list[Any]:
    """Open a slide on another machine: in a window without holding it up, else at once."""
    from napari import current_viewer

    from ..images.slides.opening import open_slide
    from .core.notifications import notify
    from .core.view import has_window
    from .opening import open_files
    from .slides.layers import slide_layers

    paths = [path] if isinstance(path, str) else path
    viewer = current_viewer()
    if viewer is None or not has_window(viewer):
        return [layer for one in paths for layer in slide_layers(open_slide(one))]
    open_files(viewer, paths, notify)
    # As npe2 has it, a file that gives no layers: they are added when they are there.
    return [(None,)]


def _read_slides(path: str | list[str]) -> list[LayerData]:
    from .slides.layers import read_slide
    from .slides.overviews import read_layers

    paths = [path] if isinstance(path, str) else path
    return [layer for one in paths for layer in read_slide(one, read_layers)]
