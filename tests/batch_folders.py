"""Folders of tiny fields with known cells, and a batch on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_sparseattn.batch.plan import BatchPlan, plan_batch
from napari_sparseattn.batch.run import ItemState, run_batch
from napari_sparseattn.process.options import ProcessOptions

DISCS = [(25, 30), (55, 90)]


def write_field(path: Path, seed: int = 0) -> Path:
    """Two violet discs on a pale ground, in noise of a seed."""
    rng = np.random.default_rng(seed)
    image = np.full((80, 120, 3), (225, 220, 215), dtype=float)
    rows, columns = np.indices(image.shape[:2])
    for row, column in DISCS:
        image[np.hypot(rows - row, columns - column) <= 9] = (95, 60, 150)
    pixels = (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_fields(folder: Path, n: int) -> list[Path]:
    return [write_field(folder / f"f{i:03}.png", i) for i in range(n)]


def make_plan(inputs: Path | list[Path], model: Path, out: Path, **options: Any) -> BatchPlan:
    given = inputs if isinstance(inputs, list) else [inputs]
    return plan_batch(given, model, out, ProcessOptions(device="cpu", pixel_size=0.5, **options))


def finish(plan: BatchPlan, **how: Any) -> list[ItemState]:
    """Run a batch to its end; return where its items stand then."""
    states = [ItemState(item) for item in plan.items]
    for update in run_batch(plan, **how):
        states[update.index] = update.changed
    return states


def wait_for(what: Callable[[], Any], seconds: float = 600) -> Any:
    """Return what is found, once it is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")
