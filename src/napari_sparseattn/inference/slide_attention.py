"""What a SPAN returned, as plain data on the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..evidence import AttendedLevel, PyramidAttention

if TYPE_CHECKING:
    from ..card import TargetSpec
    from ..models.span import SpanLevel, SpanOutput

__all__ = ["merge_outputs", "to_pyramid_attention"]


def merge_outputs(output: SpanOutput, target: TargetSpec | None) -> SpanOutput:
    """Return an output whose levels contribute to one answer, of a model with a target.

    What levels contribute to the network's numbers adds up; of hazards that
    to the mean of their log odds is taken, of numbers that in their unit. Of a
    model of classes the output stays as it is.
    """
    if target is None or not len(output.constant):
        return output
    levels = tuple(
        level._replace(contribution=level.contribution.mean(-1, keepdim=True) * target.sd)
        for level in output.levels
    )
    constant = output.constant.mean(-1, keepdim=True) * target.sd + target.mean
    return output._replace(levels=levels, constant=constant)


def to_pyramid_attention(
    output: SpanOutput,
    cells: npt.NDArray[np.integer],
    *,
    origin: tuple[float, float],
    step: float,
    side: float,
    class_names: tuple[str, ...],
    patch_probabilities: npt.NDArray[np.float32] | None = None,
) -> PyramidAttention:
    """Turn what a SPAN returned into plain data on the slide.

    The lattice's two corner tokens, which hold no patch, are left out.

    Parameters
    ----------
    output : SpanOutput
        Of the model.
    cells : numpy.ndarray
        (N, 2) integers (x, y), as given to the model.
    origin : (float, float)
        (y, x) of the top left corner of cell (0, 0) on the slide.
    step, side : float
        Pixels from patch to patch, and along a patch.
    class_names : tuple of str
        The model's classes.
    patch_probabilities : numpy.ndarray, optional
        (N,) float32 of a SPAN-UNet.
    """
    first = cells.min(axis=0)
    own = (cells - first).astype(np.int64)
    padded = own + np.array([output.left, output.top])
    levels = tuple(_to_level(level, padded, 2**n) for n, level in enumerate(output.levels))
    return PyramidAttention(
        (origin[0] + float(first[1]) * step, origin[1] + float(first[0]) * step),
        step,
        side,
        (output.top, output.left),
        np.ascontiguousarray(own[:, ::-1], dtype=np.int32),
        levels,
        class_names,
        output.constant.float().cpu().numpy(),
        patch_probabilities,
    )


def _to_level(level: SpanLevel, padded: npt.NDArray[np.int64], factor: int) -> AttendedLevel:
    """One level's cells that hold a patch of those at (x, y) of the padded grid."""
    lattice = level.cells.cpu().numpy()
    parents = padded // factor
    width = int(max(lattice[:, 1].max(), parents[:, 1].max())) + 1
    keys = lattice[:, 0] * width + lattice[:, 1]
    held = np.isin(keys, parents[:, 0] * width + parents[:, 1])
    mean = level.attention.float().mean(dim=0).cpu().numpy()
    n = len(lattice)
    return AttendedLevel(
        factor,
        lattice[held][:, ::-1].astype(np.int32),
        np.ascontiguousarray(mean[:, :n][:, held]),
        mean[:, n:].sum(axis=1),
        level.contribution.float().cpu().numpy(),
    )
