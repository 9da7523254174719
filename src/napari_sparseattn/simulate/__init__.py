"""Simulated images, for samples, tests, training and measurements of speed.

They are drawn, not measured: every name says "simulated". Stained smears are in
`smears`, slides of tissue in `tissue`, cells' optical path difference in
`phase_cells` and `phase_fields` (sizes and indices with their sources in
`cell_ranges`), and off-axis holograms of them in `holograms`.
"""

from .bodies import red_cell_thickness, sphere_opd
from .cell_ranges import CELL_RANGES, KINDS, LOWER_NUCLEUS, CellKind, Range
from .holograms import (
    Optics,
    hologram,
    hologram_with_truth,
    image_field,
    propagate,
)
from .phase_cells import cell_opd
from .phase_fields import opd_field
from .smears import (
    opd_cells,
    smear,
    smear_with_truth,
    tile_field,
)
from .tissue import TissueTruth, simulated_slide

__all__ = [
    "CELL_RANGES",
    "KINDS",
    "LOWER_NUCLEUS",
    "CellKind",
    "Optics",
    "Range",
    "TissueTruth",
    "cell_opd",
    "hologram",
    "hologram_with_truth",
    "image_field",
    "opd_cells",
    "opd_field",
    "propagate",
    "red_cell_thickness",
    "simulated_slide",
    "smear",
    "smear_with_truth",
    "sphere_opd",
    "tile_field",
]
