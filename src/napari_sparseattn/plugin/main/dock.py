"""The dock "Sparse attention": puts the widgets together and opens the session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from ..annotate.incoming import is_annotations
from ..annotate.reader import import_into
from ..cells.counts_box import CountsBox
from ..compare.box import CompareBox
from ..compare.session import Compare
from ..core.docks import open_dock
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
from ..widgets.frame import DockFrame, Section, section
from ..widgets.undo_keys import UndoKeys
from .actions_box import ActionsBox
from .image_box import ImageBox
from .model_box import ModelBox
from .result_box import ResultBox
from .scale import ScaleHelper
from .start_box import StartBox
from .tour import start_tour

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["SparseAttentionDock"]

#: Sections that are opened by whoever wants them.
_FOLDED = ("What if", "Compare", "Faithfulness per cell", "Export", "Crops per level")
#: Sections that are not needed at first: they lie under More.
_UNDER_MORE = ("What if", "Compare", "Faithfulness per cell")
#: Our other docks, with what they are for.
_OTHERS = {
    "Annotate and train": (
        "Give cells, regions or slides your own classes, and fine-tune the model on them."
    ),
    "Holograms": "From raw holograms to optical path difference, with a live preview.",
    "Batch": "Many files at once.",
}


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
        self.start_box = StartBox(self.session, inner)
        #: What needs an image; until there is one, the buttons to begin with stand alone.
        self.body = QWidget(inner)
        boxes = self._make_boxes(self.body)
        folding = self._make_sections(napari_viewer, self.body)
        self.more = self._make_more(inner)
        self._fill_body(boxes)
        self.lay_out(inner, [self.start_box, self.body, self.more])
        self.drops = FileDrops(self, self._take_files)
        self.undo_keys = UndoKeys(napari_viewer, self)
        for part in shared:
            part.attach()
        self.session.attach()
        watch = Follower(inner)
        watch.hide()
        watch.follow(self.session.cells.results_changed, self._explain_table)
        self._explain_table(self.session.cells.results)
        closing = (*(part.detach for part in shared), self.session.detach)
        self.end_with([self.start_box, watch, *boxes, *folding], *closing)
        self.start_box.wanted.connect(self.body.setHidden)
        self.start_box.tour_wanted.connect(self._take_tour)
        self.start_box.show_whether_empty()
        self.session.start()

    def _take_files(self, paths: list[str]) -> None:
        """Open images that are dropped; annotations go onto the image that is open."""
        annotations = [path for path in paths if is_annotations(path)]
        if images := [path for path in paths if path not in annotations]:
            self.image_box.open_files(images)
        if annotations and self.session.viewer is not None:
            import_into(self.session.viewer, annotations)

    def _fill_body(self, boxes: list[Follower]) -> None:
        column = QVBoxLayout(self.body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        shown = [box for title, box in self.sections.items() if title not in _UNDER_MORE]
        for widget in (*boxes, *shown):
            column.addWidget(widget)

    def _make_more(self, inner: QWidget) -> Section:
        """Make what is not needed at first, in a section that is folded until it is."""
        content = QWidget(inner)
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.model_box.details)
        column.addWidget(self.image_box.details)
        column.addWidget(self.actions_box.clicking)
        for title in _UNDER_MORE:
            column.addWidget(self.sections[title])
            self.sections[title].toggled.connect(self._show_more)
        row = QHBoxLayout()
        self.others: dict[str, QPushButton] = {}
        for title, tip in _OTHERS.items():
            button = self.others[title] = QPushButton(f"{title}…", content)
            button.setToolTip(f"{tip} Opens a dock.")
            button.clicked.connect(partial(self._open, title))
            row.addWidget(button, len(title))
        column.addLayout(row)
        self.clear = QPushButton("Clear results", content)
        self.clear.setToolTip(
            "Takes every result of this image away, with its layers. Annotations and outlines of "
            "tissue stay."
        )
        self.clear.clicked.connect(self._clear)
        column.addWidget(self.clear)
        self.tour = QPushButton("Take a tour", content)
        self.tour.setToolTip("Six steps through this dock.")
        self.tour.clicked.connect(self._take_tour)
        column.addWidget(self.tour)
        return section("More", content, inner, open_=False, key="more")

    def _make_boxes(self, inner: QWidget) -> list[Follower]:
        """Make what stands above the sections."""
        self.image_box = ImageBox(self.session, inner)
        self.model_box = ModelBox(self.session, inner)
        self.actions_box = ActionsBox(self.session, inner)
        self.train = self.actions_box.train
        self.slide_box = SlideBox(self.session.slides, inner)
        self.locations_box = LocationsBox(self.session.crops, inner)
        return [
            self.image_box, self.model_box, self.actions_box, self.slide_box,
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
            "Crops per level": self.locations_box,
            "Crops": self.traversal_box,
            "Cells": self.counts_box,
            "Faithfulness per cell": self.faithfulness_box,
            "Export": self.export_box,
        }
        self.sections = {
            title: section(
                title,
                box,
                inner,
                open_=title not in _FOLDED,
                key=title.lower().replace(" ", "_"),
            )
            for title, box in folding.items()
        }
        sections = self.sections
        self.pyramid_box.wanted.connect(sections["Attention"].setVisible)
        self.gallery_box.wanted.connect(sections["Patches"].setVisible)
        for title in ("Crops", "Crops per level"):
            self.traversal_box.wanted.connect(sections[title].setVisible)
            sections[title].setVisible(self.session.crops.active)
        self.counts_box.wanted.connect(sections["Cells"].setVisible)
        self.faithfulness_box.wanted.connect(sections["Faithfulness per cell"].setVisible)
        for title in ("Attention", "Patches"):
            sections[title].setVisible(self.session.slides.active)
        for title in ("Cells", "Faithfulness per cell"):
            sections[title].setVisible(self.session.advice.cells)
        return list(folding.values())

    def _show_more(self, on: bool) -> None:
        # What is opened by something else than a click is to be seen.
        if on and not self.more.isExpanded():
            self.more.expand(animate=False)

    def _explain_table(self, results: object) -> None:
        self.sections["Cells"].explain(results is not None)

    def _open(self, title: str, _: bool = False) -> None:
        if self.session.viewer is not None:
            open_dock(self.session.viewer, title)

    def _clear(self) -> None:
        self.session.clear()

    def _take_tour(self) -> None:
        if self.session.viewer is not None:
            start_tour(self.session.viewer)
