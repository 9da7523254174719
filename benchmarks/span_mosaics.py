"""Mosaics of real lung tiles as slides of encoded patches, for `span_tissue.py`."""

from __future__ import annotations

import dataclasses
import heapq
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from tissue import CLASSES, PARTS

from napari_sparseattn.files import replacing
from napari_sparseattn.training.loop.span import SlideExample

BENIGN, ADENO, SQUAMOUS = range(3)
WIDTH = 128
QUADRANT = 112


@dataclasses.dataclass(frozen=True)
class Patches:
    """Encoded quadrants of one part: (n, 128) float32, classes and groups (n,)."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def some(self, label: int, n: int, groups: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of n patches of one class, of so many of its groups."""
        own = np.unique(self.groups[self.labels == label])
        chosen = rng.choice(own, min(groups, len(own)), replace=False)
        return rng.choice(np.flatnonzero(np.isin(self.groups, chosen)), n)


def quadrants(archive: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name of each tile, and its quadrants (4, 112, 112, 3) uint8."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(n for n in opened.namelist() if n.endswith(".jpeg")):
            with Image.open(io.BytesIO(opened.read(name))) as image:
                tile = np.asarray(image.convert("RGB"))
            halves = (slice(0, QUADRANT), slice(QUADRANT, 2 * QUADRANT))
            yield name, np.stack([tile[y, x] for y in halves for x in halves])


def encoded(archive: Path, encoder: str, cache: Path) -> tuple[list[str], np.ndarray]:
    """Tile names and features (4 per tile, width), from the cache if they are there."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(n for n in opened.namelist() if n.endswith(".jpeg"))
    kept = cache / f"{Path(encoder).name.replace(':', '-')}-quadrants.npy"
    if kept.exists():
        features = np.load(kept, allow_pickle=False)
        if len(features) == 4 * len(names):
            return names, features
    from napari_sparseattn.features.encoders import load_encoder

    began, loaded, parts, batch = time.perf_counter(), load_encoder(encoder), [], []
    for number, (_, four) in enumerate(quadrants(archive), 1):
        enlarged = F.interpolate(
            torch.from_numpy(four).permute(0, 3, 1, 2).float(), size=loaded.size, mode="bilinear"
        )
        batch.append(enlarged.round().byte().permute(0, 2, 3, 1).numpy())
        if len(batch) == 8 or number == len(names):
            parts.append(loaded(np.concatenate(batch)).astype(np.float16))
            batch = []
    features = np.concatenate(parts)
    print(f"{encoder}: {len(features)} patches in {time.perf_counter() - began:.0f} s", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as temporary, temporary.open("wb") as opened_file:
        np.save(opened_file, features, allow_pickle=False)
    return names, features


def split(names: Sequence[str], features: np.ndarray) -> dict[str, Patches]:
    """Tell the groups apart (always in the same way), standardise and reduce."""
    labels = np.array([CLASSES.index(name.split("/")[-3]) for name in names]).repeat(4)
    groups = np.array(["/".join(name.split("/")[-3:-1]) for name in names]).repeat(4)
    part = np.empty(len(labels), object)
    for label in range(len(CLASSES)):
        own = np.random.default_rng(0).permutation(np.unique(groups[labels == label]))
        for name, cuts in PARTS.items():
            first, last = (round(cut * len(own)) for cut in cuts)
            part[np.isin(groups, own[first:last])] = name
    scaled = features.astype(np.float64)
    train = scaled[part == "training"]
    scaled = (scaled - train.mean(0)) / (train.std(0) + 1e-6)
    variance, axes = np.linalg.eigh(np.cov(scaled[part == "training"].T))
    axes, variance = axes[:, : -WIDTH - 1 : -1], variance[: -WIDTH - 1 : -1]
    reduced = (scaled @ axes / np.sqrt(variance.mean())).astype(np.float32)
    parts = {
        name: Patches(reduced[part == name], labels[part == name], groups[part == name])
        for name in PARTS
    }
    together = [set(each.groups) for each in parts.values()]
    assert sum(map(len, together)) == len(set.union(*together))
    return parts


def smooth(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with a mean of 0 and a spread of 1 that changes over so many places."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def tissue(places: int, rng: np.random.Generator) -> np.ndarray:
    """(h, w) bool: one piece of about so many places, with a ragged edge and holes."""
    aspect = rng.uniform(0.7, 1.4)
    across = np.array([np.sqrt(places * aspect), np.sqrt(places / aspect)]) * 1.25
    h, w = across.round().astype(int)
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    inside = np.hypot(y, x) + 0.08 * smooth((h, w), 5, rng)
    solid = smooth((h, w), 2, rng) < 2.0
    filled = (inside < np.quantile(inside, places / (h * w))) & solid
    parts, _ = ndimage.label(filled)
    biggest: np.ndarray = parts == np.argmax(np.bincount(parts[parts > 0]))
    return biggest


def grown(free: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray | None:
    """(h, w) bool: a connected region of n free places, from a place drawn by lot; or None."""
    start = tuple(rng.choice(np.argwhere(free)))
    y, x = np.indices(free.shape)
    order = np.hypot(y - start[0], x - start[1]) * (1 + 0.25 * smooth(free.shape, 2, rng))
    region, waiting, seen = np.zeros_like(free), [(0.0, *map(int, start))], {start}
    for _ in range(n):
        if not waiting:
            return None
        _, row, column = heapq.heappop(waiting)
        region[row, column] = True
        for there in ((row, column + 1), (row, column - 1), (row + 1, column), (row - 1, column)):
            on_grid = 0 <= there[0] < free.shape[0] and 0 <= there[1] < free.shape[1]
            if on_grid and there not in seen and free[there]:
                seen.add(there)
                heapq.heappush(waiting, (float(order[there]), *there))
    return region


def regions(
    mask: np.ndarray, sizes: Sequence[int], apart: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Connected regions of those sizes within the tissue, at least so far from each other."""
    while True:
        free, made = mask.copy(), []
        for size in sizes:
            region = grown(free, size, rng) if free.any() else None
            if region is None:
                break
            made.append(region)
            free &= ndimage.distance_transform_cdt(~region, "chessboard") > apart
        if len(made) == len(sizes):
            return made


class Gathered:
    """Features of a slide, looked up when they are asked for: slides share their patches."""

    def __init__(self, every: np.ndarray, rows: np.ndarray) -> None:
        self.every, self.rows = every, rows
        self.shape = (len(rows), every.shape[1])

    def __getitem__(self, which: slice) -> np.ndarray:
        found: np.ndarray = self.every[self.rows[which]]
        return found


def laid_out(
    patches: Patches, mask: np.ndarray, rows: np.ndarray, name: str, **labels: Any
) -> SlideExample:
    """Make a slide of the patches in `rows` (h, w), in raster order."""
    y, x = np.nonzero(mask)
    features = Gathered(patches.features, rows[mask])
    return SlideExample(features, np.stack([x, y], axis=1), name=name, **labels)


def benign(patches: Patches, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.zeros(mask.shape, np.int64)
    rows[mask] = patches.some(BENIGN, int(mask.sum()), 12, rng)
    return rows


def with_region(patches: Patches, pair: int, places: int, seed: list[int]) -> list[SlideExample]:
    """Task (a): one slide of each class."""
    slides = []
    for label in (0, 1):
        rng = np.random.default_rng([*seed, pair, label])
        mask = tissue(places, rng)
        rows = benign(patches, mask, rng)
        if label:
            n = round(rng.uniform(0.01, 0.02) * mask.sum())
            (region,) = regions(mask, [n], 0, rng)
            rows[region] = patches.some(int(rng.choice([ADENO, SQUAMOUS])), n, 2, rng)
        slides.append(laid_out(patches, mask, rows, f"{pair}-{label}", label=label))
    return slides


def twins(patches: Patches, pair: int, places: int, seed: list[int]) -> list[SlideExample]:
    """Task (b): the same patches apart (0) and mixed (1)."""
    rng = np.random.default_rng([*seed, pair])
    mask = tissue(places, rng)
    n = round(rng.uniform(0.15, 0.20) * mask.sum())
    first, second = regions(mask, [n, n], 3, rng)
    rows = benign(patches, mask, rng)
    kinds = [patches.some(kind, n, 4, rng) for kind in (ADENO, SQUAMOUS)]
    clumps = smooth(mask.shape, 0.7, rng)
    within = np.argwhere(first | second)
    ordered = within[np.argsort(clumps[tuple(within.T)])]
    mixed = (ordered[:n], ordered[n:])
    slides = []
    for label, where in enumerate(((np.argwhere(first), np.argwhere(second)), mixed)):
        for kind, here in zip(kinds, where, strict=True):
            rows[tuple(here.T)] = rng.permutation(kind)
        slides.append(laid_out(patches, mask, rows, f"{pair}-{label}", label=label))
    apart, together = (np.sort(each.features.rows) for each in slides)
    assert np.array_equal(apart, together)  # the same bag
    return slides


def with_map(patches: Patches, pair: int, places: int, seed: list[int]) -> list[SlideExample]:
    """Task (c): two slides with patch labels, squamous-cell carcinoma against all else."""
    slides = []
    for half in (0, 1):
        rng = np.random.default_rng([*seed, pair, half])
        mask = tissue(places, rng)
        rows, truth = benign(patches, mask, rng), np.zeros(mask.shape, np.int8)
        sizes = [round(rng.uniform(0.02, 0.08) * mask.sum()) for _ in range(4)]
        for number, region in enumerate(regions(mask, sizes, 1, rng)):
            kind = (ADENO, SQUAMOUS)[number % 2]
            rows[region] = patches.some(kind, sizes[number], 3, rng)
            truth[region] = kind == SQUAMOUS
        slides.append(laid_out(patches, mask, rows, f"{pair}-{half}", patch_labels=truth[mask]))
    return slides


Draw = Callable[[Patches, int, int, list[int]], list[SlideExample]]


def drawn(
    draw: Draw, parts: dict[str, Patches], counts: dict[str, int], places: int, seed: int
) -> dict[str, list[SlideExample]]:
    return {
        part: [
            slide
            for pair in range(counts[part] // 2)
            for slide in draw(parts[part], pair, places, [seed, number])
        ]
        for number, part in enumerate(PARTS)
    }


def shuffled(slides: Sequence[SlideExample]) -> list[SlideExample]:
    """The same patches at each other's places, still in raster order."""
    rng, changed = np.random.default_rng(0), []
    for each in slides:
        rows = Gathered(each.features.every, rng.permutation(each.features.rows))
        changed.append(dataclasses.replace(each, features=rows))
    return changed
