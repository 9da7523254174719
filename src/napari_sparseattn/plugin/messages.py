"""What a session tells the user, as plain data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..inference.prediction import Prediction, Predictions

__all__ = ["Level", "Message", "Progress", "about_answer", "about_results", "no_cells"]

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


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"
