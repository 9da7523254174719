"""The traversal that is shown in one viewer: its crops, the one picked out, the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ...evidence import Traversal
from ..cells.requests import ClickRequest
from ..core.choices import Choices
from ..core.errors import explain
from ..core.messages import share_text
from ..core.sources import data_position
from .closeups import CloseUp, CloseUpRequest, ask_close_up
from .layers import crop_at
from .requests import FieldRequest, Thumbnails

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...inference.prediction import Prediction

__all__ = ["ShownCrops"]


class ShownCrops(Choices):
    """What is shown of the last answer, where that is a traversal."""

    crop_changed = Signal(object)
    shown_class_changed = Signal(object)
    close_up_requested = Signal(object)
    close_up_changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        #: The crop that is picked out, and the class whose shares are shown.
        self.crop: int | None = None
        self.shown_class = 0
        self.thumbnails: Thumbnails = ()
        #: The crop that is picked out, at the resolution of the image; None while it is read.
        self.close_up: CloseUp | None = None
        self._close_up_asked: CloseUpRequest | None = None
        self._shown: ClickRequest | FieldRequest | None = None

    @property
    def traversal(self) -> Traversal | None:
        """The traversal that is shown."""
        evidence = None if self.answer is None else self.answer.evidence
        return evidence if isinstance(evidence, Traversal) else None

    @property
    def shown(self) -> ClickRequest | FieldRequest | None:
        """What was asked for the answer that is shown, if it is of a cell or field."""
        return self._shown

    def _set_answer(self, answer: Prediction | None, thumbnails: Thumbnails = ()) -> None:
        self.crop = None
        self.shown_class = 0 if answer is None else answer.index
        self.thumbnails = thumbnails
        self._ask_close_up(None)
        super()._set_answer(answer)

    def set_shown_class(self, index: int) -> None:
        """Show the crops' shares of another class."""
        if index != self.shown_class and self.traversal is not None:
            self.shown_class = index
            self._redraw()
            self.shown_class_changed.emit(index)

    def select_crop(self, crop: int | None) -> None:
        """Pick out a crop of the traversal that is shown, or none."""
        traversal = self.traversal
        if traversal is None or (crop is not None and not 0 <= crop < len(traversal)):
            return
        self.crop = crop
        self._redraw()
        self._ask_close_up(crop)
        self.crop_changed.emit(crop)
        if crop is None or self.answer is None:
            return
        share = float(traversal.evidence_for(self.shown_class)[crop])
        name = self.answer.class_names[self.shown_class].replace("_", " ")
        side = traversal.on_image(traversal.boxes)[crop, 2]
        self.say(
            f"Crop {crop + 1}, {side:.0f} px wide, level {traversal.level[crop]}: "
            f"{share_text(share)} {'for' if share > 0 else 'against'} {name}."
        )

    def _ask_close_up(self, crop: int | None) -> None:
        """Ask for a crop at the resolution of the image; None forgets the one there is."""
        shown, traversal = self._shown, self.traversal
        self.close_up, self._close_up_asked = None, None
        self.close_up_changed.emit()
        if crop is None or shown is None or traversal is None:
            return
        request = ask_close_up(shown.layer, shown.plane, shown.settings, traversal, crop)
        self._close_up_asked = request
        self.close_up_requested.emit(request)

    def accept_close_up(self, answer: CloseUp) -> None:
        """Show a crop at the resolution of the image, unless another was asked for meanwhile."""
        if answer.request is self._close_up_asked:
            self.close_up = answer
            self.close_up_changed.emit()

    def fail_close_up(self, request: CloseUpRequest, error: BaseException) -> None:
        """Say why a crop cannot be shown."""
        if request is self._close_up_asked:
            self._close_up_asked = None
            self.close_up_changed.emit()
            self.say(explain(error), "error")

    @property
    def awaits_close_up(self) -> bool:
        """Whether the crop that is picked out is still being read."""
        return self._close_up_asked is not None and self.close_up is None

    def select_crop_at(self, world: Any) -> bool:
        """Pick out the crop at a position in the world, where crops are shown there."""
        shown, traversal = self._shown, self.traversal
        if shown is None or traversal is None or shown.layer is not self.image:
            return False
        layer = self.overlays.layer(shown.layer, "crops")
        if layer is None or not layer.visible:
            return False
        crop = crop_at(traversal, data_position(shown.layer, world))
        if crop is not None:
            self.select_crop(None if crop == self.crop else crop)
        return crop is not None

    def go_to_crop(self, crop: int) -> None:
        """Bring a crop to the middle of the view, and near."""
        viewer, shown, traversal = self.viewer, self._shown, self.traversal
        if viewer is None or shown is None or traversal is None:
            return
        top, left, height, width = traversal.on_image(traversal.boxes)[crop]
        ahead = shown.plane.index
        corners = [(top - 0.5, left - 0.5), (top + height - 0.5, left + width - 0.5)]
        first, last = (np.asarray(shown.layer.data_to_world((*ahead, *c))) for c in corners)
        camera, canvas = viewer.scene.camera, viewer.canvas.size
        camera.center = (0.0, *((first + last) / 2)[-2:])
        extent = np.abs(last - first)[-2:].max()
        camera.zoom = 0.5 * min(canvas) / max(float(extent), 1e-9)

    def _redraw(self) -> None:
        if self._shown is not None and self.answer is not None:
            self.overlays.show_traversal(
                self._shown.layer,
                self._shown.plane.index,
                self.answer,
                self.choice,
                self.shown_class,
                self.crop,
            )
