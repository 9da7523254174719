"""From labelled crops to a bundle: split, fit, calibrate, measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...bundle import Bundle
from ...card import Card, CropSpec, Training
from ...images.fields.field import Modality
from ...images.normalise import Normalisation
from ...metrics import Report, classification_report
from ...models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from ...reprs import short_repr
from ..data.datasets import CropSet, hash_folds
from .augment import Augmentation
from .fit import EpochReport, FitOptions, fit, predict_logits
from .known import measure_known_states

__all__ = [
    "Parts",
    "TrainingReport",
    "TrainingSettings",
    "fit_temperature",
    "make_bundle",
    "split_folds",
    "suit_settings",
    "train_classifier",
]

#: What a set of crops is split into.
Parts = Mapping[Literal["train", "validation", "test"], CropSet]


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What to train, and what to write on its card.

    Parameters
    ----------
    name : str
        Of the model.
    crop : CropSpec
        Size and field of view.
    modality : str
        What the images show.
    normalisation : Normalisation
        From values to model input.
    augmentation : Augmentation
        Random changes to training crops.
    options : FitOptions
        How to train.
    architecture : dict
        Sizes other than `SparseAttnNetConfig`'s defaults.
    description, data, citation, licence, recipe : str
        For the card.
    unit : str
        Of the values: ``"nm"``, ``"rad"`` or ``""``.
    channels : tuple of str
        Names of the channels; by default by their number.
    simulated : bool
        Whether the images are simulated, for the card.
    split : str
        How the data is split, for the card; by default what `split_folds` does.
    """

    name: str
    crop: CropSpec
    modality: Modality = "brightfield"
    normalisation: Normalisation = dataclasses.field(default_factory=Normalisation)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    options: FitOptions = dataclasses.field(default_factory=FitOptions)
    architecture: dict[str, Any] = dataclasses.field(default_factory=dict)
    description: str = ""
    data: str = ""
    citation: str = ""
    licence: str = ""
    recipe: str = ""
    unit: str = ""
    channels: tuple[str, ...] = ()
    simulated: bool = False
    split: str = ""


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """What a training run gave.

    Attributes
    ----------
    test : Report
        On the held-out tenth, which took no part in any decision.
    validation : Report
        On the tenth that chose k, the weights and the temperature.
    history : tuple of EpochReport
        Every epoch.
    """

    __repr__ = short_repr

    test: Report
    validation: Report
    history: tuple[EpochReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "test": self.test.to_dict(),
            "validation": self.validation.to_dict(),
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }


SPLIT = (
    "each image goes to one of ten folds by the SHA-256 of its class and file name: fold 0 is "
    "the test set, fold 1 the validation set, the rest is for training; no patient or slide "
    "ids are known, so images of one patient may lie on both sides"
)
GROUP_SPLIT = (
    "each group of images that belong together goes to one of ten folds by the SHA-256 of its "
    "name: fold 0 is the test set, fold 1 the validation set, the rest is for training"
)


def split_folds(data: CropSet) -> dict[Literal["train", "validation", "test"], CropSet]:
    """Split by `hash_folds` of the groups, or else names: train (8/10), validation, test.

    Raises
    ------
    ValueError
        If a part would be empty, or a class is missing from training.
    """
    folds = hash_folds(data.groups or data.names)
    train, validation, test = (data.subset(rows) for rows in (folds > 1, folds == 1, folds == 0))
    if not (len(train) and len(validation) and len(test)):
        groups = f" in {len(set(data.groups))} groups" if data.groups else ""
        raise ValueError(
            f"{len(data)} images{groups} are too few to split into training and held-out parts."
        )
    counts = np.bincount(train.labels, minlength=len(data.class_names))
    few = [name for name, n in zip(data.class_names, counts, strict=True) if n < 2]
    if few:
        raise ValueError(
            f"Too few training images of {', '.join(few)}; add at least ten of each class."
        )
    return {"train": train, "validation": validation, "test": test}


def suit_settings(settings: TrainingSettings, data: CropSet) -> TrainingSettings:
    """Return settings whose normalisation and augmentation suit the data.

    White and stain mean nothing in one channel: its values are centred and
    scaled by the data's mean and spread. Values with a unit of their own are
    neither clipped nor changed in contrast, and noise is up to a tenth of
    their spread. Colour stays as it is.
    """
    if data.crops.shape[-1] != 1:
        return settings
    full = 1.0 if data.physical else 255.0
    mean = float(data.crops.mean(dtype=np.float64)) / full
    spread = float(data.crops.std(dtype=np.float64)) / full
    changed = dataclasses.replace(
        settings, normalisation=Normalisation("fixed", mean, max(spread, 1 / 255))
    )
    if not data.physical:
        return changed
    gentle = dataclasses.replace(
        settings.augmentation, physical=True, scale=0.1, stretch=0.05, blur=0.7, noise=0.1 * spread
    )
    return dataclasses.replace(changed, augmentation=gentle)


def train_classifier(
    data: CropSet,
    settings: TrainingSettings,
    on_epoch: Callable[[EpochReport], None] | None = None,
    start: Bundle | None = None,
    *,
    parts: Parts | None = None,
) -> tuple[Bundle, TrainingReport]:
    """Train a SparseAttnNet on labelled crops.

    Parameters
    ----------
    data : CropSet
        Crops at the model's size or, better, twice that.
    settings : TrainingSettings
        What and how to train.
    on_epoch : callable, optional
        Called after each epoch; it may raise to stop.
    start : Bundle, optional
        A model of the same classes and sizes whose weights to begin with;
        random ones by default.
    parts : mapping of str to CropSet, optional
        Which crops are for what; by default `split_folds`.

    Returns
    -------
    bundle : Bundle
        The trained model; `save_bundle` writes it.
    report : TrainingReport
    """
    parts = split_folds(data) if parts is None else parts
    size = settings.crop.size
    torch.manual_seed(settings.options.seed)
    model = _new_model(data, settings)
    if start is not None:
        model.load_state_dict(start.state)
    history = []
    train, validation = parts["train"], parts["validation"]
    for epoch in fit(
        model,
        (train.crops, train.labels),
        (validation.crops, validation.labels),
        normalisation=settings.normalisation,
        size=size,
        augmentation=settings.augmentation,
        options=settings.options,
    ):
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    return make_bundle("sparse-attn-net", model, data, parts, settings, history)


def make_bundle(
    kind: Literal["sparse-attn-net", "tnet"],
    model: nn.Module,
    data: CropSet,
    parts: Parts,
    settings: TrainingSettings,
    history: Sequence[EpochReport],
) -> tuple[Bundle, TrainingReport]:
    """Calibrate a trained model on the validation crops, measure it, and write its card.

    What is usual of its states is measured too, so that it can say what is
    unlike anything it was trained on.

    Parameters
    ----------
    kind : str
        As on the card.
    model : nn.Module
        With a ``config``; moved to the CPU.
    data, parts : CropSet, mapping of str to CropSet
        The whole set, and its `split_folds`.
    settings : TrainingSettings
        What it was trained by.
    history : sequence of EpochReport
        Every epoch.
    """
    model.cpu()
    validation = parts["validation"]
    logits = predict_logits(model, validation.crops, settings.normalisation, settings.crop.size)
    temperature = fit_temperature(logits, torch.from_numpy(validation.labels))
    report = TrainingReport(
        _measure(model, parts["test"], settings, temperature),
        _measure(model, validation, settings, temperature),
        tuple(history),
    )
    known, spec = measure_known_states(
        model, parts["train"], validation, parts["test"], settings.normalisation, settings.crop.size
    )
    sizes = {name: len(part) for name, part in parts.items()}
    architecture = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    card = _card(kind, data, settings, architecture, temperature, sizes, report)
    card = card.model_copy(update={"novelty": spec})
    return Bundle(card, model.state_dict(), known=known), report


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature that minimises the cross-entropy of ``logits / temperature``.

    One-dimensional and convex in the inverse temperature; see Guo et al. 2017.

    Returns
    -------
    float
        Between 0.05 and 20.
    """
    inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([inverse], max_iter=100, line_search_fn="strong_wolfe")
    logits = logits.double()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(logits * inverse.exp(), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float((-inverse.detach()).exp().clamp(0.05, 20))


def _new_model(data: CropSet, settings: TrainingSettings) -> SparseAttnNet:
    fixed = {
        "in_channels": data.crops.shape[-1],
        "n_classes": len(data.class_names),
        "image_size": settings.crop.size,
        "k": settings.crop.size**2,
    }
    return SparseAttnNet(SparseAttnNetConfig(**{**settings.architecture, **fixed}))


def _measure(
    model: nn.Module, part: CropSet, settings: TrainingSettings, temperature: float
) -> Report:
    logits = predict_logits(model, part.crops, settings.normalisation, settings.crop.size)
    probabilities = (logits / temperature).softmax(1).numpy()
    return classification_report(probabilities, part.labels, part.class_names)


def _card(
    kind: Literal["sparse-attn-net", "tnet"],
    data: CropSet,
    settings: TrainingSettings,
    architecture: dict[str, Any],
    temperature: float,
    sizes: dict[Literal["train", "validation", "test"], int],
    report: TrainingReport,
) -> Card:
    usual = ("red", "green", "blue") if data.crops.shape[-1] == 3 else ("intensity",)
    history = [
        {
            key: value
            for key, value in dataclasses.asdict(epoch).items()
            if key not in ("best", "figure")
        }
        for epoch in report.history
    ]
    return Card(
        kind=kind,
        name=settings.name,
        description=settings.description,
        class_names=data.class_names,
        channels=settings.channels or usual,
        modality=settings.modality,
        unit=settings.unit,
        crop=settings.crop,
        normalisation=settings.normalisation,
        architecture=architecture,
        temperature=temperature,
        training=Training(
            data=settings.data,
            citation=settings.citation,
            licence=settings.licence,
            split=settings.split or (GROUP_SPLIT if data.groups else SPLIT),
            recipe=settings.recipe,
            n_train=sizes["train"],
            n_validation=sizes["validation"],
            n_test=sizes["test"],
            epochs=len(report.history),
            simulated=settings.simulated,
            history=history,
        ),
        metrics=report.test.to_dict(),
    )
