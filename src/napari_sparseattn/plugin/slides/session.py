"""Slides for a SPAN in one viewer: tissue that is found and edited, slides that are classified."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ..core.messages import (
    about_kept_features,
    about_slide,
    about_small_image,
    about_stage,
    about_tissue,
)
from ..core.preferences import preferences
from ..core.runs import SlideRun
from ..core.sources import SourceError, displayed_plane
from ..traversal.requests import FieldRequest
from .layers import slide_of
from .pyramid_layers import same_outlines
from .requests import LocalRequest, SlideAnswer, SlideRequest, StageDone, store_folder
from .shown import ShownSlide

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...card import Card
    from ...images.tissue.mask import Tissue
    from ..cells.requests import Model

    Outlines = tuple[npt.NDArray[np.float64], ...]

__all__ = ["Slides"]

_NO_OUTLINES = (
    "The layer of the tissue is empty. Draw an outline in it, or remove the layer to have the "
    "tissue found."
)
#: An image of fewer patches along its longer side has no arrangement to attend to.
_LEAST_PATCHES = 2


class Slides(ShownSlide):
    """What is asked of a SPAN."""

    slide_requested = Signal(object)
    stages_changed = Signal(object)
    tissue_changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        #: What was found on each slide, and its outlines as they were put before the user.
        self._tissues: weakref.WeakKeyDictionary[Image, tuple[Tissue, Outlines]] = (
            weakref.WeakKeyDictionary()
        )
        self._tissue_taken: weakref.WeakKeyDictionary[Image, Tissue] = weakref.WeakKeyDictionary()

    # -- what there is

    @property
    def spanning(self) -> bool:
        """Whether the model is a SPAN."""
        return self.model is not None and self.model.bundle.card.takes_slides

    @property
    def tissue(self) -> Tissue | None:
        """What was taken for tissue on the chosen image."""
        if self.image is None:
            return None
        return self._tissue_taken.get(self.image)

    @property
    def in_stages(self) -> bool:
        """Whether a slide is being worked on, stage by stage."""
        return self._slide is not None

    def suits(self, card: Card) -> bool:
        """Tell whether a model does what the image is most likely opened for."""
        return self.on_slide if card.takes_slides else super().suits(card)

    def fitting_models(self) -> list[str]:
        """Return the names of the models for what the image shows, the likeliest first."""
        fitting = super().fitting_models()
        if not self.on_slide:
            return fitting
        # A slide is tissue more often than a smear.
        return sorted(fitting, key=lambda name: not self.cards[name].takes_slides)

    def no_cells_here(self) -> str:
        """Return why cells cannot be classified in the image, and what to do, or nothing."""
        if self.spanning and self.model is not None:
            name = self.model.bundle.card.name
            return f"'{name}' classifies whole slides. For cells, choose another model."
        return super().no_cells_here()

    def invitation(self) -> str:
        """Return what can be done now that image and model are there."""
        if not self.spanning:
            return super().invitation()
        if refused := self._too_small():
            return refused
        what = "Classify slide" if self.on_slide else "Classify field"
        return f"{what} finds the tissue, looks at all its patches, and shows which decided."

    def _too_small(self) -> str:
        """Return why the image has too few patches, and what to do, or nothing."""
        if self.image is None or self.model is None:
            return ""
        slide, image = slide_of(self.image), self.image
        data = image.data[0] if image.multiscale else image.data
        shape = data.shape[image.ndim - 2 : image.ndim] if slide is None else slide.shape
        crop, size = self.model.bundle.card.crop, self.settings.pixel_size
        side = crop.size if size is None else crop.field_of_view_um / size
        if min(shape) >= side and max(shape) >= _LEAST_PATCHES * side:
            return ""
        height, width = shape
        return about_small_image(image.name, height, width, round(side))

    # -- asking

    def classify_field(self) -> FieldRequest | None:
        """Ask for the class of the whole plane or slide, of whichever model there is."""
        if self.spanning:
            self.classify_slide()
            return None
        return super().classify_field()

    def classify_slide(self) -> SlideRequest | None:
        """Ask for the class of the slide, in the tissue that is marked or else found."""
        if self.image is None or not self.spanning or self.obstacle():
            self.say(self.advice(), "warning")
            return None
        if refused := self._too_small():
            self.say(refused, "warning")
            return None
        return self._ask_slide("class")

    def find_tissue(self) -> SlideRequest | None:
        """Ask where the tissue is; its outlines may then be edited."""
        if self.image is None:
            self.say(self.advice(), "warning")
            return None
        return self._ask_slide("tissue")

    def _ask_slide(self, aim: Literal["tissue", "class"]) -> SlideRequest | None:
        viewer, image = self.viewer, self.image
        if viewer is None or image is None or self.running:
            return None
        try:
            plane = displayed_plane(viewer, image)
        except SourceError as error:
            self.say(str(error), "error")
            return None
        tissue, outlines = self._marked_tissue(image) if aim == "class" else (None, None)
        if outlines is not None and not outlines:
            self.say(_NO_OUTLINES, "warning")
            return None
        self.generation += 1
        request = SlideRequest(
            self.generation,
            image,
            plane,
            self.settings,
            self.model,
            slide_of(image),
            tissue,
            outlines,
            aim,
            store_folder(),
            cache=preferences().cache,
        )
        self._slide = SlideRun(request)
        known = tissue is not None or outlines is not None
        self.say("Taking the tissue as outlined…" if known else "Finding the tissue…")
        self.progress_changed.emit(self._slide.progress())
        self.stages_changed.emit(())
        self.slide_requested.emit(request)
        return request

    def _marked_tissue(self, image: Image) -> tuple[Tissue | None, Outlines | None]:
        """Return the tissue that was found if its outlines are as they were, else the outlines."""
        outlines = self.maps.tissue(image)
        if outlines is None:
            return None, None
        found = self._tissues.get(image)
        if found is not None and same_outlines(found[1], outlines):
            # Through its outlines it would lose a patch here and there, and
            # with them the features that are kept.
            return found[0], None
        return None, tuple(outlines)

    # -- answering

    def accept_stages(self, request: SlideRequest, stages: tuple[StageDone, ...]) -> None:
        """Take how far each part of the work is."""
        run = self._slide
        if run is None or run.request is not request:
            return
        if len(stages) > max(1, len(run.stages)):
            self.say(about_stage(stages[-1].name))
        run.stages = stages
        self.stages_changed.emit(stages)

    def accept_slide(self, answer: SlideAnswer) -> None:
        """Show tissue and class, unless the question is no longer asked."""
        request = answer.request
        stages = () if self._slide is None else self._slide.stages
        if not self.end_slide(request) or not self._present(request.layer):
            self._close(answer)
            return
        layer = request.layer
        self._show_tissue(answer)
        if answer.prediction is None:
            self.say(*about_tissue(answer.tissue))
            return
        if request.settings != self.settings_of(layer):
            self._close(answer)
            self.say("The pixel size was changed meanwhile. Classify the slide again.", "warning")
            return
        self._forget(layer)
        self._answers[layer] = answer
        self._show_slide(answer)
        self.selected_changed.emit(None)
        said = about_slide(answer.prediction, stages)
        self.say(said.text, said.level)

    def _show_tissue(self, answer: SlideAnswer) -> None:
        layer, found = answer.request.layer, answer.polygons
        sought = answer.request.aim == "tissue"
        if found is not None and (sought or self.maps.tissue(layer) is None):
            if self._marked_tissue(layer)[1] is not None:
                # What the user has drawn is not ours to throw away.
                self.maps.set_aside_tissue(layer)
            self.maps.show_tissue(layer, answer.request.plane.index, found)
            self._tissues[layer] = (answer.tissue, tuple(self.maps.tissue(layer) or ()))
        self._tissue_taken[layer] = answer.tissue
        self.tissue_changed.emit(answer.tissue)

    def end_asked(self, request: SlideRequest | LocalRequest) -> bool:
        """Note that work has failed; return whether it was work waited for."""
        if isinstance(request, SlideRequest):
            return self.end_slide(request)
        asked, self._local_asked = self._local_asked, None
        return asked is request

    def end_slide(self, request: SlideRequest) -> bool:
        """Note that work has ended; return whether it was the work waited for."""
        if self._slide is None or self._slide.request is not request:
            return False
        self._slide = None
        self.stages_changed.emit(None)
        self.progress_changed.emit(None)
        return True

    def cancel_field(self, reason: str = "Cancelled") -> None:
        """Stop what is being done with a field or slide; what was shown before stays."""
        super().cancel_field(reason)
        run = self._slide
        if run is None:
            return
        run.request.stop.set()
        self.end_slide(run.request)
        self.say(about_kept_features(reason, run.stages), "warning")

    # -- what goes

    def set_model(self, model: Model | None, *, loading: bool = False) -> None:
        """Choose a model; the answers of another are taken away."""
        if model is not None:
            for layer in list(self._answers):
                self._forget(layer)
            self.maps.clear_all()
            if model.bundle.card.takes_slides:
                # Of a model that tells patches apart, that is what is looked for first.
                levels = frozenset[int]() if model.bundle.card.segments else frozenset({0})
                self.set_pyramid_choice(dataclasses.replace(self.pyramid_choice, levels=levels))
        super().set_model(model, loading=loading)

    def set_image(self, layer: Image | None) -> None:
        """Choose the image; a slide that was classified shows its answer again."""
        if layer is self.image:
            return
        super().set_image(layer)
        kept = None if layer is None else self._answers.get(layer)
        if kept is not None and kept.request.model is self.model:
            self._show_slide(kept)

    def attach(self) -> None:
        """Listen to the viewer; answers of slides that have gone meanwhile are dropped."""
        for layer in list(self._answers):
            if not self._present(layer):
                self._forget(layer)
        super().attach()

    def _layer_removed(self, event: Any) -> None:
        super()._layer_removed(event)
        if event.value in self._answers:
            self._forget(event.value)

    def _forget(self, layer: Image) -> None:
        """Drop the answer of a slide; its file of features is closed."""
        answer = self._answers.pop(layer, None)
        if answer is not None:
            self._close(answer)

    @staticmethod
    def _close(answer: SlideAnswer) -> None:
        if answer.prediction is not None and answer.prediction.features is not None:
            answer.prediction.features.close()
