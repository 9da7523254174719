"""Traversals in one viewer: fields that are classified, crops picked out, crops per level."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ...evidence import Traversal
from ..cells.requests import ClickRequest, RunRequest
from ..cells.task import CellTask
from ..core.advice import Advice, ImageFacts
from ..core.lanes import close_all
from ..core.messages import about_field, about_traversal, share_text
from ..core.models import Model
from ..core.parts import SETTINGS_CHANGED, Ask, Parts
from ..core.pictures import Thumbnails
from ..core.sources import SourceError, data_position, displayed_plane, shape_of, slide_of
from ..core.status import Progress
from .closeups import CloseUp, CloseUpRequest, ask_close_up, read_close_up
from .layers import TRAVERSAL_ROLES, TraversalLayers, crop_at
from .requests import (
    MOST_CROPS,
    FieldAnswer,
    FieldRequest,
    crops_at_most,
    levels_below,
    stream_field,
)

if TYPE_CHECKING:
    from napari.layers import Image

    from ...card import Card
    from ...inference.prediction import Prediction

__all__ = ["FieldRun", "TraversalTask", "Trial"]

_KIND = "tnet"
_MOST_TRIALS = 4


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of the crops per level and what it gave for the same cell or field.

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


class FieldRun:
    """How far the traversal of one field is.

    Parameters
    ----------
    request : FieldRequest
        What was asked.
    cancel : callable
        Called with a reason.
    """

    def __init__(self, request: FieldRequest, cancel: Callable[[str], None]) -> None:
        self.request = request
        self.read = 0
        self.cancel = cancel
        self._began = time.monotonic()

    def progress(self) -> Progress:
        """Return how far it is; fewer crops may be read than could be."""
        total = self.request.crops
        if not self.read:
            return Progress(0, 0, what="crops")
        each = (time.monotonic() - self._began) / self.read
        return Progress(self.read, total, each * max(total - self.read, 0), "crops")


class TraversalTask:
    """Classifies cells and whole fields by looking closer at crops, and shows them.

    Parameters
    ----------
    parts : Parts
        What the tasks of the viewer share.
    cells : CellTask
        Asks for cells.

    Attributes
    ----------
    crop : int or None
        The crop that is picked out.
    shown_class : int
        The class whose shares are shown.
    close_up : CloseUp or None
        The crop that is picked out, at the resolution of the image; None while it is read.
    halts : bool
        Whether a model that knows when it is sure enough stops by itself.
    trials : list of Trial
        What other crops per level gave for what is shown.
    """

    crop_changed = Signal(object)
    shown_class_changed = Signal(object)
    close_up_changed = Signal()
    locations_changed = Signal(object)
    trials_changed = Signal()

    def __init__(self, parts: Parts, cells: CellTask) -> None:
        self.parts, self.cells = parts, cells
        self.layers = TraversalLayers(parts.overlays)
        self.crop: int | None = None
        self.shown_class = 0
        #: Whether more is drawn than the few crops that speak most.
        self.every = False
        self.close_up: CloseUp | None = None
        self.halts = True
        self.trials: list[Trial] = []
        self._close_up_asked: CloseUpRequest | None = None
        self._target: tuple[Any, ...] = ()
        self._asked: ClickRequest | FieldRequest | None = None
        lanes = parts.lanes
        self._fields = lanes.add(
            stream_field, given=self.accept, failed=parts.status.fail_work, busy="replace"
        )
        self._close_ups = lanes.add(
            read_close_up, given=self._accept_close_up, failed=self._fail_close_up
        )
        parts.answers.draw[_KIND] = self.draw
        parts.answers.asked.connect(self._note_asked)
        parts.answers.changed.connect(self._change_answer)
        parts.selection.outdated.connect(self._leave)
        parts.selection.model_changed.connect(self._change_model)

    # -- what can be done

    @staticmethod
    def suits(image: ImageFacts | None, card: Card) -> int:
        """Return 1 for slides, if the model is made for them."""
        return int(image is not None and image.on_slide and _for_slides(card))

    @staticmethod
    def next_step(image: ImageFacts, card: Card) -> Advice:
        """Return what can be done with cells and the whole."""
        whole, refused, no_whole = f"Classify {image.whole}", image.refuse_cells(), ""
        if refused:
            text = f"{whole} looks at the whole slide, closely only where that decides."
        else:
            text = f"Click a cell in the image, classify all of them, or {whole.lower()}."
        if image.on_slide and not _for_slides(card):
            no_whole = (
                f"'{card.name}' evens out the light of a whole image first, which a slide is too "
                "large for. Choose a model that is made for slides."
            )
        return Advice(text, refused, no_whole, whole=True)

    @property
    def active(self) -> bool:
        """Whether the model is a TNet."""
        card = self.parts.selection.card
        return card is not None and card.kind == _KIND

    @property
    def trained_locations(self) -> tuple[int, ...]:
        """Locations per level as the model was trained; empty without a TNet."""
        card = self.parts.selection.card
        return (
            () if card is None or not self.active else tuple(card.architecture.get("locations", ()))
        )

    def close(self) -> None:
        """Let nothing that was asked for arrive."""
        close_all((self._fields, self._close_ups))

    # -- asking

    def press(self, world: Any) -> None:
        """Pick out the crop that was clicked, or else classify the cell there."""
        if not self.select_crop_at(world):
            self.cells.press(world)

    def ask(self, what: Ask, world: Any = None) -> ClickRequest | RunRequest | FieldRequest | None:
        """Ask for a cell, all cells, or the whole field or slide."""
        return self.classify_field() if what == "whole" else self.cells.ask(what, world)

    def classify_field(self) -> FieldRequest | None:
        """Ask for the class of the whole displayed plane, or of the slide."""
        request = self._field_request()
        if request is None:
            return None
        status, selection = self.parts.status, self.parts.selection
        # The sliders may be moved while the last answer is still on its way.
        if isinstance(status.work, FieldRun):
            self._stop()
        if status.running:
            return None
        selection.generation += 1
        request = dataclasses.replace(request, generation=selection.generation)
        status.notify("Looking at the whole, then closer where that decides…")
        status.begin(FieldRun(request, self._cancel))
        self.parts.answers.asked.emit(request)
        self._fields.ask(request)
        return request

    def _field_request(self) -> FieldRequest | None:
        """Return the request for the whole, or say why there is none."""
        selection, status, refused = self.parts.selection, self.parts.status, ""
        viewer, image, model = selection.viewer, selection.image, selection.model
        refused = self.parts.advice.no_whole
        if refused or viewer is None or image is None or model is None:
            status.notify(refused, "warning")
            return None
        try:
            plane = displayed_plane(viewer, image)
        except SourceError as error:
            status.notify(str(error), "error")
            return None
        taken, slide = self._taken(image, model), slide_of(image)
        if (most := crops_at_most(taken)) > MOST_CROPS:
            status.notify(
                f"{most} crops would be looked at; at most {MOST_CROPS} are. Choose fewer "
                "locations per level.",
                "warning",
            )
            return None
        chosen = None if self.locations is None else taken
        return FieldRequest(
            0, image, plane, selection.settings, model, slide, chosen, most, self.halts
        )

    # -- answering

    def accept(self, request: FieldRequest, part: int | FieldAnswer) -> None:
        """Take how many crops have been read, or the answer, unless it is outdated."""
        status = self.parts.status
        if not isinstance(part, FieldAnswer):
            if (run := status.of(request)) is not None:
                run.read = part
                status.show_progress()
            return
        if status.end(request) is None or not self.parts.selection.is_open(request.layer):
            return
        if request.settings != self.parts.selection.settings_of(request.layer):
            status.notify(SETTINGS_CHANGED.format(request.layer.name), "warning")
            return
        self.draw(request, part.prediction, part.thumbnails, None)
        self.cells.selected_changed.emit(None)
        side = None if request.pyramid else max(part.prediction.traversal.shape)
        card = request.model.bundle.card
        said = about_field(part.prediction, card, side, request.settings.pixel_size)
        status.notify(said.text, said.level)

    def draw(
        self,
        request: ClickRequest | FieldRequest,
        prediction: Prediction,
        thumbnails: Thumbnails,
        cell: int | None,
    ) -> str:
        """Show what a TNet has classified; return what to say of it."""
        choice = self.parts.selection.choice
        self.layers.show(request.layer, request.plane.index, prediction, choice, every=self.every)
        self.cells.show_class(request, prediction)
        if request.layer is self.parts.selection.image:
            self.parts.answers.show(prediction, request, thumbnails)
            self._keep_trial(request, prediction, cell)
        return about_traversal(prediction)

    def _cancel(self, reason: str) -> None:
        self._stop()
        self.parts.status.notify(f"{reason}.", "warning")

    def _stop(self) -> None:
        work = self.parts.status.work
        if work is not None:
            work.request.stop.set()
            self._fields.cancel()
            self.parts.status.end(work.request)

    # -- crops per level

    @property
    def locations(self) -> tuple[int, ...] | None:
        """Crops looked at inside each crop, per level trained on; None as trained."""
        return self.cells.locations

    def set_locations(self, locations: tuple[int, ...] | None) -> None:
        """Look at more or fewer crops per level, and answer the last question anew."""
        if locations == self.trained_locations:
            locations = None
        if locations == self.locations:
            return
        self.cells.locations = locations
        self.locations_changed.emit(locations)
        self._ask_anew()

    @property
    def threshold(self) -> float | None:
        """The probability at which the model stops by itself; None where it never does."""
        card = self.parts.selection.card
        return None if card is None or card.halting is None else card.halting.threshold

    def set_halts(self, halts: bool) -> None:
        """Let the model stop when it is sure enough, or not; the field shown is asked anew."""
        if halts != self.halts:
            self.halts = halts
            if isinstance(self._asked, FieldRequest):
                self._ask_anew()

    def _ask_anew(self) -> None:
        asked, selection = self._asked, self.parts.selection
        if (
            asked is None
            or asked.layer is not selection.image
            or asked.model is not selection.model
        ):
            return
        if isinstance(asked, FieldRequest):
            self.classify_field()
        else:
            self.cells.ask_cell(asked.position)

    def _taken(self, image: Image, model: Model) -> tuple[int, ...]:
        """Locations per level for an image: the chosen, the last repeated where it is deeper."""
        slide = slide_of(image)
        shape = shape_of(image) if slide is None else slide.shape
        taken = levels_below(model.bundle.card.architecture, max(shape))
        if self.locations is None:
            return taken
        return (self.locations + self.locations[-1:] * len(taken))[: len(taken)]

    def _keep_trial(
        self, request: ClickRequest | FieldRequest, answer: Prediction, cell: int | None
    ) -> None:
        """Keep what each setting gave, as long as it is of the same thing."""
        traversal = self.traversal
        if traversal is None:
            return
        target = (id(request.layer), request.plane.index, type(request), cell)
        if target != self._target:
            self._target, self.trials = target, []
        taken = request.locations or self.trained_locations
        trial = Trial(
            taken[: len(self.trained_locations)],
            answer.label,
            answer.confidence,
            len(traversal),
            answer.ledger.share,
            answer.ledger.seconds,
        )
        others = [one for one in self.trials if one.locations != trial.locations]
        self.trials = [*others, trial][-_MOST_TRIALS:]
        self.trials_changed.emit()

    # -- what is shown

    @property
    def traversal(self) -> Traversal | None:
        """The traversal that is shown."""
        answer = self.parts.answers.answer
        evidence = None if answer is None else answer.evidence
        return evidence if isinstance(evidence, Traversal) else None

    @property
    def thumbnails(self) -> Thumbnails:
        """Pictures of its crops."""
        return self.parts.answers.pictures

    def set_shown_class(self, index: int) -> None:
        """Show the crops' shares of another class."""
        if index != self.shown_class and self.traversal is not None:
            self.shown_class = index
            self._redraw()
            self.shown_class_changed.emit(index)

    def set_every(self, on: bool) -> None:
        """Draw all crops that can be told apart, or the few that speak most."""
        if on != self.every:
            self.every = on
            self._redraw()

    def select_crop(self, crop: int | None) -> None:
        """Pick out a crop of the traversal that is shown, or none."""
        traversal, answer = self.traversal, self.parts.answers.answer
        if traversal is None or (crop is not None and not 0 <= crop < len(traversal)):
            return
        self.crop = crop
        self._redraw()
        self._ask_close_up(crop)
        self.crop_changed.emit(crop)
        if crop is None or answer is None:
            return
        share = float(traversal.evidence_for(self.shown_class)[crop])
        name = answer.class_names[self.shown_class].replace("_", " ")
        side = traversal.on_image(traversal.boxes)[crop, 2]
        self.parts.status.notify(
            f"Crop {crop + 1}, {side:.0f} px wide, level {traversal.level[crop]}: "
            f"{share_text(share)} {'for' if share > 0 else 'against'} {name}."
        )

    def select_crop_at(self, world: Any) -> bool:
        """Pick out the crop at a position in the world, where crops are shown there."""
        shown, traversal = self.parts.answers.request, self.traversal
        if traversal is None or shown.layer is not self.parts.selection.image:
            return False
        layer = self.parts.overlays.layer(shown.layer, "crops")
        if layer is None or not layer.visible:
            return False
        crop = crop_at(traversal, data_position(shown.layer, world))
        if crop is not None:
            self.select_crop(None if crop == self.crop else crop)
        return crop is not None

    def go_to_crop(self, crop: int) -> None:
        """Bring a crop to the middle of the view, and near."""
        viewer, traversal = self.parts.selection.viewer, self.traversal
        if viewer is None or traversal is None:
            return
        shown = self.parts.answers.request
        top, left, height, width = traversal.on_image(traversal.boxes)[crop]
        ahead = shown.plane.index
        corners = [(top - 0.5, left - 0.5), (top + height - 0.5, left + width - 0.5)]
        first, last = (np.asarray(shown.layer.data_to_world((*ahead, *c))) for c in corners)
        camera, canvas = viewer.scene.camera, viewer.canvas.size
        camera.center = (0.0, *((first + last) / 2)[-2:])
        extent = np.abs(last - first)[-2:].max()
        camera.zoom = 0.5 * min(canvas) / max(float(extent), 1e-9)

    def _redraw(self) -> None:
        answer, shown = self.parts.answers.answer, self.parts.answers.request
        if answer is not None:
            index, choice = shown.plane.index, self.parts.selection.choice
            self.layers.show(
                shown.layer, index, answer, choice, self.shown_class, self.crop, self.every
            )

    # -- a crop at the resolution of the image

    @property
    def awaits_close_up(self) -> bool:
        """Whether the crop that is picked out is still being read."""
        return self._close_up_asked is not None and self.close_up is None

    def _ask_close_up(self, crop: int | None) -> None:
        """Ask for a crop at the resolution of the image; None forgets the one there is."""
        shown, traversal = self.parts.answers.request, self.traversal
        self.close_up, self._close_up_asked = None, None
        self.close_up_changed.emit()
        if crop is not None and traversal is not None:
            request = ask_close_up(shown.layer, shown.plane, shown.settings, traversal, crop)
            self._close_up_asked = request
            self._close_ups.ask(request)

    def _accept_close_up(self, request: CloseUpRequest, answer: CloseUp) -> None:
        if request is self._close_up_asked:
            self.close_up = answer
            self.close_up_changed.emit()

    def _fail_close_up(self, request: CloseUpRequest, error: BaseException) -> None:
        if request is self._close_up_asked:
            self._close_up_asked = None
            self.close_up_changed.emit()
            self.parts.status.fail(error)

    # -- what others tell

    def forget(self, image: Image | None = None) -> None:
        """Drop what was tried."""
        self._asked, self._target, self.trials = None, (), []
        self.trials_changed.emit()

    def _note_asked(self, request: object) -> None:
        if isinstance(request, ClickRequest | FieldRequest):
            self._asked = request

    def _change_answer(self, answer: Prediction | None) -> None:
        self.crop = None
        self.shown_class = 0 if answer is None else answer.index
        self._ask_close_up(None)

    def _leave(self) -> None:
        if not self.active and self.parts.selection.model is not None:
            self.parts.overlays.remove_everywhere(TRAVERSAL_ROLES)

    def _change_model(self, _: Model | None) -> None:
        self.cells.locations = None
        self.forget()
        self.locations_changed.emit(None)


def _for_slides(card: Card) -> bool:
    """Whether a model can look at a slide piece by piece."""
    return card.kind == _KIND and card.normalisation.kind == "fixed"
