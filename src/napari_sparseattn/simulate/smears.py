"""Simulated stained smears, for samples, tests and measurements of speed.

Absorption follows Beer and Lambert's law and red cells have Evans and Fung's
(1972) thickness; shapes of nuclei, stain colours and textures are chosen by eye.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from ..images.fields.cells import Cells
from ..images.fields.field import Field
from .bodies import (
    RED_CELL_RADIUS_UM,
    check_size,
    red_cell_thickness,
)

__all__ = ["opd_cells", "smear", "smear_with_truth", "tile_field"]

_DELTA_N = 0.06
# Optical density in R, G, B of the stains where they are thickest.
_HAEMOGLOBIN = np.array([0.16, 0.34, 0.30], np.float32)
_NUCLEUS = np.array([1.05, 1.55, 0.50], np.float32)
_BASOPHILIC = np.array([0.34, 0.36, 0.08], np.float32)
_NEUTRAL = np.array([0.16, 0.26, 0.10], np.float32)
_EOSIN = np.array([0.14, 0.62, 0.52], np.float32)
_PLATELET = np.array([0.48, 0.62, 0.22], np.float32)

Array = npt.NDArray[np.float32]


@dataclasses.dataclass
class _Canvas:
    """Optical density of a smear, stamped cell by cell."""

    density: Array
    pixel_size: float
    rng: np.random.Generator

    def polar(self, centre: tuple[float, float], reach: float) -> tuple[Any, Array, Array]:
        """Slices of the patch within `reach` µm, and its y and x in µm."""
        spans = []
        for position, length in zip(centre, self.density.shape[:2], strict=True):
            low = int(np.clip(math.floor(position - reach / self.pixel_size), 0, length))
            high = int(np.clip(math.ceil(position + reach / self.pixel_size) + 1, low, length))
            spans.append(slice(low, high))
        grid = np.ogrid[tuple(spans)]
        y, x = ((g - c) * self.pixel_size for g, c in zip(grid, centre, strict=True))
        rows = np.broadcast_to(y, np.broadcast_shapes(y.shape, x.shape)).astype(np.float32)
        columns = np.broadcast_to(x, rows.shape).astype(np.float32)
        return tuple(spans), rows, columns

    def add(self, where: Any, amount: Array, stain: Array) -> None:
        self.density[where] += amount[..., np.newaxis] * stain

    def replace(self, where: Any, cover: Array, amount: Array, stain: Array) -> None:
        """A dense body displaces what is under it."""
        patch = self.density[where]
        patch += cover[..., np.newaxis] * (amount[..., np.newaxis] * stain - patch)

    def edge(self, rho: Array, radius: float) -> Array:
        """1 inside of rho = 1, 0 outside, over one pixel between."""
        inside: Array = np.clip((1 - rho) * radius / self.pixel_size + 0.5, 0, 1)
        return inside.astype(np.float32)

    def texture(self, shape: tuple[int, ...], grain: float, contrast: float) -> Array:
        """Mottle with mean 1; `grain` in µm."""
        noise = ndi.gaussian_filter(self.rng.standard_normal(shape), grain / self.pixel_size)
        spread = noise.std() if noise.size > 1 else 1.0
        mottle: Array = np.clip(1 + contrast * noise / max(float(spread), 1e-9), 0.3, 2)
        return mottle.astype(np.float32)


def smear(
    shape: tuple[int, int] = (480, 640),
    seed: int = 0,
    n_white: int = 4,
    pixel_size: float = 0.25,
) -> Field:
    """Draw a simulated stained blood smear, (H, W, 3) uint8, brightfield.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    seed : int
        Of all that is drawn at random.
    n_white : int
        White cells, fewer where there is no room: neutrophils, lymphocytes,
        monocytes and eosinophils in turn.
    pixel_size : float
        µm per pixel.

    Returns
    -------
    Field
        Named "simulated smear".

    Raises
    ------
    ValueError
        If a size is not positive.
    """
    return smear_with_truth(shape, seed, n_white, pixel_size)[0]


def smear_with_truth(
    shape: tuple[int, int] = (480, 640),
    seed: int = 0,
    n_white: int = 4,
    pixel_size: float = 0.25,
) -> tuple[Field, Cells]:
    """Draw a smear as `smear` does; also return where its white cells are."""
    check_size(shape, pixel_size)
    rng = np.random.default_rng(seed)
    canvas = _Canvas(np.zeros((*shape, 3), np.float32), pixel_size, rng)
    inner = 7.0 / pixel_size
    white = _scatter(rng, shape, n_white, 20.0 / pixel_size, inner, np.zeros((0, 2)))
    area = shape[0] * shape[1] * pixel_size**2
    red = _scatter(
        rng, shape, round(area / 130), 6.8 / pixel_size, -6 / pixel_size, white, 11.5 / pixel_size
    )
    taken = np.concatenate([white, red])
    platelets = _scatter(
        rng, shape, round(area / 1200), 3 / pixel_size, 0.0, taken, 5.6 / pixel_size
    )
    for centre in red:
        _red_cell(canvas, tuple(centre))
    for centre in platelets:
        _platelet(canvas, tuple(centre))
    kinds: list[Callable[[_Canvas, tuple[float, float]], float]] = [
        _neutrophil,
        _lymphocyte,
        _monocyte,
        _eosinophil,
    ]
    radii = np.array([kinds[n % 4](canvas, tuple(c)) for n, c in enumerate(white)]) / pixel_size
    rgb = _expose(canvas)
    field = Field(rgb, "YXC", pixel_size, "brightfield", "", "simulated smear")
    return field, _truth(white, radii, shape, pixel_size)


def opd_cells(
    shape: tuple[int, int] = (256, 256),
    seed: int = 0,
    pixel_size: float = 0.2,
    noise: float = 2.0,
) -> Field:
    """Draw simulated optical path differences of red cells and spheres, in nm.

    OPD is the refractive index difference times the thickness, blurred as by
    an objective; half of the cells are red cells (Evans and Fung, difference
    0.06), half homogeneous spheres (0.02 to 0.03) as of lymphocytes.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    seed : int
        Of all that is drawn at random.
    pixel_size : float
        µm per pixel.
    noise : float
        Standard deviation in nm.

    Returns
    -------
    Field
        float32, modality ``"opd"``, named "simulated OPD cells".

    Raises
    ------
    ValueError
        If a size is not positive.
    """
    check_size(shape, pixel_size)
    rng = np.random.default_rng(seed)
    canvas = _Canvas(np.zeros((*shape, 1), np.float32), pixel_size, rng)
    count = round(shape[0] * shape[1] * pixel_size**2 / 250)
    places = _scatter(rng, shape, count, 11 / pixel_size, 5 / pixel_size, np.zeros((0, 2)))
    for n, centre in enumerate(places):
        where, y, x = canvas.polar(tuple(centre), 6.0)
        distance = np.hypot(y, x)
        if n % 2 == 0:
            radius = RED_CELL_RADIUS_UM * rng.uniform(0.92, 1.08)
            opd = 1e3 * _DELTA_N * red_cell_thickness(distance / radius)
        else:
            radius = rng.uniform(3.2, 4.2)
            depth = 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
            opd = 1e3 * rng.uniform(0.02, 0.03) * depth
        canvas.add(where, opd.astype(np.float32), np.ones(1, np.float32))
    blurred = ndi.gaussian_filter(canvas.density[..., 0], 0.25 / pixel_size)
    data = (blurred + rng.normal(0, noise, shape)).astype(np.float32)
    return Field(data, "YX", pixel_size, "opd", "nm", "simulated OPD cells")


def tile_field(field: Field, rows: int, columns: int) -> Field:
    """Repeat a field's first plane, every other copy mirrored so that edges meet.

    Parameters
    ----------
    field : Field
        Any field; its pixel size and modality are kept.
    rows, columns : int
        Copies down and across.

    Returns
    -------
    Field
        Named after the first, with "tiled".
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a tiling needs at least one row and column, got {rows} and {columns}")
    plane = field.plane()
    strip = np.concatenate([plane[:, :: (-1 if n % 2 else 1)] for n in range(columns)], axis=1)
    tiled = np.concatenate([strip[:: (-1 if n % 2 else 1)] for n in range(rows)], axis=0)
    return dataclasses.replace(
        field, data=tiled, axes="YXC", name=f"{field.name} tiled {rows} x {columns}", path=None
    )


def _scatter(
    rng: np.random.Generator,
    shape: tuple[int, int],
    count: int,
    apart: float,
    margin: float,
    others: npt.NDArray[np.float64],
    from_others: float = 0.0,
) -> npt.NDArray[np.float64]:
    """Random places at least `apart` from each other, as many of `count` as fit."""
    size = np.asarray(shape, dtype=np.float64)
    places = np.empty((0, 2))
    if np.any(size <= 2 * margin):
        return places
    for candidate in rng.uniform(margin, size - margin, (8 * count, 2)):
        if len(places) == count:
            break
        if len(places) and np.hypot(*(places - candidate).T).min() < apart:
            continue
        if len(others) and np.hypot(*(others - candidate).T).min() < from_others:
            continue
        places = np.vstack([places, candidate])
    return places


def _outline(rng: np.random.Generator, y: Array, x: Array, radius: float, wobble: float) -> Array:
    """Distance from the centre over that of a slightly irregular outline."""
    angle = np.arctan2(y, x)
    edge = np.full(y.shape, radius, np.float32)
    for order in (2, 3, 4, 5):
        size = radius * wobble * rng.normal() / (order - 1)
        edge += (size * np.cos(order * angle + rng.uniform(0, 2 * math.pi))).astype(np.float32)
    return (np.hypot(y, x) / edge).astype(np.float32)


def _red_cell(canvas: _Canvas, centre: tuple[float, float]) -> None:
    radius = RED_CELL_RADIUS_UM * canvas.rng.uniform(0.88, 1.08)
    where, y, x = canvas.polar(centre, 1.3 * radius)
    rho = _outline(canvas.rng, y, x, radius, 0.05)
    # Drying flattens the rim, so less of the dimple is left than in solution.
    dimple = red_cell_thickness(0.98 * rho) / 2.6
    pale = canvas.rng.uniform(0.45, 0.95)
    body = (pale * dimple + (1 - pale) * 0.9) * canvas.edge(rho, radius)
    canvas.add(where, (canvas.rng.uniform(0.75, 1.15) * body).astype(np.float32), _HAEMOGLOBIN)


def _platelet(canvas: _Canvas, centre: tuple[float, float]) -> None:
    radius = canvas.rng.uniform(0.8, 1.5)
    where, y, x = canvas.polar(centre, 1.6 * radius)
    rho = _outline(canvas.rng, y, x, radius, 0.12)
    cover = np.clip(1.6 * (1.15 - rho), 0, 1).astype(np.float32)
    canvas.replace(where, cover, canvas.texture(y.shape, 0.25, 0.3), _PLATELET)


def _body(
    canvas: _Canvas, centre: tuple[float, float], radius: float, stain: Array, grain: float
) -> None:
    where, y, x = canvas.polar(centre, 1.3 * radius)
    rho = _outline(canvas.rng, y, x, radius, 0.03)
    canvas.replace(where, canvas.edge(rho, radius), canvas.texture(y.shape, grain, 0.16), stain)


def _nucleus(
    canvas: _Canvas,
    centre: tuple[float, float],
    blobs: list[tuple[float, float, float]],
    smooth: float,
) -> None:
    """Blobs (y, x, radius in µm from the centre), melted into one over `smooth` µm."""
    reach = max(math.hypot(y, x) + r for y, x, r in blobs) + 1
    where, gy, gx = canvas.polar(centre, reach)
    wave = canvas.texture(gy.shape, 1.0, 1.0) - 1
    fields = [(r - np.hypot(gy - y, gx - x)) / smooth for y, x, r in blobs]
    inside = smooth * np.logaddexp.reduce(fields, axis=0) + 0.12 * wave
    cover = np.clip(inside / canvas.pixel_size + 0.5, 0, 1).astype(np.float32)
    clumps = canvas.texture(gy.shape, 0.35, 0.14)
    canvas.replace(where, cover, clumps, _NUCLEUS * np.float32(canvas.rng.uniform(0.9, 1.1)))


def _arc(
    rng: np.random.Generator, count: int, turn: float, radius: float, size: float
) -> list[Any]:
    start = rng.uniform(0, 2 * math.pi)
    angles = start + turn * np.linspace(0, 1, count) + rng.normal(0, 0.08, count)
    radii = size * rng.uniform(0.85, 1.15, count)
    return [
        (radius * math.sin(a), radius * math.cos(a), r) for a, r in zip(angles, radii, strict=True)
    ]


def _neutrophil(canvas: _Canvas, centre: tuple[float, float]) -> float:
    radius = canvas.rng.uniform(5.6, 6.6)
    _body(canvas, centre, radius, _NEUTRAL, 0.3)
    lobes = int(canvas.rng.integers(3, 6))
    turn = canvas.rng.uniform(1.1, 1.45) * math.pi
    _nucleus(canvas, centre, _arc(canvas.rng, lobes, turn, 0.48 * radius, 1.6), 0.35)
    return float(radius)


def _lymphocyte(canvas: _Canvas, centre: tuple[float, float]) -> float:
    radius = canvas.rng.uniform(4.2, 5.2)
    _body(canvas, centre, radius, _BASOPHILIC, 0.5)
    shift = 0.08 * radius
    _nucleus(canvas, centre, _arc(canvas.rng, 3, 0.9, shift, 0.76 * radius), 0.3)
    return float(radius)


def _monocyte(canvas: _Canvas, centre: tuple[float, float]) -> float:
    radius = canvas.rng.uniform(6.6, 7.8)
    _body(canvas, centre, radius, 0.9 * _BASOPHILIC, 0.4)
    _nucleus(canvas, centre, _arc(canvas.rng, 5, 1.05 * math.pi, 0.42 * radius, 2.2), 0.6)
    return float(radius)


def _eosinophil(canvas: _Canvas, centre: tuple[float, float]) -> float:
    radius = canvas.rng.uniform(5.6, 6.6)
    _body(canvas, centre, radius, _EOSIN, 0.28)
    _nucleus(canvas, centre, _arc(canvas.rng, 2, 0.75 * math.pi, 0.45 * radius, 2.3), 0.3)
    return float(radius)


def _expose(canvas: _Canvas) -> npt.NDArray[np.uint8]:
    """Light through the stain, blurred, unevenly lit, with photon noise: uint8 RGB."""
    height, width = canvas.density.shape[:2]
    blur = 0.16 / canvas.pixel_size
    light = ndi.gaussian_filter(np.exp(-canvas.density), (blur, blur, 0))
    y, x = np.linspace(-1, 1, height)[:, np.newaxis], np.linspace(-1, 1, width)
    off = canvas.rng.uniform(-0.3, 0.3, 2)
    lamp = 1 - 0.05 * ((y - off[0]) ** 2 + (x - off[1]) ** 2)
    light = light * lamp[..., np.newaxis] * np.array([0.93, 0.90, 0.87])
    light += canvas.rng.normal(0, 1, light.shape) * np.sqrt(np.maximum(light, 0) / 12000)
    values: npt.NDArray[np.float64] = np.clip(np.rint(255 * light), 0, 255)
    return values.astype(np.uint8)


def _truth(
    centres: npt.NDArray[np.float64],
    radii: npt.NDArray[np.float64],
    shape: tuple[int, int],
    pixel_size: float,
) -> Cells:
    edge = np.asarray(shape) - 0.5
    low, high = centres - radii[:, np.newaxis], centres + radii[:, np.newaxis]
    border = np.any((low <= -0.5) | (high >= edge), axis=1)
    boxes = np.hstack([np.maximum(low, -0.5), np.minimum(high, edge)])
    return Cells(centres, boxes, border, np.arange(1, len(centres) + 1), None, pixel_size)
