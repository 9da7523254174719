"""What bfloat16 changes and gains: probabilities, classes, cells per second.

    python benchmarks/precision.py [--device cuda] [--fields 16]

On simulated smears. Compare the speeds of one run only.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.device import PRECISIONS, choose_device, computing, describe_device
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.simulate import smear_with_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fields", type=int, default=16)
    options = parser.parse_args()
    device = choose_device(options.device)
    print(describe_device(device))
    print("model             cells  median change  largest  other class  float32 cells/s  bfloat16")
    fields = [smear_with_truth(seed=seed) for seed in range(options.fields)]
    for name in ("blood-cells", "blood-cells-tnet"):
        bundle = load_bundle(name)
        found, seconds = {}, {}
        for precision in PRECISIONS:
            with computing(device, precision):
                classify_cells(*fields[0], bundle, device, evidence=False)
                began = time.perf_counter()
                parts = [
                    classify_cells(field, cells, bundle, device, evidence=False).probabilities
                    for field, cells in fields
                ]
                seconds[precision] = time.perf_counter() - began
            found[precision] = np.concatenate(parts)
        exact, other = (found[precision] for precision in PRECISIONS)
        change = np.abs(exact - other).max(1)
        classes = (exact.argmax(1) != other.argmax(1)).sum()
        speeds = [len(exact) / seconds[precision] for precision in PRECISIONS]
        print(
            f"{name:17} {len(exact):5d} {np.median(change):14.4f} {change.max():8.3f}"
            f" {classes:12d} {speeds[0]:16.0f} {speeds[1]:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
