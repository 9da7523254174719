"""The pyramid of cells that SPAN works on: no patch is lost, moved or met twice, on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_sparseattn.models.span.lattice import WINDOW, Lattice, Layout


@st.composite
def grids(draw: st.DrawFn) -> npt.NDArray[np.int64]:
    """Cells of any origin and order, scattered over up to 40 x 40, none twice."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    there = rng.random((width, height)) < draw(st.sampled_from((0.02, 0.3, 0.9, 1.0)))
    there[rng.integers(width), rng.integers(height)] = True
    origin = draw(st.tuples(st.integers(-(2**30), 2**30), st.integers(-(2**30), 2**30)))
    return rng.permutation(np.argwhere(there) + origin)


@given(grids(), st.integers(2, 4))
def test_every_patch_is_where_it_was_and_once(cells: npt.NDArray[np.int64], n: int) -> None:
    lattice = Lattice.build(torch.from_numpy(cells), n)
    finest = lattice.levels[0]
    placed = finest.cells[1 + lattice.rank].numpy() - [lattice.left, lattice.top]
    np.testing.assert_array_equal(placed, cells - cells.min(0))
    assert lattice.rank[lattice.order].tolist() == list(range(len(cells)))
    for index, level in enumerate(lattice.levels):
        assert level.size == tuple(side >> index for side in finest.size)
        inside = (level.cells >= 0) & (level.cells < torch.tensor(level.size))
        assert inside.all()
        assert len(torch.unique(level.cells, dim=0)) == len(level)
        # Sorted by x, then y, which bands and windows rely on.
        key = level.cells[:, 0] * level.size[1] + level.cells[:, 1]
        assert (key[1:] > key[:-1]).all()


@given(grids(), st.integers(2, 4))
def test_each_cell_hangs_below_the_half_of_its_place(cells: npt.NDArray[np.int64], n: int) -> None:
    levels = Lattice.build(torch.from_numpy(cells), n).levels
    for fine, coarse in itertools.pairwise(levels):
        assert torch.equal(coarse.cells[fine.parent], fine.cells // 2)
        assert torch.equal(fine.slot, 2 * (fine.cells[:, 0] % 2) + fine.cells[:, 1] % 2)
        own = fine.children[fine.parent, fine.slot]
        assert own.tolist() == list(range(len(fine)))
        assert (fine.children >= 0).sum() == len(fine)
        assert len(fine.children) == len(coarse)


@given(grids(), st.integers(-(2**20), 2**20))
def test_where_the_grid_begins_does_not_matter(cells: npt.NDArray[np.int64], away: int) -> None:
    one = Lattice.build(torch.from_numpy(cells))
    other = Lattice.build(torch.from_numpy(cells + np.array([away, -away])))
    assert torch.equal(one.order, other.order)
    for a, b in zip(one.levels, other.levels, strict=True):
        assert torch.equal(a.cells, b.cells)


@given(grids(), st.integers(1, 200))
def test_bands_hold_every_token_once_and_what_it_may_attend_to(
    cells: npt.NDArray[np.int64], tokens: int
) -> None:
    for level in Lattice.build(torch.from_numpy(cells)).levels:
        bands = level.bands(tokens)
        held = [token for band in bands for token in range(band.start, band.stop)]
        assert held == list(range(len(level)))
        rows = level.cells[:, 0] // WINDOW
        for band in bands:
            own = rows[band.start : band.stop]
            # Whole rows of windows, and all tokens of half a window beside them.
            assert ((rows < own.min()) | (rows > own.max())).sum() == len(level) - len(own)
            if level.shifted:
                first, last = own.min() * WINDOW - 3, (own.max() + 1) * WINDOW + 3
                near = (level.cells[:, 0] >= first) & (level.cells[:, 0] < last)
                assert near[band.key_start : band.key_stop].all()
                assert near.sum() == band.key_stop - band.key_start


@given(grids(), st.sampled_from((0, 3)))
def test_each_token_has_one_slot_of_its_own_window(
    cells: npt.NDArray[np.int64], offset: int
) -> None:
    level = Lattice.build(torch.from_numpy(cells)).levels[0]
    layout = Layout.build(level.cells, offset)
    assert layout.present.sum() == len(level)
    assert layout.table.flatten()[layout.place].tolist() == list(range(len(level)))
    window = layout.place // WINDOW**2
    corner = (level.cells + offset) // WINDOW
    for number in window.unique():
        assert len(corner[window == number].unique(dim=0)) == 1
    assert len(window.unique()) == len(corner.unique(dim=0))


@given(grids())
def test_a_patch_that_is_there_twice_is_named(cells: npt.NDArray[np.int64]) -> None:
    twice = np.concatenate([cells, cells[:1]])
    with pytest.raises(ValueError, match=rf"rows 0 and {len(cells)} at"):
        Lattice.build(torch.from_numpy(twice))


def test_one_level_is_no_pyramid() -> None:
    with pytest.raises(ValueError, match="2 levels or more, not 1"):
        Lattice.build(torch.tensor([[0, 0]]), 1)
