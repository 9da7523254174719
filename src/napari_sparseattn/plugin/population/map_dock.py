"""The dock "Map of cells"."""

from __future__ import annotations

from ..cells.counts_box import MAP
from .frame import CellsDock
from .map_box import MapBox

__all__ = ["MapDock"]


class MapDock(CellsDock):
    """Each classified cell a point: what the model sees alike lies near each other."""

    title = MAP
    first_height = 320
    make_box = MapBox
