"""What the maps of a SPAN's attention show: values, limits, colours; no viewer here."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...evidence import scale_weights

if TYPE_CHECKING:
    from ...evidence import PyramidAttention
    from ...evidence.pyramid_attention import MapKind
    from ...inference.slides import LocalAttention

__all__ = [
    "ATTENTION",
    "EXPLANATION",
    "FOCI",
    "LOCAL",
    "PATCH",
    "PROBABILITY",
    "QUANTITIES",
    "TISSUE",
    "Drawn",
    "Placement",
    "PyramidChoice",
    "colour_name",
    "explanation_map",
    "level_map",
    "level_role",
    "local_grid",
    "map_limits",
    "probability_map",
]

#: The values of a map, and those between which they are coloured.
Drawn = tuple[npt.NDArray[np.float32], tuple[float, float]]
#: Scale and translate, as `PyramidAttention.placement`.
Placement = tuple[tuple[float, float], tuple[float, float]]

PROBABILITY, LOCAL, PATCH, TISSUE = "probability", "local attention", "patch", "tissue"
EXPLANATION, FOCI = "explanation", "foci"
#: One map per quantity, by name and the colours from low to high: their lightness rises or
#: falls evenly, and blue, orange and green to yellow are told apart with any colour vision.
ATTENTION = "attention"
_RAMPS = {
    ATTENTION: ("#31688e", "#21918c", "#35b779", "#90d743", "#fde725"),
    PROBABILITY: ("#fdd0a2", "#fdae6b", "#f16913", "#a63603"),
    LOCAL: ("#9ecae1", "#6baed6", "#2171b5", "#08306b"),
    # Against and for: blue and red are told apart with any colour vision, and both are dark.
    EXPLANATION: ("#2166ac", "#67a9cf", "#f7f7f7", "#ef8a62", "#b2182b"),
}
#: Low values are clear, so that the tissue is seen below them.
_CLEAREST, _OPAQUE_FROM = 0.08, 0.6
#: What has colours of its own.
QUANTITIES = frozenset(_RAMPS)
#: Of a few hot cells the rest would all be dark; what is above is shown as the last colour.
_SHOWN_SHARE = 99.5
_LEAST_SPAN = 2.0


@dataclasses.dataclass(frozen=True)
class PyramidChoice:
    """What of the pyramid the user wants to see, and how.

    Parameters
    ----------
    kind : {"raw", "relative", "percentile", "log"}
        See `evidence.scale_weights`.
    head : int or None
        One attention head; None for their mean.
    levels : frozenset of int
        The levels that are shown.
    probability, local, explanation, foci : bool
        Whether the map of patch probabilities, the local attention of the
        patch that is picked out, what speaks for the class, and the mask of
        the tissue that was found are shown.
    """

    kind: MapKind = "relative"
    head: int | None = None
    levels: frozenset[int] = frozenset({0})
    probability: bool = True
    local: bool = True
    explanation: bool = True
    foci: bool = True

    def of(self, role: str) -> bool:
        """Return whether a layer is wanted."""
        own = {
            PROBABILITY: self.probability,
            LOCAL: self.local,
            EXPLANATION: self.explanation,
            FOCI: self.foci,
        }
        if role in own:
            return own[role]
        return role in (PATCH, TISSUE) or role in {level_role(level) for level in self.levels}

    def with_shown(self, role: str, shown: bool) -> PyramidChoice:
        """Return the choice after a layer has been shown or hidden."""
        if role == PROBABILITY:
            return dataclasses.replace(self, probability=shown)
        if role == LOCAL:
            return dataclasses.replace(self, local=shown)
        if role == EXPLANATION:
            return dataclasses.replace(self, explanation=shown)
        if role == FOCI:
            return dataclasses.replace(self, foci=shown)
        if not role.startswith("level"):
            return self
        level = int(role.removeprefix("level "))
        levels = self.levels | {level} if shown else self.levels - {level}
        return dataclasses.replace(self, levels=levels)


def level_role(level: int) -> str:
    """Return the role of the layer of a level."""
    return f"level {level}"


def map_limits(
    attention: PyramidAttention, level: int, choice: PyramidChoice
) -> tuple[float, float]:
    """Return the values between which a level's map is coloured."""
    if choice.kind == "percentile":
        return 0.0, 100.0
    values = scale_weights(attention.levels[level], choice.kind, choice.head)
    top = float(np.percentile(values, _SHOWN_SHARE))
    if choice.kind == "log":
        low = float(values.min())
        return low, max(top, low + 1e-3)
    return 0.0, max(top, 1e-9) if choice.kind == "raw" else max(top, _LEAST_SPAN)


@functools.cache
def colour_name(quantity: str) -> str:
    """Return the name under which napari knows the colours of a quantity."""
    from napari.utils.colormaps import Colormap, ensure_colormap
    from napari.utils.colormaps.standardize_color import transform_color

    ramp = np.array([transform_color(colour)[0] for colour in _RAMPS[quantity]])
    at = np.linspace(0, 1, 64)
    places = np.linspace(0, 1, len(ramp))
    rgba = np.column_stack([np.interp(at, places, ramp[:, i]) for i in range(3)])
    # Of what has two sides, nothing is in the middle.
    strength = np.abs(2 * at - 1) if quantity == EXPLANATION else at
    alpha = np.interp(strength, (0, _OPAQUE_FROM), (_CLEAREST, 1))
    name = f"sparseattn {quantity}"
    ensure_colormap(Colormap(np.column_stack([rgba, alpha]), name=name))
    return name


def level_map(attention: PyramidAttention, level: int, choice: PyramidChoice) -> Drawn:
    """Return a level's values (rows, columns), and those between which they are coloured."""
    values = attention.grid(level, choice.kind, choice.head)
    return values, map_limits(attention, level, choice)


def probability_map(attention: PyramidAttention) -> Drawn:
    """Return the probability of the second class per patch, and 0 and 1."""
    return attention.probability_grid(), (0.0, 1.0)


def explanation_map(attention: PyramidAttention, values: npt.NDArray[np.float32]) -> Drawn:
    """Return what each patch says for the class (rows, columns), and limits about 0."""
    rows, columns = (attention.cells.max(axis=0) + 1).tolist()
    grid = np.full((rows, columns), np.nan, np.float32)
    grid[tuple(attention.cells.T)] = values
    most = max(float(np.percentile(np.abs(values), _SHOWN_SHARE)), 1e-9)
    return grid, (-most, most)


def local_grid(
    attention: PyramidAttention, local: LocalAttention, head: int | None
) -> tuple[npt.NDArray[np.float32], Placement] | None:
    """Return a patch's local attention as a map, and where it lies; None without keys.

    1 is the attention each key would get if all got the same. Keys that are no
    patches, but stand at the corners of the lattice, are left out.

    Parameters
    ----------
    attention : PyramidAttention
        Of the slide.
    local : LocalAttention
        Of one patch.
    head : int, optional
        One head; by default their mean.

    Returns
    -------
    values : numpy.ndarray
        (rows, columns) float32, NaN where there is no key.
    placement : ((float, float), (float, float))
        As `PyramidAttention.placement`.
    """
    there = np.asarray(local.indices) >= 0
    if not there.any():
        return None
    weights = np.asarray(local.weights, np.float32)
    mean = weights.mean(axis=0) if head is None else weights[min(head, len(weights) - 1)]
    cells = attention.cells[np.asarray(local.indices)[there]]
    first = cells.min(axis=0)
    values = np.full((cells.max(axis=0) - first + 1).tolist(), np.nan, np.float32)
    values[tuple((cells - first).T)] = mean[there] * len(mean)
    corner = [
        attention.origin[axis] + float(first[axis]) * attention.step + attention.side / 2 - 0.5
        for axis in (0, 1)
    ]
    return values, ((attention.step, attention.step), (corner[0], corner[1]))
