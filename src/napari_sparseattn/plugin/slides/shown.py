"""What a SPAN attended to, as it is shown in one viewer: maps, the patch picked out, pictures."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...evidence import PyramidAttention
from ..core.messages import about_patch
from ..core.sources import data_position
from ..traversal.session import Traversals
from .pyramid_layers import PyramidLayers
from .pyramid_maps import LOCAL, PATCH, PyramidChoice
from .requests import LocalAnswer, LocalRequest, PatchPicture, PicturesRequest, SlideAnswer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...inference.prediction import Prediction
    from ...inference.slides import LocalAttention
    from ..traversal.requests import Thumbnails

__all__ = ["ShownSlide"]


class ShownSlide(Traversals):
    """What is shown of the last answer, where that is of a SPAN."""

    pyramid_choice_changed = Signal(object)
    patch_changed = Signal(object)
    local_requested = Signal(object)
    local_changed = Signal(object)
    pictures_requested = Signal(object)
    picture_arrived = Signal(int)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.maps = PyramidLayers(viewer, self._map_toggled)
        self.pyramid_choice = PyramidChoice()
        #: The patch that is picked out, and where its own attention went.
        self.patch: int | None = None
        self.local: LocalAttention | None = None
        #: Patches as they are, by their number.
        self.pictures: dict[int, npt.NDArray[np.uint8]] = {}
        self._answers: weakref.WeakKeyDictionary[Image, SlideAnswer] = weakref.WeakKeyDictionary()
        self._shown_slide: SlideAnswer | None = None
        self._local_asked: LocalRequest | None = None
        self._pictures_asked: PicturesRequest | None = None

    @property
    def attention(self) -> PyramidAttention | None:
        """The attention that is shown."""
        evidence = None if self.answer is None else self.answer.evidence
        return evidence if isinstance(evidence, PyramidAttention) else None

    @property
    def slide(self) -> SlideAnswer | None:
        """The answer that is shown, with the tissue and the request it came from."""
        return self._shown_slide

    # -- the answer

    def _show_slide(self, answer: SlideAnswer) -> None:
        """Draw an answer, and put it before the user if its image is the chosen one."""
        prediction, request = answer.prediction, answer.request
        assert prediction is not None
        assert isinstance(prediction.evidence, PyramidAttention)
        index = request.plane.index
        self.maps.show_attention(request.layer, index, prediction.evidence, self.pyramid_choice)
        if request.layer is self.image:
            self._shown_slide = answer
            self._set_answer(prediction)

    def _set_answer(self, answer: Prediction | None, thumbnails: Thumbnails = ()) -> None:
        shown = self._shown_slide
        if shown is not None:
            self.maps.remove(shown.request.layer, (PATCH, LOCAL))
            if answer is not shown.prediction:
                self._shown_slide = None
        self.patch, self.local, self._local_asked = None, None, None
        self._stop_pictures()
        self.pictures = {}
        super()._set_answer(answer, thumbnails)

    def set_shown_class(self, index: int) -> None:
        """Show the shares of another class."""
        if self.attention is None:
            super().set_shown_class(index)
        elif index != self.shown_class:
            self.shown_class = index
            self.shown_class_changed.emit(index)

    # -- the maps

    def set_pyramid_choice(self, choice: PyramidChoice) -> None:
        """Choose which maps are shown, and in which values."""
        before = self.pyramid_choice
        if choice == before:
            return
        self.pyramid_choice = choice
        shown, attention = self._shown_slide, self.attention
        if shown is not None and attention is not None:
            index = shown.request.plane.index
            if (choice.kind, choice.head) != (before.kind, before.head):
                self.maps.show_attention(shown.request.layer, index, attention, choice)
            if choice.head != before.head:
                self._draw_local()
        self.maps.apply(choice)
        self.pyramid_choice_changed.emit(choice)

    def _map_toggled(self, role: str, shown: bool) -> None:
        self.set_pyramid_choice(self.pyramid_choice.with_shown(role, shown))

    # -- one patch

    def select_patch(self, patch: int | None) -> None:
        """Pick out a patch, and ask where its own attention went; None picks out none."""
        shown, attention = self._shown_slide, self.attention
        if shown is None or attention is None:
            return
        if patch is not None and not 0 <= patch < len(attention):
            return
        self.patch, self.local, self._local_asked = patch, None, None
        self.maps.show_patch(shown.request.layer, shown.request.plane.index, attention, patch)
        if patch is None:
            self._draw_local()
        self.patch_changed.emit(patch)
        if patch is None:
            return
        self.say(about_patch(attention, patch))
        self._local_asked = LocalRequest(shown, patch)
        self.local_requested.emit(self._local_asked)

    def select_patch_at(self, world: Any) -> bool:
        """Pick out the patch at a position in the world; return whether there is one."""
        shown, attention = self._shown_slide, self.attention
        if shown is None or attention is None or shown.request.layer is not self.image:
            self.say(self.advice())
            return False
        row, column = data_position(shown.request.layer, world)
        # A pixel's centre is at its index in napari, its corner in the pyramid.
        patch = attention.nearest_patch(row + 0.5, column + 0.5)
        if patch is None:
            self.select_patch(None)
            self.say("No patch was taken here. Click on one that the map covers.")
            return False
        self.select_patch(None if patch == self.patch else patch)
        return True

    def accept_local(self, answer: LocalAnswer) -> None:
        """Show where a patch's attention went, unless another has been picked out since."""
        if answer.request is self._local_asked:
            self.local = answer.local
            self._draw_local()
            self.local_changed.emit(answer.local)

    def _draw_local(self) -> None:
        shown, attention = self._shown_slide, self.attention
        if shown is not None and attention is not None:
            self.maps.show_local(
                shown.request.layer,
                shown.request.plane.index,
                attention,
                self.local,
                self.pyramid_choice,
            )

    def go_to_patch(self, patch: int) -> None:
        """Pick out a patch and bring it to the middle of the view, and near."""
        viewer, shown, attention = self.viewer, self._shown_slide, self.attention
        if viewer is None or shown is None or attention is None:
            return
        top, left, side = attention.patch_box(patch)
        layer, ahead = shown.request.layer, shown.request.plane.index
        corners = [(top - 0.5, left - 0.5), (top + side - 0.5, left + side - 0.5)]
        first, last = (np.asarray(layer.data_to_world((*ahead, *corner))) for corner in corners)
        camera = viewer.scene.camera
        camera.center = (0.0, *((first + last) / 2)[-2:])
        extent = float(np.abs(last - first)[-2:].max())
        camera.zoom = 0.3 * min(viewer.canvas.size) / max(extent, 1e-9)
        if patch != self.patch:
            self.select_patch(patch)

    # -- pictures

    def ask_pictures(self, patches: Sequence[int]) -> None:
        """Ask for pictures of patches, in this order; those asked for before are dropped."""
        shown, attention = self._shown_slide, self.attention
        self._stop_pictures()
        wanted = tuple(patch for patch in patches if patch not in self.pictures)
        if shown is None or attention is None or not wanted:
            return
        self._pictures_asked = PicturesRequest(shown.pyramid, attention, wanted)
        self.pictures_requested.emit(self._pictures_asked)

    def accept_picture(self, request: PicturesRequest, picture: PatchPicture) -> None:
        """Take one picture, unless others have been asked for since."""
        if request is self._pictures_asked:
            self.pictures[picture.patch] = picture.pixels
            self.picture_arrived.emit(picture.patch)

    def _stop_pictures(self) -> None:
        if self._pictures_asked is not None:
            self._pictures_asked.stop.set()
            self._pictures_asked = None

    # -- in words

    def side_of(self, level: int) -> str:
        """Return the side of a level's cells: in µm where the pixel size is known."""
        attention = self.attention
        if attention is None:
            return ""
        side = attention.side + (attention.levels[level].factor - 1) * attention.step
        size = self.settings.pixel_size
        return f"{side:.0f} px" if size is None else f"{side * size:.3g} µm"

    def level_shares(self, shown_class: int) -> list[tuple[str, float]]:
        """What each level, and the rest, adds to a class's logit, less its mean over classes."""
        attention = self.attention
        if attention is None or not len(shares := attention.level_shares()):
            return []
        shares = np.vstack([shares, attention.constant])
        values = (shares - shares.mean(axis=1, keepdims=True))[:, shown_class]
        names = [f"{i} · {self.side_of(i)}" for i in range(len(attention.levels))]
        return list(zip([*names, "rest"], values.tolist(), strict=True))

    def patch_facts(self) -> list[str]:
        """Return what is known of the patch that is picked out, line by line."""
        attention, patch, head = self.attention, self.patch, self.pyramid_choice.head
        if attention is None or patch is None:
            return []
        finest = attention.patch_weights(0, head)
        rank = int((finest > finest[patch]).sum()) + 1
        lines = [f"<b>Patch {patch + 1}</b>, rank {rank} of {len(attention)}"]
        for number, level in enumerate(attention.levels):
            weight = float(attention.patch_weights(number, head)[patch])
            lines.append(f"{self.side_of(number)}: {weight * len(level):.2g} × uniform")
        if attention.patch_probabilities is not None:
            name = attention.class_names[1].replace("_", " ")
            lines.append(f"{name}: {100 * attention.patch_probabilities[patch]:.1f} %")
        if self.local is not None:
            lines.append(f"saw {len(self.local.indices)} patches around it")
        return lines
