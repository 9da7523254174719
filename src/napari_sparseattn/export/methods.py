"""A methods paragraph: what was done to an image, in words that a paper can take over."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..card import readable_name
from ..files import replacing
from ..inference.fields import FieldPrediction
from ..inference.slides import SlidePrediction
from .checklist import CHECKLIST, open_items

if TYPE_CHECKING:
    from ..images.holograms.settings import HologramSettings
    from .request import Export

__all__ = ["describe_methods", "describe_reconstruction", "write_methods"]

_NORMALISED = {
    "fixed": "values were shifted and scaled by constants of the model",
    "white": "each channel was divided by the white of its crop",
    "stain": "each channel was divided by the white of its crop, and optical density scaled",
}


def describe_methods(export: Export) -> str:
    """Return what was done, by what, and what is known of it, as one paragraph and references.

    Everything in it is from the result, the image and the model's card: what is
    not known there, such as who found cells that were given, is not said.

    Parameters
    ----------
    export : Export
        Cells, frames, a field or a slide.

    Returns
    -------
    str
        A paragraph, a line for each reference, and what is left to say; see `fill_checklist`.
    """
    references = _references(export)
    marks = {text: number for number, text in enumerate(references, 1)}
    said = [
        *_done(export, marks),
        *_seen(export),
        *_model(export, marks),
        *_found(export),
        *_noted(export),
    ]
    lines = [" ".join(said), "", *(f"[{number}] {text}" for text, number in marks.items())]
    left = [f"- {each}" for each in open_items(export)]
    lines += ["", f"For the authors to fill in, after {CHECKLIST}:", *left]
    return "\n".join(lines).rstrip() + "\n"


def describe_reconstruction(settings: HologramSettings, name: str, kind: str, frames: int) -> str:
    """Return how a recording of holography became maps, as one paragraph.

    Parameters
    ----------
    settings : HologramSettings
        How it was reconstructed.
    name : str
        Of the recording.
    kind : {"hologram", "field", "phase", "opd"}
        What its frames are.
    frames : int
        How many.
    """
    what = {"hologram": "off-axis holograms", "field": "complex fields", "phase": "phase images"}
    version = importlib.metadata.version("napari-sparseattn")
    gives = "phase (rad)" if settings.wavelength is None and kind != "opd" else (
        "optical path difference (nm)"
    )  # fmt: skip
    shown = what.get(kind, "optical path difference")
    first = f"{_count(frames, 'frame')} of {shown} ({name}) became maps of {gives}"
    said = [f"{first} with napari-sparseattn {version}."]
    known = {
        "wavelength in vacuum": (settings.wavelength, "nm"),
        "pixel size": (settings.pixel_size, "µm"),
        "refractive index of the medium": (settings.medium_index, ""),
    }
    stated = [f"{k} {v:g} {unit}".rstrip() for k, (v, unit) in known.items() if v is not None]
    if stated:
        said.append(f"Known were: {', '.join(stated)}.")
    if kind == "hologram":
        said.append(
            f"The sideband was cut out with a {settings.filter_shape} of "
            f"{settings.filter_radius:.3g} of its distance from frequency zero."
        )
    if settings.profile != "none":
        said.append(f"A background ({settings.profile}) was fitted beside the cells and removed.")
    if settings.focus or settings.autofocus:
        reach = f", searched within {settings.autofocus:g} µm" if settings.autofocus else ""
        said.append(f"It was refocused numerically by {settings.focus:g} µm{reach}.")
    return " ".join(said) + "\n"


def write_methods(export: Export, path: Path) -> list[Path]:
    """Write `describe_methods` to a file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(describe_methods(export), encoding="utf-8")
        export.report(1, 1)
    return [path]


def _references(export: Export) -> list[str]:
    about, doi = export.card.model_kind.paper
    paper = f"{about}, doi {doi.removeprefix('doi ')}" if doi else about
    found = [paper, export.card.training.citation]
    return [text for text in found if text]


def _mark(marks: dict[str, int], text: str) -> str:
    return f" [{marks[text]}]" if text in marks else ""


def _done(export: Export, marks: dict[str, int]) -> list[str]:
    """What was classified, and with what."""
    first, card = export.first, export.card
    if isinstance(first, SlidePrediction):
        what = f"{_count(len(first.attention), 'patch', 'patches')} of the slide {export.name}"
        verb = "were given a probability each" if first.segments else "were read together"
    elif isinstance(first, FieldPrediction):
        what, verb = f"The image {export.name}", "was classified as a whole"
    else:
        what = _count(export.n_cells, "cell") + f" of the image {export.name}"
        if export.kind == "frames":
            what += f" ({_count(len(export.frames), 'frame')})"
        verb = "was classified" if export.n_cells == 1 else "were classified"
    kind = card.model_kind
    paper = _mark(marks, _references(export)[0]) if kind.paper[0] else ""
    height, width = export.shape
    scale = "of unknown scale"
    if export.pixel_size is not None:
        scale = f"at {export.pixel_size:.4g} µm per pixel"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "scikit-image")
    )
    computed = export.provenance["device"]
    said = (
        f"{what} ({width} x {height} pixels {scale}) {verb} with "
        f"{export.provenance['software']} (Python {platform.python_version()}, {versions}; "
        f"computed on {computed}), by the {kind.title}{paper} '{card.name}' "
        f"(SHA-256 of its weights {first.model_hash[:16]})."
    )
    return [said]


def _seen(export: Export) -> list[str]:
    """What the network was given, and how much of it it read."""
    card, first = export.card, export.first
    crop, said = card.crop, []
    if isinstance(first, FieldPrediction):
        way = first.traversal
        said.append(
            f"It read {_count(len(way), 'crop')} of {way.base} x {way.base} pixels, from the whole "
            "image at low resolution to parts of it at higher ones, each of which it chose itself."
        )
        if way.stop is not None:
            said.append(f"It {way.stop.to_dict()['why']}.")
    elif isinstance(first, SlidePrediction):
        maker = f" by the encoder {card.encoder.name}" if card.encoder else ""
        said.append(
            f"Patches of {crop.size} x {crop.size} pixels ({crop.field_of_view_um:g} µm) were "
            f"turned into features{maker}, to which the network attends on "
            f"{_count(len(first.attention.levels), 'level')}."
        )
    else:
        unit = "" if first.scale_known else " as estimated, the pixel size not being known"
        if unit and export.pixel_size is not None:
            unit = " by a pixel size that is in doubt"
        said.append(
            f"Crops of {crop.size} x {crop.size} pixels ({crop.field_of_view_um:g} µm wide{unit}) "
            "were cut around each cell."
        )
        k = card.architecture.get("k")
        if k:
            share = 100 * k / crop.size**2
            said.append(f"The class was read from {k} pixels of each ({share:.3g} %) alone.")
    rule = _NORMALISED.get(card.normalisation.kind)
    if rule and not isinstance(first, SlidePrediction):
        said.append(f"Before that, {rule}.")
    return said


def _model(export: Export, marks: dict[str, int]) -> list[str]:
    """What the model knows, and how it did on images that were held out."""
    card, training = export.card, export.card.training
    names = [readable_name(name) for name in card.shown_names]
    if card.target is not None:
        gives = card.target.describe().rstrip(".")
        said = [f"It {gives[0].lower()}{gives[1:]}."]
    else:
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        said = [f"It knows {_count(len(names), 'class', 'classes')}: {listed}."]
    if training.data:
        simulated = "simulated images only: " if training.simulated else ""
        said.append(
            f"It was trained on {simulated}{training.data.rstrip('.')}"
            f"{_mark(marks, training.citation)}."
        )
    measured = card.metrics.get("accuracy")
    if measured is not None:
        n = card.metrics.get("n") or training.n_test
        span = card.metrics.get("accuracy_interval")
        interval = f" [{100 * span[0]:.1f}, {100 * span[1]:.1f}]" if span else ""
        said.append(f"Of {n} that were held out, {100 * measured:.1f} %{interval} were right.")
    if card.temperature != 1:
        said.append("Probabilities are calibrated by one temperature on validation images.")
    return said


def _found(export: Export) -> list[str]:
    """What is unlike anything the model knows."""
    spec, first = export.card.novelty, export.first
    if spec is None:
        return ["Whether images are like those it was trained on was not measured."]
    held = f"beyond what {100 * (1 - spec.false_alarms):.3g} % of held-out images reach"
    if isinstance(first, FieldPrediction | SlidePrediction):
        if first.flagged is None:
            return []
        verdict = "is flagged" if first.flagged else "is not flagged"
        return [f"The image {verdict} as unlike those of the training ({held})."]
    flags = [part.flagged for part in export.frames.values()]
    known = np.concatenate([flag for flag in flags if flag is not None] or [np.zeros(0, bool)])
    if not len(known):
        return []
    softened = "; the more unlike, the lower the probabilities" if spec.softening else ""
    said = (
        f"{int(known.sum())} of {_count(len(known), 'cell')} are flagged as unlike those of the "
        f"training ({held}){softened}."
    )
    return [said]


def _noted(export: Export) -> list[str]:
    """What the result says of itself."""
    notes = [str(note).strip() for note in export.provenance["notes"]]
    return [note if note.endswith((".", "!")) else f"{note}." for note in notes if note]


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {many or one + 's'}"
