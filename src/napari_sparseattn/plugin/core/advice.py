"""What can be done next with an image and a model: pure functions of what is known of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from ...card import Card
from .messages import about_large_slide, about_obstacle

__all__ = ["Advice", "ImageFacts", "ModelKind", "advise", "list_fitting", "rank_card"]

#: A slide up to this size is searched for cells; it then is as other images in memory.
_MOST_CELL_PIXELS = 2**24


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What is known of an image without reading it.

    Parameters
    ----------
    name, modality : str
        Of the layer.
    channels : int
        3 for colours; alpha is none.
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float or None
        µm per pixel.
    on_slide : bool
        Whether it is a slide that is read as it is looked at.
    simulated : bool
        Whether it is a simulated sample.
    """

    name: str
    modality: str
    channels: int
    shape: tuple[int, int]
    pixel_size: float | None = None
    on_slide: bool = False
    simulated: bool = False

    @property
    def whole(self) -> str:
        """What the whole of it is called."""
        return "slide" if self.on_slide else "field"

    def refuse_cells(self) -> str:
        """Return why the cells of a slide are not looked for, and what to do; or nothing."""
        height, width = self.shape
        if self.on_slide and height * width > _MOST_CELL_PIXELS:
            return about_large_slide(self.name, height, width)
        return ""


@dataclasses.dataclass(frozen=True)
class Advice:
    """What can be done next.

    Parameters
    ----------
    text : str
        One line for the user.
    no_cells, no_whole : str
        Why cells, or the whole image, cannot be classified, and what to do; or nothing.
    cells, whole : bool
        Whether a model of this kind classifies cells, and whole images; buttons are shown for
        what it does.
    reconstruct : bool
        Whether the dock Holograms can turn the image into what the model takes.
    """

    text: str
    no_cells: str = ""
    no_whole: str = ""
    cells: bool = True
    whole: bool = False
    reconstruct: bool = False


class ModelKind(Protocol):
    """What the window knows of a kind of model; without state."""

    @staticmethod
    def suits(image: ImageFacts | None, card: Card) -> int:
        """Return whether a model does what an image is most likely opened for: 0, 1 or 2."""
        ...

    @staticmethod
    def next_step(image: ImageFacts, card: Card) -> Advice:
        """Return what can be done with an image that is of the model's modality."""
        ...


def list_fitting(
    image: ImageFacts | None, cards: Mapping[str, Card], kinds: Mapping[str, type[ModelKind]]
) -> list[str]:
    """Return the names of the models for what the image shows, the likeliest first."""
    shows = "unknown" if image is None else image.modality
    fitting = [name for name, card in cards.items() if card.modality == shows]
    simulated = image is not None and image.simulated

    def order(name: str) -> tuple[int, bool]:
        card = cards[name]
        return -kinds[card.kind].suits(image, card), card.training.simulated != simulated

    return sorted(fitting, key=order)


def rank_card(
    image: ImageFacts | None, card: Card, kinds: Mapping[str, type[ModelKind]]
) -> tuple[bool, bool, bool]:
    """Return how well a model fits an image: the greater, the better.

    It is made for what the image shows, does what the image is opened for, and was trained on
    simulated images if the image is one.
    """
    if image is None:
        return False, bool(kinds[card.kind].suits(None, card)), False
    return (
        card.modality == image.modality,
        bool(kinds[card.kind].suits(image, card)),
        card.training.simulated == image.simulated,
    )


def advise(
    image: ImageFacts | None,
    card: Card | None,
    kind: type[ModelKind],
    *,
    fitting: Sequence[str] = (),
    loading: bool = False,
    images: bool = True,
) -> Advice:
    """Return what can be done next.

    Parameters
    ----------
    image : ImageFacts or None
        The chosen image.
    card : Card or None
        The chosen model's.
    kind : type of ModelKind
        The model's kind.
    fitting : sequence of str
        Names of models for this kind of image.
    loading : bool
        Whether a model is being loaded.
    images : bool
        Whether any image is open.
    """
    found = _look(image, card, kind, fitting, images)
    if not loading:
        return found
    said = "Loading the model…"
    return dataclasses.replace(found, text=said, no_cells=said, no_whole=said)


def _look(
    image: ImageFacts | None,
    card: Card | None,
    kind: type[ModelKind],
    fitting: Sequence[str],
    images: bool,
) -> Advice:
    if image is None:
        said = "Choose an image." if images else "Try a sample, or open an image of cells."
        return _refuse(said, ImageFacts("", "unknown", 3, (1, 1)), card, kind)
    shows, wants = image.modality, "opd" if card is None else card.modality
    reconstruct = shows == "hologram" or (shows == "phase" and wants == "opd")
    refused = about_obstacle(image.name, shows, image.channels, card, fitting)
    if refused or card is None:
        said = refused or "Choose a model, or load a model file with Load…."
        found = _refuse(said, image, card, kind)
    else:
        found = kind.next_step(image, card)
    return dataclasses.replace(found, reconstruct=reconstruct)


def _refuse(said: str, image: ImageFacts, card: Card | None, kind: type[ModelKind]) -> Advice:
    """Return the buttons of a kind of model, none of which can be used yet."""
    form = Advice("") if card is None else kind.next_step(image, card)
    return dataclasses.replace(form, text=said, no_cells=said, no_whole=said)
