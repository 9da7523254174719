"""SIMULATED OPD crops for the scripts that train and measure ``opd-simulated``.

Holograms of many cells are simulated, reconstructed by the package's own code,
and the cells found in them cut out, so that a model sees what reconstruction
gives. RANGES says what is drawn for training, with nuclei of lower index than the
cytoplasm in every second hologram; each of SHIFTS replaces some of it by ranges that
training never sees, but for those nuclei.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_sparseattn.files import replacing
from napari_sparseattn.images.fields.cells import Cells, find_cells
from napari_sparseattn.images.fields.crops import crop_side, cut_crops
from napari_sparseattn.images.holograms.holography import reconstruct
from napari_sparseattn.simulate import (
    KINDS,
    LOWER_NUCLEUS,
    CellKind,
    Optics,
    hologram,
    opd_field,
)
from napari_sparseattn.training.data.datasets import CropSet, hash_folds

FIELD_OF_VIEW_UM = 16.0
SIZE = 64
#: Twice the model's 64 pixels, so that augmentation resamples once.
STORED_SIDE = 2 * SIZE
SHAPE = (768, 768)
N_TRAINING_HOLOGRAMS = 200
N_SHIFTED_HOLOGRAMS = 40
#: A found cell is the simulated one whose centre is this near, in µm.
_NEAR_UM = 2.0
#: The filter of the reconstruction is a third of the carrier's frequency.
_LARGEST_CUTOFF = 0.118

Ranges = Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Shift:
    """What differs from training."""

    text: str
    ranges: Ranges = dataclasses.field(default_factory=dict)
    params: Mapping[CellKind, Mapping[str, tuple[float, float]]] | None = None


RANGES: Ranges = {
    "wavelength": (520.0, 680.0),
    "pixel_size": (0.09, 0.13),
    "na": (0.5, 0.75),
    "medium_index": (1.333, 1.340),
    "focus": (0.0, 2.0),
    "speckle": (0.0, 0.08),
    "speckle_length": (0.8, 3.0),
    "electrons": (2000.0, 20_000.0),
    "visibility": (0.5, 0.9),
    "absorption": (0.0, 0.1),
}

SHIFTS: Mapping[str, Shift] = {
    "focus": Shift("4 to 7 µm out of focus (training: up to 2)", {"focus": (4.0, 7.0)}),
    "noise": Shift(
        "speckle 0.12 to 0.2 rad, 400 to 1500 electrons, fringe visibility 0.3 to 0.5 "
        "(training: up to 0.08, from 2000, from 0.5)",
        {"speckle": (0.12, 0.2), "electrons": (400.0, 1500.0), "visibility": (0.3, 0.5)},
    ),
    "magnification": Shift(
        "0.15 to 0.20 µm per pixel, aperture 0.35 to 0.45, 750 to 850 nm "
        "(training: 0.09 to 0.13, 0.5 to 0.75, 520 to 680)",
        {"pixel_size": (0.15, 0.20), "na": (0.35, 0.45), "wavelength": (750.0, 850.0)},
    ),
    "nucleus": Shift(
        "nucleus of lower index than the cytoplasm (training: half of the holograms)",
        params=LOWER_NUCLEUS,
    ),
}


def draw_optics(rng: np.random.Generator, ranges: Ranges) -> tuple[Optics, bool]:
    """One microscope, and whether a background hologram is recorded."""
    drawn = {name: float(rng.uniform(*ranges[name])) for name in ranges}
    largest = _LARGEST_CUTOFF * drawn["wavelength"] / 1e3 / drawn["pixel_size"]
    na = min(drawn.pop("na"), largest)
    defocus = drawn.pop("focus") * rng.choice((-1.0, 1.0))
    cutoff = na / (drawn["wavelength"] / 1e3) * drawn["pixel_size"]
    radius, angle = max(0.30, 3.05 * cutoff), rng.uniform(0, 2 * math.pi)
    background = bool(rng.random() < 0.5)
    # Without a background hologram, only what a plane can take out is left small.
    bend = 0.3 if background else 0.02
    return (
        Optics(
            **drawn,
            na=na,
            defocus=float(defocus),
            carrier=(radius * math.sin(angle), radius * math.cos(angle)),
            tilt=(float(rng.uniform(-3, 3)), float(rng.uniform(-3, 3))),
            curvature=float(rng.uniform(-bend, bend)),
            bits=int(rng.choice((8, 16))),
        ),
        background,
    )


def hologram_crops(
    seed: int, ranges: Ranges, params: Mapping[CellKind, Mapping[str, tuple[float, float]]] | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Crops (n, side, side, 1) float16 in nm, their labels, and how many cells there were."""
    rng = np.random.default_rng(seed)
    optics, background = draw_optics(rng, ranges)
    shift = int(rng.integers(len(KINDS)))
    kinds = KINDS[shift:] + KINDS[:shift]
    truth, cells, drawn = opd_field(
        SHAPE,
        optics.pixel_size,
        rng,
        kinds=kinds,
        medium_index=optics.medium_index,
        params=params,
    )
    field = reconstruct(hologram(truth.data, optics, rng, background=background))
    found = find_cells(field, "phase")
    which, labels = _matched(found, cells, drawn, optics.pixel_size)
    side = crop_side(FIELD_OF_VIEW_UM, optics.pixel_size)
    crops = cut_crops(field, found.centres[which], side, STORED_SIDE)
    return crops.astype(np.float16), labels, len(cells)


def _matched(
    found: Cells, cells: Cells, kinds: tuple[CellKind, ...], pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of found cells that are simulated ones, and the kinds of these."""
    if len(found) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    apart = np.hypot(*(found.centres[:, None] - cells.centres[None]).transpose(2, 0, 1))
    nearest = apart.argmin(axis=1)
    near = apart.min(axis=1) * pixel_size < _NEAR_UM
    labels = np.array([KINDS.index(kind) for kind in kinds], np.int64)
    return np.flatnonzero(near), labels[nearest[near]]


def simulated_crops(name: str, cache: Path, n_holograms: int | None = None) -> CropSet:
    """Training crops (``"training"``) or those of a shift; kept in a folder.

    Grouped by hologram, so that no hologram is on both sides of a split.
    """
    if n_holograms is None:
        n_holograms = N_TRAINING_HOLOGRAMS if name == "training" else N_SHIFTED_HOLOGRAMS
    path = cache / f"opd-{name}-{n_holograms}-nuclei.npz"
    if not path.exists():
        _simulate(name, range(n_holograms), path)
    return _read(name, path)


def some_training_crops(cache: Path, counts: tuple[int, int, int]) -> CropSet:
    """Training crops of so many holograms of each part (training, validation, test); kept too.

    All of them where they were drawn before.
    """
    if drawn := sorted(cache.glob("opd-training-[0-9]*-nuclei.npz")):
        largest = max(drawn, key=lambda path: path.stat().st_size)
        return _read("training", largest)
    folds = np.array(hash_folds([f"training/hologram {n}" for n in range(N_TRAINING_HOLOGRAMS)]))
    parts = (folds > 1, folds == 1, folds == 0)
    numbers = [np.flatnonzero(part)[:n] for part, n in zip(parts, counts, strict=True)]
    path = cache / f"opd-training-{'-'.join(map(str, counts))}-some.npz"
    if not path.exists():
        _simulate("training", np.concatenate(numbers).tolist(), path)
    return _read("training", path)


def _read(name: str, path: Path) -> CropSet:
    with np.load(path, allow_pickle=False) as stored:
        groups = tuple(f"{name}/hologram {i}" for i in stored["holograms"].tolist())
        names = tuple(f"{group}/{n}" for n, group in enumerate(groups))
        return CropSet(stored["crops"], stored["labels"], KINDS, names, groups)


def _simulate(name: str, numbers: Sequence[int], path: Path) -> None:
    shift = Shift("") if name == "training" else SHIFTS[name]
    ranges = {**RANGES, **shift.ranges}
    first = 1_000_000 * (["training", *SHIFTS].index(name) + 1)
    crops, labels, holograms, present = [], [], [], 0
    # One file per hologram, so that a killed run goes on.
    parts = path.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    for done, n in enumerate(numbers, 1):
        part = parts / f"{n}.npz"
        if not part.exists():
            lower = LOWER_NUCLEUS if name == "training" and n % 2 else None
            some, kinds, count = hologram_crops(first + n, ranges, shift.params or lower)
            with replacing(part) as temporary, temporary.open("wb") as file:
                np.savez(file, crops=some, labels=kinds, present=count)
        with np.load(part, allow_pickle=False) as stored:
            crops.append(stored["crops"])
            labels.append(stored["labels"])
            holograms.append(np.full(len(stored["labels"]), n))
            present += int(stored["present"])
        if done % 20 == 0:
            print(f"{name}: {done} of {len(numbers)} holograms", flush=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            crops=np.concatenate(crops),
            labels=np.concatenate(labels),
            holograms=np.concatenate(holograms),
        )
    print(f"{name}: {sum(map(len, labels))} of {present} simulated cells were found", flush=True)
