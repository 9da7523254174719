"""The dock "Sparse attention": puts the widgets together and opens the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton, QWidget

from ..cells.counts_box import CountsBox
from ..compare.box import CompareBox
from ..compare.session import Compare
from ..core.docks import open_training
from ..evidence.cells_box import CellFaithfulnessBox
from ..evidence.cells_session import CellFaithfulness
from ..evidence.session import AnswerFaithfulness
from ..evidence.what_if_box import WhatIfBox
from ..evidence.what_if_session import WhatIfSession
from ..export.box import ExportBox
from ..export.session import ExportSession
from ..session import Session
from ..slides.box import SlideBox
from ..slides.gallery_box import GalleryBox
from ..slides.pyramid_box import PyramidBox
from ..traversal.box import TraversalBox
from ..traversal.locations_box import LocationsBox
from ..widgets.base import Follower
from ..widgets.drops import FileDrops
from ..widgets.frame import DockFrame, section
from ..widgets.undo_keys import UndoKeys
from .actions_box import ActionsBox
from .image_box import ImageBox
from .model_box import ModelBox
from .result_box import ResultBox
from .scale import ScaleHelper

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["SparseAttentionDock"]

#: Sections that are opened by whoever wants them.
_FOLDED = ("What if", "Compare", "Faithfulness per cell", "Export")


class SparseAttentionDock(DockFrame):
    """Classify cells, fields and slides, and see what decided.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.session = Session.of(napari_viewer)
        super().__init__(self.session.status)
        kinds = (
            ScaleHelper,
            AnswerFaithfulness,
            WhatIfSession,
            CellFaithfulness,
            Compare,
            ExportSession,
        )
        shared = [kind.of(napari_viewer) for kind in kinds]
        inner = QWidget(self)
        boxes = self._make_boxes(inner)
        folding = self._make_sections(napari_viewer, inner)
        self.train = QPushButton("Annotate and train…", inner)
        self.train.setToolTip(
            "Opens a dock to give cells, regions or slides your own classes, and to fine-tune the "
            "model on them."
        )
        self.train.clicked.connect(self._open_training)
        self.lay_out(inner, [*boxes, self.train, *self.sections.values()])
        self.drops = FileDrops(self, self.image_box.open_files)
        self.undo_keys = UndoKeys(napari_viewer, self)
        for part in shared:
            part.attach()
        self.session.attach()
        closing = (*(part.detach for part in shared), self.session.detach)
        self.end_with([*boxes, *folding], *closing)
        self.session.start()

    def _make_boxes(self, inner: QWidget) -> list[Follower]:
        """Make what stands above the sections."""
        self.image_box = ImageBox(self.session, inner)
        self.model_box = ModelBox(self.session, inner)
        self.actions_box = ActionsBox(self.session, inner)
        self.slide_box = SlideBox(self.session.slides, inner)
        self.locations_box = LocationsBox(self.session.crops, inner)
        return [
            self.image_box, self.model_box, self.actions_box, self.slide_box, self.locations_box,
        ]  # fmt: skip

    def _make_sections(self, viewer: ViewerModel, inner: QWidget) -> list[Follower]:
        """Make what folds, each shown where the model has something for it."""
        self.result_box = ResultBox(self.session, inner)
        self.what_if_box = WhatIfBox(WhatIfSession.of(viewer), inner)
        self.compare_box = CompareBox(Compare.of(viewer), inner)
        self.pyramid_box = PyramidBox(self.session.slides, inner)
        self.gallery_box = GalleryBox(self.session.slides, inner)
        self.traversal_box = TraversalBox(self.session.crops, inner)
        self.counts_box = CountsBox(self.session.cells, inner)
        self.faithfulness_box = CellFaithfulnessBox(CellFaithfulness.of(viewer), inner)
        self.export_box = ExportBox(ExportSession.of(viewer), inner)
        folding: dict[str, Follower] = {
            "Result": self.result_box,
            "What if": self.what_if_box,
            "Compare": self.compare_box,
            "Attention": self.pyramid_box,
            "Patches": self.gallery_box,
            "Crops": self.traversal_box,
            "Cells": self.counts_box,
            "Faithfulness per cell": self.faithfulness_box,
            "Export": self.export_box,
        }
        self.sections = {
            title: section(title, box, inner, open_=title not in _FOLDED)
            for title, box in folding.items()
        }
        sections = self.sections
        self.pyramid_box.wanted.connect(sections["Attention"].setVisible)
        self.gallery_box.wanted.connect(sections["Patches"].setVisible)
        self.traversal_box.wanted.connect(sections["Crops"].setVisible)
        self.counts_box.wanted.connect(sections["Cells"].setVisible)
        self.faithfulness_box.wanted.connect(sections["Faithfulness per cell"].setVisible)
        for title in ("Attention", "Patches"):
            sections[title].setVisible(self.session.slides.active)
        sections["Crops"].setVisible(self.session.crops.active)
        for title in ("Cells", "Faithfulness per cell"):
            sections[title].setVisible(self.session.advice.cells)
        return list(folding.values())

    def _open_training(self) -> None:
        if self.session.viewer is not None:
            open_training(self.session.viewer)
