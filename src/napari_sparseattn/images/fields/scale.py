"""The scale of a stained smear by the ruler that lies in it: red cells are 6 to 8 µm wide."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .field import Field

if TYPE_CHECKING:
    from ._segment import Smear

__all__ = [
    "MOST_OFF",
    "RED_CELL_UM",
    "MeasuredScale",
    "doubt_scale",
    "measure_scale",
    "measure_smear",
]

#: Diameter of a red cell on a dried smear in µm, of people.
RED_CELL_UM = 7.5
#: By what factor a stated pixel size may differ from the measured one.
MOST_OFF = 1.6
#: One free cell, or circles where they overlap, are less sure, and of those so many are needed: in
#: 23 such fields of BCCD they were off by a factor of 0.66 to 1.21; of 48 tiles of tissue none is
#: questioned so.
_MOST_OFF_OVERLAPPING, _LEAST_OVERLAPPING = 3.0, 6
#: So few circles in what is red are no smear; so few free cells are no sure ruler.
_LEAST_CIRCLES, _LEAST_FREE = 3, 2


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredScale:
    """Red cells that lie free in an image, and the scale that they give.

    Parameters
    ----------
    pixel_size : float
        µm per pixel at which the typical one is 7.5 µm wide.
    circles : numpy.ndarray
        (N, 3) float64: row, column and diameter in pixels, the most typical first.
    free : int
        How many of them are red cells that touch no other; 0 where the circles
        lie in cells that overlap.
    """

    pixel_size: float
    circles: npt.NDArray[np.float64]
    free: int

    def __len__(self) -> int:
        return len(self.circles)

    @property
    def rounded(self) -> float:
        """µm per pixel to propose: two digits, as exact as the ruler."""
        return float(f"{self.pixel_size:.2g}")


def measure_scale(field: Field, t: int = 0, z: int = 0) -> MeasuredScale | None:
    """Measure the red cells of a stained smear.

    Parameters
    ----------
    field : Field
        A field of view; other images than brightfield in colour have no red cells.
    t, z : int
        Frame and slice of a stack.

    Returns
    -------
    MeasuredScale or None
        None where nothing like red cells is found.

    Raises
    ------
    IndexError
        If there is no such frame or slice.
    """
    if field.modality != "brightfield" or field.n_channels != 3:
        return None
    from . import _segment

    return measure_smear(_segment.Smear(field.plane(t, z), field.transparent(t, z)))


def measure_smear(smear: Smear) -> MeasuredScale | None:
    """Measure the red cells of a smear that was opened for finding cells; see `measure_scale`."""
    from . import _segment

    free, inscribed = _segment.measure_red_cells(smear)
    if len(inscribed) < _LEAST_CIRCLES:
        return None
    circles = free if len(free) else inscribed
    diameters = circles[:, 2]
    typical = float(np.median(diameters))
    order = np.argsort(np.abs(diameters - typical), kind="stable")
    return MeasuredScale(RED_CELL_UM / typical, circles[order], len(free))


def doubt_scale(stated: float | None, measured: MeasuredScale | None) -> str:
    """Return what speaks against a stated pixel size, or nothing.

    Parameters
    ----------
    stated : float, optional
        µm per pixel, as a file or a person says.
    measured : MeasuredScale, optional
        What the red cells of the image say.
    """
    if stated is None or measured is None:
        return ""
    most = MOST_OFF
    if measured.free < _LEAST_FREE:
        if not measured.free and len(measured) < _LEAST_OVERLAPPING:
            return ""
        most = _MOST_OFF_OVERLAPPING
    if 1 / most <= stated / measured.pixel_size <= most:
        return ""
    wide = RED_CELL_UM * stated / measured.pixel_size
    return (
        f"At {stated:g} µm per pixel the red cells would be {wide:.2g} µm wide, not 6 to 8. By "
        f"{len(measured)} of them a pixel is about {measured.rounded:g} µm: check it, the "
        "classes may not hold."
    )
