"""What a simulated tissue slide shows where: outline, regions, glands and fat, in µm.

Everything here is a function of the place alone, so that any part of any level
can be drawn without the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ._tissue_noise import hash_places, noise_at, noise_grid

__all__ = ["FAT", "GLAND", "Array", "Floats", "Lattice", "Plan", "Region", "Round", "plan"]

Array = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.floating[Any]]
# The noise of a number and a wavelength, at the places at hand.
Noise = Callable[[int, float], Array | np.float32]

#: Where a region has turned into what surrounds it, in µm.
_BORDER_UM = 30.0
_WARP, _FINE_WARP = 300.0, 55.0
# Places along a block of a lattice, and blocks of 3 KiB that are kept.
_BLOCK, _MOST_BLOCKS = 16, 4096
# Each random quantity has its own number.
(
    _OUTLINE, _OUTLINE_FINER, _EDGE, _EDGE_FINER, _REGION, _REGION_FINER, _REGION_EDGE, _QUARTER,
    _WARP_Y, _WARP_X, _FINE_WARP_Y, _FINE_WARP_X, _LATTICE,
) = range(13)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Region:
    """A region of crowded nuclei: an infiltrate of lymphocytes, or tumour.

    Parameters
    ----------
    y, x, radius : float
        In µm.
    tumour : bool
        Which of the two.
    """

    y: float
    x: float
    radius: float
    tumour: bool


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Round structures, at most one in each place of a warped lattice.

    Parameters
    ----------
    salt : int
        Of its random numbers.
    cell : float
        Distance of the places in µm.
    least, most : float
        Radii in µm.
    share : float
        Of the places that hold one, where the tissue is of that kind.
    """

    salt: int
    cell: float
    least: float
    most: float
    share: float


GLAND = Lattice(100, 128.0, 38.0, 60.0, 0.9)
FAT = Lattice(200, 62.0, 23.0, 30.5, 0.97)


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """The nearest structure of a lattice, at each place.

    Parameters
    ----------
    rho : numpy.ndarray
        Distance from its centre over its radius; large where there is none.
    radius : numpy.ndarray
        In µm.
    """

    rho: Array
    radius: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One slide.

    Parameters
    ----------
    seed : int
        Of all that is random.
    height, width : float
        In µm.
    centre, axes : (float, float)
        Of the ellipse that the tissue follows, in µm.
    regions : tuple of Region
        Disjoint.
    """

    seed: int
    height: float
    width: float
    centre: tuple[float, float]
    axes: tuple[float, float]
    regions: tuple[Region, ...]
    _kept: dict[tuple[int, int, int], Array] = dataclasses.field(default_factory=dict)

    def depth(self, y: Floats, x: Floats, least: float = 0.0) -> Array:
        """How far inside of the tissue rows y and columns x are, in µm; negative outside.

        Waves shorter than `least` µm are left out.
        """

        def noise(salt: int, wavelength: float) -> Array | np.float32:
            if wavelength < least:
                return np.float32(0)
            return noise_grid(self.seed, salt, wavelength, y, x)

        return self._depth(y[:, np.newaxis], x[np.newaxis], noise)

    def depth_at(self, y: Floats, x: Floats) -> Array:
        """`depth` at single places."""
        return self._depth(y, x, lambda salt, length: noise_at(self.seed, salt, length, y, x))

    def region(self, y: Floats, x: Floats, least: float = 0.0) -> tuple[Array, Array]:
        """Share of a region, and of tumour, at rows y and columns x: 0 to 1."""

        def noise(salt: int, wavelength: float) -> Array | np.float32:
            if wavelength < least:
                return np.float32(0)
            return noise_grid(self.seed, salt, wavelength, y, x)

        return self._region(y[:, np.newaxis], x[np.newaxis], noise, max(least / 2, _BORDER_UM))

    def region_at(self, y: Floats, x: Floats) -> tuple[Array, Array]:
        """`region` at single places."""

        def noise(salt: int, wavelength: float) -> Array:
            return noise_at(self.seed, salt, wavelength, y, x)

        return self._region(y, x, noise, _BORDER_UM)

    def quarter(self, y: Floats, x: Floats) -> Array:
        """What kind of benign tissue: fat below -0.75, glands above -0.25, stroma between."""
        return noise_grid(self.seed, _QUARTER, 700.0, y, x)

    def warp(self, y: Floats, x: Floats, least: float = 0.0) -> tuple[Array, Array]:
        """Displacement in µm, which makes lattices and fibres irregular."""
        down = 45 * noise_grid(self.seed, _WARP_Y, _WARP, y, x)
        across = 45 * noise_grid(self.seed, _WARP_X, _WARP, y, x)
        if least < _FINE_WARP:
            down += 5 * noise_grid(self.seed, _FINE_WARP_Y, _FINE_WARP, y, x)
            across += 5 * noise_grid(self.seed, _FINE_WARP_X, _FINE_WARP, y, x)
        return down, across

    def nearest(self, lattice: Lattice, v: Array | Floats, u: Array | Floats) -> Round:
        """The structures at warped places v, u in µm (h, w)."""
        cell = lattice.cell
        row = np.floor(v / cell).astype(np.int64)
        # Every other row is shifted by half a place, as bricks are.
        shifted = u / cell + 0.5 * (row & 1)
        column = np.floor(shifted).astype(np.int64)
        first, start = int(row.min()) // _BLOCK, int(column.min()) // _BLOCK
        middle_y, middle_x, radius = self._laid(
            lattice, range(first, int(row.max()) // _BLOCK + 1),
            range(start, int(column.max()) // _BLOCK + 1),
        )  # fmt: skip
        index = row - first * _BLOCK, column - start * _BLOCK
        dy = (v - cell * row).astype(np.float32) - middle_y[index]
        dx = cell * (shifted - column).astype(np.float32) - middle_x[index]
        reach = radius[index]
        rho = np.sqrt(dy * dy + dx * dx) / np.maximum(reach, 1e-3)
        rho[reach == 0] = 9
        return Round(rho, np.maximum(reach, np.float32(lattice.least)))

    def _laid(self, lattice: Lattice, rows: range, columns: range) -> npt.NDArray[np.float32]:
        """`_places` of whole blocks, (3, rows, columns); they are kept, for the next tile."""
        lines = []
        for row in rows:
            line = []
            for column in columns:
                key = (lattice.salt, row, column)
                block = self._kept.get(key)
                if block is None:
                    if len(self._kept) >= _MOST_BLOCKS:
                        self._kept.clear()
                    inside = np.arange(_BLOCK)
                    block = np.stack(self._places(
                        lattice, (row * _BLOCK + inside)[:, np.newaxis],
                        (column * _BLOCK + inside)[np.newaxis],
                    ))  # fmt: skip
                    self._kept[key] = block
                line.append(block)
            lines.append(np.concatenate(line, axis=2))
        return np.concatenate(lines, axis=1)

    def _places(
        self, lattice: Lattice, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
    ) -> tuple[Array, Array, Array]:
        """Centres within their places and radii in µm, 0 where the place is empty."""
        salt, cell = lattice.salt, lattice.cell
        draws = [hash_places(self.seed, salt + n, rows, columns) for n in range(4)]
        radius = lattice.least + (lattice.most - lattice.least) * draws[0]
        slack = cell / 2 - radius
        middle_y = cell / 2 + slack * (2 * draws[1] - 1)
        middle_x = cell / 2 + slack * (2 * draws[2] - 1)
        # The warp at the warped place stands in for that at the place itself.
        v = (rows * cell + middle_y).astype(np.float64)
        u = (columns - 0.5 * (rows & 1)) * cell + middle_x
        y = v - 45 * noise_at(self.seed, _WARP_Y, _WARP, v, u)
        x = u - 45 * noise_at(self.seed, _WARP_X, _WARP, v, u)
        quarter = noise_at(self.seed, _QUARTER, 700.0, y, x)
        fits = quarter > -0.25 if lattice is GLAND else quarter < -0.75
        fits &= draws[3] < lattice.share
        fits &= self.depth_at(y, x) > radius + 15
        fits &= self.region_at(y, x)[0] < 0.02
        return middle_y, middle_x, np.where(fits, radius, 0).astype(np.float32)

    def _depth(self, y: Floats, x: Floats, noise: Noise) -> Array:
        least = min(self.axes)
        down = (y - self.centre[0]) / self.axes[0]
        across = (x - self.centre[1]) / self.axes[1]
        inside = 1 - np.sqrt(down * down + across * across).astype(np.float32)
        waves = 0.17 * noise(_OUTLINE, 0.8 * least) + 0.05 * noise(_OUTLINE_FINER, 0.25 * least)
        fine = 10 * noise(_EDGE, 130.0) + 3 * noise(_EDGE_FINER, 30.0)
        depth: Array = (inside + waves) * np.float32(least) + fine
        return depth

    def _region(self, y: Floats, x: Floats, noise: Noise, border: float) -> tuple[Array, Array]:
        shape = np.broadcast_shapes(y.shape, x.shape)
        share, tumour = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        if not self._near(y, x):
            return share, tumour
        size = float(np.mean([region.radius for region in self.regions]))
        wave = 0.24 * noise(_REGION, 0.9 * size) + 0.1 * noise(_REGION_FINER, 0.35 * size)
        fine = 8 * noise(_REGION_EDGE, 90.0)
        for region in self.regions:
            away = np.hypot(y - region.y, x - region.x).astype(np.float32)
            inside = region.radius * (1 + wave) - away + fine
            own = np.clip(inside / np.float32(border) + 0.5, 0, 1)
            share = np.maximum(share, own)
            if region.tumour:
                tumour = np.maximum(tumour, own)
        return share, tumour

    def _near(self, y: Floats, x: Floats) -> bool:
        """Whether any region reaches into the rectangle around the places."""
        for region in self.regions:
            reach = 2 * region.radius + 100
            if (
                y.min() - reach < region.y < y.max() + reach
                and x.min() - reach < region.x < x.max() + reach
            ):
                return True
        return False


def plan(height: float, width: float, kind: Literal["benign", "tumour"], seed: int) -> Plan:
    """Lay out a slide of height x width µm.

    Both kinds draw the same random numbers: of one seed, they differ in what
    fills some of the regions, and in nothing else.
    """
    rng = np.random.default_rng([seed, 1])
    centre = height * rng.uniform(0.47, 0.53), width * rng.uniform(0.47, 0.53)
    axes = height * rng.uniform(0.36, 0.44), width * rng.uniform(0.36, 0.44)
    bare = Plan(seed, height, width, centre, axes, ())
    wanted = int(rng.integers(2, 4))
    n_tumour = int(rng.integers(1, wanted))
    radii = min(axes) * rng.uniform(0.17, 0.25, wanted)
    regions: list[Region] = []
    for y, x in rng.uniform(0, 1, (400, 2)) * (height, width):
        if len(regions) == wanted:
            break
        radius = float(radii[len(regions)])
        apart = [math.hypot(y - r.y, x - r.x) > 1.6 * (radius + r.radius) for r in regions]
        inside = float(bare.depth_at(np.array([y]), np.array([x]))[0]) > 1.1 * radius
        if inside and all(apart):
            tumour = kind == "tumour" and len(regions) < n_tumour
            regions.append(Region(float(y), float(x), radius, tumour))
    return dataclasses.replace(bare, regions=tuple(regions))
