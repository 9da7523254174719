"""What a session tells the user, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..card import Card
    from ..inference.prediction import Prediction, Predictions

__all__ = [
    "Level",
    "Message",
    "Progress",
    "about_answer",
    "about_hologram",
    "about_mismatch",
    "about_obstacle",
    "about_results",
    "no_cells",
    "time_left",
]

_NOUNS = {
    "brightfield": "brightfield images",
    "phase": "phase images",
    "opd": "OPD images",
    "fluorescence": "fluorescence images",
    "hologram": "holograms",
    "unknown": "images of an unknown kind",
}

_SHOWN = {
    "brightfield": "brightfield",
    "phase": "phase",
    "opd": "OPD",
    "fluorescence": "fluorescence",
    "hologram": "a hologram",
    "unknown": "something unknown",
}

Level = Literal["info", "warning", "error"]


@dataclasses.dataclass(frozen=True)
class Message:
    """One line for the user."""

    text: str
    level: Level = "info"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    done, total : int
        Cells; total 0 while they are being found.
    seconds_left : float or None
        Estimated from the cells done so far.
    """

    done: int = 0
    total: int = 0
    seconds_left: float | None = None


def no_cells(name: str) -> str:
    """Say that an image has no cells, and what to do."""
    return (
        f"No cells were found in '{name}'. Check its modality, or mark the cells in a Points or "
        "Labels layer and choose that under Cells."
    )


def about_hologram(name: str) -> str:
    """Say what to do with a hologram."""
    return (
        f"'{name}' is a hologram. Reconstruct it first: the button Reconstruct… opens the dock "
        "Holograms."
    )


def about_obstacle(name: str, shows: str, card: Card | None, fitting: Sequence[str]) -> str:
    """Say why a model cannot classify an image and what to do; nothing if it can.

    Parameters
    ----------
    name, shows : str
        The image and its modality.
    card : Card or None
        The model's, if one is chosen.
    fitting : sequence of str
        Names of models for this kind of image.
    """
    if shows == "hologram" and (card is None or card.modality != "hologram"):
        return about_hologram(name)
    if card is None or shows == card.modality or "unknown" in (shows, card.modality):
        return ""
    return about_mismatch(name, shows, card.name, card.modality, fitting)


def about_mismatch(
    name: str, shows: str, model: str, trained_on: str, fitting: Sequence[str]
) -> str:
    """Say that a model is for another kind of image, and which one fits.

    Parameters
    ----------
    name, shows : str
        The image and its modality.
    model, trained_on : str
        The model and its modality.
    fitting : sequence of str
        Names of models for this kind of image.
    """
    said = f"'{name}' shows {_SHOWN[shows]}, but '{model}' was trained on {_NOUNS[trained_on]}."
    if fitting:
        return f"{said} Choose {' or '.join(fitting)} under Model."
    if (shows, trained_on) == ("phase", "opd"):
        return f"{said} Turn the phase into OPD in the dock Holograms: Reconstruct…."
    return f"{said} Choose another model, or correct what the image shows."


def about_answer(prediction: Prediction) -> str:
    """Say what the user should know of one classified cell."""
    notes = list(prediction.ledger.notes)
    if not prediction.calibrated:
        notes.append("The pixel size is unknown: the crop was cut by the size of the cells.")
    return " ".join(notes) or "Click another cell, or classify all of them."


def about_results(done: Predictions, total: int, reason: str) -> str:
    """Say what a run gave; `reason` is why it stopped early, or empty."""
    if reason:
        said = f"{reason}: {len(done)} of {total} cells classified."
    else:
        said = f"{len(done)} cells classified in {_seconds(done.ledger.seconds)}."
    notes = list(done.ledger.notes)
    if not done.calibrated:
        notes.append("The pixel size is unknown: crops were cut by the size of the cells.")
    return " ".join([said, *notes])


def time_left(seconds: float) -> str:
    """Say how long something will still take."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"
