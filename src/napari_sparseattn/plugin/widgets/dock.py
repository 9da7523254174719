"""The dock "Sparse attention": puts the widgets together and opens the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from ..jobs import Jobs
from ..session import Session
from .actions_box import ActionsBox
from .frame import DockFrame, section
from .image_box import ImageBox
from .locations_box import LocationsBox
from .model_box import ModelBox
from .result_box import ResultBox
from .table_box import TableBox
from .traversal_box import TraversalBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["SparseAttentionDock"]


class SparseAttentionDock(DockFrame):
    """Classify cells, fields and slides, and see what decided.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.session = Session.of(napari_viewer)
        super().__init__(self.session)
        self.jobs = Jobs(self.session)
        inner = QWidget(self)
        self.image_box = ImageBox(self.session, inner)
        self.model_box = ModelBox(self.session, self.jobs, inner)
        self.actions_box = ActionsBox(self.session, inner)
        self.result_box = ResultBox(self.session, inner)
        self.locations_box = LocationsBox(self.session, inner)
        self.traversal_box = TraversalBox(self.session, inner)
        self.table_box = TableBox(self.session, inner)
        boxes = [self.image_box, self.model_box, self.actions_box, self.locations_box]
        folding = {"Result": self.result_box, "Crops": self.traversal_box, "Cells": self.table_box}
        sections = [section(title, box, inner) for title, box in folding.items()]
        self.lay_out(inner, [*boxes, *sections])
        self.traversal_box.wanted.connect(sections[1].setVisible)
        sections[1].setVisible(self.session.traversing)
        self.session.attach()
        self.end_with([*boxes, *folding.values()], self.jobs.close, self.session.detach)
        self.model_box.start()
