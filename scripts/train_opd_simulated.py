"""Train the bundled ``opd-simulated`` model on SIMULATED holograms; anyone can rerun this.

    python scripts/train_opd_simulated.py

Nothing is downloaded: holograms are simulated and reconstructed first (about
ten minutes on one CPU core, kept in ``--cache``), then the model is trained.
The same command goes on where a killed run stopped (``--checkpoint``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from blood_cells import ARCHITECTURE
from selection_recipe import RULE, add_arguments, train_and_save
from simulated_opd import FIELD_OF_VIEW_UM, N_TRAINING_HOLOGRAMS, SIZE, simulated_crops

from napari_sparseattn.card import CropSpec
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.training.loop.classifier import TrainingSettings
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges

EPOCHS = 120
#: Size in µm and nm of path tell cells apart: both are left nearly as they are.
CHANGES = LaboratoryChanges(
    physical=True,
    scale=(0.96, 1.04),
    stretch=0.03,
    shift=0.25,
    cell_radius=(0.75, 0.9),
    blur=0.8,
    sharpen=0,
    noise=6.0,
)


def settings(k: int) -> TrainingSettings:
    return TrainingSettings(
        name="opd-simulated",
        crop=CropSpec(size=SIZE, field_of_view_um=FIELD_OF_VIEW_UM, cell_diameters=2.0),
        architecture=ARCHITECTURE,
        modality="opd",
        unit="nm",
        channels=("OPD",),
        simulated=True,
        normalisation=Normalisation("fixed", mean=40.0, std=80.0),
        description="SIMULATED: red cells, lymphocyte-, monocyte- and granulocyte-like cells and "
        "beads in optical path difference; trained on simulated holograms only, never on a real "
        "cell. For trying things out, not for telling real cells apart. It reads "
        f"{k} pixels of each; {RULE}",
        data=f"{N_TRAINING_HOLOGRAMS} simulated off-axis holograms, reconstructed by this package "
        "(napari_sparseattn.simulate, sizes and indices in its cell_ranges; nuclei of lower index "
        "than the cytoplasm in every second hologram)",
        licence="none needed: simulated by this package, BSD-3-Clause",
        split="each hologram goes to one of ten folds by the SHA-256 of its number: fold 0 is the "
        "test set, fold 1 the validation set, the rest is for training",
        recipe="scripts/train_opd_simulated.py",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/benchmarks")
    add_arguments(parser, ROOT, "opd-simulated", EPOCHS)
    arguments = parser.parse_args()
    data = simulated_crops("training", arguments.cache)
    print(f"{len(data)} simulated cells", flush=True)
    train_and_save(data, settings, CHANGES, arguments)


if __name__ == "__main__":
    main()
