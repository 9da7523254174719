"""How often are images refused that were turned round, and how often those that were not?

    python benchmarks/inverted.py --data ../shared/data

Stained samples of four sets, as they are and inverted, reduced as for a whole field.
Prints both counts; nothing is trained.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from blood_cells import default_archive
from PIL import Image

from napari_sparseattn.images.tissue.mask import check_bright

#: Archive and how many of its images are taken, evenly.
SETS = {"bccd_fields.zip": 292, "bx53_wbc_fields.zip": 152, "pbc.zip": 600, "ebhi.zip": 400}
REDUCED = 160


def images(archive: Path, most: int) -> Iterator[np.ndarray]:
    """Images (h, w, 3) in 0..1, at most 160 pixels along a side."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(n for n in opened.namelist() if n.lower().endswith((".jpg", ".png")))
        for name in names[:: max(1, len(names) // most)][:most]:
            with Image.open(io.BytesIO(opened.read(name))) as image:
                image.thumbnail((REDUCED, REDUCED), Image.Resampling.BOX)
                yield np.asarray(image.convert("RGB"), np.float32) / 255


def is_refused(pixels: np.ndarray) -> bool:
    try:
        check_bright(pixels, np.ones(pixels.shape[:2], bool), "it")
    except ValueError:
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=default_archive().parent)
    arguments = parser.parse_args()
    for name, most in SETS.items():
        pairs = [(is_refused(x), is_refused(1 - x)) for x in images(arguments.data / name, most)]
        plain, turned = np.sum(pairs, axis=0)
        print(f"{name}: {len(pairs)} images, refused {plain} as they are, {turned} inverted")


if __name__ == "__main__":
    main()
