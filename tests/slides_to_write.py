"""A small slide as a file, for tests that read one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def write_slide(path: Path, seed: int, dark: bool, scale_known: bool = True) -> None:
    """A slide of 2 x 3 patches of tissue at 0.5 µm per pixel, dark or pale."""
    rng = np.random.default_rng(seed)
    image = np.full((640, 896, 3), 242, np.uint8)
    noise = rng.integers(-30, 30, (448, 672, 3))
    image[96:544, 112:784] = (np.array([90, 40, 120] if dark else [200, 130, 190]) + noise).clip(0)
    size = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"} if scale_known else {}
    options = {"tile": (128, 128), "photometric": "rgb"}
    with tifffile.TiffWriter(path) as file:
        file.write(image, subifds=1, **options, **size)
        file.write(image[::4, ::4], subfiletype=1, **options)
