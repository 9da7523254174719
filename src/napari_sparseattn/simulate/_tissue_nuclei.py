"""Nuclei of simulated tissue: a bank of shapes, and drawing many of them at once.

Sizes are of the order of textbooks' (lymphocyte 6 µm, benign epithelium 5.5 x 8 µm,
fibroblast 3 x 12 µm); shapes and chromatin are chosen by eye.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

__all__ = ["ANGLES", "KINDS", "VARIANTS", "Bank", "Kind", "bank", "splat"]

Array = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of nucleus.

    Parameters
    ----------
    length, width : float
        Mean axes in µm.
    spread : float
        Standard deviation of the size over its mean.
    wobble : float
        How irregular the outline is, as a share of the radius.
    darkness : float
        Haematoxylin, in the unit of the slide's stain.
    mottle : float
        Contrast of the chromatin.
    """

    length: float
    width: float
    spread: float
    wobble: float
    darkness: float
    mottle: float


#: Fibroblast, benign epithelium, lymphocyte, tumour. The last two are equally dark.
KINDS = (
    Kind(11.5, 2.9, 0.12, 0.05, 1.0, 0.12),
    Kind(8.0, 5.4, 0.07, 0.04, 0.95, 0.18),
    Kind(6.2, 5.8, 0.06, 0.03, 1.4, 0.15),
    Kind(12.0, 9.0, 0.16, 0.11, 1.4, 0.30),
)
#: Orientations over half a turn, and shapes of each.
ANGLES, VARIANTS = 8, 6
_REACH_UM = 9.5
_FINE_UM = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Shapes of nuclei at one pixel size.

    Parameters
    ----------
    cover : numpy.ndarray, shape (kinds, ANGLES * VARIANTS, side * side)
        Share of each pixel that the nucleus covers.
    dark : numpy.ndarray, same shape
        Cover times haematoxylin.
    side : int
        Of a shape's square, in pixels.
    area : numpy.ndarray, shape (kinds,)
        Mean area in µm².
    """

    cover: Array
    dark: Array
    side: int
    area: Array


@functools.lru_cache(maxsize=16)
def bank(pixel: float) -> Bank:
    """Return the shapes at a pixel size in µm: always the same ones."""
    side = math.ceil(2 * _REACH_UM / pixel) + 1
    finer = max(1, round(pixel / _FINE_UM))
    axis = (np.arange(side * finer) + 0.5) / finer - side / 2
    y, x = np.meshgrid(axis * pixel, axis * pixel, indexing="ij")
    rng = np.random.default_rng(0)
    cover = np.empty((len(KINDS), ANGLES * VARIANTS, side, side), np.float32)
    dark = np.empty_like(cover)
    for k, kind in enumerate(KINDS):
        for n in range(ANGLES * VARIANTS):
            inside, density = _shape(rng, kind, (n // VARIANTS) * math.pi / ANGLES, y, x)
            blocks = (side, finer, side, finer)
            cover[k, n] = inside.reshape(blocks).mean((1, 3))
            dark[k, n] = (inside * density).reshape(blocks).mean((1, 3))
    flat = (len(KINDS), ANGLES * VARIANTS, side * side)
    area = cover.sum((2, 3)).mean(1) * np.float32(pixel**2)
    return Bank(cover.reshape(flat), dark.reshape(flat), side, area)


def _shape(
    rng: np.random.Generator,
    kind: Kind,
    angle: float,
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
) -> tuple[Array, Array]:
    """Whether places lie inside of a nucleus, and its density, whose mean is its darkness."""
    size = float(np.clip(1 + kind.spread * rng.standard_normal(), 0.6, 1.35))
    long, wide = kind.length * size / 2, kind.width * size / 2
    along = y * math.sin(angle) + x * math.cos(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    rho = np.hypot(along / long, across / wide)
    theta = np.arctan2(across / wide, along / long)
    edge = np.ones_like(rho)
    # Drawn whether or not it is needed, so that every pixel size draws the same shapes.
    for order, (height, phase) in enumerate(rng.uniform(0, 1, (4, 2)) * (2, 2 * math.pi), 2):
        edge += kind.wobble * (height - 1) * 1.6 / (order - 1) * np.cos(order * theta + phase)
    inside = rho < edge
    mottle = ndi.zoom(rng.standard_normal((12, 12)), 2, order=1)
    rows, columns = (((axis / _REACH_UM + 1) * 12).clip(0, 23).astype(int) for axis in (y, x))
    density = 1 + kind.mottle * mottle[rows, columns] + kind.mottle * (rho / edge) ** 4
    density = np.clip(density, 0.25, 2.2)
    density *= kind.darkness / max(float(density[inside].mean()), 1e-6)
    return inside.astype(np.float32), density.astype(np.float32)


def splat(
    shapes: Bank,
    shape: tuple[int, int],
    rows: Ints,
    columns: Ints,
    kinds: Ints,
    variants: Ints,
    darkness: Array,
) -> tuple[Array, Array]:
    """Draw N nuclei on an empty canvas.

    Parameters
    ----------
    shapes : Bank
        At the canvas's pixel size.
    shape : (int, int)
        Of the canvas.
    rows, columns : numpy.ndarray, shape (N,)
        Pixels of their centres; may lie outside.
    kinds, variants : numpy.ndarray, shape (N,)
        Which shapes.
    darkness : numpy.ndarray, shape (N,)
        Factor of each nucleus's haematoxylin.

    Returns
    -------
    cover, dark : numpy.ndarray, of the canvas's shape, float32
        Share of each pixel that is covered, more than 1 where nuclei overlap,
        and cover times haematoxylin.
    """
    half, (height, width) = shapes.side // 2, shape
    near = (rows > -half - 1) & (rows < height + half + 1)
    near &= (columns > -half - 1) & (columns < width + half + 1)
    rows, columns, kinds, variants = rows[near], columns[near], kinds[near], variants[near]
    margin = 2 * half + 2
    wide = width + 2 * margin
    corner = (rows - half + margin) * wide + columns - half + margin
    steps = np.arange(shapes.side)
    places = corner[:, np.newaxis] + (steps[:, np.newaxis] * wide + steps).ravel()
    canvas = ((height + 2 * margin), wide)
    maps = []
    for values in (
        shapes.cover[kinds, variants],
        shapes.dark[kinds, variants] * darkness[near, np.newaxis],
    ):
        total = np.bincount(places.ravel(), values.ravel(), canvas[0] * canvas[1])
        whole = total.reshape(canvas)[margin : margin + height, margin : margin + width]
        maps.append(whole.astype(np.float32))
    return maps[0], maps[1]
