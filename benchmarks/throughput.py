"""Classify-all on fields of growing size: cells per second and peak memory.

The fields are *simulated* smears tiled to the size that is asked for; cells
sit on a grid, since finding them is measured by ``find_cells.py``. Each row is
a process of its own. Resident memory after a fifth of the cells, when buffers
have been made, and the most after that: it must not follow the number of cells.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
import time

import numpy as np
import psutil


def one(cells: int, batch: int, threads: int, model: str) -> dict[str, float]:
    """Classify, and return seconds and peak memory in MiB."""
    import torch

    from napari_sparseattn.bundle import load_bundle
    from napari_sparseattn.images.fields.cells import cells_from_points
    from napari_sparseattn.images.fields.field import Field
    from napari_sparseattn.inference.cells import classify_cells, iter_cells, join
    from napari_sparseattn.simulate import smear

    torch.set_num_threads(threads)
    bundle = load_bundle(model)
    tile = smear(shape=(512, 512), seed=0).data
    across = int(np.ceil(np.sqrt(max(cells, 1)) * 64 / 512))
    field = Field.from_array(
        np.tile(tile, (across, across, 1)), axes="YXC", pixel_size=0.25, modality="brightfield"
    )
    side = across * 8
    grid = np.stack(np.divmod(np.arange(cells), side), axis=1) * 64 + 32.0
    found = cells_from_points(grid, field.shape, diameter=50)
    warm = cells_from_points(grid[:batch], field.shape, diameter=50)
    classify_cells(field, warm, bundle, "cpu", batch_size=batch, evidence=False)
    process, parts, memory = psutil.Process(), [], []
    began = time.perf_counter()
    for part in iter_cells(field, found, bundle, "cpu", batch_size=batch):
        parts.append(part)
        memory.append(process.memory_info().rss / 2**20)
    seconds = time.perf_counter() - began
    assert len(join(parts)) == cells
    return {
        "seconds": seconds,
        "field_mib": field.data.nbytes / 2**20,
        "early_mib": memory[len(memory) // 5],
        "late_mib": max(memory[len(memory) // 5 :]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--batch", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(
            json.dumps(one(arguments.one, arguments.batch[0], arguments.threads, arguments.model))
        )
        return
    print(f"{platform.machine()}, {arguments.threads} threads; one run each\n")
    print(
        "|  cells | batch | field, MiB | seconds | cells/s | memory at a fifth, MiB | most after |"
    )
    print(
        "|--------|-------|------------|---------|---------|------------------------|------------|"
    )
    for cells, batch in itertools.product(arguments.cells, arguments.batch):
        command = [sys.executable, __file__, "--one", str(cells), "--batch", str(batch)]
        command += ["--threads", str(arguments.threads), "--model", arguments.model]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {cells:6d} | {batch:5d} | {row['field_mib']:10.1f} | {row['seconds']:7.2f} | "
            f"{cells / row['seconds']:7.0f} | {row['early_mib']:22.0f} | {row['late_mib']:10.0f} |"
        )


if __name__ == "__main__":
    main()
