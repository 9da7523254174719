"""A demonstration on six REAL phase fields: PC-3 cancer cells or PNT1A cells?

    python benchmarks/pc3_pnt1a.py [--epochs 12]

Three times one field of each kind is held out, so that no field is in training
and test. The bundled ``opd-simulated`` model, whose training knew no real
cell, is trained on with a new last layer, beside one from random weights.

Six fields are a demonstration. Fields differ in density and focus as much as
in kind, so cells of a field are no independent samples: the intervals are of
cells within these fields and say nothing of a seventh one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.measure import label

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.images.fields.cells import cells_from_labels
from napari_sparseattn.images.fields.crops import cut_crops
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.fit import FitOptions, fit, predict_logits

SHARED = Path(
    os.environ.get("NAPARI_SPARSEATTN_SHARED", Path(__file__).resolve().parents[2] / "shared")
)
CLASSES = ("pc3", "pnt1a")
LEAST_PIXELS = 300
DIAMETERS = 1.6


def read_fields() -> dict[tuple[str, int], np.ndarray]:
    """Crops of each field, cut by the size of its cells: no pixel size is stated."""
    fields = {}
    size = load_bundle("opd-simulated").card.crop.size
    for name in CLASSES:
        folder = SHARED / "data/phase/pc3_pnt1a" / name
        for number, path in enumerate(sorted(folder.glob("*.tif"))):
            with Image.open(path.with_name(f"{path.stem}_mask.png")) as mask:
                # Colours repeat, so a cell is a connected part of one grey value.
                labels = label(np.asarray(mask), background=0, connectivity=1)
            counts = np.bincount(labels.ravel())
            labels[np.isin(labels, np.flatnonzero(counts < LEAST_PIXELS))] = 0
            cells = cells_from_labels(labels)
            field = open_field(path, modality="phase")
            side = DIAMETERS * float(np.median(cells.diameters))
            fields[name, number] = cut_crops(field, cells.centres, side, 2 * size)
    return fields


def new_model(start: bool, seed: int) -> SparseAttnNet:
    """The bundled model with a new last layer, or the same one from random weights."""
    torch.manual_seed(seed)
    bundle = load_bundle("opd-simulated")
    config = SparseAttnNetConfig(**bundle.card.architecture)
    model = SparseAttnNet(dataclasses.replace(config, n_classes=len(CLASSES)))
    if start:
        own = model.state_dict()
        same = {k: v for k, v in bundle.state.items() if own[k].shape == v.shape}
        model.load_state_dict({**own, **same})
    return model


def train_and_test(
    fields: dict[tuple[str, int], np.ndarray], held_out: int, start: bool, epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    def gather(chosen: bool) -> tuple[np.ndarray, np.ndarray]:
        parts = {k: v for k, v in fields.items() if (k[1] == held_out) == chosen}
        labels = [np.full(len(v), CLASSES.index(k[0]), np.int64) for k, v in parts.items()]
        return np.concatenate(list(parts.values())), np.concatenate(labels)

    (crops, labels), (test_crops, test_labels) = gather(False), gather(True)
    order = np.random.default_rng(held_out).permutation(len(labels))
    few = order[: len(order) // 5]
    rest = _balanced(order[len(order) // 5 :], labels)
    normalisation = Normalisation("fixed", float(crops[rest].mean()), float(crops[rest].std()))
    model = new_model(start, held_out)
    size = model.config.image_size
    share = model.config.k / size**2
    options = FitOptions(
        epochs=epochs,
        learning_rate=6e-4,
        first_share=share,
        least_share=share,
        most_share=share,
        seed=held_out,
    )
    noise = 0.05 * normalisation.std
    for _ in fit(
        model,
        (crops[rest], labels[rest]),
        (crops[few], labels[few]),
        normalisation=normalisation,
        size=size,
        augmentation=Augmentation(physical=True, scale=0.2, shift=0.08, noise=noise),
        options=options,
    ):
        pass
    logits = predict_logits(model, test_crops, normalisation, size)
    return logits.softmax(1).numpy(), test_labels


def _balanced(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Repeat cells of the rarer class, as fields hold very different numbers of them."""
    most = max(np.bincount(labels[rows]))
    return np.concatenate([np.resize(rows[labels[rows] == c], most) for c in range(len(CLASSES))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    fields = read_fields()
    cells = ", ".join(f"{name} {i + 1}: {len(crops)}" for (name, i), crops in fields.items())
    print(f"six fields of real cells (Vicar et al. 2021); cells per field: {cells}")
    print(f"{arguments.epochs} epochs, one run each, values without a stated unit\n")
    print("| start | held out | accuracy, 95 % interval of these cells | macro F1 |")
    print("|---|---|---|---|")
    for start in (True, False):
        name = "opd-simulated" if start else "random weights"
        every = []
        for held_out in range(3):
            probabilities, labels = train_and_test(fields, held_out, start, arguments.epochs)
            every.append((probabilities, labels))
            _print_row(name, f"field {held_out + 1} of each", probabilities, labels)
        joined = (np.concatenate(part) for part in zip(*every, strict=True))
        _print_row(name, "all", *joined)


def _print_row(name: str, held_out: str, probabilities: np.ndarray, labels: np.ndarray) -> None:
    report = classification_report(probabilities, labels, CLASSES)
    low, high = report.accuracy_interval
    print(
        f"| {name} | {held_out} ({len(labels)} cells) | {100 * report.accuracy:.1f} "
        f"[{100 * low:.1f}, {100 * high:.1f}] % | {100 * report.macro_f1:.1f} % |",
        flush=True,
    )


if __name__ == "__main__":
    main()
