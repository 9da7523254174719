"""White cells of two laboratories that no model was trained on, as crops.

Their labels' licences are not stated: measure with them, train nothing that
ships. The pixel size is in neither: it is taken from the red cells, as 7.5 µm.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from scipy import ndimage

from napari_sparseattn.images.fields.crops import cut_crops
from napari_sparseattn.training.data.datasets import CropSet

RED_CELL_UM, FIELD_UM, SIDE = 7.5, 32.0, 128
#: Red cells of the BX53 fields are some 55 pixels wide where they lie alone.
BX53_PIXEL_UM = 0.135


def read_laboratories(folder: Path, class_names: tuple[str, ...]) -> dict[str, CropSet]:
    """Read ``bccd_wbc.zip`` and ``bx53_wbc_fields.zip``: crops of 32 µm around the cell."""
    return {
        "BCCD": _bccd(folder, class_names),
        "BX53": _bx53(folder / "bx53_wbc_fields.zip", class_names),
    }


def _bccd(folder: Path, class_names: tuple[str, ...]) -> CropSet:
    """The labelled fields' white cells, cut from the whole fields by their boxes."""
    with zipfile.ZipFile(folder / "bccd_wbc.zip") as archive:
        labels = dict(_labels(archive))
    with zipfile.ZipFile(folder / "bccd_fields.zip") as archive:
        boxes = list(csv.DictReader(io.StringIO(archive.read("boxes.csv").decode())))
        red = [float(b["ymax"]) - float(b["ymin"]) for b in boxes if b["class"] == "RBC"]
        side = FIELD_UM / (RED_CELL_UM / float(np.median(red)))
        fields = {PurePosixPath(n).stem[-5:]: n for n in archive.namelist() if n.endswith(".jpg")}
        found = []
        for name, label in labels.items():
            number = PurePosixPath(name).stem
            white = [b for b in boxes if b["image"] == fields[number] and b["class"] == "WBC"]
            corners = [[float(b[k]) for k in ("ymin", "xmin", "ymax", "xmax")] for b in white]
            top, left, bottom, right = max(corners, key=lambda c: (c[2] - c[0]) * (c[3] - c[1]))
            centre = ((top + bottom - 1) / 2, (left + right - 1) / 2)
            pixels = _pixels(archive, fields[number])
            found.append((name, label, cut_crops(pixels, [centre], side, SIDE)[0]))
    return _set(found, class_names)


def _bx53(path: Path, class_names: tuple[str, ...]) -> CropSet:
    """The darkest large body in the green is the white cell; seen to be so in all 152."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name, label in _labels(archive):
            pixels = _pixels(archive, name).astype(np.float32)
            ground = np.percentile(pixels.reshape(-1, 3), 95, axis=0)
            density = -np.log(np.clip(pixels / ground, 0.01, 1))
            green = ndimage.gaussian_filter(density[..., 1], 2)
            nuclei = green > 0.65 * np.percentile(green, 99.5)
            nuclei = ndimage.binary_opening(nuclei, iterations=6)
            bodies, n = ndimage.label(ndimage.binary_dilation(nuclei, iterations=12))
            darkness = ndimage.sum(green * nuclei, bodies, range(1, n + 1))
            cell = nuclei & (bodies == int(np.argmax(darkness)) + 1)
            centre = ndimage.center_of_mass(cell)
            crop = cut_crops(pixels / 255, [centre], FIELD_UM / BX53_PIXEL_UM, SIDE)[0]
            found.append((name, label, crop))
    return _set(found, class_names)


def _labels(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".png")))
    return [(name, PurePosixPath(name).parts[0]) for name in names]


def _pixels(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def _set(found: list[tuple[str, str, np.ndarray]], class_names: tuple[str, ...]) -> CropSet:
    crops = np.stack([crop for _, _, crop in found])
    return CropSet(
        np.rint(np.clip(crops, 0, 1) * 255).astype(np.uint8),
        np.array([class_names.index(label) for _, label, _ in found]),
        class_names,
        tuple(name for name, _, _ in found),
    )
