"""Simulated fields of view of several cells, in nm of optical path difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..images.fields.cells import Cells
from ..images.fields.field import Field
from .bodies import Body, add_body, check_size
from .cell_ranges import KINDS, CellKind
from .phase_cells import Parameters, draw_body

__all__ = ["opd_field"]

_AREA_PER_CELL_UM2 = 330.0
_TRIES = 200


def opd_field(
    shape: tuple[int, int] = (512, 512),
    pixel_size: float = 0.12,
    seed: int | np.random.Generator = 0,
    *,
    kinds: Sequence[CellKind] = KINDS,
    n_cells: int | None = None,
    medium_index: float = 1.335,
    params: Mapping[CellKind, Parameters] | None = None,
    gap: float = 1.5,
) -> tuple[Field, Cells, tuple[CellKind, ...]]:
    """Draw simulated cells that do not touch, as optical path difference in nm.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float
        µm per pixel.
    seed : int or numpy.random.Generator
        Of all that is drawn at random.
    kinds : sequence of str
        The kinds of cell, in turn.
    n_cells : int, optional
        How many; fewer where there is no room. By default one per 330 µm².
    medium_index : float
        Of refraction.
    params : mapping of mappings, optional
        Per kind, parameters as of `cell_opd`.
    gap : float
        Least µm between two cells, and to the image's edge.

    Returns
    -------
    field, cells, kinds : Field, Cells, tuple of str
        The field is float32, in nm, named "simulated OPD": exact, not blurred,
        no noise. Boxes of the cells are from their radii.

    Raises
    ------
    ValueError
        If a size is not positive, or a kind or parameter not known.
    """
    check_size(shape, pixel_size)
    rng, area = np.random.default_rng(seed), shape[0] * shape[1] * pixel_size**2
    n_cells = max(1, round(area / _AREA_PER_CELL_UM2)) if n_cells is None else n_cells
    opd, bodies = np.zeros(shape, np.float32), list[Body]()
    centres, radii = np.zeros((0, 2)), np.zeros(0)
    for n in range(n_cells):
        kind = kinds[n % len(kinds)]
        body = draw_body(kind, rng, medium_index, (params or {}).get(kind))
        place = _free_place(rng, shape, pixel_size, body.radius, centres, radii, gap)
        if place is not None:
            add_body(opd, body, pixel_size, (float(place[0]), float(place[1])))
            bodies.append(body)
            centres, radii = np.vstack([centres, place]), np.append(radii, body.radius)
    field = Field(opd, "YX", pixel_size, "opd", "nm", "simulated OPD")
    cells = _cells(centres, radii / pixel_size, pixel_size)
    return field, cells, tuple(body.kind for body in bodies)


def _cells(
    centres: npt.NDArray[np.float64], radii: npt.NDArray[np.float64], pixel_size: float
) -> Cells:
    reach = radii[:, None]
    boxes = np.hstack([centres - reach, centres + reach])
    ids = np.arange(1, len(centres) + 1)
    return Cells(centres, boxes, np.zeros(len(centres), bool), ids, None, pixel_size)


def _free_place(
    rng: np.random.Generator,
    shape: tuple[int, int],
    pixel_size: float,
    radius: float,
    centres: npt.NDArray[np.float64],
    radii: npt.NDArray[np.float64],
    gap: float,
) -> npt.NDArray[np.float64] | None:
    """A random place at which a cell touches nothing, or None if none is found."""
    margin = (radius + gap) / pixel_size
    size = np.asarray(shape) - 1.0
    if np.any(size < 2 * margin):
        return None
    for candidate in rng.uniform(margin, size - margin, (_TRIES, 2)):
        apart = np.hypot(*(centres - candidate).T) * pixel_size
        if np.all(apart > radii + radius + gap):
            found: npt.NDArray[np.float64] = candidate
            return found
    return None
