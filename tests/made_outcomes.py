"""Bags of patches whose share of marked ones sets a known hazard, or a number."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np

from napari_sparseattn.training.data.span_data import SlideExample

FEATURES = 128


def bags(
    n: int, seed: int = 0, *, number: bool = False, slides: int = 1, side: int = 4
) -> list[SlideExample]:
    """Return slides of n patients; the hazard rises e^5-fold from no marked patch to all.

    About a sixth are censored. With `number` the outcome is the share in per cent,
    and a little noise.
    """
    rng = np.random.default_rng(seed)
    made = []
    for patient in range(n):
        share = rng.uniform()
        time = rng.exponential(20 * math.exp(-5 * (share - 0.5)))
        end = rng.uniform(5, 120)
        for slide in range(slides):
            x, y = np.meshgrid(np.arange(side), np.arange(side))
            cells = np.stack([x.ravel(), y.ravel()], axis=1)
            features = rng.normal(size=(len(cells), FEATURES)).astype(np.float32)
            marked = rng.uniform(size=len(cells)) < share
            features[marked, :8] += 2
            outcome: tuple[float, ...] = (round(min(time, end), 1), float(time <= end))
            if number:
                outcome = (100 * share + rng.normal(0, 3),)
            made.append(
                SlideExample(
                    features,
                    cells,
                    group=f"p{patient}",
                    name=f"p{patient}s{slide}",
                    outcome=outcome,
                )
            )
    return made


def marked_share(example: SlideExample) -> float:
    """Return the share of the patches of a bag that are marked: what can be seen of its hazard."""
    return float((np.asarray(example.features)[:, :8].mean(axis=1) > 1).mean())


def cohort(folder: Path, n: int, seed: int = 0, number: bool = False) -> Path:
    """Features of n patients as TRIDENT writes them, and a table beside them."""
    (folder / "features").mkdir(parents=True)
    rows = []
    for each in bags(n, seed, number=number):
        with h5py.File(folder / "features" / f"{each.name}.h5", "w") as file:
            file["features"] = each.features
            coords = file.create_dataset("coords", data=each.cells * 512)
            coords.attrs["patch_size"] = 256
            coords.attrs["patch_size_level0"] = 512
            coords.attrs["level0_magnification"] = 40
            coords.attrs["target_magnification"] = 20
        rows.append(",".join([each.name, each.group, *(f"{v:g}" for v in each.outcome)]))
    head = "slide,group," + ("value (%)" if number else "time (months),event")
    table = folder / "table.csv"
    table.write_text("\n".join([head, *rows]), encoding="utf-8")
    return table
