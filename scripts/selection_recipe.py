"""What the scripts that train a SparseAttnNet share: train at every k, choose k, measure, write."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from blood_cells import ARCHITECTURE

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.classifier import TrainingSettings, make_bundle, split_folds
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges, stored
from napari_sparseattn.training.loop.selection import (
    SelectionOptions,
    loss_over_k,
    loss_over_steepness,
    smallest_k,
    steepest,
    train_selection,
)

#: k that the epochs are reported at, and those that the shipped one is taken from.
REPORTED = 0.1
SHARES = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4)
#: Changes grow over so many epochs, and the rate falls from this share of them on. Trials on a
#: third of the cells: with all changes of colour from the beginning the network learns half as
#: fast, whatever its depth.
RAMP, STEADY = 16, 0.25
#: The shipped k is the smallest whose validation loss is within this share of the least. Beyond
#: 15 % of the pixels the loss hardly falls, and choosing does not pay (`benchmarks/selection.py`).
TOLERANCE = 0.1
#: What a description says of k.
RULE = (
    "trained at every k from 2 to 30 % of the pixels, and this k is the smallest whose validation "
    f"loss is within {100 * TOLERANCE:g} % of the least."
)


def add_arguments(parser: argparse.ArgumentParser, root: Path, name: str, epochs: int) -> None:
    """Add what every such script takes."""
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(f".cache/train/{name}.safetensors"),
        help="where a killed run goes on from",
    )
    parser.add_argument(
        "--out", type=Path, default=root / f"src/napari_sparseattn/weights/{name}.safetensors"
    )


def train_and_save(
    data: CropSet,
    settings: Callable[[int], TrainingSettings],
    changes: LaboratoryChanges | Mapping[int, LaboratoryChanges],
    arguments: argparse.Namespace,
    restart: int = 0,
    steepness: Sequence[float] = (),
) -> None:
    """Train, take k by the rule, measure on the test part, and write the model.

    `settings` gives what the card says for a k; `arguments` are those of `add_arguments`;
    `steepness` holds factors of the map's slope that the rule chooses from, before k.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    parts, first = split_folds(data), settings(0)
    train, validation = parts["train"], parts["validation"]
    size = first.crop.size
    options = SelectionOptions(epochs=arguments.epochs, ramp=RAMP, steady=STEADY, restart=restart)
    torch.manual_seed(options.seed)
    config = SparseAttnNetConfig(
        **ARCHITECTURE,
        in_channels=data.crops.shape[-1],
        n_classes=len(data.class_names),
        image_size=size,
        k=round(REPORTED * size**2),
    )
    model = SparseAttnNet(config)
    history = []
    for epoch in train_selection(
        model,
        (stored(train.crops, size), train.labels),
        (validation.crops, validation.labels),
        normalisation=first.normalisation,
        changes=changes,
        options=options,
        checkpoint=arguments.checkpoint,
    ):
        history.append(epoch)
        print(epoch, flush=True)
    held_out, factor = (validation.crops, validation.labels), 1.0
    if steepness:
        trained = loss_over_k(model, held_out, first.normalisation, SHARES)
        tried = loss_over_steepness(
            model, held_out, first.normalisation, steepness, smallest_k(trained, TOLERANCE)
        )
        for by, (loss, accuracy) in tried.items():
            print(f"{by:g} x as steep: validation loss {loss:.4f}, {100 * accuracy:.1f} % right")
        factor = steepest(tried, TOLERANCE)
        model.sharpen(factor)
    losses = loss_over_k(model, held_out, first.normalisation, SHARES)
    k = smallest_k(losses, TOLERANCE)
    for each, (loss, accuracy) in losses.items():
        print(f"k {each}: validation loss {loss:.4f}, {100 * accuracy:.1f} % right")
    model.config = dataclasses.replace(model.config, k=k)
    bundle, report = make_bundle("sparse-attn-net", model, data, parts, settings(k), history)
    metrics = {
        **bundle.card.metrics,
        "steepness": factor,
        "validation_over_k": [
            {"k": each, "loss": loss, "accuracy": accuracy}
            for each, (loss, accuracy) in losses.items()
        ],
    }
    bundle = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"metrics": metrics}))
    save_bundle(bundle, arguments.out)
    print(json.dumps({"test accuracy": report.test.accuracy, "macro F1": report.test.macro_f1}))
    print(f"k {k}, {bundle.n_parameters} weights, {arguments.out}")
