"""Train the bundled ``opd-simulated`` model on SIMULATED holograms; anyone can rerun this.

    python scripts/train_opd_simulated.py

Nothing is downloaded: holograms are simulated and reconstructed first (about a
quarter of an hour on one CPU core, kept in ``--cache``), then the model is
trained (about twenty minutes).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import torch
from simulated_opd import FIELD_OF_VIEW_UM, N_TRAINING_HOLOGRAMS, SIZE, simulated_crops

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.device import choose_device
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import TrainingSettings, train_classifier
from napari_sparseattn.training.loop.fit import EpochReport, FitOptions


def settings(device: str, epochs: int) -> TrainingSettings:
    return TrainingSettings(
        name="opd-simulated",
        crop=CropSpec(size=SIZE, field_of_view_um=FIELD_OF_VIEW_UM, cell_diameters=2.0),
        modality="opd",
        unit="nm",
        channels=("OPD",),
        simulated=True,
        normalisation=Normalisation("fixed", mean=40.0, std=80.0),
        # Size in µm and nm of path tell cells apart: both are left nearly as they are.
        augmentation=Augmentation(
            physical=True, scale=0.05, shift=0.06, stretch=0.03, blur=0.8, noise=6.0
        ),
        options=FitOptions(
            epochs=epochs, steady=0.5, first_share=0.25, least_share=0.12, device=device
        ),
        description="SIMULATED: red cells, lymphocyte-, monocyte- and granulocyte-like cells and "
        "beads in optical path difference; trained on simulated holograms only, never on a real "
        "cell. For trying things out, not for telling real cells apart.",
        data=f"{N_TRAINING_HOLOGRAMS} simulated off-axis holograms, reconstructed by this package "
        "(images/simulate, sizes and indices in its cell_ranges)",
        licence="none needed: simulated by this package, BSD-3-Clause",
        split="each hologram goes to one of ten folds by the SHA-256 of its number: fold 0 is the "
        "test set, fold 1 the validation set, the rest is for training",
        recipe="scripts/train_opd_simulated.py",
    )


def show(epoch: EpochReport) -> None:
    print(epoch, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/benchmarks")
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "src/napari_sparseattn/weights/opd-simulated.safetensors"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = simulated_crops("training", arguments.cache)
    print(f"{len(data)} simulated cells", flush=True)
    chosen = settings(choose_device("auto"), arguments.epochs)
    bundle, report = train_classifier(data, chosen, show)
    save_bundle(bundle, arguments.out)
    print(json.dumps({"test accuracy": report.test.accuracy, "macro F1": report.test.macro_f1}))
    print(f"k {bundle.card.architecture['k']}, {bundle.n_parameters} weights, {arguments.out}")


if __name__ == "__main__":
    main()
