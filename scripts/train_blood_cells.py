"""Train the bundled ``blood-cells`` model; anyone can rerun this.

    python scripts/train_blood_cells.py --data pbc.zip

A GPU is used when there is one. On one CPU core this takes about an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import torch
from blood_cells import default_archive, read_blood_cells

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.device import choose_device
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import TrainingSettings, train_classifier
from napari_sparseattn.training.loop.fit import EpochReport, FitOptions

#: Epochs of the two stages: the first learns the cells under moderate changes
#: of colour, the second adds those that set laboratories furthest apart.
EPOCHS = (8, 16)


def settings(device: str, stage: int, epochs: int) -> TrainingSettings:
    if stage == 1:
        options = FitOptions(epochs=epochs, steady=1.0, first_share=0.25, most_share=0.25)
        augmentation = Augmentation(counterstain=0, response=0)
    else:
        options = FitOptions(epochs=epochs, steady=0.45, first_share=0.1875, least_share=0.15)
        augmentation = Augmentation()
    return TrainingSettings(
        name="blood-cells",
        crop=CropSpec(size=64, field_of_view_um=32.0, cell_diameters=2.5),
        options=dataclasses.replace(options, device=device, seed=stage),
        augmentation=augmentation,
        description="Eight kinds of stained blood cell, from about 15 % of the pixels.",
        data="PBC: 15,326 stained blood cells of 8 kinds, 128 x 128 px at about 0.25 µm per pixel "
        "(CellaVision DM96; scale estimated from red cells)",
        citation="Acevedo et al. 2020, Data in Brief 30, 105474, doi 10.17632/snkd93bnjr.1",
        licence="CC BY 4.0",
        recipe="scripts/train_blood_cells.py",
    )


def show(epoch: EpochReport) -> None:
    print(epoch, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--epochs", type=int, nargs=2, default=EPOCHS, help="of the two stages")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "src/napari_sparseattn/weights/blood-cells.safetensors"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device, data = choose_device("auto"), read_blood_cells(arguments.data)
    bundle = None
    for stage, epochs in enumerate(arguments.epochs, start=1):
        bundle, report = train_classifier(data, settings(device, stage, epochs), show, bundle)
    training = bundle.card.training.model_copy(update={"epochs": sum(arguments.epochs)})
    bundle = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"training": training}))
    save_bundle(bundle, arguments.out)
    print(json.dumps({"test accuracy": report.test.accuracy, "macro F1": report.test.macro_f1}))
    print(f"k {bundle.card.architecture['k']}, {bundle.n_parameters} weights, {arguments.out}")


if __name__ == "__main__":
    main()
