"""The dock "Gallery of cells"."""

from __future__ import annotations

from ..cells.counts_box import GALLERY
from .frame import CellsDock
from .gallery_box import GalleryBox

__all__ = ["GalleryDock"]


class GalleryDock(CellsDock):
    """Pictures of all classified cells by class; a drag to another class annotates."""

    title = GALLERY
    first_height = 320
    make_box = GalleryBox
