"""What all that is done in one viewer has in common, and what a kind of model must offer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from psygnal import Signal

from .advice import Advice, ModelKind, advise, list_fitting, rank_card
from .lanes import Lanes
from .layers import Overlays
from .models import Models
from .pictures import Thumbnails
from .selection import Selection
from .status import Status

if TYPE_CHECKING:
    from napari.layers import Image

    from ...card import Card
    from ...inference.prediction import Prediction

__all__ = ["SETTINGS_CHANGED", "Answers", "Ask", "Parts", "Task"]

#: What can be asked: one cell, all cells, the whole field or slide.
Ask = Literal["cell", "all", "whole"]


#: Said instead of an answer that was found with other settings.
SETTINGS_CHANGED = "The settings of '{}' were changed: classify it again."


class Answers:
    """The answer that is shown, and what was asked for it.

    Attributes
    ----------
    answer : Prediction or None
        Of a cell, a field or a slide.
    request : object
        The request that it answers.
    pictures : tuple of numpy.ndarray
        Of the crops that a TNet looked at.
    """

    changed = Signal(object)
    #: A question has been asked; its request.
    asked = Signal(object)

    def __init__(self) -> None:
        self.answer: Prediction | None = None
        self.request: Any = None
        self.pictures: Thumbnails = ()
        #: By kind of model: shows a classified cell, and returns what to say of it.
        self.draw: dict[str, Callable[..., str]] = {}

    def show(
        self, answer: Prediction | None, request: object = None, pictures: Thumbnails = ()
    ) -> None:
        """Put an answer before the user, or none."""
        self.answer, self.request, self.pictures = answer, request, pictures
        self.changed.emit(answer)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the tasks of one viewer share.

    Parameters
    ----------
    selection : Selection
        Image, model, overlays.
    status : Status
        Message and progress.
    models : Models
        To choose from.
    answers : Answers
        What is shown.
    overlays : Overlays
        Layers of ours whose kinds the user shows and hides.
    lanes : Lanes
        Background work.
    kinds : mapping of str to type of ModelKind
        By what a card calls a kind of model.
    """

    selection: Selection
    status: Status
    models: Models
    answers: Answers
    overlays: Overlays
    lanes: Lanes
    kinds: Mapping[str, type[ModelKind]]

    @property
    def fitting(self) -> list[str]:
        """Names of the models for what the image shows, the likeliest first."""
        return list_fitting(self.selection.facts, self.models.cards, self.kinds)

    def suits(self, card: Card) -> int:
        """Return whether a model does what the image is most likely opened for."""
        return self.kinds[card.kind].suits(self.selection.facts, card)

    def rank(self, card: Card) -> tuple[bool, bool, bool]:
        """Return how well a model fits the chosen image: the greater, the better."""
        return rank_card(self.selection.facts, card, self.kinds)

    @property
    def card_to_be(self) -> Card | None:
        """The card of the chosen model, or of the one that is being loaded."""
        if not self.selection.loading:
            return self.selection.card
        models = self.models
        wanted = (n for n, path in models.paths.items() if models.wanted in (n, path))
        return models.cards.get(next(wanted, ""))

    @property
    def advice(self) -> Advice:
        """What can be done next; with the buttons of the model that is being loaded."""
        selection, card = self.selection, self.card_to_be
        kind = next(iter(self.kinds.values())) if card is None else self.kinds[card.kind]
        return advise(
            selection.facts,
            card,
            kind,
            fitting=self.fitting,
            loading=selection.loading,
            images=bool(selection.images()),
        )

    def advise(self) -> None:
        """Say what can be done next."""
        self.status.notify(self.advice.text)


class Task(ModelKind, Protocol):
    """What a kind of model does in one viewer."""

    def press(self, world: Any) -> None:
        """Answer a click of the mouse at a position in the world."""
        ...

    def ask(self, what: Ask, world: Any = None) -> Any:
        """Ask a question; return the request, or None if it is refused, which is said."""
        ...

    def accept(self, request: Any, part: Any) -> None:
        """Take an answer or a part of one, unless it is outdated."""
        ...

    def forget(self, image: Image | None = None) -> None:
        """Drop what is kept of an image, or of all."""
        ...

    def close(self) -> None:
        """Let nothing that was asked for arrive."""
        ...
