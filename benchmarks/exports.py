"""Time, peak memory and size of each format for many cells.

Seconds of the processor are given too: on a machine that does other work the
clock says little.

    python benchmarks/exports.py [--cells 100000]

Each format is written in a process of its own, so that its peak memory is its
own: that of the process while it writes, less that before. Cells are made up:
discs on a square grid with a label image, or with boxes alone, eight classes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CLASSES = 8
PITCH = 24


def made_up(n: int, outlined: bool):
    """Cells with random probabilities, and the image they lie on."""
    from napari_sparseattn.images.fields.cells import Cells
    from napari_sparseattn.images.fields.field import Field
    from napari_sparseattn.inference.prediction import Predictions, ReadingLedger

    rng = np.random.default_rng(0)
    side = math.ceil(math.sqrt(n))
    rows, columns = np.divmod(np.arange(n), side)
    centres = np.stack([rows, columns], axis=1) * PITCH + PITCH / 2
    boxes = np.hstack([centres - 9.5, centres + 9.5])
    labels = None
    if outlined:
        offsets = np.indices((PITCH, PITCH)) - PITCH / 2
        disc = np.hypot(*offsets) <= 9
        ids = np.zeros((side, side), np.int32)
        ids.ravel()[:n] = np.arange(1, n + 1)
        labels = np.repeat(np.repeat(ids, PITCH, 0), PITCH, 1) * np.tile(disc, (side, side))
    cells = Cells(centres, boxes, np.zeros(n, bool), np.arange(1, n + 1), labels, 0.5)
    chances = rng.dirichlet(np.ones(CLASSES), n).astype(np.float32)
    names = tuple(f"class {i}" for i in range(CLASSES))
    ledger = ReadingLedger(1, 1, 1, 1.0, "cpu")
    found = Predictions(cells, names, chances, (), ledger, "0" * 64, "made-up")
    tile = rng.integers(150, 250, (PITCH, PITCH, 3), dtype=np.uint8)
    image = Field.from_array(
        np.tile(tile, (side, side, 1)), axes="YXC", pixel_size=0.5, modality="brightfield", name="x"
    )
    return found, image, names


def card_of(names: tuple[str, ...]):
    from napari_sparseattn.card import Card, CropSpec, Training
    from napari_sparseattn.images.normalise import Normalisation

    return Card(
        kind="sparse-attn-net",
        name="made-up",
        class_names=names,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=CropSpec(size=64, field_of_view_um=32.0),
        normalisation=Normalisation("white"),
        architecture={"k": 600},
        training=Training(data="none: made up"),
    )


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak:
    """The most memory while it runs, looked at 200 times a second."""

    def __enter__(self) -> Peak:
        self.before = self.most = resident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._end.wait(0.005):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def one(name: str, n: int, outlined: bool) -> None:
    from napari_sparseattn.export.formats import write_results

    found, image, names = made_up(n, outlined)
    card = card_of(names)
    with tempfile.TemporaryDirectory() as folder:
        # Imports are not what is measured.
        small = made_up(4, outlined)
        write_results(small[0], small[1], Path(folder) / "warm", "x", [name], card)
        start, worked = time.perf_counter(), time.process_time()
        with Peak() as peak:
            (path, *_) = write_results(found, image, Path(folder), "x", [name], card)
        seconds, cpu = time.perf_counter() - start, time.process_time() - worked
        files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
        size = sum(x.stat().st_size for x in files)
    memory = peak.most - peak.before
    told = {"seconds": seconds, "cpu": cpu, "memory": memory, "size": size, "files": len(files)}
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.cells, options.one[1] == "outlines")
        return
    from napari_sparseattn.export.formats import formats_for

    found, image, _ = made_up(4, True)
    side = math.ceil(math.sqrt(options.cells)) * PITCH
    print(f"{options.cells} made-up cells on {side} x {side} pixels, {CLASSES} classes\n")
    print("| format | cells | seconds | of the processor | peak memory, MB | on disk, MB | files |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in [each.name for each in formats_for(found, image)]:
        for kind in ("outlines", "boxes"):
            command = [sys.executable, __file__, "--cells", str(options.cells), "--one", name, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {kind} | {row['seconds']:.1f} | {row['cpu']:.1f} | "
                f"{row['memory'] / 1e6:.0f} | {row['size'] / 1e6:.1f} | {row['files']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
