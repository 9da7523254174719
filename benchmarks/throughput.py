"""Classify-all on fields of growing size: cells per second and peak memory.

The fields are *simulated* smears tiled to the size that is asked for; cells
sit on a grid, since finding them is measured by ``find_cells.py``. Each row is
a process of its own; printed is by how much its peak memory rises over that
after a first batch: it must not follow the number of cells.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import subprocess
import sys
import time

import numpy as np


def one(cells: int, batch: int, threads: int, model: str) -> dict[str, float]:
    """Classify, and return seconds and peak memory in MiB."""
    import torch

    from napari_sparseattn.bundle import load_bundle
    from napari_sparseattn.images.cells import cells_from_points
    from napari_sparseattn.images.field import Field
    from napari_sparseattn.images.simulate import smear
    from napari_sparseattn.inference.cells import classify_cells, iter_cells, join

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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    result = join(list(iter_cells(field, found, bundle, "cpu", batch_size=batch)))
    seconds = time.perf_counter() - began
    assert len(result) == cells
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "field_mib": field.data.nbytes / 2**20,
        "more_mib": (after - before) / 1024,
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
    print("|  cells | batch | field, MiB | seconds | cells/s | more peak memory, MiB |")
    print("|--------|-------|------------|---------|---------|-----------------------|")
    for cells, batch in itertools.product(arguments.cells, arguments.batch):
        command = [sys.executable, __file__, "--one", str(cells), "--batch", str(batch)]
        command += ["--threads", str(arguments.threads), "--model", arguments.model]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {cells:6d} | {batch:5d} | {row['field_mib']:10.1f} | {row['seconds']:7.2f} | "
            f"{cells / row['seconds']:7.0f} | {row['more_mib']:21.1f} |"
        )


if __name__ == "__main__":
    main()
