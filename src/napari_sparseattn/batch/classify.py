"""One file of a batch: opened, classified, summed up in a few numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from .plan import BatchOptions, Task

if TYPE_CHECKING:
    from ..export.request import Result
    from ..images.holograms.recording import Recording
    from ..inference.prediction import Predictions

__all__ = ["Classified", "classified", "summed_up", "task_of"]

_HDF5 = (".rtdc", ".h5", ".hdf5")


@dataclasses.dataclass(frozen=True, eq=False)
class Classified:
    """What a file holds, and what was found in it."""

    result: Result
    image: Field | Pyramid


def task_of(path: Path, bundle: Bundle, options: BatchOptions) -> Task:
    """Tell what is to be done with a file, where that is to be found out."""
    from ..images.slides.opening import is_slide

    card = bundle.card
    if options.task != "auto":
        return options.task
    if card.takes_slides:
        return "slide"
    if options.settings is not None or options.kind is not None:
        return "hologram"
    if card.modality == "opd" and path.suffix.lower() in _HDF5:
        return "hologram"
    return "whole" if card.kind == "tnet" and is_slide(path) else "cells"


@contextlib.contextmanager
def classified(
    path: Path, bundle: Bundle, options: BatchOptions, store: Path, *, evidence: bool
) -> Iterator[Classified]:
    """Classify what a file holds; the image stays open inside of the ``with``.

    Parameters
    ----------
    path : pathlib.Path
        The file, or the folder of a slide.
    bundle : Bundle
        The model.
    options : BatchOptions
        How.
    store : pathlib.Path
        Where features of slides are kept, so that a second try goes on there.
    evidence : bool
        Keep what was looked at of each cell.

    Raises
    ------
    ValueError, OSError, TypeError, MemoryError
        If that is not possible; the message says why.
    """
    task = task_of(path, bundle, options)
    if task == "hologram":
        yield _hologram(path, bundle, options, evidence)
    elif task == "slide":
        with _slide(path, bundle, options, store) as done:
            yield done
    elif task == "whole":
        with _whole(path, bundle, options) as done:
            yield done
    else:
        yield _cells(path, bundle, options, evidence)


def _cells(path: Path, bundle: Bundle, options: BatchOptions, evidence: bool) -> Classified:
    from ..images.fields.cells import find_cells
    from ..images.opening import open_image
    from ..inference.cells import classify_cells

    image = open_image(path, **_scale(options))
    if isinstance(image, Pyramid):
        image.close()
        raise ValueError(
            f"{path.name} is a slide, in which cells are not searched for; use a SPAN, or a TNet "
            "that is made for slides"
        )
    if image.modality == "hologram":
        raise ValueError(
            f"{path.name} holds holograms, which '{bundle.card.name}' cannot read; choose a model "
            "of optical path difference"
        )
    cells = find_cells(image, options.method)
    found = classify_cells(image, cells, bundle, options.device, evidence=evidence)
    return Classified(found, image)


def _hologram(path: Path, bundle: Bundle, options: BatchOptions, evidence: bool) -> Classified:
    from ..images.holograms.files import open_hologram
    from ..inference.holograms import iter_recording

    recording: Recording = open_hologram(path, kind=options.kind, **_scale(options))
    first: Field | None = None
    found: dict[int, Predictions] = {}
    frames = iter_recording(
        recording,
        options.settings,
        bundle,
        method=options.method,
        device=options.device,
        evidence=evidence,
    )
    for frame in frames:
        first = first or frame.field
        assert frame.predictions is not None
        found[frame.index] = frame.predictions
    if first is None:
        raise ValueError(f"{path.name} holds no frames")
    return Classified(found, first)


@contextlib.contextmanager
def _slide(path: Path, bundle: Bundle, options: BatchOptions, store: Path) -> Iterator[Classified]:
    from ..images.slides.opening import open_slide
    from ..inference.slides import classify_slide

    with open_slide(path, pixel_size=options.pixel_size) as pyramid:
        found = classify_slide(
            pyramid,
            bundle,
            store=store,
            allow_unknown_scale=options.allow_unknown_scale,
            device=options.device,
        )
        try:
            yield Classified(found, pyramid)
        finally:
            if found.features is not None:
                found.features.close()


@contextlib.contextmanager
def _whole(path: Path, bundle: Bundle, options: BatchOptions) -> Iterator[Classified]:
    from ..images.opening import open_image
    from ..inference.fields import classify_field

    image = open_image(path, **_scale(options))
    with contextlib.ExitStack() as stack:
        if isinstance(image, Pyramid):
            stack.enter_context(image)
        yield Classified(classify_field(image, bundle, options.locations, options.device), image)


def _scale(options: BatchOptions) -> dict[str, Any]:
    return {} if options.pixel_size is None else {"pixel_size": options.pixel_size}


def summed_up(result: Result) -> dict[str, Any]:
    """Return what was found as a few numbers, for tables and JSON.

    Returns
    -------
    dict
        ``cells`` and ``counts`` by class; or ``class`` and ``confidence``; or
        ``shares`` by class; always ``scale_known`` and ``notes``.
    """
    from ..inference.prediction import Predictions
    from ..inference.slides import SlidePrediction

    if isinstance(result, Predictions | Mapping):
        parts = list(result.values()) if isinstance(result, Mapping) else [result]
        counts: dict[str, int] = {}
        for part in parts:
            for name, n in part.counts().items():
                counts[name] = counts.get(name, 0) + n
        scale_known = all(part.scale_known for part in parts)
        notes = dict.fromkeys(note for part in parts for note in part.ledger.notes)
        found: dict[str, Any] = {"cells": sum(map(len, parts)), "counts": counts}
        if isinstance(result, Mapping):
            found["frames"] = len(parts)
        return found | {"scale_known": scale_known, "notes": list(notes)}
    shares = dict(zip(result.class_names, map(float, result.probabilities), strict=True))
    if isinstance(result, SlidePrediction) and result.segments:
        found = {"shares": shares}
    else:
        found = {"class": result.label, "confidence": result.confidence}
    return found | {"scale_known": result.scale_known, "notes": list(result.ledger.notes)}
