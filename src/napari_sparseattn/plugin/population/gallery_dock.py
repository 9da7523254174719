"""The dock "Gallery of cells"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cells.counts_box import GALLERY
from .frame import CellsDock
from .gallery_box import GalleryBox
from .session import Population

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["GalleryDock"]


class GalleryDock(CellsDock):
    """Pictures of all classified cells by class; a drag to another class annotates.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    title = GALLERY
    first_height = 320

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.population = Population.of(napari_viewer)
        super().__init__(self.population.session.status)
        self.box = self.hold(self.population, GalleryBox)
