"""From labelled slides to a SPAN with its card: features, split, training, measurement."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ...bundle import Bundle
from ...card import Card, CropSpec, EncoderSpec, TargetSpec, Training
from ...features.encoders import Encoder
from ...features.extract import FeatureSet, extract_features
from ...images.normalise import Normalisation
from ...images.slides.patches import patch_grid
from ...images.slides.pyramid import Pyramid
from ...images.tissue.mask import find_tissue
from ...judged import EstimateReport
from ...kinds import KINDS
from ...metrics import Report
from ...models.span import SpanMil, SpanUnet, span_from_config
from ...progress import Progress
from ..data.span_data import Part, SlideExample, split_slides
from .fit import EpochReport
from .known import measure_known_slides
from .objectives import check_outcomes, check_validation, fit_target, keep_reference
from .span import (
    SpanOptions,
    fit_span,
    measure_outcomes,
    measure_patches,
    measure_slides,
    predict_slides,
    span_temperature,
)

__all__ = [
    "SLIDE_SPLIT",
    "SlideReport",
    "SlideTraining",
    "encoder_spec",
    "slide_features",
    "train_slides",
]

SLIDE_SPLIT = (
    "each group of slides (a patient, a block; else the slide) goes to one of ten folds by the "
    "SHA-256 of its name: fold 0 is the test set, fold 1 the validation set, the rest is for "
    "training; a part without a class takes a group of it from training"
)


@dataclasses.dataclass(frozen=True)
class SlideTraining:
    """What to train on slides, and what its card says.

    Parameters
    ----------
    name : str
        The model's name.
    class_names : tuple of str
        Classes of slides; or, of patches, the other tissue and the wanted one;
        with a target, nothing.
    encoder : EncoderSpec
        What made the features.
    crop : CropSpec
        A patch: its pixels and its side in µm.
    kind : {"span-mil", "span-unet"}
        Learn classes of slides, or labels of patches.
    options : SpanOptions, optional
        By default the authors' for the kind.
    architecture : mapping, optional
        Changes of the network's configuration.
    target : TargetSpec, optional
        A risk or a number to learn in place of classes, from the slides'
        outcomes; what it keeps of training slides is measured on these.
    intervals : int
        Of hazards: how many, at most.
    description, data, citation, licence, recipe, split : str
        For the card.
    simulated : bool
        Whether the slides are simulated, for the card.
    """

    name: str
    class_names: tuple[str, ...]
    encoder: EncoderSpec
    crop: CropSpec
    kind: Literal["span-mil", "span-unet"] = "span-mil"
    options: SpanOptions | None = None
    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    target: TargetSpec | None = None
    intervals: int = 4
    description: str = ""
    data: str = ""
    citation: str = ""
    licence: str = ""
    recipe: str = ""
    split: str = SLIDE_SPLIT
    simulated: bool = False

    @property
    def segments(self) -> bool:
        """Whether patches are learned rather than slides."""
        return KINDS[self.kind].segments

    def default_options(self) -> SpanOptions:
        """Return how to train where nothing is said."""
        if self.segments:
            return SpanOptions.for_patches()
        compares = self.target is not None and self.target.row.load_objective().together
        return SpanOptions.for_cox() if compares else SpanOptions()


@dataclasses.dataclass(frozen=True)
class SlideReport:
    """What training on slides gave.

    Attributes
    ----------
    test : Report or EstimateReport
        On the held-out slides, or their patches, which took no part in any decision.
    validation : Report or EstimateReport
        On those that chose the weights and the temperature.
    history : tuple of EpochReport
        Every epoch.
    n_slides : mapping of str to int
        Slides in each part.
    dice : float or None
        Of the wanted tissue on the test slides, over all their patches.
    """

    test: Report | EstimateReport
    validation: Report | EstimateReport
    history: tuple[EpochReport, ...]
    n_slides: Mapping[str, int]
    dice: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "test": self.test.to_dict(),
            "validation": self.validation.to_dict(),
            "n_slides": dict(self.n_slides),
            "dice": self.dice,
            "history": [_numbers(epoch) for epoch in self.history],
        }


def _numbers(epoch: EpochReport) -> dict[str, Any]:
    """An epoch for JSON, in which what is not known is no number."""
    every = dataclasses.asdict(epoch)
    return {name: None if value != value else value for name, value in every.items()}


def encoder_spec(encoder: Encoder) -> EncoderSpec:
    """Return what a card says of an encoder."""
    return EncoderSpec(
        name=encoder.name, hash=encoder.hash, width=encoder.width, licence=encoder.licence
    )


def slide_features(
    pyramid: Pyramid,
    encoder: Encoder,
    crop: CropSpec,
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> FeatureSet:
    """Return the features of a slide's tissue, as `classify_slide` makes them.

    Parameters
    ----------
    pyramid : Pyramid
        The slide; its µm per pixel must be known.
    encoder : Encoder
        What makes the features.
    crop : CropSpec
        A patch: its pixels and its side in µm.
    path : path-like, optional
        Where to keep them; what is there is used.
    device : str
        See `choose_device`.
    progress : callable, optional
        Called with "features", the patches done and their number; it may raise to stop.

    Raises
    ------
    ImageError
        If the µm per pixel is not known, or the slide cannot be read.
    ValueError
        If there is no tissue.
    """
    grid = patch_grid(pyramid, find_tissue(pyramid), pixel_size=crop.pixel_size, size=crop.size)
    if not len(grid):
        raise ValueError(f"No tissue was found on {pyramid.name}.")
    where = None if path is None else Path(path)
    return extract_features(pyramid, grid, encoder, where, device=device, progress=progress)


def train_slides(
    examples: Sequence[SlideExample],
    settings: SlideTraining,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    parts: Mapping[Part, Sequence[SlideExample]] | None = None,
    start: Bundle | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Bundle, SlideReport]:
    """Train a SPAN on slides whose features have been made.

    Parameters
    ----------
    examples : sequence of SlideExample
        With classes, outcomes, or patch labels, as the kind wants.
    settings : SlideTraining
        What and how to train.
    on_epoch : callable, optional
        Called after each epoch; it may raise to stop.
    parts : mapping, optional
        Which slides are for what; by default `split_slides`.
    start : Bundle, optional
        A model of the same kind and sizes whose weights to begin with.
    stop : callable, optional
        Asked before each slide; True ends training with the best so far.

    Returns
    -------
    bundle : Bundle
        `save_bundle` writes it.
    report : SlideReport

    Raises
    ------
    ValueError
        If labels are missing, the slides are too few to split, or the features
        are not of the encoder's width.
    """
    _check_widths(examples, settings.encoder)
    if settings.target is not None:
        check_outcomes(examples, settings.target)
    chosen = parts if parts is not None else split_slides(examples)
    options = settings.options or settings.default_options()
    objective = None
    if settings.target is not None:
        check_validation(chosen["validation"], settings.target)
        fitted = fit_target(settings.target, chosen["train"], settings.intervals)
        settings = dataclasses.replace(settings, target=fitted, class_names=(fitted.answer_name,))
        objective = fitted.row.load_objective()(fitted)
    torch.manual_seed(options.seed)
    model = _new_model(settings)
    if start is not None:
        model.load_state_dict(dict(start.state))
    history = []
    train, validation = chosen["train"], chosen["validation"]
    for epoch in fit_span(model, train, validation, options, objective=objective, stop=stop):
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    return _make_bundle(model.cpu(), chosen, settings, options, history)


def _make_bundle(
    model: SpanMil | SpanUnet,
    parts: Mapping[Part, Sequence[SlideExample]],
    settings: SlideTraining,
    options: SpanOptions,
    history: Sequence[EpochReport],
) -> tuple[Bundle, SlideReport]:
    """Calibrate on the validation slides, measure, and write the card."""
    on_cpu = dataclasses.replace(options, device="cpu")
    temperature = 1.0
    if settings.target is None:
        temperature = span_temperature(model, parts["validation"], on_cpu)
    else:
        outputs = torch.cat(predict_slides(model, parts["train"]))
        settings = dataclasses.replace(settings, target=keep_reference(settings.target, outputs))
    test, overlap = _measure(model, parts["test"], settings, temperature)
    validation, _ = _measure(model, parts["validation"], settings, temperature)
    sizes = {str(name): len(part) for name, part in parts.items()}
    report = SlideReport(test, validation, tuple(history), sizes, overlap)
    known, spec = measure_known_slides(model, parts["train"], parts["validation"], parts["test"])
    card = _card(settings, dataclasses.asdict(model.config), temperature, report)
    card = card.model_copy(update={"novelty": spec})
    return Bundle(card, model.state_dict(), known=known), report


def _check_widths(examples: Sequence[SlideExample], encoder: EncoderSpec) -> None:
    for example in examples:
        if example.features.shape[1] != encoder.width:
            raise ValueError(
                f"{example.name}: {example.features.shape[1]} features per patch, the encoder "
                f"{encoder.name} makes {encoder.width}. Make all features with one encoder."
            )


def _new_model(settings: SlideTraining) -> SpanMil | SpanUnet:
    fixed: dict[str, Any] = {"features": settings.encoder.width}
    if settings.segments:
        fixed["task"] = "unet"
    else:
        target, names = settings.target, settings.class_names
        outputs = len(names) if target is None else target.n_outputs
        fixed |= {"task": "mil", "n_classes": outputs}
    model: SpanMil | SpanUnet = span_from_config({**settings.architecture, **fixed})
    return model


def _measure(
    model: SpanMil | SpanUnet,
    part: Sequence[SlideExample],
    settings: SlideTraining,
    temperature: float,
) -> tuple[Report | EstimateReport, float | None]:
    names = settings.class_names
    if settings.target is not None:
        return measure_outcomes(model, part, settings.target), None
    if settings.segments:
        return measure_patches(model, part, names, temperature=temperature)
    return measure_slides(model, part, names, temperature=temperature), None


def _card(
    settings: SlideTraining, architecture: dict[str, Any], temperature: float, report: SlideReport
) -> Card:
    history = [
        {key: value for key, value in _numbers(epoch).items() if key not in ("best", "figure")}
        for epoch in report.history
    ]
    metrics = report.test.to_dict()
    if report.dice is not None:
        metrics |= {"dice": report.dice, "n_slides": report.n_slides["test"]}
    return Card(
        kind=settings.kind,
        name=settings.name,
        description=settings.description,
        class_names=settings.class_names,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=settings.crop,
        encoder=settings.encoder,
        normalisation=Normalisation("fixed", 0.0, 1.0),
        architecture=architecture,
        target=settings.target,
        temperature=temperature,
        training=Training(
            data=settings.data,
            citation=settings.citation,
            licence=settings.licence,
            split=settings.split,
            recipe=settings.recipe,
            n_train=report.n_slides["train"],
            n_validation=report.n_slides["validation"],
            n_test=report.n_slides["test"],
            epochs=len(report.history),
            simulated=settings.simulated,
            history=history,
        ),
        metrics=metrics,
    )
