"""Add known states to the file of a model that was trained before there were any.

The weights stay as they are. The data is split as it was for the training, by
names: the spread is measured on training images, the threshold is set on
validation images, and the share that is flagged is told of test images.

Of the simulated tissue's SPANs the slides are drawn anew, fewer than in their
training, with ``--features`` naming a folder to keep their features in.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]

from blood_cells import default_archive, read_blood_cells
from train_tissue_simulated import PARTS, examples

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.training.data.datasets import CropSet, read_class_folders
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.known import (
    add_known_slides,
    add_known_states,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the file")
    parser.add_argument(
        "--data",
        type=Path,
        default=default_archive(),
        help="what it was trained on: class folders, or a zip of them",
    )
    parser.add_argument("--features", type=Path, help="of simulated slides, kept here")
    parser.add_argument("--slides", type=int, nargs=3, default=(30, 10, 20), help="in each part")
    parser.add_argument("--out", type=Path, help="by default the file itself")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.model)
    if bundle.card.takes_slides:
        if arguments.features is None or not bundle.card.training.simulated:
            raise SystemExit("Of SPANs only those of simulated tissue, with --features FOLDER.")
        arguments.features.mkdir(parents=True, exist_ok=True)
        counts = zip(PARTS, arguments.slides, strict=True)
        drawn = {part: examples(part, count, arguments) for part, count in counts}
        made = add_known_slides(bundle, drawn["train"], drawn["validation"], drawn["test"])
    else:
        data = read(arguments.data, len(bundle.card.channels), bundle.card.crop.size)
        parts = split_folds(data)
        made = add_known_states(bundle, parts["train"], parts["validation"], parts["test"])
    saved = save_bundle(made, arguments.out or arguments.model)
    spec = saved.card.novelty
    assert spec is not None
    print(f"{saved.path}: {saved.card.name}@{saved.hash[:12]}")
    print(saved.card.summary())
    print(f"{100 * (spec.flagged_test or 0):.1f} % of what took no part is flagged")


def read(source: Path, channels: int, size: int) -> CropSet:
    if channels == 3:
        return read_blood_cells(source)
    return read_class_folders(source, 2 * size, channels)


if __name__ == "__main__":
    main()
