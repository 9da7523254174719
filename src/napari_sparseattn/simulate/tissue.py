"""Simulated slides of stained tissue, drawn piece by piece when they are read.

Nothing here is measured: sizes are of the order of textbooks', colours and
textures are chosen by eye, absorption follows Beer and Lambert's law. A slide
has regions of crowded nuclei. In a benign one all are infiltrates of
lymphocytes; in one with tumour, some of them hold large, irregular nuclei,
which absorb as much in the mean. Of one seed, the two kinds of slide are the
same in everything else: outline, glands, fat, stain and noise. So the class
cannot be told from the colour of a region, nor from a thumbnail in which nuclei
are smaller than a pixel, but only by looking closely at the right places.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from ..images.slides.pyramid import VirtualPyramid
from ._tissue_noise import hash_places, noise_grid
from ._tissue_nuclei import ANGLES, KINDS, VARIANTS, bank, splat
from ._tissue_plan import (
    FAT,
    GLAND,
    Array,
    Floats,
    Plan,
    plan,
)

__all__ = ["TissueTruth", "simulated_slide"]

_LARGEST = 200_000
# Optical density of unit haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001).
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.07, 0.99, 0.11], np.float32)
# Distances in µm of the places that hold at most one small, or one large, nucleus.
_SMALL, _LARGE = 7.0, 12.0
# Coarser pixels than these show means instead of nuclei, glands, fat, and fibres.
_NUCLEI_UM, _GLANDS_UM, _FAT_UM, _FIBRES_UM = 4.5, 20.0, 10.0, 4.5
_TEXTURE, _TEXTURE_UM = 512, 0.5
_CLUSTER, _THICKNESS, _PLACE = 50, 51, 60
# Makes tumour absorb as much as an infiltrate does, in the mean over 24 slides.
_TUMOUR_CHANCE = np.float32(0.472)
_FIBROBLAST, _EPITHELIUM, _LYMPHOCYTE, _TUMOUR = range(len(KINDS))


@dataclasses.dataclass(frozen=True, eq=False)
class TissueTruth:
    """Where a simulated slide holds tissue and tumour.

    Positions are in pixels of level 0, pixels' corners at whole numbers.

    Parameters
    ----------
    kind : {"benign", "tumour"}
        The slide's class.
    pixel_size : float
        µm per pixel.
    shape : (int, int)
        Of level 0.
    """

    kind: Literal["benign", "tumour"]
    pixel_size: float
    shape: tuple[int, int]
    _plan: Plan

    def tissue(self, y: npt.ArrayLike, x: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether there is tissue at places y, x, which broadcast; lumina and fat count."""
        rows, columns = self._um(y, x)
        return np.asarray(self._plan.depth_at(rows, columns) > 0)

    def is_tumour(self, y: npt.ArrayLike, x: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether there is tumour at places y, x, which broadcast."""
        rows, columns = self._um(y, x)
        inside = self._plan.region_at(rows, columns)[1] > 0.5
        return np.asarray(inside & (self._plan.depth_at(rows, columns) > 0))

    @functools.cached_property
    def tumour_fraction(self) -> float:
        """Share of the tissue's area that is tumour, from about 250,000 places."""
        y, x = ((np.arange(500) + 0.5) * side / 500 for side in self.shape)
        tissue = self._plan.depth(y * self.pixel_size, x * self.pixel_size) > 0
        tumour = self._plan.region(y * self.pixel_size, x * self.pixel_size)[1] > 0.5
        return float((tissue & tumour).sum() / max(int(tissue.sum()), 1))

    @property
    def regions(self) -> tuple[tuple[float, float, float, bool], ...]:
        """Centre y, x and radius in pixels of the regions of crowded nuclei; whether tumour.

        Their outline is irregular; `is_tumour` knows it.
        """
        return tuple(
            (
                each.y / self.pixel_size,
                each.x / self.pixel_size,
                each.radius / self.pixel_size,
                each.tumour,
            )
            for each in self._plan.regions
        )

    def _um(self, y: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        rows, columns = np.broadcast_arrays(np.asarray(y, float), np.asarray(x, float))
        return rows * self.pixel_size, columns * self.pixel_size


def simulated_slide(
    height: int,
    width: int,
    *,
    kind: Literal["benign", "tumour"],
    seed: int,
    pixel_size: float = 0.5,
) -> tuple[VirtualPyramid, TissueTruth]:
    """Return a simulated tissue slide that is drawn when it is read, and its truth.

    Parameters
    ----------
    height, width : int
        In pixels of level 0.
    kind : {"benign", "tumour"}
        Whether some of its regions of crowded nuclei are tumour. Of one seed,
        the slides of both kinds are otherwise the same.
    seed : int
        Of all that is drawn at random, stain included.
    pixel_size : float
        µm per pixel.

    Returns
    -------
    pyramid : VirtualPyramid
        (H, W, 3) uint8 at levels of 1, 2, 4, ... down to a tile; what is drawn
        depends on seed and place alone, not on what was drawn before.
    truth : TissueTruth

    Raises
    ------
    ValueError
        If a size, the kind, the seed or the µm per pixel is not possible.
    """
    if kind not in ("benign", "tumour"):
        raise ValueError(f"kind must be 'benign' or 'tumour', got {kind!r}")
    if not (0.1 <= pixel_size <= 4):
        raise ValueError(f"pixel_size must be 0.1 to 4 µm per pixel, got {pixel_size!r}")
    if not all(256 <= side <= _LARGEST for side in (height, width)):
        raise ValueError(
            f"a slide must have 256 to {_LARGEST} pixels a side, got {height} x {width}"
        )
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    laid = plan(height * pixel_size, width * pixel_size, kind, seed)
    slide = _Slide(laid, pixel_size, _Stain.of(seed))
    pyramid = VirtualPyramid(
        slide.render, height, width, pixel_size=pixel_size, name=f"simulated tissue slide {seed}"
    )
    return pyramid, TissueTruth(kind, pixel_size, (height, width), laid)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stain:
    """How one slide is stained and lit."""

    haematoxylin: Array
    eosin: Array
    glass: Array
    fibres: tuple[float, float]

    @classmethod
    def of(cls, seed: int) -> _Stain:
        rng = np.random.default_rng([seed, 2])
        h = _HAEMATOXYLIN * rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
        e = _EOSIN * rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
        e += rng.uniform(0, 0.06) * np.array([1, 0, 1])
        glass = 243 + rng.uniform(-4, 6) + rng.uniform(-2, 2, 3)
        angle = rng.uniform(0, math.pi)
        fibres = math.sin(angle), math.cos(angle)
        return cls(h.astype(np.float32), e.astype(np.float32), glass.astype(np.float32), fibres)


@dataclasses.dataclass(frozen=True, eq=False)
class _Ground:
    """What lies where, apart from nuclei; each of one shape (h, w).

    `tissue` is the share of a pixel that is not glass; `region` and `tumour`
    as in `Plan.region`; `ring` the share of a gland's basal, nucleated ring,
    `gland` that of any gland, lumen included; `clusters` and `quarter` the
    places of lymphocytes' clusters and of fat; v, u are warped places in µm.
    """

    tissue: Array
    region: Array
    tumour: Array
    gland: Array
    ring: Array
    clusters: Array
    fat: Array
    v: Array | Floats
    u: Array | Floats


@dataclasses.dataclass(frozen=True, eq=False)
class _Slide:
    """Draws any part of any level."""

    plan: Plan
    pixel_size: float
    stain: _Stain

    def render(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Draw (height, width, 3) pixels of a level from row y, column x."""
        pixel = self.pixel_size * 2**level
        # One more on each side, for the objective's blur at full resolution.
        rows = (np.arange(y - 1, y + height + 1) + 0.5) * pixel
        columns = (np.arange(x - 1, x + width + 1) + 0.5) * pixel
        light = self._light(rows, columns, pixel, (y - 1, x - 1))
        if level == 0:
            light = (light[:, :-2] + 2 * light[:, 1:-1] + light[:, 2:]) / 4
            light = (light[..., :-2] + 2 * light[..., 1:-1] + light[..., 2:]) / 4
        else:
            light = light[:, 1:-1, 1:-1]
        light *= self.stain.glass[:, np.newaxis, np.newaxis]
        light += _camera_noise(y, x, height, width) / np.float32(level + 1)
        shown = np.clip(light + np.float32(0.5), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(shown.transpose(1, 2, 0))

    def _light(self, rows: Floats, columns: Floats, pixel: float, corner: tuple[int, int]) -> Array:
        """Share of the glass's light that comes through, (3, h, w)."""
        shape = len(rows), len(columns)
        depth = self.plan.depth(rows, columns, 2 * pixel)
        if depth.max() < -pixel:
            return np.ones((3, *shape), np.float32)
        ground = self._ground(rows, columns, pixel, depth)
        eosin, blue = self._stroma(ground, rows, columns, pixel)
        if pixel <= _NUCLEI_UM:
            cover, dark = self._nuclei(rows, columns, pixel, corner)
        else:
            cover, dark = _mean_nuclei(ground)
        h, e = (vector[:, np.newaxis, np.newaxis] for vector in self._vectors())
        # Where nuclei overlap, they absorb one after the other.
        cover = np.minimum(cover, 1)
        dark = dark / np.maximum(cover, np.float32(1e-3))
        through = np.exp(-(eosin * e + blue * h))
        through *= 1 - cover * (1 - np.exp(-dark * h))
        light: Array = 1 - ground.tissue * (1 - through)
        return light

    def _vectors(self) -> tuple[Array, Array]:
        return self.stain.haematoxylin, self.stain.eosin

    def _ground(self, rows: Floats, columns: Floats, pixel: float, depth: Array) -> _Ground:
        tissue = np.clip(depth / np.float32(pixel) + np.float32(0.5), 0, 1)
        region, tumour = self.plan.region(rows, columns, 2 * pixel)
        down, across = self.plan.warp(rows, columns, 2 * pixel)
        v, u = down + rows[:, np.newaxis], across + columns
        quarter = self.plan.quarter(rows, columns)
        clusters = self._clusters(rows, columns, pixel, region)
        gland, lumen, ring = self._glands(v, u, pixel, quarter, region, depth)
        fat, hollow = self._fat(v, u, pixel, quarter, region, depth)
        tissue = tissue * (1 - lumen) * (1 - hollow)
        return _Ground(tissue, region, tumour, gland, ring, clusters, fat, v, u)

    def _clusters(self, rows: Floats, columns: Floats, pixel: float, region: Array) -> Array:
        """Small clusters of lymphocytes, which are no region."""
        if pixel > 40:
            return np.full_like(region, 0.02)
        noise = noise_grid(self.plan.seed, _CLUSTER, 110.0, rows, columns)
        share: Array = np.clip(4 * (noise - np.float32(1.75)), 0, 1) * (1 - region)
        return share

    def _glands(
        self, v: Array, u: Array, pixel: float, quarter: Array, region: Array, depth: Array
    ) -> tuple[Array, Array, Array]:
        """Shares of glands, of their lumina, and of their basal rings."""
        if pixel <= _GLANDS_UM:
            found = self.plan.nearest(GLAND, v, u)
            return _gland_parts(found.rho, found.radius, pixel)
        where = np.clip((quarter + 0.25) / 0.3 + 0.5, 0, 1) * (1 - region)
        where = where * np.clip((depth - 60) / pixel + 0.5, 0, 1)
        gland, lumen, ring = (where * share for share in _gland_shares())
        return gland, lumen, ring

    def _fat(
        self, v: Array, u: Array, pixel: float, quarter: Array, region: Array, depth: Array
    ) -> tuple[Array, Array]:
        """Shares of fat, and of the empty vacuoles in it."""
        where = np.clip((-0.75 - quarter) / 0.3 + 0.5, 0, 1) * (1 - region)
        where = where * np.clip((depth - 40) / max(pixel, 10) + 0.5, 0, 1)
        if pixel <= _FAT_UM:
            if not (where > 0).any():
                return where, np.zeros_like(where)
            found = self.plan.nearest(FAT, v, u)
            edge = (np.float32(0.96) - found.rho) * found.radius / np.float32(pixel)
            return where, np.clip(edge + np.float32(0.5), 0, 1)
        return where, where * np.float32(_fat_share())

    def _stroma(
        self, ground: _Ground, rows: Floats, columns: Floats, pixel: float
    ) -> tuple[Array, Array]:
        """Eosin and diffuse haematoxylin of everything but nuclei."""
        fibre: Array | np.float32 = np.float32(0)
        if pixel <= _FIBRES_UM:
            fibre = self._fibres(ground, pixel)
        thick = 1 + 0.08 * noise_grid(self.plan.seed, _THICKNESS, 900.0, rows, columns)
        eosin = np.float32(0.42) * (1 + 0.42 * fibre)
        # Regions have the same ground, whichever their nuclei are.
        eosin = eosin + ground.region * (np.float32(0.34) * (1 + 0.2 * fibre) - eosin)
        eosin = eosin + ground.gland * (np.float32(0.36) * (1 + 0.1 * fibre) - eosin)
        eosin = eosin * (1 - 0.45 * ground.fat)
        blue = 0.02 + 0.06 * ground.region + 0.07 * ground.gland
        return (eosin * thick).astype(np.float32), (blue * thick).astype(np.float32)

    def _fibres(self, ground: _Ground, pixel: float) -> Array:
        """Wavy fibres, of mean 0 and spread 1 at full resolution."""
        texture = _fibre_texture(max(0, round(math.log2(pixel / _TEXTURE_UM))))
        sine, cosine = self.stain.fibres
        step = _TEXTURE_UM * _TEXTURE / len(texture)
        along = (ground.v * sine + ground.u * cosine) / step
        across = (ground.v * cosine - ground.u * sine) / step
        last = len(texture) - 1
        found: Array = texture[across.astype(np.int64) & last, along.astype(np.int64) & last]
        return found

    def _nuclei(
        self, rows: Floats, columns: Floats, pixel: float, corner: tuple[int, int]
    ) -> tuple[Array, Array]:
        """Share of each pixel that nuclei cover, and its haematoxylin."""
        found = []
        for cell in (_SMALL, _LARGE):
            if cell == _LARGE and not any(region.tumour for region in self.plan.regions):
                continue
            span = []
            for places in (rows, columns):
                low, high = (math.floor(p / cell) for p in (places[0] - 12, places[-1] + 12))
                span.append(np.arange(low, high + 1))
            found.append(self._nuclei_of(cell, *span))
        y, x, kind, variant, darkness = (np.concatenate(part) for part in zip(*found, strict=True))
        top, left = (
            np.floor(places / pixel).astype(np.int64) - start
            for places, start in zip((y, x), corner, strict=True)
        )
        canvas = len(rows), len(columns)
        return splat(bank(pixel), canvas, top, left, kind, variant, darkness)

    def _nuclei_of(
        self, cell: float, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.generic], ...]:
        """Places in µm, kinds, shapes and darkness of the nuclei of a lattice."""
        seed, salt = self.plan.seed, _PLACE + (10 if cell == _LARGE else 0)
        grid = rows[:, np.newaxis], columns[np.newaxis]
        middle_y, middle_x = (rows + 0.5) * cell, (columns + 0.5) * cell
        draw = [hash_places(seed, salt + n, *grid) for n in range(5)]
        # Jitter stays within the place, so that few nuclei overlap.
        dy, dx = ((0.7 * (d - 0.5) * cell).astype(np.float32) for d in draw[:2])
        depth = self.plan.depth(middle_y, middle_x)
        if cell == _LARGE:
            chances = _TUMOUR_CHANCE * self.plan.region(middle_y, middle_x)[1][np.newaxis]
        else:
            ground = self._ground_of_nuclei(middle_y, middle_x, depth, dy, dx)
            chances = _chances(ground)[:_TUMOUR]
        ends = np.cumsum(chances, axis=0)
        there = (draw[2] < ends[-1]) & (depth > 3)
        kind = (draw[2][there] >= ends[:, there]).sum(0) + (_TUMOUR if cell == _LARGE else 0)
        y = (middle_y[:, np.newaxis] + dy)[there]
        x = (middle_x + dx)[there]
        variant = self._variants(kind, draw[3][there], draw[4][there])
        darkness = 0.85 + 0.3 * draw[4][there]
        return y, x, kind.astype(np.int64), variant, darkness

    def _ground_of_nuclei(
        self, y: Floats, x: Floats, depth: Array, dy: Array, dx: Array
    ) -> _Ground:
        """The ground under nuclei that are off their places' middles by dy, dx."""
        region, tumour = self.plan.region(y, x)
        down, across = self.plan.warp(y, x)
        v, u = down + y[:, np.newaxis] + dy, across + x + dx
        quarter = self.plan.quarter(y, x)
        gland, lumen, ring = self._glands(v, u, 0.5, quarter, region, depth)
        fat, hollow = self._fat(v, u, 0.5, quarter, region, depth)
        tissue = (1 - lumen) * (1 - hollow)
        clusters = self._clusters(y, x, 0.5, region)
        return _Ground(tissue, region, tumour, gland, ring, clusters, fat, v, u)

    def _variants(
        self, kind: npt.NDArray[np.int64], turn: Array, which: Array
    ) -> npt.NDArray[np.int64]:
        """Shapes: fibroblasts lie along the fibres, more or less."""
        sine, cosine = self.stain.fibres
        along = math.atan2(sine, cosine) / math.pi + 0.35 * (turn - 0.5)
        angle = np.where(kind == _FIBROBLAST, along, turn) % 1
        number = (angle * ANGLES).astype(np.int64) % ANGLES
        # The finer digits of the number that also sets the darkness.
        shape = (which * 997 % 1 * VARIANTS).astype(np.int64) % VARIANTS
        found: npt.NDArray[np.int64] = number * VARIANTS + shape
        return found


def _chances(ground: _Ground) -> Array:
    """Chance of each kind of nucleus at its lattice's places, (kinds, h, w)."""
    free = ground.tissue * (1 - ground.gland)
    stroma = free * (1 - ground.region)
    infiltrate = ground.region - ground.tumour
    few = 1 - 0.7 * ground.fat
    return np.stack([
        few * (0.075 * stroma + 0.03 * free * ground.region),
        0.85 * ground.ring + 0.04 * (ground.gland - ground.ring) * ground.tissue,
        few * (0.02 * stroma + 0.45 * stroma * ground.clusters)
        + free * (0.55 * infiltrate + 0.05 * ground.tumour),
        free * _TUMOUR_CHANCE * ground.tumour,
    ]).astype(np.float32)  # fmt: skip


def _mean_nuclei(ground: _Ground) -> tuple[Array, Array]:
    """Cover and haematoxylin where nuclei are smaller than pixels."""
    chances = _chances(ground)
    # `tissue` is the share that is not glass; the chance within it is wanted.
    chances = chances / np.maximum(ground.tissue, np.float32(0.05))
    area = bank(0.5).area
    per_place = area / np.array([_SMALL, _SMALL, _SMALL, _LARGE], np.float32) ** 2
    cover = chances * per_place[:, np.newaxis, np.newaxis]
    darkness = np.array([kind.darkness for kind in KINDS], np.float32)
    return cover.sum(0), (cover * darkness[:, np.newaxis, np.newaxis]).sum(0)


def _gland_parts(rho: Array, radius: Array, pixel: float) -> tuple[Array, Array, Array]:
    def within(edge: float) -> Array:
        sharp = (np.float32(edge) - rho) * radius / np.float32(pixel)
        return np.clip(sharp + np.float32(0.5), 0, 1)

    gland, lumen = within(1.0), within(0.5)
    return gland, lumen, np.maximum(within(0.93) - within(0.74), 0)


@functools.lru_cache(maxsize=1)
def _gland_shares() -> tuple[float, float, float]:
    """Mean shares of `_gland_parts` where glands are."""
    reach = np.linspace(GLAND.least, GLAND.most, 50)
    squares = GLAND.share * math.pi * float((reach**2).mean()) / GLAND.cell**2
    return squares, 0.5**2 * squares, (0.93**2 - 0.74**2) * squares


@functools.lru_cache(maxsize=1)
def _fat_share() -> float:
    reach = np.linspace(FAT.least, FAT.most, 50)
    return FAT.share * math.pi * float(((0.96 * reach) ** 2).mean()) / FAT.cell**2


@functools.lru_cache(maxsize=8)
def _fibre_texture(level: int) -> Array:
    """A periodic texture of fibres, reduced by 2**level; spread 1 at level 0."""
    rng = np.random.default_rng(0)
    fine = ndi.gaussian_filter(rng.standard_normal((_TEXTURE, _TEXTURE)), (1.6, 22), mode="wrap")
    broad = ndi.gaussian_filter(rng.standard_normal((_TEXTURE, _TEXTURE)), (7, 45), mode="wrap")
    texture = fine / fine.std() + 0.9 * broad / broad.std()
    texture = np.clip(texture / texture.std(), -2, 2.2)
    texture -= texture.mean()
    side = _TEXTURE >> level
    reduced: Array = texture.reshape(side, 2**level, side, 2**level).mean((1, 3))
    return reduced.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _noise_texture() -> Array:
    return np.random.default_rng(1).normal(0, 1.6, (3, 256, 256)).astype(np.float32)


def _camera_noise(y: int, x: int, height: int, width: int) -> Array:
    """Noise in grey levels that depends on the place alone."""
    rows, columns = np.arange(y, y + height) & 255, np.arange(x, x + width) & 255
    found: Array = _noise_texture()[:, rows[:, np.newaxis], columns[np.newaxis]]
    return found
