"""The colours of nuclei and red cells in the PBC set, which augmentation starts from."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from blood_cells import default_archive, read_blood_cells

from napari_sparseattn.images.normalise import Normalisation, to_float


def densities(crops: np.ndarray) -> np.ndarray:
    """Optical density (N, C, H, W) against the crop's own white."""
    white = Normalisation("white", 0, 1)(to_float(crops).transpose(0, 3, 1, 2))
    return -np.log(np.clip(white, 0.01, 1.2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--crops", type=int, default=150, help="of each kind")
    arguments = parser.parse_args()
    data = read_blood_cells(arguments.data)
    rng = np.random.default_rng(0)
    kinds = {"nuclei": ("neutrophil", "lymphocyte", "monocyte"), "red cells": ("platelet",)}
    for kind, names in kinds.items():
        labels = [data.class_names.index(name) for name in names]
        rows = rng.permutation(np.flatnonzero(np.isin(data.labels, labels)))[: arguments.crops]
        density = densities(data.crops[rows])
        mean = density.mean(axis=1)
        if kind == "nuclei":
            chosen = mean > 0.9
        else:
            chosen = (mean > 0.15) & (mean < 0.5)
            chosen[:, 40:88, 40:88] = False  # the platelet itself
        median = np.median(density.transpose(0, 2, 3, 1)[chosen], axis=0)
        unit = median / np.linalg.norm(median)
        print(f"{kind}: density {median.round(3)}, as a unit vector {unit.round(3)}")


if __name__ == "__main__":
    main()
