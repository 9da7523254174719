"""The dock "Table of cells"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cells.counts_box import TABLE
from ..widgets.undo_keys import UndoKeys
from .frame import CellsDock
from .table_box import TableBox

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget

    from .session import Population

__all__ = ["TableDock"]


def _make_table(population: Population, parent: QWidget) -> TableBox:
    return TableBox(population.session.cells, parent)


class TableDock(CellsDock):
    """One row per classified cell: search, sort, filter, copy, export.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    title = TABLE
    make_box = _make_table
    annotates = False

    def __init__(self, napari_viewer: ViewerModel) -> None:
        super().__init__(napari_viewer)
        self.undo_keys = UndoKeys(napari_viewer, self)
