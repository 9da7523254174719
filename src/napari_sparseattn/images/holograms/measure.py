"""What an OPD map says of each cell: area, OPD, dry mass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fields.cells import Cells, check_labels
from ..fields.field import Field

__all__ = ["MEASURES", "REFRACTION_INCREMENT", "measure_opd"]

#: Specific refraction increment in µm³/pg (the same as mL/g); 0.18 to 0.20 for
#: most proteins (Barer 1952; Zhao, Brown, Schuck 2011).
REFRACTION_INCREMENT = 0.19

#: Names of the measures, with their units.
MEASURES = ("area_um2", "mean_opd_nm", "peak_opd_nm", "dry_mass_pg")


def measure_opd(
    field: Field,
    cells: Cells,
    t: int = 0,
    z: int = 0,
    refraction_increment: float = REFRACTION_INCREMENT,
) -> dict[str, npt.NDArray[np.float64]]:
    """Measure every cell of an OPD map.

    A cell is its pixels in the label image; without one, the ellipse in its
    box. The dry mass is the sum of OPD times pixel area over the specific
    refraction increment (Barer 1952): mass beyond that of the medium it
    displaces. The peak is that of a 3 x 3 median, so that one hot pixel is
    none. Pixels that are not finite do not count.

    Parameters
    ----------
    field : Field
        One channel, unit nm.
    cells : Cells
        Where the cells are.
    t, z : int
        Frame and slice.
    refraction_increment : float
        µm³/pg.

    Returns
    -------
    dict of numpy.ndarray, shape (N,), float64
        ``area_um2``, ``mean_opd_nm``, ``peak_opd_nm``, ``dry_mass_pg``. Area
        and mass are NaN where the pixel size is not known; all are NaN for a
        cell without a finite pixel.

    Raises
    ------
    ValueError
        If the field is no OPD map in nm, the increment is not positive, or the labels have
        another shape than the map.
    """
    if field.unit != "nm" or field.n_channels != 1:
        raise ValueError(
            f"dry mass and OPD are measured on an OPD map in nm, this is {field.modality} in "
            f"'{field.unit or 'relative intensity'}'; reconstruct it with its wavelength first"
        )
    if not (math.isfinite(refraction_increment) and refraction_increment > 0):
        raise ValueError(
            f"the refraction increment must be positive, in µm³/pg, got {refraction_increment}"
        )
    check_labels(cells, field.shape)
    plane = field.plane(t, z)[..., 0]
    pixel_size = field.pixel_size or cells.pixel_size
    area = math.nan if pixel_size is None else pixel_size**2
    rows = [_one(plane, cells, i, area, refraction_increment) for i in range(len(cells))]
    table = np.array(rows, dtype=np.float64).reshape(len(cells), len(MEASURES))
    return {name: table[:, n] for n, name in enumerate(MEASURES)}


def _one(
    plane: npt.NDArray[Any], cells: Cells, index: int, area: float, increment: float
) -> tuple[float, float, float, float]:
    # A window that opens needs it not, and it is a third of what that imports.
    from scipy import ndimage

    box = cells.boxes[index]
    # The box runs along outer edges: pixel i reaches from i - 0.5 to i + 0.5.
    low = np.maximum(np.ceil(box[:2]), 0).astype(int)
    high = np.maximum(np.minimum(np.ceil(box[2:]), plane.shape).astype(int), low)
    # Read a pixel more all around, for the median at the rim.
    first = np.maximum(low - 1, 0)
    part = plane[first[0] : high[0] + 1, first[1] : high[1] + 1].astype(np.float64)
    inside = np.zeros(part.shape, bool)
    at = low - first
    body = (slice(at[0], at[0] + high[0] - low[0]), slice(at[1], at[1] + high[1] - low[1]))
    inside[body] = _mask(cells, index, low, high)
    inside &= np.isfinite(part)
    count = int(np.count_nonzero(inside))
    if count == 0:
        return math.nan, math.nan, math.nan, math.nan
    values = part[inside]
    filled = np.where(np.isfinite(part), part, float(np.median(values)))
    peak = float(ndimage.median_filter(filled, size=3, mode="nearest")[inside].max())
    # nm to µm, so that OPD x area over the increment is µm³ / (µm³/pg).
    mass = 1e-3 * float(values.sum()) * area / increment
    return count * area, float(values.mean()), peak, mass


def _mask(
    cells: Cells, index: int, low: npt.NDArray[Any], high: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    if cells.labels is not None:
        window = cells.labels[low[0] : high[0], low[1] : high[1]]
        mask: npt.NDArray[np.bool_] = window == cells.ids[index]
        return mask
    box = cells.boxes[index]
    middle, radius = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, 0.5)
    y, x = ((np.arange(low[axis], high[axis]) - middle[axis]) / radius[axis] for axis in (0, 1))
    ellipse: npt.NDArray[np.bool_] = np.add.outer(y**2, x**2) <= 1
    return ellipse
