"""From a project's annotations to slides for a SPAN: classes of slides, labels of patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ...features.feature_set import FeatureSet
from .annotations import Annotation, ImageRecord
from .project import Project
from .span_data import AnnotatedRegion, SlideExample, patch_labels_of

__all__ = ["AnnotatedSlides", "gather_slides"]


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedSlides:
    """What a project gives a SPAN to learn from; `train_slides` takes `examples`.

    Attributes
    ----------
    examples : tuple of SlideExample
        Slides with a class, or with patch labels.
    class_names : tuple of str
        What the labels mean.
    notes : tuple of str
        What was left out and why.
    """

    examples: tuple[SlideExample, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def gather_slides(
    project: Project,
    features_of: Callable[[ImageRecord], FeatureSet | None],
    *,
    wanted: str | None = None,
    group_of: Callable[[ImageRecord], str] | None = None,
) -> AnnotatedSlides:
    """Gather annotated slides whose features have been made.

    Parameters
    ----------
    project : Project
        Whose annotations.
    features_of : callable
        Returns the features of a slide, or None where they have not been made.
    wanted : str, optional
        The class of the tissue to find, for a SPAN-UNet: patches in regions of
        it get 1, in other regions 0, and what nobody outlined stays unknown.
        Without it the class of a slide as a whole counts, for a SPAN-MIL; the
        latest where there are several.
    group_of : callable, optional
        Returns the patient or block of a slide; by default each is its own.

    Raises
    ------
    ValueError
        If there is no such annotation on any slide with features.
    """
    names = [] if wanted is None else ["other", wanted]
    examples, notes = [], []
    for image, items in project.labelled():
        kind = "image" if wanted is None else "region"
        own = [item for item in items if item.kind == kind]
        if not own:
            continue
        features = features_of(image)
        if features is None or features.unit != "px":
            notes.append(f"{image.name or image.hash[:8]}: its features have not been made.")
            continue
        if wanted is None and own[-1].label not in names:
            names.append(own[-1].label)
        examples.append(
            SlideExample(
                features.features,
                features.cells,
                names.index(own[-1].label) if wanted is None else None,
                None if wanted is None else _patches(features, own, wanted),
                group_of(image) if group_of is not None else image.hash,
                image.name or image.hash[:8],
            )
        )
    if not examples:
        what = "class" if wanted is None else "outlined region"
        raise ValueError(" ".join([f"No slide with a {what} to learn from.", *notes]))
    return AnnotatedSlides(tuple(examples), tuple(names), tuple(notes))


def _patches(
    features: FeatureSet, items: list[Annotation], wanted: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    regions = [AnnotatedRegion(item.outline, int(item.label == wanted)) for item in items]
    return patch_labels_of(
        features.cells,
        step=features.step,
        side=features.side,
        origin=features.origin,
        regions=regions,
    )
