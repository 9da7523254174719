"""The dock "Table of cells"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cells.counts_box import TABLE
from ..session import Session
from ..widgets.undo_keys import UndoKeys
from .frame import CellsDock
from .session import Population
from .table_box import TableBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["TableDock"]


class TableDock(CellsDock):
    """One row per classified cell: search, sort, filter, copy, export.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    title = TABLE

    def __init__(self, napari_viewer: ViewerModel) -> None:
        population = Population.of(napari_viewer)
        self.session = Session.of(napari_viewer)
        super().__init__(self.session.status)
        self.box = TableBox(self.session.cells, self)
        self.fill(self.box)
        self.undo_keys = UndoKeys(napari_viewer, self)
        self.session.attach()
        population.attach()
        self.end_with([self.box, self._warnings], population.detach, self.session.detach)
