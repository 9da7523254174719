"""Simulated optical path difference of single cells, in nm.

OPD(x, y) is the integral over z of the cell's refractive index less that of the
medium. Sizes and indices are drawn from `CELL_RANGES`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import get_args

import numpy as np
import numpy.typing as npt

from .bodies import (
    ISOTONIC,
    SWOLLEN,
    Array,
    Body,
    Disc,
    Ellipsoids,
    render,
)
from .cell_ranges import CELL_RANGES, CellKind

__all__ = ["Parameters", "cell_opd", "draw_body"]

_MEDIUM_INDEX = 1.335
_KIDNEY_PARTS = 9

#: A parameter's value, or the range it is drawn from instead of the table's.
Parameters = Mapping[str, float | tuple[float, float]]


def cell_opd(
    kind: CellKind,
    shape: tuple[int, int],
    pixel_size: float,
    seed: int | np.random.Generator = 0,
    *,
    centre: tuple[float, float] | None = None,
    medium_index: float = _MEDIUM_INDEX,
    params: Parameters | None = None,
    supersample: int = 4,
) -> npt.NDArray[np.float32]:
    """Draw the simulated optical path difference of one cell, in nm.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float
        µm per pixel.
    seed : int or numpy.random.Generator
        Of all that is drawn at random.
    centre : (float, float), optional
        Row and column in pixels; the image's centre by default.
    medium_index : float
        Refractive index of the medium.
    params : mapping, optional
        Values, or (low, high) to draw from, instead of those of
        `CELL_RANGES`; e.g. ``{"diameter": 7.0}``.
    supersample : int
        Points per pixel along each axis whose mean is taken.

    Returns
    -------
    numpy.ndarray, shape (H, W), float32

    Raises
    ------
    ValueError
        If the kind or a parameter is not known, or a size not positive.
    """
    body = draw_body(kind, np.random.default_rng(seed), medium_index, params)
    return render(body, shape, pixel_size, centre, supersample)


def draw_body(
    kind: CellKind,
    rng: np.random.Generator,
    medium_index: float = _MEDIUM_INDEX,
    params: Parameters | None = None,
) -> Body:
    """Draw what a cell is made of; see `cell_opd`."""
    if kind not in get_args(CellKind):
        known = ", ".join(get_args(CellKind))
        raise ValueError(f"cells of kind {kind!r} cannot be simulated; use one of {known}")
    table = str(kind)
    if kind == "bead":
        table = "bead of silica" if rng.random() < 0.3 else "bead of hydrogel"
    values = _draw_values(table, rng, params or {})
    if kind == "red cell":
        return _red_cell(values, rng, medium_index)
    radius = values["diameter"] / 2
    if kind == "bead":
        ball = Ellipsoids(
            values["index"] - medium_index, np.zeros((1, 3)), radius * np.eye(3)[None]
        )
        return Body(kind, values, radius, (ball,))
    return _white_cell(kind, values, rng, medium_index)


def _draw_values(table: str, rng: np.random.Generator, params: Parameters) -> dict[str, float]:
    ranges = CELL_RANGES[table]
    unknown = set(params) - set(ranges)
    if unknown:
        raise ValueError(
            f"a {table} has no {', '.join(sorted(unknown))}; it has {', '.join(ranges)}"
        )
    values = {}
    for name, usual in ranges.items():
        drawn = usual.draw(rng)
        given = params.get(name)
        if isinstance(given, tuple):
            share = (drawn - usual.low) / ((usual.high - usual.low) or 1)
            drawn = given[0] + share * (given[1] - given[0])
        elif given is not None:
            drawn = float(given)
        values[name] = drawn
    if values["diameter"] <= 0:
        raise ValueError(f"a diameter must be positive, got {values['diameter']} µm")
    return values


def _red_cell(values: dict[str, float], rng: np.random.Generator, medium_index: float) -> Body:
    radius = values["diameter"] / 2
    swelling = values["swelling"]
    coefficients = (1 - swelling) * ISOTONIC + swelling * SWOLLEN
    disc = Disc(
        values["index"] - medium_index,
        radius,
        values["thickness"] * coefficients,
        values["elongation"],
        float(rng.uniform(0, 2 * math.pi)),
        math.radians(values["tilt"]),
    )
    return Body("red cell", values, radius * math.sqrt(values["elongation"]) + 0.3, (disc,))


def _white_cell(
    kind: CellKind, values: dict[str, float], rng: np.random.Generator, medium_index: float
) -> Body:
    """A sphere with a nucleus and granules, then deformed as a whole."""
    radius = values["diameter"] / 2
    cytoplasm = values["cytoplasm_index"]
    make = {
        "lymphocyte-like": _round_nucleus,
        "monocyte-like": _kidney_nucleus,
        "granulocyte-like": _lobed_nucleus,
    }[kind]
    centres, shapes = make(values, radius, rng)
    if "nucleus_share" in values:
        shapes = shapes * _growth(centres / radius, shapes / radius, values["nucleus_share"])
    deform = _deformation(values["roundness"], rng)
    whole = Ellipsoids(
        cytoplasm - medium_index, np.zeros((1, 3)), (deform @ (radius * np.eye(3)))[None]
    )
    nucleus = Ellipsoids(
        values["nucleus_index"] - cytoplasm, centres @ deform.T, deform @ shapes, union=True
    )
    parts = [whole, nucleus]
    if "clumps" in values:
        spots, sizes = _clumps(values, centres[0], float(shapes[0, 0, 0]), rng)
        contrast = values["clump_contrast"]
    else:
        spots, sizes = _granules(values, radius, centres, shapes, rng)
        contrast = values["granule_index"] - cytoplasm
    balls = sizes[:, None, None] * np.eye(3)
    parts.append(Ellipsoids(contrast, spots @ deform.T, deform @ balls))
    reach = float(np.sqrt(np.diag(deform @ deform.T)).max()) * radius
    return Body(kind, values, reach, tuple(parts))


@functools.cache
def _probes() -> Array:
    """Points spread evenly in the unit ball."""
    points = np.random.default_rng(0).uniform(-1, 1, (16_384, 3))
    inside: Array = points[np.linalg.norm(points, axis=1) < 1]
    return inside


def _growth(centres: Array, shapes: Array, share: float) -> float:
    """Factor on the lobes' size that makes up for what they share of the unit ball."""
    growth = 1.0
    for _ in range(3):
        covered = np.zeros(len(_probes()), bool)
        for centre, shape in zip(centres, growth * shapes, strict=True):
            covered |= np.linalg.norm((_probes() - centre) @ np.linalg.inv(shape).T, axis=1) < 1
        growth *= math.sqrt(share / max(float(covered.mean()), share / 2))
    return growth


def _deformation(roundness: float, rng: np.random.Generator) -> Array:
    """A stretch by `roundness` along a random axis that keeps the volume."""
    axis = _directions(rng, 1)[0]
    along = np.outer(axis, axis)
    deform: Array = roundness ** (2 / 3) * along + roundness ** (-1 / 3) * (np.eye(3) - along)
    return deform


def _directions(rng: np.random.Generator, count: int) -> Array:
    vectors = rng.standard_normal((count, 3))
    unit: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _round_nucleus(
    values: dict[str, float], radius: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    size = values["nucleus_ratio"] * radius
    centre = _directions(rng, 1) * (radius - size) * rng.uniform(0, 0.8)
    return centre, size * np.eye(3)[None]


def _on_arc(
    count: int, turn: float, arc: float, jitter: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Places (n, 3) along an arc in a random plane, and the directions along it."""
    plane = np.linalg.qr(rng.standard_normal((3, 3)))[0][:2]
    angle = turn * np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(1)
    angle = angle + rng.normal(0, jitter, count)
    places = arc * (np.cos(angle)[:, None] * plane[0] + np.sin(angle)[:, None] * plane[1])
    tangents = -np.sin(angle)[:, None] * plane[0] + np.cos(angle)[:, None] * plane[1]
    return places, tangents


def _kidney_nucleus(
    values: dict[str, float], radius: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """A bent sausage: overlapping spheres along an arc."""
    turn = math.pi * values["nucleus_turn"]
    volume = values["nucleus_share"] * 4 / 3 * math.pi * radius**3
    arc = 0.42 * radius
    # The sausage's volume, pi r^2 length + 4/3 pi r^3, as a cubic of its radius.
    roots = np.roots([4 / 3 * math.pi, math.pi * turn * arc, 0, -volume])
    size = float(roots[np.isreal(roots)].real.max())
    arc = min(arc, 0.95 * radius - size)
    places, _ = _on_arc(_KIDNEY_PARTS, turn, arc, 0.0, rng)
    return places, np.tile(size * np.eye(3), (len(places), 1, 1))


def _lobed_nucleus(
    values: dict[str, float], radius: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Prolate lobes along an arc."""
    lobes = round(values["lobes"])
    volume = values["nucleus_share"] * radius**3
    aspect = rng.uniform(1.1, 1.5, lobes)
    parts = rng.dirichlet(np.full(lobes, 12.0)) * volume
    short = np.cbrt(parts / aspect)
    arc = min(0.5 * radius, 0.95 * radius - float((short * aspect).max()))
    places, tangents = _on_arc(lobes, 1.35 * math.pi * (1 - 1 / lobes) + 0.4, arc, 0.1, rng)
    along = tangents[:, :, None] * tangents[:, None, :]
    shapes = short[:, None, None] * (np.eye(3) + (aspect - 1)[:, None, None] * along)
    return places, shapes


def _clumps(
    values: dict[str, float], centre: Array, nucleus: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Dense spots within a round nucleus: places and radii."""
    count = round(values["clumps"])
    sizes = nucleus * rng.uniform(0.14, 0.3, count)
    room = (nucleus - sizes) * np.cbrt(rng.uniform(0, 1, count))
    return centre + _directions(rng, count) * room[:, None], sizes


def _granules(
    values: dict[str, float],
    radius: float,
    centres: Array,
    shapes: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Small spheres in the cytoplasm, which may overlap: places and radii."""
    size = values["granule_diameter"] / 2
    count = max(1, round(values["granule_share"] * (radius / size) ** 3))
    sizes = size * np.clip(rng.normal(1, 0.15, 4 * count), 0.6, 1.4)
    room = (radius - sizes) * np.cbrt(rng.uniform(0, 1, 4 * count))
    places = _directions(rng, 4 * count) * room[:, None]
    free = np.ones(len(places), bool)
    for centre, shape in zip(centres, shapes, strict=True):
        grown = np.linalg.norm((places - centre) @ np.linalg.inv(shape).T, axis=1)
        free &= grown > 1 + sizes / np.cbrt(np.linalg.det(shape))
    chosen = np.flatnonzero(free)[:count]
    return places[chosen], sizes[chosen]
