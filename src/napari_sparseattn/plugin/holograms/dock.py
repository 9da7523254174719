"""The dock "Holograms": puts the widgets together and opens the panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QDockWidget, QWidget

from ..widgets.frame import DockFrame, section
from .actions_box import HologramActionsBox
from .options_box import HologramOptionsBox
from .preview_box import PreviewBox
from .session import Holograms
from .source_box import HologramSourceBox

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["HologramDock"]


class HologramDock(DockFrame):
    """From raw holograms to optical path difference, with a live preview.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari fills this in by the parameter's name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self.holograms = Holograms.of(napari_viewer)
        super().__init__(self.holograms.status)
        inner = QWidget(self)
        self.source_box = HologramSourceBox(self.holograms, inner)
        self.preview_box = PreviewBox(self.holograms, inner)
        self.options_box = HologramOptionsBox(self.holograms, inner)
        self.actions_box = HologramActionsBox(self.holograms, self)
        self.lay_out(
            inner,
            [
                self.source_box,
                section("Preview", self.preview_box, inner),
                section("Options", self.options_box, inner, open_=False),
            ],
            below=[self.actions_box],
        )
        self.holograms.attach()
        self.end_with(
            [self.source_box, self.preview_box, self.options_box, self.actions_box],
            self.holograms.detach,
        )

    def placed_in(self, dock: QDockWidget) -> None:
        """Make no previews while the dock is behind another one."""
        dock.visibilityChanged.connect(self._show_or_hide)

    def _show_or_hide(self, visible: bool) -> None:
        # A dock that is closed is hidden too; another one may be open.
        if self.parent() is not None:
            self.holograms.previews.set_awake(visible)
