"""Add known states to the file of a model of cells that was trained before there were any.

The weights stay as they are. The data is split as it was for the training, by
names: the spread is measured on training images, the threshold is set on
validation images, and the share that is flagged is told of test images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from blood_cells import default_archive, read_blood_cells

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.training.data.datasets import CropSet, read_class_folders
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.known import add_known_states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the file")
    parser.add_argument(
        "--data",
        type=Path,
        default=default_archive(),
        help="what it was trained on: class folders, or a zip of them",
    )
    parser.add_argument("--out", type=Path, help="by default the file itself")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.model)
    parts = split_folds(read(arguments.data, len(bundle.card.channels), bundle.card.crop.size))
    made = add_known_states(bundle, parts["train"], parts["validation"], parts["test"])
    saved = save_bundle(made, arguments.out or arguments.model)
    spec = saved.card.novelty
    assert spec is not None
    print(f"{saved.path}: {saved.card.name}@{saved.hash[:12]}")
    print(f"{100 * (spec.flagged_test or 0):.1f} % of {len(parts['test'])} test images are flagged")


def read(source: Path, channels: int, size: int) -> CropSet:
    if channels == 3:
        return read_blood_cells(source)
    return read_class_folders(source, 2 * size, channels)


if __name__ == "__main__":
    main()
