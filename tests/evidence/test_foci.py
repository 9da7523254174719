"""Foci on grids drawn by hand: counted, cleaned and measured as one would on paper."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.evidence import AttendedLevel, PyramidAttention, find_foci

# Digits are tenths of a probability, dots are glass.
SLIDE = """
9 9 9 9 . 0 0 0
9 1 9 9 . 0 8 0
9 9 9 9 . 0 0 0
. . . . . 0 0 0
6 6 0 0 0 0 9 9
0 0 0 0 0 9 . 9
0 0 6 0 0 9 9 9
0 0 0 6 0 0 0 0
"""


def seen_of(text: str, step: float = 100.0) -> PyramidAttention:
    rows = [line.split() for line in text.strip().splitlines()]
    cells = [(r, c) for r, row in enumerate(rows) for c, value in enumerate(row) if value != "."]
    chances = np.array([int(rows[r][c]) / 10 for r, c in cells], np.float32)
    n = len(cells)
    level = AttendedLevel(
        1,
        np.array(cells, np.int32),
        np.full((1, n), 1 / n, np.float32),
        np.zeros(1, np.float32),
        np.empty(0, np.float32),
    )
    return PyramidAttention(
        (0.0, 0.0), step, step, (0, 0), np.array(cells, np.int32), (level,), ("no", "tumour"),
        np.empty(0, np.float32), chances,
    )  # fmt: skip


def test_foci_are_counted_cleaned_and_measured() -> None:
    seen = seen_of(SLIDE)
    found = find_foci(seen, threshold=0.5, least=2, pixel_size=0.5)
    # The ring of 11 is filled by the patch it encloses; the single 8 is noise; the ring
    # about glass is not filled, for glass is no tissue; corners join the two 6.
    assert found.patches.tolist() == [12, 7, 2, 2]
    assert found.raw == 11 + 1 + 7 + 2 + 2
    assert found.labels[1, 1] == 1
    assert found.labels[5, 6] == 0
    assert found.labels[1, 6] == 0
    assert found.labels[6, 2] == found.labels[7, 3] > 0
    # 100 pixels of 0.5 µm are 50 µm.
    assert found.area_mm2 == pytest.approx(23 * 0.05**2)
    assert found.share == pytest.approx(23 / len(seen))
    told = found.to_dict()
    assert told["count"] == 4
    assert sum(told["areas_mm2"]) == pytest.approx(told["area_mm2"])
    assert found.sentence("tumour").startswith("tumour: 0.0575 mm² in 4 foci, ")


def test_nothing_is_cleaned_and_no_area_is_made_up() -> None:
    found = find_foci(seen_of(SLIDE), threshold=0.5, least=1)
    assert found.patches.tolist() == [11, 7, 2, 2, 1]
    assert found.area_mm2 is None
    assert "pixel size is unknown" in found.sentence("tumour")
    assert find_foci(seen_of(SLIDE), threshold=0.95).sentence("tumour").startswith("No tumour")
    with pytest.raises(ValueError, match="above 0"):
        find_foci(seen_of(SLIDE), threshold=0.0)


def test_only_gaps_that_are_enclosed_by_edges_are_filled() -> None:
    grid = """
    9 . 9 9 9
    9 0 9 0 9
    9 9 9 9 0
    0 9 0 0 9
    """
    found = find_foci(seen_of(grid), threshold=0.5, least=2, pixel_size=1.0)
    # Row 1: one gap opens to the glass above, the other touches outside by a corner alone.
    assert found.labels[1].tolist() == [1, 0, 1, 1, 1]
    # At the edge of the grid nothing is enclosed.
    assert found.labels[3].tolist() == [0, 1, 0, 0, 1]
    assert found.labels[2, 4] == 0
    assert found.patches.tolist() == [14]
    assert found.area_mm2 == pytest.approx(14 * 0.1**2)
    # Two patches that are enclosed together are no noise of one.
    wide = "9 9 9 9\n9 0 0 9\n9 9 9 9"
    assert find_foci(seen_of(wide), threshold=0.5, least=2).patches.tolist() == [10]
    assert find_foci(seen_of(wide), threshold=0.5, least=3).patches.tolist() == [12]
