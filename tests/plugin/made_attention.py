"""Attention over patches, made up, for tests that need some but no model."""

from __future__ import annotations

import numpy as np

from napari_sparseattn.evidence import AttendedLevel, PyramidAttention


def made_up_attention(
    rows: int = 12,
    columns: int = 9,
    *,
    step: float = 32.0,
    side: float = 32.0,
    origin: tuple[float, float] = (64.0, 96.0),
    seed: int = 0,
    segments: bool = False,
) -> PyramidAttention:
    """Return three levels over a grid with a hole, two heads, two classes."""
    rng = np.random.default_rng(seed)
    cells = np.argwhere(np.ones((rows, columns), bool)).astype(np.int32)
    hole = (cells[:, 0] == 3) & (cells[:, 1] > 4)
    cells = rng.permutation(cells[~hole])
    padding = (2, 3)
    levels = []
    for number in range(3):
        factor = 2**number
        on = np.unique((cells + np.array(padding, np.int32)) // factor, axis=0).astype(np.int32)
        attention = rng.dirichlet(np.full(len(on) + 1, 0.3), size=2).astype(np.float32)
        share = np.array([0.8, -0.8], np.float32) / (number + 1)
        levels.append(AttendedLevel(factor, on, attention[:, :-1], attention[:, -1], share))
    probabilities = rng.random(len(cells)).astype(np.float32) if segments else None
    return PyramidAttention(
        origin,
        step,
        side,
        padding,
        cells,
        tuple(levels),
        ("benign", "tumour"),
        np.array([0.1, -0.1], np.float32),
        probabilities,
    )
