"""The dock "Sparse attention": puts the widgets together and opens the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from ..jobs import Jobs
from ..session import Session
from ..slide_jobs import SlideJobs
from .actions_box import ActionsBox
from .drops import FileDrops
from .frame import DockFrame, section
from .gallery_box import GalleryBox
from .image_box import ImageBox
from .locations_box import LocationsBox
from .model_box import ModelBox
from .pyramid_box import PyramidBox
from .result_box import ResultBox
from .slide_box import SlideBox
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
        self.slide_jobs = SlideJobs(self.session)
        inner = QWidget(self)
        self.image_box = ImageBox(self.session, inner)
        self.model_box = ModelBox(self.session, self.jobs, inner)
        self.actions_box = ActionsBox(self.session, inner)
        self.slide_box = SlideBox(self.session, inner)
        self.result_box = ResultBox(self.session, inner)
        self.pyramid_box = PyramidBox(self.session, inner)
        self.gallery_box = GalleryBox(self.session, inner)
        self.locations_box = LocationsBox(self.session, inner)
        self.traversal_box = TraversalBox(self.session, inner)
        self.table_box = TableBox(self.session, inner)
        boxes = [self.image_box, self.model_box, self.actions_box, self.slide_box]
        boxes.append(self.locations_box)
        folding = {
            "Result": self.result_box,
            "Attention": self.pyramid_box,
            "Patches": self.gallery_box,
            "Crops": self.traversal_box,
            "Cells": self.table_box,
        }
        sections = {title: section(title, box, inner) for title, box in folding.items()}
        self.lay_out(inner, [*boxes, *sections.values()])
        self.pyramid_box.wanted.connect(sections["Attention"].setVisible)
        self.gallery_box.wanted.connect(sections["Patches"].setVisible)
        self.traversal_box.wanted.connect(sections["Crops"].setVisible)
        self.table_box.wanted.connect(sections["Cells"].setVisible)
        for title in ("Attention", "Patches"):
            sections[title].setVisible(self.session.spanning)
        sections["Crops"].setVisible(self.session.traversing)
        sections["Cells"].setVisible(not self.session.spanning)
        self.drops = FileDrops(self, self.image_box.open_files)
        self.session.attach()
        stops = (self.jobs.close, self.slide_jobs.close, self.session.detach)
        self.end_with([*boxes, *folding.values()], *stops)
        self.model_box.start()
