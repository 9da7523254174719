"""From labelled crops of cells to a TNet's bundle, with what each setting of its dial is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...bundle import Bundle
from ...models.tnet.crops import TNetOutput
from ...models.tnet.network import TNet, TNetConfig
from ..data.datasets import CropSet
from .classifier import Parts, TrainingReport, TrainingSettings, make_bundle, split_folds
from .fit import EpochReport, predict_logits
from .laboratories import LaboratoryChanges
from .tnet import AugmentedCrops, TNetOptions, fit_tnet

__all__ = ["DIAL", "cell_architecture", "measure_locations", "new_tnet", "train_tnet"]

#: Settings of the dial of `cell_architecture` that are measured for the card.
DIAL = ((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (5, 2), (5, 3))
#: Below this the last crops would show less than eight pixels of a cell.
LEAST_SIZE = 32


def cell_architecture(size: int) -> dict[str, Any]:
    """Return sizes of a TNet for cells: the whole at a quarter, then halves, then quarters of it.

    Parameters
    ----------
    size : int
        Side of the images in pixels; the last crops are read at full resolution.

    Raises
    ------
    ValueError
        If the images are too small for three levels.
    """
    if size < LEAST_SIZE:
        raise ValueError(
            f"a tnet looks at quarters of {size} px, which is too little: use at least "
            f"{LEAST_SIZE} px, better 128"
        )
    return {"base": size // 4, "grid": 3, "overlap": 0.5, "locations": (3, 1), "dropout": 0.2}


def train_tnet(
    data: CropSet,
    settings: TrainingSettings,
    options: TNetOptions,
    on_epoch: Callable[[EpochReport], None] | None = None,
    *,
    model: TNet | None = None,
    history: Sequence[EpochReport] = (),
    dial: Iterable[tuple[int, ...]] = DIAL,
    parts: Parts | None = None,
    changes: LaboratoryChanges | None = None,
) -> tuple[Bundle, TrainingReport]:
    """Train a TNet on labelled crops, measure it, and measure its dial.

    Parameters
    ----------
    data : CropSet
        Crops at the model's size or, better, twice that.
    settings : TrainingSettings
        What to train; its `options` are those of another model and are not used.
    options : TNetOptions
        How to train; no epochs only measure.
    on_epoch : callable, optional
        Called after each epoch, when `model` has that epoch's weights; it may
        raise to stop.
    model : TNet, optional
        One to go on with, which is trained in place; by default
        `cell_architecture` with random weights, changed by `settings.architecture`.
    history : sequence of EpochReport
        Epochs that `model` has behind it, for the card.
    dial : iterable of tuple of int
        Locations per level to measure on the validation crops.
    parts : mapping of str to CropSet, optional
        Which crops are for what; by default `split_folds`.
    changes : LaboratoryChanges, optional
        What other laboratories do, in place of `settings.augmentation`.

    Returns
    -------
    bundle : Bundle
        The trained model; `save_bundle` writes it.
    report : TrainingReport

    Raises
    ------
    ValueError
        If the data is too little to split, or the images are too small.
    """
    parts = split_folds(data) if parts is None else parts
    torch.manual_seed(options.seed)
    if model is None:
        model = new_tnet(data, settings)
    epochs = list(history)
    for epoch in _epochs(model, parts, settings, options, changes):
        epochs.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    bundle, report = make_bundle("tnet", model.eval(), data, parts, settings, epochs)
    return measure_locations(bundle, parts["validation"], dial), report


def new_tnet(data: CropSet, settings: TrainingSettings) -> TNet:
    """Return a TNet with random weights that fits the data."""
    size = settings.crop.size
    fixed = {
        "in_channels": data.crops.shape[-1],
        "n_classes": len(data.class_names),
        "image_size": size,
    }
    config = TNetConfig(**{**cell_architecture(size), **settings.architecture, **fixed})
    # The order of the channels in memory that the CPU's convolutions are quickest with.
    return TNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def measure_locations(
    bundle: Bundle, validation: CropSet, dial: Iterable[tuple[int, ...]] = DIAL
) -> Bundle:
    """Note on the card how often the model is right at each setting of its dial.

    On the validation crops: the test crops are for one setting only.

    Parameters
    ----------
    bundle : Bundle
        With a TNet.
    validation : CropSet
        Crops that chose nothing but the weights and the temperature.
    dial : iterable of tuple of int
        Locations per level.
    """
    card, net = bundle.card, bundle.model()
    rows = []
    for locations in dial:
        model = _AtSetting(net, locations).eval()
        logits = predict_logits(model, validation.crops, card.normalisation, card.crop.size)
        accuracy = float((logits.argmax(1).numpy() == validation.labels).mean())
        rows.append({"locations": list(locations), "accuracy": accuracy, "n": len(validation)})
    metrics = card.metrics | {"by_locations": rows}
    return dataclasses.replace(bundle, card=card.model_copy(update={"metrics": metrics}))


def _epochs(
    model: TNet,
    parts: Parts,
    settings: TrainingSettings,
    options: TNetOptions,
    changes: LaboratoryChanges | None,
) -> Iterable[EpochReport]:
    train, validation = parts["train"], parts["validation"]
    truth, size = torch.from_numpy(validation.labels), settings.crop.size

    def validate(net: TNet) -> tuple[float, float]:
        logits = predict_logits(
            net, validation.crops, settings.normalisation, size, device=options.device
        )
        right = (logits.argmax(1) == truth).float().mean()
        return float(F.cross_entropy(logits, truth)), float(right)

    batches = AugmentedCrops(
        train.crops,
        train.labels,
        normalisation=settings.normalisation,
        augmentation=changes or settings.augmentation,
        size=size,
        seed=options.seed,
    )
    return fit_tnet(model, batches, validate, options)


class _AtSetting(nn.Module):
    """A TNet whose dial is turned."""

    def __init__(self, net: nn.Module, locations: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.locations = net, locations

    def forward(self, crops: torch.Tensor) -> TNetOutput:
        """Return what the net gives with so many locations."""
        output: TNetOutput = self.net(crops, self.locations)
        return output
