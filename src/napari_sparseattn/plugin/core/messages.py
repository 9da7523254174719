"""Texts for the message line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .status import Level, Message, StageDone

if TYPE_CHECKING:
    from ...card import Card
    from ...evidence import PyramidAttention
    from ...images.tissue.mask import Tissue
    from ...inference.prediction import Prediction, Predictions
    from ...inference.slides import SlidePrediction

__all__ = [
    "about_answer",
    "about_field",
    "about_hologram",
    "about_kept_features",
    "about_large_slide",
    "about_mismatch",
    "about_obstacle",
    "about_patch",
    "about_results",
    "about_slide",
    "about_small_image",
    "about_stage",
    "about_tissue",
    "about_traversal",
    "counted",
    "no_cells",
    "seconds_text",
    "share_text",
    "time_left",
    "why_stopped",
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

#: Fields so many times larger or smaller than those trained on are warned of.
_SIMILAR = 3.0


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as "1 cell" and "4 cells"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def about_obstacle(
    name: str, shows: str, channels: int, card: Card | None, fitting: Sequence[str]
) -> str:
    """Say why a model cannot classify an image and what to do; nothing if it can.

    Parameters
    ----------
    name, shows : str
        The image and its modality.
    channels : int
        Of the image.
    card : Card or None
        The model's, if one is chosen.
    fitting : sequence of str
        Names of models for this kind of image.
    """
    if shows == "hologram" and (card is None or card.modality != "hologram"):
        return about_hologram(name)
    if card is None:
        return ""
    if shows != card.modality and "unknown" not in (shows, card.modality):
        return about_mismatch(name, shows, card.name, card.modality, fitting)
    if channels == len(card.channels):
        return ""
    said = f"'{card.name}' needs {counted(len(card.channels), 'channel')}, '{name}' has {channels}."
    if shows == "unknown":
        return f"{said} Say what the image shows, below its name, or choose another model."
    return f"{said} Choose another model."


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


def about_answer(prediction: Prediction, all_done: bool) -> str:
    """Say what the user should know of one classified cell, or what to do next.

    Parameters
    ----------
    prediction : Prediction
        What was said of the cell.
    all_done : bool
        Whether all cells of the image have been classified.
    """
    notes = _notes_and_scale(prediction, "the crop was")
    others = "its row in the table" if all_done else "classify all of them"
    return " ".join(notes) or f"Click another cell, or {others}."


def about_large_slide(name: str, height: int, width: int) -> str:
    """Say that the cells of a slide are not searched for, and what to do."""
    return (
        f"'{name}' is a slide of {height} × {width} pixels, too large to find all its cells at "
        "once. Classify slide looks at the whole with a TNet model; for cells, open a cut-out."
    )


def about_traversal(prediction: Prediction) -> str:
    """Say what the user should know of one cell that a TNet has classified."""
    notes = _notes_and_scale(prediction, "the crop was")
    said = " ".join(notes) or "Click a numbered crop to see its share, or another cell."
    return f"{why_stopped(prediction)}{said}"


def about_field(
    prediction: Prediction, card: Card, side: int | None, pixel_size: float | None
) -> Message:
    """Say what the user should know of a field's class.

    Parameters
    ----------
    prediction : Prediction
        The field's.
    card : Card
        The model's.
    side : int or None
        The field's longer side in pixels; None for a slide, which is of any size.
    pixel_size : float or None
        µm per pixel, where it is known.
    """
    notes = [f"{note.rstrip('.')}." for note in prediction.ledger.notes]
    trained = card.crop.field_of_view_um
    if pixel_size is None:
        notes.append("With the pixel size unknown, nobody can say whether the model fits.")
    elif side is not None and not 1 / _SIMILAR < side * pixel_size / trained < _SIMILAR:
        notes.append(
            f"'{card.name}' was trained on fields {_length(trained)} wide, this one is "
            f"{_length(side * pixel_size)}: do not rely on the class."
        )
    stop = why_stopped(prediction)
    if notes:
        return Message(f"{stop}{' '.join(notes)}", "warning")
    return Message(f"{stop}Click a numbered crop, or its row below, to see its share.")


def why_stopped(prediction: Prediction) -> str:
    """Say why a traversal that may stop by itself ended, as a sentence; else nothing."""
    stop = getattr(prediction.evidence, "stop", None)
    return "" if stop is None else f"{stop.sentence[0].upper()}{stop.sentence[1:]}. "


def _length(micrometres: float) -> str:
    if micrometres >= 1000:
        return f"{micrometres / 1000:.2g} mm"
    return f"{micrometres:.3g} µm"


def about_results(done: Predictions, total: int, reason: str) -> str:
    """Say what a run gave; `reason` is why it stopped early, or empty."""
    if reason:
        said = f"{reason}: {len(done)} of {counted(total, 'cell')} classified."
    else:
        said = f"{counted(len(done), 'cell')} classified in {seconds_text(done.ledger.seconds)}."
    return " ".join([said, *_notes_and_scale(done, "crops were")])


def _notes_and_scale(done: Prediction | Predictions, crops: str) -> list[str]:
    """Return what was noted, and by what crops were cut unless a note has said that."""
    notes = [_sentence(note) for note in done.ledger.notes]
    # What the red cells say of the scale is a note already, for or against it.
    if not done.scale_known and not any("red cells" in note for note in notes):
        notes.append(f"The pixel size is unknown: {crops} cut by the size of the cells.")
    return notes


def about_small_image(name: str, height: int, width: int, side: int) -> str:
    """Say that an image holds too few patches for a SPAN, and what to do."""
    return (
        f"'{name}' is {height} × {width} pixels, hardly more than one patch of {side} × {side}. "
        "Open a slide, correct the pixel size, or choose a model that classifies cells."
    )


def about_tissue(tissue: Tissue) -> tuple[str, Level]:
    """Say what was found, and how to change it."""
    if tissue.share == 0:
        return "No tissue was found. Outline it in the layer 'tissue', as polygons.", "warning"
    notes = " ".join(_sentence(note) for note in tissue.notes)
    said = f"{tissue.summary()}. Edit the outlines in their layer, if they are wrong."
    return f"{said} {notes}".rstrip(), "info"


def about_stage(name: str) -> str:
    """Say which part of the work on a slide has begun."""
    return {
        "tissue": "Finding the tissue…",
        "features": "Making features of the patches, which are kept for the next run…",
        "attention": "Attending to all patches…",
    }.get(name, f"{name}…")


def about_slide(prediction: SlidePrediction, stages: Sequence[StageDone]) -> Message:
    """Say what the user should know of a slide's class.

    Parameters
    ----------
    prediction : SlidePrediction
        The slide's.
    stages : sequence of StageDone
        How the work went.
    """
    notes = [_sentence(note) for note in prediction.ledger.notes]
    said = f"{len(prediction.attention)} patches in {seconds_text(prediction.ledger.seconds)}."
    if prediction.estimate is not None:
        said = f"{prediction.estimate.sentence}. {said}"
    kept = next((stage.first for stage in stages if stage.name == "features"), 0)
    if kept:
        said += f" The features of {kept} were kept from an earlier run."
    if notes:
        return Message(" ".join([said, *notes]), "warning")
    return Message(f"{said} Click a patch to see its weights.")


def _sentence(note: str) -> str:
    """Return a note as a sentence: with a capital, and a full stop."""
    first = note.partition(" ")[0]
    # Names of files and units begin as they begin.
    said = note[:1].upper() + note[1:] if first.isascii() and first.isalpha() else note
    return f"{said.rstrip('.')}."


def about_kept_features(reason: str, stages: Sequence[StageDone]) -> str:
    """Say what is left of work on a slide that was stopped."""
    done = next((stage for stage in stages if stage.name == "features"), None)
    if done is None or not done.done:
        return f"{reason}."
    return (
        f"{reason}: the features of {done.done} of {done.total} patches are kept, and the next "
        "run goes on from there."
    )


def about_patch(attention: PyramidAttention, patch: int) -> str:
    """Say how much of the attention a patch holds."""
    weight = float(attention.patch_weights()[patch])
    multiple = weight * len(attention.levels[0])
    top, left, side = attention.patch_box(patch)
    return (
        f"Patch {patch + 1}, {side:.0f} px wide at row {top:.0f}, column {left:.0f}: "
        f"{100 * weight:.2g} % of the attention, {multiple:.2g} times as much as if all got the "
        "same."
    )


def share_text(share: float) -> str:
    """Return a crop's share with its sign, small ones with more decimals."""
    decimals = 2 if abs(share) >= 0.1 else 3 if abs(share) >= 0.01 else 4
    return f"{share:+.{decimals}f}".replace("-", "−")


def time_left(seconds: float) -> str:
    """Say how long something will still take."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left"


def seconds_text(value: float) -> str:
    """Return a duration with its unit."""
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"
