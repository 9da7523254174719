"""The dock "Map of cells"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cells.counts_box import MAP
from .frame import CellsDock
from .map_box import MapBox
from .session import Population

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["MapDock"]


class MapDock(CellsDock):
    """Each classified cell a point: what the model sees alike lies near each other.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    title = MAP
    first_height = 320

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.population = Population.of(napari_viewer)
        super().__init__(self.population.session.status)
        self.box = self.hold(self.population, MapBox)
