"""SIMULATED tissue slides, whole and as single crops, to train a TNet on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.models.tnet.crops import Crops, reduce_crop
from napari_sparseattn.simulate import TissueTruth, simulated_slide

KINDS = ("benign", "tumour")
BASE, MPP = 64, 0.5
#: Powers of two, whose crops are pixels of the slide's levels, and others, which are resampled.
SIDES = (4096, 5600, 6144, 8192, 10_000, 14_000, 20_000, 32_768)
CROP_SIDES = (4096, 8192, 16384, 32768)
NORMALISATION = Normalisation("fixed", 0.75, 0.2)
#: First seed of each part.
PARTS = {
    "crops": 1_000_000,
    "close": 1_500_000,
    "training": 2_000_000,
    "validation": 3_000_000,
    "test": 4_000_000,
}
#: A crop of coarser pixels than 2**3 (4 µm) shows no nuclei.
NUCLEI_LEVEL = 3


class Slide:
    """One simulated slide, drawn crop by crop; crops are kept."""

    def __init__(self, part: str, number: int, side: int | None = None) -> None:
        self.seed = PARTS[part] + number
        rng = np.random.default_rng([self.seed, 3])
        sides = CROP_SIDES if part in ("crops", "close") else SIDES
        self.side = int(rng.choice(sides)) if side is None else side
        self.label = int(rng.integers(2))
        self.pyramid, self.truth = self._made()
        self._kept: dict[tuple[int, int, int], np.ndarray] = {}

    def _made(self) -> tuple[VirtualPyramid, TissueTruth]:
        kind = KINDS[self.label]
        return simulated_slide(self.side, self.side, kind=kind, seed=self.seed, pixel_size=MPP)

    def crop(self, level: int, y: int, x: int) -> np.ndarray:
        """(BASE, BASE, 3) of a level, as the pyramid would give it."""
        return self.pyramid._render(level, y, x, BASE, BASE)

    def window(self, top: int, left: int, side: int) -> np.ndarray:
        """The nearest pixels of the level that `read_window` would take; kept."""
        key = (top, left, side)
        if key not in self._kept:
            level = max(0, int(np.log2(side / BASE) + 1e-3))
            n = max(1, round(side / 2**level))
            self._kept[key] = self.pyramid._render(
                level, round(top / 2**level), round(left / 2**level), n, n
            )
        return self._kept[key]


class DrawnSource:
    """Slides of one size as the source of a TNet's crops: `PyramidSource`, without tiles."""

    def __init__(self, slides: Sequence[Slide]) -> None:
        self.slides, self.count = slides, len(slides)
        self.height = self.width = slides[0].side

    def read(self, crops: Crops, base: int) -> Tensor:
        drawn = [
            self.slides[image].window(*box)
            for image, box in zip(crops.image.tolist(), crops.boxes.tolist(), strict=True)
        ]
        return reduce_crop(normalised(np.stack(drawn)), base)


def normalised(crops: np.ndarray) -> Tensor:
    scaled = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32) / 255
    return torch.from_numpy(NORMALISATION(scaled)).contiguous(memory_format=torch.channels_last)


@dataclasses.dataclass
class SingleCrops:
    """Crops (N, 64, 64, 3) of all scales, whether they show tumour, and where to look in them."""

    pixels: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    targets: np.ndarray

    @classmethod
    def draw(cls, n_slides: int, each: int, *, close: bool) -> SingleCrops:
        """Of every scale and place; or, close, of nuclei in regions alone."""
        rows: list[tuple[np.ndarray, ...]] = []
        for number in range(n_slides):
            slide = Slide("close" if close else "crops", number)
            rng = np.random.default_rng([slide.seed, 4])
            where = close_place if close else any_place
            rows += [one_crop(slide, rng, *where(slide, rng)) for _ in range(each)]
        pixels, places, labels, targets = (np.stack(part) for part in zip(*rows, strict=True))
        return cls(pixels, places, labels, targets)

    def with_some_of(self, other: SingleCrops, n: int) -> SingleCrops:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return SingleCrops(*(np.concatenate([own, more[:n]]) for own, more in pairs))

    def save(self, path: Path) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **dataclasses.asdict(self))


def any_place(slide: Slide, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A random scale, and the middle of a crop, most often near a region."""
    level = int(rng.integers(0, (slide.side // BASE).bit_length()))
    if slide.truth.regions and rng.random() < 0.75:
        y, x, radius, _ = slide.truth.regions[rng.integers(len(slide.truth.regions))]
        middle = np.array([y, x]) + rng.uniform(-1.2, 1.2, 2) * radius
    else:
        middle = rng.uniform(0, slide.side, 2)
    return level, middle + rng.uniform(-0.4, 0.4, 2) * (BASE << level)


def close_place(slide: Slide, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A scale that shows nuclei, and a place in a region: in tumour, where there is any."""
    regions = slide.truth.regions
    tumour = [each for each in regions if each[3]]
    among = tumour if tumour and rng.random() < 0.8 else regions
    y, x, radius, _ = among[rng.integers(len(among))]
    return int(rng.integers(0, NUCLEI_LEVEL + 1)), np.array([y, x]) + rng.uniform(
        -0.7, 0.7, 2
    ) * radius


def one_crop(
    slide: Slide, rng: np.random.Generator, level: int, middle: np.ndarray
) -> tuple[np.ndarray, ...]:
    """A crop, its place, whether it shows tumour, and where to look in it."""
    levels, size = (slide.side // BASE).bit_length() - 1, BASE << level
    top, left = ((middle - size / 2).clip(0, slide.side - size) / 2**level).astype(int)
    steps = (np.arange(16) + 0.5) * size / 16
    y, x = (top << level) + steps[:, None], (left << level) + steps
    tissue, tumour = slide.truth.tissue(y, x), slide.truth.is_tumour(y, x)
    region = slide.truth._plan.region(y[:, 0] * MPP, x * MPP)[0] * tissue
    wanted = np.where(tumour, 1, 0.25 * region) if level <= NUCLEI_LEVEL else region
    wanted = wanted + 0.02 * tissue + 0.001
    starts = (0, 4, 8)
    target = np.array([wanted[i : i + 8, j : j + 8].mean() for i in starts for j in starts])
    pixels = slide.crop(level, int(top), int(left))
    if rng.random() < 0.1:  # an image that is not square has a margin of zeros
        pixels[: rng.integers(1, BASE // 3)] = round(255 * NORMALISATION.mean)
    centre = (np.array([top, left]) * 2.0**level + size / 2) / (slide.side / 2) - 1
    place = np.array([*centre, levels - level])
    return pixels, place, np.int64(tumour.mean() > 0.05), target / target.sum()
