"""Train the bundled ``blood-cells`` model; anyone can rerun this, and kill it at any time.

    python scripts/train_blood_cells.py --data pbc.zip

The same command goes on where a killed run stopped (``--checkpoint``), to the
same weights. Threads and precision are asked of the machine: bfloat16 is used
where the processor has instructions for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from blood_cells import ARCHITECTURE, default_archive, read_blood_cells
from selection_recipe import RULE, add_arguments, train_and_save

from napari_sparseattn.card import CropSpec
from napari_sparseattn.training.loop.classifier import TrainingSettings
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges

EPOCHS, RESTART = 64, 40
#: By epoch. Laboratories differ most in how dense red cells and granules are beside nuclei, in
#: saturation, and in how much the camera lifts what is pale. The last epochs are milder.
CHANGES = {
    0: LaboratoryChanges(
        strength=0.8, counterstain=1.0, tint=0.5, scale=(0.7, 1.4), blur=1.1, swap=0.4
    ),
    23: LaboratoryChanges(
        strength=0.8, counterstain=1.0, tint=0.5, saturation=0.9, response=1.0,
        scale=(0.75, 1.3), blur=1.0, swap=0.3, noise=0.03,
    ),
    34: LaboratoryChanges(
        strength=0.6, counterstain=1.0, tint=0.5, saturation=0.9, response=1.0,
        scale=(0.8, 1.25), blur=0.8, swap=0.3, noise=0.02, jpeg=0.1,
    ),
    40: LaboratoryChanges(
        strength=0.8, counterstain=1.0, tint=0.5, saturation=0.9, response=1.0,
        scale=(0.75, 1.3), blur=1.0, swap=0.3, noise=0.03,
    ),
    58: LaboratoryChanges(
        strength=0.6, counterstain=1.0, tint=0.5, saturation=0.9, response=1.0,
        scale=(0.8, 1.25), blur=0.8, swap=0.3, noise=0.02, jpeg=0.1,
    ),
}  # fmt: skip
#: What the map is made steeper by, after training; the steepest whose loss allows it is taken.
STEEPNESS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


def settings(k: int) -> TrainingSettings:
    return TrainingSettings(
        name="blood-cells",
        crop=CropSpec(size=96, field_of_view_um=32.0, cell_diameters=2.5),
        architecture=ARCHITECTURE,
        description=f"Eight kinds of stained blood cell, from {k} pixels of each; {RULE}",
        data="PBC: 15,326 stained blood cells of 8 kinds, 128 x 128 px at about 0.25 µm per pixel "
        "(CellaVision DM96; scale estimated from red cells)",
        citation="Acevedo et al. 2020, Data in Brief 30, 105474, doi 10.17632/snkd93bnjr.1",
        licence="CC BY 4.0",
        recipe="scripts/train_blood_cells.py",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    add_arguments(parser, ROOT, "blood-cells", EPOCHS)
    arguments = parser.parse_args()
    train_and_save(
        read_blood_cells(arguments.data), settings, CHANGES, arguments, RESTART, STEEPNESS
    )


if __name__ == "__main__":
    main()
