"""The PBC blood cells, read once, for the scripts that train and measure."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from napari_sparseattn.training.data.datasets import CropSet, read_class_folders

#: As the images are: more than the model's 96 pixels, so that augmentation resamples once.
STORED_SIDE = 128
#: Sizes of the network; under 300,000 weights.
ARCHITECTURE = {
    "selector": "map",
    "tiles": "pyramid",
    "depth": 0,
    "mixing": "none",
    "frequencies": 6,
    "coarse_width": 24,
    "tile_width": 56,
    "tile_depth": 1,
    "class_width": 96,
    "heads": 4,
    "readout_layers": 1,
}


def default_archive() -> Path:
    """Where the images lie beside a checkout; NAPARI_SPARSEATTN_SHARED moves it."""
    root = os.environ.get("NAPARI_SPARSEATTN_SHARED")
    shared = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    return shared / "data" / "pbc.zip"


def read_blood_cells(source: Path) -> CropSet:
    """Read class folders, or a zip of them, as 128 x 128 RGB crops."""
    if not source.exists():
        raise SystemExit(
            f"There is no {source}. Get the PBC set (doi 10.17632/snkd93bnjr.1) as class folders "
            "or a zip of them, and name it with --data."
        )
    if source.is_dir():
        return read_class_folders(source, STORED_SIDE)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
        return read_class_folders(folder, STORED_SIDE)
