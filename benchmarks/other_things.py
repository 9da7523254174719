"""What a model of blood cells was not trained on, as crops: ten kinds, read once.

Five kinds may be chosen on: red cells and empty places of the training
laboratory, three photographs, fluorescence, and drawn things. The others are
kept for the last look. Where a pixel size is known the crops are 32 µm wide;
of photographs and other modalities they are windows of some size.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
import tifffile
from laboratories import FIELD_UM, RED_CELL_UM, SIDE
from PIL import Image
from scipy import ndimage
from surroundings import cut_surroundings

from napari_sparseattn.images.fields.crops import cut_crops

Crops = npt.NDArray[np.uint8]

#: What is chosen on; everything else is looked at once.
CHOSEN_ON = (
    "red cells, same laboratory",
    "background, same laboratory",
    "photographs (3)",
    "fluorescence (DAPI)",
    "noise and flat colour",
)
_EACH = 200


def read_other_things(folder: Path, pbc: Crops) -> dict[str, Crops]:
    """Return crops (n, 128, 128, 3) by kind.

    Parameters
    ----------
    folder : Path
        Of the shared data.
    pbc : numpy.ndarray
        (N, 128, 128, 3) training laboratory's cells, of which the surroundings are taken.
    """
    rng = np.random.default_rng(0)
    red, empty = _bccd(folder, rng)
    near_red, near_empty = cut_surroundings(pbc, rng, _EACH)
    some, others = ("astronaut", "coffee", "chelsea"), (
        "rocket", "motorcycle_left", "hubble_deep_field", "retina", "camera", "brick",
        "grass", "gravel", "moon", "coins", "page", "logo",
    )  # fmt: skip
    return {
        "red cells, same laboratory": near_red,
        "background, same laboratory": near_empty,
        "photographs (3)": _windows(map(_photograph, some), rng, (64, 256)),
        "fluorescence (DAPI)": _windows([_dapi(folder)], rng, (140, 140)),
        "noise and flat colour": _drawn(rng),
        "red cells (BCCD)": red,
        "background (BCCD)": empty,
        "photographs (12)": _windows(map(_photograph, others), rng, (64, 256)),
        "OPD and phase maps": _windows(_phase_maps(folder), rng, (100, 140)),
        "holograms": _windows(_holograms(folder), rng, (100, 200)),
        "colon, H&E (EBHI)": _windows(_zipped(folder / "ebhi.zip", 60), rng, (100, 200)),
        "lymph node, H&E (PCam)": _windows(_zipped(folder / "pcam.zip", _EACH), rng, (33, 96)),
    }


def _bccd(folder: Path, rng: np.random.Generator) -> tuple[Crops, Crops]:
    """Red cells in their boxes, and places without a box, away from white cells."""
    with zipfile.ZipFile(folder / "bccd_fields.zip") as archive:
        boxes = list(csv.DictReader(io.StringIO(archive.read("boxes.csv").decode())))
        places = {
            kind: [
                (b["image"], *(float(b[k]) for k in ("ymin", "xmin", "ymax", "xmax")))
                for b in boxes
                if b["class"] == kind
            ]
            for kind in ("RBC", "WBC", "Platelets")
        }
        side = FIELD_UM / (RED_CELL_UM / float(np.median([b[3] - b[1] for b in places["RBC"]])))
        names = sorted({b["image"] for b in boxes})
        red, empty = [], []
        for name in rng.permutation(names):
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            mine = {kind: [b[1:] for b in all_ if b[0] == name] for kind, all_ in places.items()}
            middles = [((t + d) / 2, (left + r) / 2) for t, left, d, r in mine["RBC"]]
            away = [m for m in middles if _is_away(m, [*mine["WBC"], *mine["Platelets"]], side / 4)]
            red += [cut_crops(pixels, [middle], side, SIDE)[0] for middle in away[:2]]
            taken = np.zeros(pixels.shape[:2], bool)
            for t, left, d, r in (*mine["RBC"], *mine["WBC"], *mine["Platelets"]):
                taken[int(t) : int(d) + 1, int(left) : int(r) + 1] = True
            # Not every cell has a box: empty places are pale as well.
            pale = pixels[..., 1] > np.percentile(pixels[..., 1], 90) - 25
            room = ndimage.distance_transform_edt(~taken & ndimage.binary_opening(pale))
            place = np.unravel_index(int(room.argmax()), room.shape)
            if room[place] > side / 10:
                empty.append(cut_crops(pixels, [place], side, SIDE)[0])
    return _bytes(red[:_EACH]), _bytes(empty[:_EACH])


def _is_away(middle: tuple[float, float], boxes: list[Any], margin: float) -> bool:
    y, x = middle
    return not any(
        t - margin < y < d + margin and left - margin < x < r + margin for t, left, d, r in boxes
    )


def _photograph(name: str) -> npt.NDArray[Any]:
    path = Path(skimage.data.__file__).parent
    found = next(path.glob(f"{name}.*"))
    return np.asarray(Image.open(found).convert("RGB"))


def _dapi(folder: Path) -> npt.NDArray[Any]:
    pixels = tifffile.imread(folder / "slides" / "test3-DAPI-2-387.ndpi", level=0)
    return np.asarray(pixels)[..., :3]


def _phase_maps(folder: Path) -> list[npt.NDArray[Any]]:
    found = []
    with zipfile.ZipFile(folder / "qpi_fields.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("fields/")]
        found += [tifffile.imread(io.BytesIO(archive.read(name))) for name in names]
    found += [tifffile.imread(path) for path in sorted(folder.glob("phase/pc3_pnt1a/*/*.tif"))]
    return [_grey(plane) for plane in found]


def _holograms(folder: Path) -> list[npt.NDArray[Any]]:
    with zipfile.ZipFile(folder / "holograms.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("off_axis/")]
        found = [Image.open(io.BytesIO(archive.read(name))).convert("L") for name in names]
    return [_grey(np.asarray(plane)) for plane in found]


def _zipped(path: Path, count: int) -> list[npt.NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in sorted(archive.namelist()) if n.endswith(".jpg")]
        step = len(names) // count
        return [
            np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB"))
            for n in names[::step][:count]
        ]


def _grey(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As a viewer shows it: from the 1st to the 99th percentile."""
    plane = np.squeeze(np.asarray(plane, np.float32))
    low, high = np.percentile(plane, (1, 99))
    grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)


def _windows(
    images: Iterable[npt.NDArray[Any]], rng: np.random.Generator, sides: tuple[int, int]
) -> Crops:
    """Windows of some size at random places, as many of each image."""
    images = list(images)
    found = []
    for number in range(_EACH):
        image = images[number % len(images)]
        side = int(rng.integers(sides[0], min(sides[1], *image.shape[:2]) + 1))
        y, x = (rng.uniform(side / 2, n - side / 2 + 1e-6) - 0.5 for n in image.shape[:2])
        found.append(cut_crops(image, [(y, x)], side, SIDE)[0])
    return _bytes(found)


def _drawn(rng: np.random.Generator) -> Crops:
    """Noise of four grains, flat colours, discs."""
    found = []
    rows, columns = np.indices((SIDE, SIDE))
    for number in range(_EACH):
        colour = rng.uniform(0.1, 1, 3)
        plane = np.broadcast_to(colour, (SIDE, SIDE, 3)).copy()
        if number % 3 == 0:
            noise = ndimage.gaussian_filter(
                rng.normal(size=(SIDE, SIDE, 3)), (2 ** (number % 4), 2 ** (number % 4), 0)
            )
            plane += 0.2 * noise / noise.std()
        elif number % 3 == 1:
            radius = rng.uniform(10, 40)
            plane[np.hypot(rows - 64, columns - 64) < radius] = rng.uniform(0, 1, 3)
        found.append(np.clip(plane + rng.normal(0, 0.01, plane.shape), 0, 1))
    return _bytes(found)


def _bytes(crops: list[npt.NDArray[Any]]) -> Crops:
    return np.rint(np.clip(np.stack(crops), 0, 1) * 255).astype(np.uint8)
