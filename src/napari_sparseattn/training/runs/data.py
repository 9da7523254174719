"""From a project's annotations to what a training run reads, and what there is too little of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .messages import FineTuneRequest, Stage
from .runs import write_images

if TYPE_CHECKING:
    from ...card import Card
    from ...features.feature_set import FeatureSet
    from ...images.fields.field import Field
    from ...images.slides.pyramid import Pyramid
    from ..data.annotations import Annotation, ImageRecord
    from ..data.span_data import SlideExample

    Opener = Callable[[ImageRecord], Field | Pyramid | None]
    Images = Sequence[tuple[ImageRecord, tuple[Annotation, ...]]]

__all__ = [
    "Gathered",
    "gather_cells",
    "gather_slides",
    "make_slide_examples",
    "survey_project",
]

_NOTHING_CELLS = (
    "Nothing is annotated yet. Choose a class above and click cells in the image: 25 to 50 of each "
    "class are a good start."
)
_NOTHING_SLIDES = (
    "No slide has a class yet. Give classes to at least three slides of each kind, above."
)
_NOTHING_REGIONS = (
    "No region is outlined yet. Outline some tissue that is '{wanted}', and some that is not, on "
    "at least three slides."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """What a run learns from: names of its examples, and arrays by their names."""

    arrays: dict[str, npt.NDArray[Any]]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    notes: tuple[str, ...]


def survey_project(folder: Path, card: Card) -> tuple[str, tuple[str, ...], bool]:
    """Say what is annotated for a model, and of what there is too little; opens no image.

    Parameters
    ----------
    folder : pathlib.Path
        The project's.
    card : Card
        The model's.

    Returns
    -------
    text : str
        One sentence.
    hints : tuple of str
        What there is too little of, in sentences.
    enough : bool
        Whether there is anything to learn from.
    """
    from ..data.project import Project

    if card.target is not None:
        text = (
            f"'{card.name}' gives a {card.target.answer_name}; annotations teach classes. Train "
            "anew on a table, or choose another model."
        )
        return text, (), False
    images = list(Project(folder).labelled())
    if card.takes_slides:
        return _survey_slides(images, card)
    from ..data.annotated import plan_cells, plan_fields, too_few
    from ..data.split import held_out

    cells = _kind(images, card) == "cell"
    data = (plan_cells if cells else plan_fields)(images, card)
    if not len(data):
        return _NOTHING_CELLS, (), False
    annotated = sum((item.kind == "cell") == cells for _, items in images for item in items)
    checked = int(held_out(data).sum())
    text = _count(
        annotated, "cells" if cells else "regions and images", len(data.class_names), images
    )
    return (
        f"{text} {len(data) - checked} to learn from, {checked} held out to test on.",
        tuple(too_few(data, card.class_names, card.n_checked)),
        True,
    )


def gather_cells(request: FineTuneRequest, folder: Path) -> Generator[Stage, None, Gathered]:
    """Cut out what is annotated, in all images at hand.

    Cells that nobody annotated are looked for by the process that trains, for
    which the images are kept in `folder`: looking for them here would hold up
    the window.

    Raises
    ------
    ValueError
        If there is nothing to learn from.
    """
    from ..data.annotated import cut_cells, cut_fields, too_few
    from ..data.project import Project
    from ..data.split import held_out

    assert request.model is not None
    card, project = request.model.bundle.card, Project(request.project)
    fields: dict[str, Field] = {}
    opened = _fields(request.opener, fields)
    yield Stage("Cutting out what is annotated…")
    notes: tuple[str, ...] = ()
    if _kind(list(project.labelled()), card) == "cell":
        found = cut_cells(project, opened, card)
        notes = tuple(
            f"Cells that nobody annotated are not looked for in {name}, which is too large."
            for name in write_images(folder, fields)
        )
    else:
        found = cut_fields(project, opened, card)
    data = found.data
    notes = (*found.notes, *notes, *too_few(data, card.class_names, card.n_checked))
    arrays = {"crops": data.crops, "labels": data.labels, "held_out": held_out(data)}
    return Gathered(arrays, data.class_names, data.names, data.groups, notes)


def gather_slides(request: FineTuneRequest, folder: Path) -> Generator[Stage, None, Gathered]:
    """Make features of annotated slides where they are missing, and gather them.

    Raises
    ------
    ValueError
        If there is nothing to learn from.
    """
    from ..data.annotated_slides import gather_slides
    from ..data.project import Project
    from ..tune.slides import too_few_slides

    assert request.model is not None
    card, project = request.model.bundle.card, Project(request.project)
    wanted = card.class_names[1] if card.segments else None
    features: dict[str, FeatureSet] = {}
    failed: list[str] = []
    for image, items in project.labelled():
        if any(item.kind == ("region" if wanted else "image") for item in items):
            name = image.name or image.hash[:8]
            yield Stage(f"Features of {name}…")
            try:
                found = _features(request, image)
            except (OSError, ValueError) as error:
                failed.append(f"{name}: {error}")
            else:
                features |= {} if found is None else {image.hash: found}
    slides = gather_slides(project, lambda image: features.get(image.hash), wanted=wanted)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, example in enumerate(slides.examples):
        arrays[f"features.{number}"] = np.asarray(example.features[:], np.float32)
        arrays[f"cells.{number}"] = np.asarray(example.cells, np.int64)
        if example.patch_labels is not None:
            arrays[f"patches.{number}"] = example.patch_labels
        if example.label is not None:
            arrays[f"label.{number}"] = np.array([example.label], np.int64)
    notes = (*failed, *slides.notes, *too_few_slides(slides.examples, slides.class_names))
    return Gathered(
        arrays,
        slides.class_names,
        tuple(example.name for example in slides.examples),
        tuple(example.group for example in slides.examples),
        notes,
    )


def make_slide_examples(
    arrays: dict[str, npt.NDArray[Any]], names: Sequence[str], groups: Sequence[str]
) -> list[SlideExample]:
    """Return the slides of `gather_slides` from the arrays of a run."""
    from ..data.span_data import SlideExample

    examples = []
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        label = arrays.get(f"label.{number}")
        examples.append(
            SlideExample(
                arrays[f"features.{number}"],
                arrays[f"cells.{number}"],
                None if label is None else int(label[0]),
                arrays.get(f"patches.{number}"),
                group,
                name,
            )
        )
    return examples


def _kind(images: Images, card: Card) -> str:
    """Return whether cells are learned, or regions and whole images."""
    kinds = {item.kind for _, items in images for item in items}
    return "cell" if "fields" not in card.model_kind.takes or "cell" in kinds else "region"


def _count(n: int, what: str, classes: int, images: Images) -> str:
    there = sum(bool(items) for _, items in images)
    return (
        f"{n} annotated {what} of {classes} class{'es' * (classes != 1)} in {there} "
        f"image{'s' * (there != 1)}."
    )


def _survey_slides(images: Images, card: Card) -> tuple[str, tuple[str, ...], bool]:
    from ..data.span_data import SlideExample
    from ..tune.slides import too_few_slides

    wanted = card.class_names[1] if card.segments else None
    classes = ["other", wanted] if wanted is not None else []
    examples, labels = [], []
    for image, items in images:
        own = [item.label for item in items if item.kind == ("region" if wanted else "image")]
        if not own:
            continue
        if wanted is None:
            classes += [own[-1]] if own[-1] not in classes else []
            labels.append(classes.index(own[-1]))
            known, patches = labels[-1], None
        else:
            found = sorted({int(label == wanted) for label in own})
            labels += [int(label == wanted) for label in own]
            known, patches = None, np.array(found, dtype=np.int8)
        n = 1 if patches is None else len(patches)
        cells = np.stack([np.arange(n), np.zeros(n, np.int64)], axis=1)
        name = image.name or image.hash[:8]
        features = np.zeros((n, 1), np.float32)
        examples.append(SlideExample(features, cells, known, patches, image.hash, name))
    if not examples:
        nothing = _NOTHING_REGIONS.format(wanted=wanted) if wanted else _NOTHING_SLIDES
        return nothing, (), False
    hints = tuple(too_few_slides(examples, tuple(str(name) for name in classes)))
    what = "slides" if wanted is None else "regions"
    return _count(len(labels), what, len(set(labels)), images), hints, True


def _fields(opener: Opener, kept: dict[str, Field]) -> Callable[[ImageRecord], Field | None]:
    """An opener of fields alone, which are kept by their hashes: no cells are cut out of slides."""
    from ...images.fields.field import Field

    def opened(image: ImageRecord) -> Field | None:
        found = opener(image)
        if found is None:
            return None
        if not isinstance(found, Field):
            raise ValueError("cells are learned from fields, and this is a slide")
        kept[image.hash] = found
        return found

    return opened


def _features(request: FineTuneRequest, image: ImageRecord) -> FeatureSet | None:
    from ...images.slides.pyramid import ArrayPyramid, Pyramid
    from ...inference.slides import classify_slide

    assert request.model is not None
    found = request.opener(image)
    if found is None:
        return None
    pyramid = found if isinstance(found, Pyramid) else ArrayPyramid(
        found.plane(0, 0), pixel_size=found.pixel_size, name=found.name
    )  # fmt: skip
    model = request.model
    # It takes the features that the window keeps of the slide, or makes and keeps them.
    prediction = classify_slide(
        pyramid,
        model.bundle,
        store=request.store,
        allow_unknown_scale=True,
        device=model.device,
        progress=request.switch.check,
    )
    return prediction.features
