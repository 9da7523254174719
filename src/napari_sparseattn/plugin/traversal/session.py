"""Traversals in one viewer: fields that are classified, crops picked out, the dial."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...evidence import Traversal
from ..cells.requests import ClickRequest
from ..core.messages import about_field, about_large_slide
from ..core.runs import FieldRun
from ..core.sources import SourceError, displayed_plane
from ..slides.layers import follow_unreadable, slide_of
from .requests import (
    MOST_CROPS,
    FieldAnswer,
    FieldRequest,
    Thumbnails,
    crops_at_most,
    levels_below,
)
from .shown import ShownCrops

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...card import Card
    from ...inference.prediction import Prediction
    from ..cells.requests import Model

__all__ = ["Traversals", "Trial"]

#: A slide up to this size is searched for cells; it then is as other images in memory.
_MOST_CELL_PIXELS = 2**24
_MOST_TRIALS = 4


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of the dial and what it gave for the same cell or field.

    Parameters
    ----------
    locations : tuple of int
        Crops looked at inside each crop, per level.
    label, confidence : str, float
        The class and its probability.
    crops : int
        Crops looked at.
    share : float
        Pixels looked at, over those of the field or the cell's crop.
    seconds : float
        Time it took.
    """

    locations: tuple[int, ...]
    label: str
    confidence: float
    crops: int
    share: float
    seconds: float


class Traversals(ShownCrops):
    """What is asked and shown of a TNet's traversals."""

    field_requested = Signal(object)
    field_cancelled = Signal()
    locations_changed = Signal(object)
    trials_changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        #: Crops looked at inside each crop, per level trained on; None as trained.
        self.locations: tuple[int, ...] | None = None
        self.trials: list[Trial] = []
        self._target: tuple[Any, ...] = ()
        self._asked: ClickRequest | FieldRequest | None = None
        self._followed: weakref.WeakSet[Image] = weakref.WeakSet()

    # -- what there is

    @property
    def traversing(self) -> bool:
        """Whether the model is a TNet."""
        return self.model is not None and self.model.bundle.card.kind == "tnet"

    @property
    def on_slide(self) -> bool:
        """Whether the image is a slide that is read as it is looked at."""
        return self.image is not None and slide_of(self.image) is not None

    def suits(self, card: Card) -> bool:
        """Tell whether a model does what the image is most likely opened for."""
        return _for_slides(card) if self.on_slide else super().suits(card)

    @property
    def trained_locations(self) -> tuple[int, ...]:
        """Locations per level as the model was trained; empty without a TNet."""
        if self.model is None or not self.traversing:
            return ()
        return tuple(self.model.bundle.card.architecture.get("locations", ()))

    def no_cells_here(self) -> str:
        """Return why cells cannot be classified in the image, and what to do, or nothing."""
        slide = None if self.image is None else slide_of(self.image)
        if slide is not None and slide.levels[0].n_pixels > _MOST_CELL_PIXELS:
            assert self.image is not None
            return about_large_slide(self.image.name, *slide.shape)
        return self.obstacle()

    def invitation(self) -> str:
        """Return what can be done now that image and model are there."""
        slide = self.on_slide
        whole = "Classify slide" if slide else "Classify field"
        if (refused := self.no_cells_here()) and not self.traversing:
            return refused
        if refused:
            return f"{whole} looks at the whole slide, closely only where that decides."
        if self.traversing:
            return f"Click a cell in the image, classify all of them, or {whole.lower()}."
        return super().invitation()

    # -- a whole field

    def classify_field(self) -> FieldRequest | None:
        """Ask for the class of the whole displayed plane, or of the slide."""
        viewer = self.viewer
        if self.image is None or self.model is None or self.obstacle() or viewer is None:
            self.say(self.advice(), "warning")
            return None
        if not self.traversing:
            self.say(
                f"'{self.model.bundle.card.name}' classifies cells. Choose a TNet model to "
                "classify a whole field.",
                "warning",
            )
            return None
        if self.on_slide and not _for_slides(self.model.bundle.card):
            self.say(
                f"'{self.model.bundle.card.name}' evens out the light of a whole image first, "
                "which a slide is too large for. Choose a model that is made for slides.",
                "warning",
            )
            return None
        try:
            plane = displayed_plane(viewer, self.image)
        except SourceError as error:
            self.say(str(error), "error")
            return None
        taken = self._taken(self.image, self.model)
        if crops_at_most(taken) > MOST_CROPS:
            self.say(
                f"{crops_at_most(taken)} crops would be looked at; at most {MOST_CROPS} are. "
                "Choose fewer locations per level.",
                "warning",
            )
            return None
        # The dial may be turned while the last answer is still on its way.
        self._stop_field()
        self.generation += 1
        request = FieldRequest(
            self.generation,
            self.image,
            plane,
            self.settings,
            self.model,
            slide_of(self.image),
            None if self.locations is None else taken,
            crops_at_most(taken),
        )
        self._asked, self._field = request, FieldRun(request)
        self.say("Looking at the whole, then closer where that decides…")
        self.progress_changed.emit(self._field.progress())
        self.field_requested.emit(request)
        return request

    def accept_field_progress(self, request: FieldRequest, read: int) -> None:
        """Take how many crops have been read."""
        if self._field is not None and self._field.request is request:
            self._field.read = read
            self.progress_changed.emit(self._field.progress())

    def accept_field(self, answer: FieldAnswer) -> None:
        """Show an answer, unless it is stale."""
        request = answer.request
        if not self.end_field(request) or not self._present(request.layer):
            return
        self._show_answer(request, answer.prediction, answer.thumbnails, None)
        self.selected_changed.emit(None)
        side = None if request.pyramid else max(answer.prediction.traversal.shape)
        card = request.model.bundle.card
        said = about_field(answer.prediction, card, side, request.settings.pixel_size)
        self.say(said.text, said.level)

    def end_field(self, request: FieldRequest) -> bool:
        """Note that work has ended; return whether it was the work waited for."""
        if self._field is None or self._field.request is not request:
            return False
        self._field = None
        self.progress_changed.emit(None)
        return True

    def cancel_field(self, reason: str = "Cancelled") -> None:
        """Stop classifying a field; what was shown before stays."""
        if self._stop_field():
            self.progress_changed.emit(None)
            self.say(f"{reason}.", "warning")

    def _stop_field(self) -> bool:
        run, self._field = self._field, None
        if run is not None:
            run.request.stop.set()
            self.field_cancelled.emit()
        return run is not None

    def _taken(self, image: Image, model: Model) -> tuple[int, ...]:
        """Locations per level for an image: the dial's, the last repeated where it is deeper."""
        slide = slide_of(image)
        data = image.data[0] if image.multiscale else image.data
        shape = data.shape[image.ndim - 2 : image.ndim] if slide is None else slide.shape
        taken = levels_below(model.bundle.card.architecture, max(shape))
        if self.locations is None:
            return taken
        return (self.locations + self.locations[-1:] * len(taken))[: len(taken)]

    # -- the dial

    def set_locations(self, locations: tuple[int, ...] | None) -> None:
        """Look at more or fewer crops per level, and answer the last question anew."""
        if locations == self.trained_locations:
            locations = None
        if locations == self.locations:
            return
        self.locations = locations
        self.locations_changed.emit(locations)
        asked = self._asked
        if asked is None or asked.layer is not self.image or asked.model is not self.model:
            return
        if isinstance(asked, FieldRequest):
            self.classify_field()
        else:
            self._ask_cell(asked.position)

    def set_model(self, model: Model | None, *, loading: bool = False) -> None:
        """Choose a model; the dial is as it was trained."""
        self.locations, self._asked, self._target, self.trials = None, None, (), []
        super().set_model(model, loading=loading)
        self.locations_changed.emit(None)
        self.trials_changed.emit()

    def _try(self, request: ClickRequest | FieldRequest, answer: Prediction, cell: Any) -> None:
        """Keep what each setting of the dial gave, as long as it is of the same thing."""
        evidence = answer.evidence
        if not isinstance(evidence, Traversal):
            return
        target = (id(request.layer), request.plane.index, type(request), cell)
        if target != self._target:
            self._target, self.trials = target, []
        taken = request.locations or self.trained_locations
        trial = Trial(
            taken[: len(self.trained_locations)],
            answer.label,
            answer.confidence,
            len(evidence),
            answer.ledger.share,
            answer.ledger.seconds,
        )
        others = [one for one in self.trials if one.locations != trial.locations]
        self.trials = [*others, trial][-_MOST_TRIALS:]
        self.trials_changed.emit()

    # -- what is shown

    def _show_answer(
        self,
        request: ClickRequest | FieldRequest,
        prediction: Prediction,
        thumbnails: Thumbnails,
        cell: int | None,
    ) -> None:
        colours = request.model.bundle.card.colours
        self.overlays.show_prediction(
            request.layer, request.plane.index, prediction, colours, self.choice
        )
        if request.layer is not self.image:
            return
        self._shown = request
        self._set_answer(prediction, thumbnails)
        self._try(request, prediction, cell)

    def _ask_cell(self, position: tuple[float, float]) -> ClickRequest | None:
        """Ask for a cell; for the session to fill in."""
        raise NotImplementedError

    def set_image(self, layer: Image | None) -> None:
        """Choose the image; of a slide, what turns out to be unreadable is shown."""
        super().set_image(layer)
        viewer = self.viewer
        if layer is None or viewer is None or layer in self._followed:
            return
        if slide_of(layer) is not None:
            self._followed.add(layer)
            follow_unreadable(viewer, layer)


def _for_slides(card: Card) -> bool:
    """Whether a model can look at a slide piece by piece."""
    return card.kind == "tnet" and card.normalisation.kind == "fixed"
