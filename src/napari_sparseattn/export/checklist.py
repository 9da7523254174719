"""What a publication should say of an image and its analysis: what is known here, and what is not.

After C. Schmied et al., Community-developed checklists for publishing images and image
analyses, Nature Methods 21, 170-181 (2024), in words of our own: the parts on
analyses with machine learning and on figures, as far as they apply.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..bundle import BundleError, read_card
from ..images.slides.pyramid import Pyramid
from ..inference.fields import FieldPrediction
from ..inference.slides import SlidePrediction

if TYPE_CHECKING:
    from .request import Export

__all__ = ["CHECKLIST", "ChecklistItem", "fill_checklist", "open_items"]

#: Where the items come from.
CHECKLIST = (
    "C. Schmied et al., Community-developed checklists for publishing images and image analyses, "
    "Nature Methods 21, 170–181 (2024), doi 10.1038/s41592-023-01987-9"
)
Level = Literal["minimal", "recommended", "ideal"]


@dataclasses.dataclass(frozen=True)
class ChecklistItem:
    """One thing that a publication should say.

    Parameters
    ----------
    part : {"analysis", "image"}
        What it is about.
    level : {"minimal", "recommended", "ideal"}
        How much it is wanted.
    title : str
        The thing.
    known : str
        What is known of it here; empty where nothing is.
    left : str
        What is left to the author; empty where nothing is.
    """

    part: Literal["analysis", "image"]
    level: Level
    title: str
    known: str = ""
    left: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the author has something to fill in."""
        return bool(self.left)


def fill_checklist(export: Export) -> tuple[ChecklistItem, ...]:
    """Return the checklist, filled in as far as result, image and model's card tell.

    Parameters
    ----------
    export : Export
        Cells, frames, a field or a slide.
    """
    return (*_of_analysis(export), *_of_image(export))


def open_items(export: Export) -> list[str]:
    """Return what is left to the author, in short, the most wanted first."""
    order = ("minimal", "recommended", "ideal")
    items = [item for item in fill_checklist(export) if item.is_open]
    return [item.left for item in sorted(items, key=lambda item: order.index(item.level))]


def _of_analysis(export: Export) -> list[ChecklistItem]:
    card, training, source = export.card, export.card.training, export.provenance
    paper, doi = card.model_kind.paper
    model = f"{card.name}, SHA-256 of its tensors {source['model_hash'] or 'not known'}"
    ours = source["model_hash"] in _shipped()
    data = ", ".join(filter(None, (training.data, training.citation, training.licence)))
    counts = f"{training.n_train} for training, {training.n_validation} for validation, "
    counts += f"{training.n_test} for tests"
    split = f"; {counts}; {training.split}".rstrip("; ") if training.n_train else ""
    return [
        ChecklistItem(
            "analysis", "minimal", "the program", f"{source['software']}, {export.kind}",
            "cite the program, and say which other programs were used",
        ),
        ChecklistItem(
            "analysis", "minimal", "the original method", ", ".join(filter(None, (paper, doi))),
            "" if paper else "cite the method",
        ),
        ChecklistItem("analysis", "minimal", "the key settings", _settings(export)),
        ChecklistItem(
            "analysis", "minimal", "access to the model",
            f"{model}; {'part of the program' if ours else 'a model of your own'}",
            "" if ours else "deposit the model's file, and give its address",
        ),
        ChecklistItem(
            "analysis", "minimal", "example data",
            left="deposit images that show how the analysis works, with their results",
        ),
        ChecklistItem(
            "analysis", "minimal", "what was drawn by hand",
            left="say whether cells, regions or tissue were drawn or corrected by hand, and "
            "deposit them",
        ),
        ChecklistItem(
            "analysis", "recommended", "training and test data", f"{data}{split}" if data else "",
            "" if data and training.n_train else "say what the model was trained and tested on, "
            "and where that can be had",
        ),
        ChecklistItem(
            "analysis", "recommended", "the code of the training", training.recipe,
            "" if training.recipe else "give the code that trained the model",
        ),
        ChecklistItem(
            "analysis", "recommended", "limits", _limits(export),
            "say how well it did on images of your own that people have labelled",
        ),
        ChecklistItem(
            "analysis", "ideal", "an environment that can be run again",
            f"{source['software']} on {source['device']}",
            "give a container, or a list of all packages with their versions",
        ),
    ]  # fmt: skip


def _settings(export: Export) -> str:
    card, first = export.card, export.first
    said = [f"input of {card.crop.size} x {card.crop.size} pixels"]
    if isinstance(first, SlidePrediction):
        said = [f"patches of {card.crop.size} pixels, {card.crop.field_of_view_um:g} µm wide"]
        said.append(f"encoder {card.encoder.name}" if card.encoder else "features made elsewhere")
    elif isinstance(first, FieldPrediction):
        said.append(f"{len(first.traversal)} crops looked at")
    else:
        said.append(f"crops {card.crop.field_of_view_um:g} µm wide around each cell")
        if k := card.architecture.get("k"):
            said.append(f"{k} pixels of each decide")
    said.append(f"normalisation {card.normalisation.kind}")
    if card.temperature != 1:
        said.append(f"temperature {card.temperature:.3g}")
    return ", ".join(said)


def _limits(export: Export) -> str:
    card, said = export.card, []
    if card.limits:
        said.append(card.limits.rstrip("."))
    if (measured := card.metrics.get("accuracy")) is not None:
        n = card.metrics.get("n") or card.training.n_test
        said.append(f"{100 * measured:.1f} % of {n} held-out images were right")
    if card.training.simulated:
        said.append("it was trained on simulated images only")
    if not export.provenance["scale_known"]:
        doubted = export.pixel_size is not None
        said.append(f"the pixel size of this image is {'in doubt' if doubted else 'not known'}")
    return "; ".join(said)


def _of_image(export: Export) -> list[ChecklistItem]:
    size, source = export.pixel_size, export.provenance
    height, width = export.shape
    scale = "" if size is None else f"{size:g} µm per pixel, {width * size:.4g} µm wide"
    colours = ", ".join(
        f"{name.replace('_', ' ')} {colour}"
        for name, colour in zip(export.card.shown_names, export.card.colours, strict=False)
    )
    changed = ""
    if isinstance(export.image, Pyramid):
        changed = "; ".join(export.image.colour_notes)
    return [
        ChecklistItem(
            "image", "minimal", "specimen and microscope",
            left="say what was imaged, how it was prepared and stained, and with which microscope, "
            "objective and camera",
        ),
        ChecklistItem(
            "image", "minimal", "scale", scale,
            "draw a scale bar, or give the size of the picture" if size is not None else
            "find out the pixel size; draw a scale bar",
        ),
        ChecklistItem(
            "image", "minimal", "what colours mean", f"classes: {colours}" if colours else "",
            "name channels and the range of values that is shown",
        ),
        ChecklistItem(
            "image", "minimal", "what was done to the picture", changed,
            "say what was cropped, turned, or changed in brightness and contrast",
        ),
        ChecklistItem(
            "image", "minimal", "availability",
            f"{source['file']}, {width} x {height} pixels" if source["file"] else "",
            "deposit the image as it was recorded, without loss, and give its address",
        ),
    ]  # fmt: skip


@functools.cache
def _shipped() -> frozenset[str]:
    """Return the hashes of the models that are part of the program."""
    folder = Path(str(resources.files("napari_sparseattn").joinpath("weights")))
    found = set()
    for path in folder.glob("*.safetensors"):
        try:
            found.add(read_card(path).tensors_sha256)
        except BundleError:
            continue
    return frozenset(found)
