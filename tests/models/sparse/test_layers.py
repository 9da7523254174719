"""Sums over tiles, both ways, against a plain loop."""

from __future__ import annotations

import pytest
import torch

from napari_sparseattn.models.sparse.layers import sum_tiles, tiles_of


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("grid", [(8, 12), (7, 10)])
def test_sums_of_tiles_are_a_loops(
    grid: tuple[int, int], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    torch.manual_seed(0)
    indices = torch.stack([torch.randperm(grid[0] * grid[1])[:30].sort().values for _ in range(3)])
    tokens = torch.randn(3, 30, 5, dtype=torch.float64)
    columns = -(-grid[1] // 4)
    expected = torch.zeros(3, -(-grid[0] // 4) * columns, 5, dtype=torch.float64)
    tiles = torch.zeros_like(indices)
    for crop in range(3):
        for place, index in enumerate(indices[crop].tolist()):
            tile = index // grid[1] // 4 * columns + index % grid[1] // 4
            tiles[crop, place] = tile
            expected[crop, tile] += tokens[crop, place]
    assert torch.equal(tiles_of(indices, grid, 4), tiles)
    torch.testing.assert_close(sum_tiles(tokens, indices, grid, 4), expected)
