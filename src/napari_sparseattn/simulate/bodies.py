"""Bodies of known shape and refractive index, and the path of light through them.

Compartments are ellipsoids, whose chords are known exactly, or Evans and Fung's
red cell; they are evaluated on a finer grid and averaged over each pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .cell_ranges import CellKind

__all__ = [
    "ISOTONIC",
    "RED_CELL_RADIUS_UM",
    "SWOLLEN",
    "Array",
    "Body",
    "Disc",
    "Ellipsoids",
    "add_body",
    "check_size",
    "red_cell_thickness",
    "render",
    "sphere_opd",
]

RED_CELL_RADIUS_UM = 3.91
#: Evans and Fung's coefficients at 300 and at 217 mosmol, radius 3.91 and 3.80 µm.
ISOTONIC = np.array([0.81, 7.83, -4.39])
SWOLLEN = np.array([2.10, 7.58, -5.59])
_TILT_STEP_UM = 0.08

Array = npt.NDArray[np.float64]


def check_size(shape: tuple[int, int], pixel_size: float) -> None:
    """Raise ValueError unless shape and pixel size are positive."""
    if min(shape) < 1 or not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"shape and pixel size must be positive, got {shape} and {pixel_size}")


def red_cell_thickness(rho: npt.ArrayLike) -> Array:
    """Thickness in µm of a red cell at `rho`, the distance from its axis over 3.91 µm.

    Evans and Fung (1972), Microvascular Research 4, 335. Zero beyond 1.
    """
    return _disc_thickness(np.asarray(rho, dtype=np.float64) ** 2, ISOTONIC)


def _disc_thickness(square: Array, coefficients: Array) -> Array:
    square = np.minimum(square, 1.0)
    first, second, third = coefficients
    thickness: Array = np.sqrt(1 - square) * (first + second * square + third * square**2)
    return thickness


class Part(Protocol):
    """A compartment: adds its index contrast times its length along z."""

    def add_to(self, opd: Array, y: Array, x: Array) -> None:
        """Add µm of path to `opd` (h, w) at rows `y` and columns `x` in µm, ascending."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """A cell that was drawn: what it is made of.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    values : mapping
        The parameters drawn, by their names in `CELL_RANGES`.
    radius : float
        µm from its centre within which it lies.
    parts : tuple
        Its compartments.
    """

    kind: CellKind
    values: Mapping[str, float]
    radius: float
    parts: tuple[Part, ...]


def render(
    body: Body,
    shape: tuple[int, int],
    pixel_size: float,
    centre: tuple[float, float] | None = None,
    supersample: int = 4,
) -> npt.NDArray[np.float32]:
    """Optical path difference (H, W) in nm of a body at a centre in pixels."""
    check_size(shape, pixel_size)
    opd = np.zeros(shape, np.float32)
    middle = tuple((n - 1) / 2 for n in shape) if centre is None else centre
    add_body(opd, body, pixel_size, (middle[0], middle[1]), supersample)
    return opd


def add_body(
    opd: npt.NDArray[np.float32],
    body: Body,
    pixel_size: float,
    centre: tuple[float, float],
    supersample: int = 4,
) -> None:
    """Add a body's optical path difference in nm to an image, in place."""
    reach = body.radius / pixel_size
    spans, axes = [], []
    for position, length in zip(centre, opd.shape, strict=True):
        low = int(np.clip(math.floor(position - reach), 0, length))
        high = int(np.clip(math.ceil(position + reach) + 1, low, length))
        spans.append(slice(low, high))
        fine = (np.arange((high - low) * supersample) + 0.5) / supersample - 0.5
        axes.append((fine + low - position) * pixel_size)
    y, x = axes
    if len(y) == 0 or len(x) == 0:
        return
    path = np.zeros((len(y), len(x)))
    for part in body.parts:
        part.add_to(path, y, x)
    rows, columns = len(y) // supersample, len(x) // supersample
    blocks = path.reshape(rows, supersample, columns, supersample)
    opd[tuple(spans)] += (1e3 * blocks.mean(axis=(1, 3))).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Ellipsoids:
    """Images of the unit ball: ``shapes`` (n, 3, 3) maps it, ``centres`` (n, 3) moves it.

    Axes are z, y, x in µm. Where ``union`` is set, what they share counts once.
    """

    contrast: float
    centres: Array
    shapes: Array
    union: bool = False

    def add_to(self, opd: Array, y: Array, x: Array) -> None:
        """Add the chords; see `Part`."""
        if self.union:
            pairs = zip(self.centres, self.shapes, strict=True)
            chords = np.stack([_chord(centre, shape, y, x) for centre, shape in pairs], axis=1)
            opd += self.contrast * _union_length(chords[0], chords[1])
            return
        for centre, shape in zip(self.centres, self.shapes, strict=True):
            reach = np.sqrt(np.diag(shape @ shape.T))
            rows, columns = (
                slice(*np.searchsorted(axis, (centre[n] - reach[n], centre[n] + reach[n])))
                for n, axis in ((1, y), (2, x))
            )
            enter, leave = _chord(centre, shape, y[rows], x[columns])
            opd[rows, columns] += self.contrast * (leave - enter)


def _chord(centre: Array, shape: Array, y: Array, x: Array) -> Array:
    """Where lines along z enter and leave an ellipsoid, (2, h, w); equal where they miss it."""
    form = np.linalg.inv(shape @ shape.T)
    y, x = (y - centre[1])[:, None], (x - centre[2])[None]
    slope = form[0, 1] * y + form[0, 2] * x
    rest = form[1, 1] * y**2 + 2 * form[1, 2] * y * x + form[2, 2] * x**2 - 1
    half = np.sqrt(np.maximum(slope**2 - form[0, 0] * rest, 0)) / form[0, 0]
    middle = centre[0] - slope / form[0, 0]
    return np.stack([middle - half, middle + half])


def _union_length(low: Array, high: Array) -> Array:
    """Length of the union of intervals along the first axis."""
    order = np.argsort(low, axis=0)
    low, high = np.take_along_axis(low, order, 0), np.take_along_axis(high, order, 0)
    reached = np.maximum.accumulate(high, axis=0)
    begin = low.copy()
    begin[1:] = np.maximum(low[1:], reached[:-1])
    length: Array = np.maximum(high - begin, 0).sum(axis=0)
    return length


@dataclasses.dataclass(frozen=True, eq=False)
class Disc:
    """A red cell: Evans and Fung's body of revolution, stretched, turned and tilted."""

    contrast: float
    radius: float
    coefficients: Array
    elongation: float
    turn: float
    tilt: float

    def add_to(self, opd: Array, y: Array, x: Array) -> None:
        """Add the thickness; see `Part`."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        along = cos * y[:, None] + sin * x[None]
        across = cos * x[None] - sin * y[:, None]
        stretch = math.sqrt(self.elongation)
        across = across * stretch
        if self.tilt == 0:
            square = ((along / stretch) ** 2 + across**2) / self.radius**2
            opd += self.contrast * _disc_thickness(square, self.coefficients)
            return
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        reach = self.radius * stretch * sin + 2.0
        steps = math.ceil(2 * reach / _TILT_STEP_UM)
        step = 2 * reach / steps
        length = np.zeros_like(opd)
        for z in (np.arange(steps) + 0.5) * step - reach:
            square = (((cos * along + sin * z) / stretch) ** 2 + across**2) / self.radius**2
            inside = _disc_thickness(square, self.coefficients) / 2 - np.abs(cos * z - sin * along)
            # Over one step at the surface, or the steps would show as contours.
            length += np.clip(inside / step + 0.5, 0, 1) * (square < 1)
        opd += self.contrast * step * length


def sphere_opd(
    shape: tuple[int, int],
    pixel_size: float,
    diameter: float,
    contrast: float,
    centre: tuple[float, float] | None = None,
    supersample: int = 8,
) -> npt.NDArray[np.float32]:
    """Optical path difference of a homogeneous sphere, in nm.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float
        µm per pixel.
    diameter : float
        µm.
    contrast : float
        Refractive index of the sphere less that of the medium.
    centre : (float, float), optional
        Row and column in pixels; the image's centre by default.
    supersample : int
        Points per pixel along each axis whose mean is taken.

    Returns
    -------
    numpy.ndarray, shape (H, W), float32

    Raises
    ------
    ValueError
        If a size is not positive.
    """
    ball = Ellipsoids(contrast, np.zeros((1, 3)), np.eye(3)[None] * diameter / 2)
    body = Body("bead", {"diameter": diameter}, diameter / 2, (ball,))
    return render(body, shape, pixel_size, centre, supersample)
