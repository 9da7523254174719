"""The dock "Batch": puts the widgets together and opens the batch of the viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from ..widgets.drops import FileDrops
from ..widgets.frame import DockFrame, section
from .queue_box import BatchQueueBox
from .session import Batch
from .source_box import BatchOptionsBox, BatchSourceBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["BatchDock"]


class BatchDock(DockFrame):
    """Folders of images, holograms or slides, classified one after the other.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.batch = Batch.of(napari_viewer)
        super().__init__(self.batch.status)
        inner = QWidget(self)
        self.source_box = BatchSourceBox(self.batch, inner)
        self.options_box = BatchOptionsBox(self.batch, inner)
        self.queue_box = BatchQueueBox(self.batch, inner)
        self.lay_out(
            inner,
            [
                self.source_box,
                section("Options", self.options_box, inner, open_=False),
                self.queue_box,
            ],
        )
        self.drops = FileDrops(self, self.batch.add_inputs)
        parts = [self.source_box, self.options_box, self.queue_box]
        self.batch.attach()
        self.end_with(parts, self.batch.detach)
