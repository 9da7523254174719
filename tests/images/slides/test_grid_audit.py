"""Coordinates from elsewhere: accepted on any grid, refused or snapped off it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_sparseattn.images.slides.grid_audit import GridError, audit_grid, fit_step, infer_step


def lattice(columns: int = 9, rows: int = 7, step: float = 224, offset=(0.0, 0.0)) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * step + np.asarray(offset)


@pytest.mark.parametrize("step", [16.0, 224.0, 447.6, 1789.37])
@pytest.mark.parametrize("offset", [(0, 0), (31, 5), (10_000.25, 77_777.5)])
@pytest.mark.parametrize("rounding", [None, np.floor, np.rint])
def test_finds_the_cells_of_any_grid(step: float, offset, rounding) -> None:
    truth = lattice(9, 7, 1).astype(int)
    rows = np.random.default_rng(0).permutation(len(truth))[:40]
    coords = lattice(9, 7, step, offset)[rows]
    if rounding is not None:
        coords = rounding(coords).astype(int)
    found = audit_grid(coords, step)
    expected = truth[rows] - truth[rows].min(axis=0)
    assert np.array_equal(found.cells, expected)
    assert np.array_equal(found.kept, np.arange(40))
    assert found.report == ""
    top, left = found.origin
    placed = found.cells * step + [left, top]
    assert np.abs(placed - coords).max() <= 1.001


def test_refuses_rows_off_the_grid_with_their_values() -> None:
    coords = lattice()
    coords[10] += (57, 0)
    coords[20] += (0, -40)
    with pytest.raises(GridError, match=r"2 of 63 coordinates are off the grid") as caught:
        audit_grid(coords, 224)
    assert caught.value.rows.tolist() == [10, 20]
    assert "row 10 at (281, 224)" in str(caught.value)
    assert "row 20 at (448, 408)" in str(caught.value)


def test_refuses_the_smaller_of_two_grids() -> None:
    # CLAM begins a grid of its own in each contour.
    coords = np.concatenate([lattice(6, 6), lattice(4, 4, offset=(5000 + 90, 31))])
    with pytest.raises(GridError) as caught:
        audit_grid(coords, 224)
    assert caught.value.rows.tolist() == list(range(36, 52))


def test_snaps_with_a_report() -> None:
    coords = lattice()
    coords[10] += (57, 0)
    # Two rows now claim the cell of row 31; the exact one keeps it.
    coords[30] = coords[31] - (100, 3)
    found = audit_grid(coords, 224, snap=True)
    assert found.moved.tolist() == [10]
    assert found.distance == pytest.approx([57])
    assert found.dropped.tolist() == [30]
    assert len(found.cells) == 62
    assert "1 of 63 patches were off the grid" in found.report
    assert "row 30" in found.report
    assert len(np.unique(found.cells, axis=0)) == 62


def test_refuses_duplicates_and_names_both_rows() -> None:
    coords = lattice()
    coords[40] = coords[3]
    with pytest.raises(GridError, match="1 of 63 coordinates are duplicates") as caught:
        audit_grid(coords, 224)
    assert caught.value.rows.tolist() == [3, 40]
    found = audit_grid(coords, 224, snap=True)
    assert found.dropped.tolist() == [40]


def test_refuses_what_lies_outside_of_the_slide() -> None:
    coords = lattice()
    coords[5, 0] = -224
    coords[9, 1] = 224 * 7
    with pytest.raises(GridError, match="outside of the slide") as caught:
        audit_grid(coords, 224, extent=(224 * 7, 224 * 9))
    assert caught.value.rows.tolist() == [5, 9]
    found = audit_grid(coords, 224, extent=(224 * 7, 224 * 9), snap=True)
    assert found.dropped.tolist() == [5, 9]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(value: float) -> None:
    coords = lattice()
    coords[2, 1] = value
    with pytest.raises(GridError, match="not finite") as caught:
        audit_grid(coords, 224)
    assert caught.value.rows.tolist() == [2]


def test_refuses_a_damaged_coordinate_before_making_an_absurd_grid() -> None:
    coords = lattice().astype(np.int64)
    coords[0, 0] = 2**40 // 224 * 224
    with pytest.raises(GridError, match="steps of 224 from the others") as caught:
        audit_grid(coords, 224)
    assert caught.value.rows.tolist() == [0]
    assert audit_grid(coords, 224, snap=True).dropped.tolist() == [0]


def test_says_which_step_would_fit() -> None:
    with pytest.raises(GridError, match=r"Neighbours lie 447\.[56]\d* apart"):
        audit_grid(np.floor(lattice(40, 40, 447.6)), 448)


def test_refuses_a_wrong_step_and_empty_tables() -> None:
    with pytest.raises(GridError, match="positive"):
        audit_grid(lattice(), 0)
    with pytest.raises(GridError, match="no coordinates"):
        audit_grid(np.empty((0, 2)), 224)
    with pytest.raises(GridError, match="numbers"):
        audit_grid(np.array([["a", "b"]]), 224)


@pytest.mark.parametrize("step", [224.0, 447.6, 256.5])
def test_tells_the_step_from_scattered_patches(step: float) -> None:
    coords = np.rint(lattice(60, 60, step, (13, 400)))
    rows = np.random.default_rng(1).permutation(3600)[:1500]
    assert len(audit_grid(coords[rows], None).cells) == 1500
    assert infer_step(coords[rows]) == pytest.approx(step, abs=0.02)


def test_one_patch_has_no_step_but_fits_any() -> None:
    assert audit_grid([[900, 40]], 224).cells.tolist() == [[0, 0]]
    with pytest.raises(GridError, match="give it"):
        infer_step([[900, 40]])


def test_fits_a_step_that_drifts_from_the_one_stated() -> None:
    # As STAMP places tiles: in blocks of 4, which begin at whole pixels.
    pixel_size, tile, block = 0.2533, 256.0, 4
    side = np.ceil(tile / pixel_size) * block
    along = np.concatenate([n * side * pixel_size + np.arange(block) * tile for n in range(30)])
    coords = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2).astype(np.float32)
    with pytest.raises(GridError):
        audit_grid(coords, tile)
    step = fit_step(coords, tile)
    assert step == pytest.approx(side * pixel_size / block, abs=1e-2)
    found = audit_grid(coords, step, tolerance=tile / 16)
    assert found.cells.max() == 119
    assert len(found.cells) == 120**2


@given(
    st.sets(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=80),
    st.floats(8, 2000),
    st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)),
    st.sampled_from((np.asarray, np.rint, np.floor)),
    st.randoms(use_true_random=False),
)
def test_any_grid_comes_back_from_its_corners(
    cells: set[tuple[int, int]], step: float, origin: tuple[float, float], rounded, random
) -> None:
    placed = np.array(random.sample(sorted(cells), len(cells)))
    coords = rounded(placed * step + origin)
    found = audit_grid(coords, step)
    assert found.kept.tolist() == list(range(len(placed)))
    np.testing.assert_array_equal(found.cells, placed - placed.min(axis=0))
    again = found.cells * found.step + np.array(found.origin)[::-1]
    # Corners are whole pixels; the grid lies within the rounding of them.
    assert np.abs(again - coords).max() <= (0 if rounded is np.asarray else 1) + 1e-6 * step
