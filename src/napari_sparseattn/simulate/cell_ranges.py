"""How large simulated cells are and how much they delay light, with the sources.

Refractive indices hold near 550 to 650 nm. Sizes are measured ones. A source
that says "typical" is an order of magnitude common in the literature of phase
imaging, not a measurement that is cited: for the indices of the compartments of
living white cells, published values differ by more than these ranges are wide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

__all__ = ["CELL_RANGES", "KINDS", "LOWER_NUCLEUS", "CellKind", "Range"]

CellKind = Literal["red cell", "lymphocyte-like", "monocyte-like", "granulocyte-like", "bead"]

#: The kinds that can be simulated. "-like": a model of the kind, not the cell.
KINDS: tuple[CellKind, ...] = (
    "red cell",
    "lymphocyte-like",
    "monocyte-like",
    "granulocyte-like",
    "bead",
)


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a parameter is drawn from, evenly.

    Parameters
    ----------
    low, high : float
        Ends of the range.
    unit : str
        Of both; ``""`` for refractive indices, shares and ratios.
    source : str
        Where the numbers are from; begins with "typical" where none is cited.
    """

    low: float
    high: float
    unit: str = ""
    source: str = "typical"

    def draw(self, rng: np.random.Generator) -> float:
        """Return one value."""
        return float(rng.uniform(self.low, self.high))


_EVANS = "Evans & Fung 1972, Microvasc. Res. 4, 335"
_DOWNEY = "Downey et al. 1990, J. Appl. Physiol. 69, 1767 (BioNumbers 100508, 100510, 111438)"
_SCHMID = "Schmid-Schoenbein et al. 1980, Blood 56, 866 (BioNumbers 115195)"
_TYPICAL_ROUND = Range(0.94, 1.06, "", "typical; suspended white cells are nearly spherical")

_RED = {
    "diameter": Range(7.0, 8.4, "µm", f"{_EVANS}: mean 7.82; the spread is typical"),
    "thickness": Range(0.92, 1.12, "", f"relative to {_EVANS}; the spread is typical"),
    "swelling": Range(0.0, 0.4, "", f"0: isotonic, 1: 217 mosmol, both {_EVANS}; range typical"),
    "index": Range(
        1.388,
        1.402,
        "",
        "haemoglobin 324 to 352 g/L (Gienger et al. 2019, Sci. Rep. 9, 4623) times a typical "
        "increment of 0.17 to 0.19 mL/g",
    ),
    "elongation": Range(1.0, 1.12),
    "tilt": Range(0.0, 20.0, "degree", "typical of settled cells"),
}

_LYMPHOCYTE = {
    "diameter": Range(
        5.8,
        8.0,
        "µm",
        f"{_DOWNEY}: 6.05 by light, about 7 by Coulter counter; Segel et al. 1981, Blood 57, 894: "
        "210 fL, a sphere of 7.4",
    ),
    "nucleus_ratio": Range(
        0.76, 0.92, "", "typical; coated sphere: Strokotov et al. 2009, J. Biomed. Opt. 14, 064036"
    ),
    "cytoplasm_index": Range(1.358, 1.372),
    "nucleus_index": Range(1.376, 1.396),
    "clumps": Range(4, 10, "", "typical; uneven nucleus: suggested by Strokotov et al. 2009"),
    "clump_contrast": Range(0.003, 0.010),
    "roundness": _TYPICAL_ROUND,
}

_MONOCYTE = {
    "diameter": Range(7.7, 10.0, "µm", f"{_DOWNEY}: 8.79, 7.72 to 9.99"),
    "nucleus_share": Range(0.24, 0.38, "", "typical, of the cell's volume"),
    "nucleus_turn": Range(0.8, 1.2, "pi", "typical of a kidney's shape"),
    "cytoplasm_index": Range(1.353, 1.364),
    "nucleus_index": Range(1.364, 1.380),
    "granule_share": Range(0.005, 0.03),
    "granule_diameter": Range(0.3, 0.7, "µm"),
    "granule_index": Range(1.385, 1.41),
    "roundness": Range(0.9, 1.1),
}

_GRANULOCYTE = {
    "diameter": Range(7.3, 9.7, "µm", f"{_DOWNEY}: 8.4, 7.3 to 9.7"),
    "nucleus_share": Range(0.18, 0.25, "", f"{_SCHMID}: 21.3 % of the volume; spread typical"),
    "lobes": Range(2, 5, "", "typical; model: Orlova et al. 2008, J. Biomed. Opt. 13, 054057"),
    "cytoplasm_index": Range(1.354, 1.366),
    "nucleus_index": Range(1.372, 1.394),
    "granule_share": Range(0.10, 0.20, "", f"{_SCHMID}: 15.4 % of the volume; spread typical"),
    "granule_diameter": Range(0.4, 0.9, "µm", "typical"),
    "granule_index": Range(1.378, 1.408),
    "roundness": _TYPICAL_ROUND,
}

_HYDROGEL = {
    "diameter": Range(4.0, 12.0, "µm", "typical of hydrogel beads made as cell mimics"),
    "index": Range(1.347, 1.375),
}

_SILICA = {
    "diameter": Range(2.5, 5.5, "µm", "typical calibration beads"),
    "index": Range(1.42, 1.46),
}

#: What is drawn for each kind; a bead is of hydrogel or of silica.
CELL_RANGES: Mapping[str, Mapping[str, Range]] = MappingProxyType(
    {
        "red cell": MappingProxyType(_RED),
        "lymphocyte-like": MappingProxyType(_LYMPHOCYTE),
        "monocyte-like": MappingProxyType(_MONOCYTE),
        "granulocyte-like": MappingProxyType(_GRANULOCYTE),
        "bead of hydrogel": MappingProxyType(_HYDROGEL),
        "bead of silica": MappingProxyType(_SILICA),
    }
)

#: Indices of nuclei that delay light less than the cytoplasm around them, as Schürmann et
#: al. 2016, J. Biophotonics 9, 1068 measured in living cells. The mean index of a cell stays
#: about what `CELL_RANGES` gives; to be given as `params` by kind.
LOWER_NUCLEUS: Mapping[CellKind, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "lymphocyte-like": {"cytoplasm_index": (1.378, 1.390), "nucleus_index": (1.364, 1.374)},
        "monocyte-like": {"cytoplasm_index": (1.362, 1.370), "nucleus_index": (1.350, 1.358)},
        "granulocyte-like": {"cytoplasm_index": (1.360, 1.370), "nucleus_index": (1.348, 1.356)},
    }
)
