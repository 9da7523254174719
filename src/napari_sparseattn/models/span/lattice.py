"""The pyramid of integer cells that SPAN works on, from coordinates alone.

Wu et al., "SPAN" (arXiv 2406.09333): patches sit on an integer grid, padded and
halved level by level. Attention is local to windows of 6 x 6 cells, regular and
shifted by 3. Here are the index tables for it; no features are touched.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

__all__ = ["WINDOW", "Band", "Lattice", "Layout", "Level"]

#: Side in cells of an attention window.
WINDOW = 6
_SLOTS = WINDOW * WINDOW
_HALF = WINDOW // 2
#: Limits far beyond any slide: of a coordinate, and of the grid's sides.
_FARTHEST = 2**40
_LARGEST = 2**22


@dataclasses.dataclass(frozen=True)
class Layout:
    """Tokens laid out in windows: a permutation with gaps.

    Parameters
    ----------
    table : Tensor
        (W, 36) int64, the token in each slot of each window; 0 in a gap.
    present : Tensor
        (W, 36) bool, False in a gap.
    place : Tensor
        (m,) int64, ``window * 36 + slot`` of each token.
    """

    table: Tensor
    present: Tensor
    place: Tensor

    @classmethod
    def build(cls, cells: Tensor, offset: int) -> Layout:
        """Lay (m, 2) cells out in windows whose corners lie at multiples of 6 minus `offset`."""
        moved = cells + offset
        corner = torch.div(moved, WINDOW, rounding_mode="floor")
        within = moved - corner * WINDOW
        span = corner[:, 1].max() + 1
        window, of = torch.unique(corner[:, 0] * span + corner[:, 1], return_inverse=True)
        place = of * _SLOTS + within[:, 0] * WINDOW + within[:, 1]
        table = torch.zeros(len(window) * _SLOTS, dtype=torch.int64, device=cells.device)
        present = torch.zeros(len(window) * _SLOTS, dtype=torch.bool, device=cells.device)
        table[place] = torch.arange(len(cells), device=cells.device)
        present[place] = True
        return cls(table.view(-1, _SLOTS), present.view(-1, _SLOTS), place)

    def slots_to_tokens(self, heads: int) -> Tensor:
        """(W * heads * 36,) row ``token * heads + head`` for each (window, head, slot)."""
        head = torch.arange(heads, device=self.table.device)[None, :, None]
        return (self.table[:, None] * heads + head).flatten()

    def tokens_to_slots(self, heads: int) -> Tensor:
        """(m * heads,) row ``(window * heads + head) * 36 + slot`` for each (token, head)."""
        head = torch.arange(heads, device=self.place.device)
        window = torch.div(self.place, _SLOTS, rounding_mode="floor")
        slot = self.place - window * _SLOTS
        return ((window[:, None] * heads + head) * _SLOTS + slot[:, None]).flatten()

    def filled_slots(self, heads: int) -> Tensor:
        """(W * heads * 36,) bool, True where a slot holds a token."""
        return self.present[:, None].expand(-1, heads, -1).flatten()


@dataclasses.dataclass(frozen=True)
class Band:
    """Whole rows of windows: a run of tokens and the keys they may attend to.

    All numbers are token indices of the level, ends excluded.

    Parameters
    ----------
    start, stop : int
        The tokens of the band.
    key_start, key_stop : int
        Those and the ones up to 3 columns before and after (the halo).
    fresh : int
        First key that no earlier band of the same walk had.
    kept : int
        First key that the next band will need again.
    """

    start: int
    stop: int
    key_start: int
    key_stop: int
    fresh: int
    kept: int


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of a `Lattice`.

    Parameters
    ----------
    cells : Tensor
        (n, 2) int64, (x, y) on the padded grid, sorted by x, then y. The first
        and the last are the sentinels' cells.
    size : tuple of int
        Padded grid's extent along x and y.
    parent, slot : Tensor
        (n,) int64 each: cell of the next level that holds this one, and
        ``2 * (x % 2) + y % 2``. Empty at the last level.
    """

    cells: Tensor
    size: tuple[int, int]
    parent: Tensor
    slot: Tensor

    @property
    def shifted(self) -> bool:
        """Whether the shifted windows differ from the regular ones.

        As in the authors' code, whose shift is part of the padding to
        multiples of 6: no padding, no shift.
        """
        return any(side % WINDOW for side in self.size)

    def __len__(self) -> int:
        return len(self.cells)

    @functools.cached_property
    def children(self) -> Tensor:
        """(n_parents, 4) int64: token in each slot of each cell of the next level; -1 in a gap."""
        count = int(self.parent[-1]) + 1
        table = torch.full((count * 4,), -1, dtype=torch.int64, device=self.parent.device)
        table[self.parent * 4 + self.slot] = torch.arange(len(self), device=self.parent.device)
        return table.view(-1, 4)

    def parents(self, start: int, stop: int) -> slice:
        """Cells of the next level above tokens ``start`` to ``stop``, whole pairs of columns."""
        # Not those of the first and the last token: the other column of a pair
        # may reach further.
        above = self.parent[start:stop]
        return slice(int(above.min()), int(above.max()) + 1)

    def bands(self, tokens: int | None = None) -> list[Band]:
        """Cut the level into bands of whole window rows.

        Parameters
        ----------
        tokens : int, optional
            Tokens that a band should not exceed by more than one row of
            windows; by default all in one band.
        """
        if tokens is None:
            return [Band(0, len(self), 0, len(self), 0, len(self))]
        rows = -(-self.size[0] // WINDOW)
        column = torch.arange(2 * rows + 2, device=self.cells.device) * _HALF
        first = torch.searchsorted(self.cells[:, 0].contiguous(), column).tolist()
        halo = int(self.shifted)
        bands: list[Band] = []
        row = 0
        while row < rows:
            end = row + 1
            start = first[2 * row]
            if first[2 * end] > start:
                while end < rows and first[2 * end + 2] - start <= tokens:
                    end += 1
                stop, fresh = first[2 * end], bands[-1].key_stop if bands else 0
                before, after = first[max(2 * row - halo, 0)], first[2 * end + halo]
                bands.append(Band(start, stop, before, after, fresh, first[2 * end - halo]))
            row = end
        return bands


@dataclasses.dataclass(frozen=True)
class Lattice:
    """All levels of a slide's pyramid, and where its patches are in level 0.

    Parameters
    ----------
    left, top : int
        Columns and rows of padding before the first patch.
    levels : tuple of Level
        Finest first.
    order : Tensor
        (N,) int64, patches sorted by x, then y: token ``1 + i`` of level 0 is
        patch ``order[i]``.
    rank : Tensor
        (N,) int64, the inverse of `order`.
    """

    left: int
    top: int
    levels: tuple[Level, ...]
    order: Tensor
    rank: Tensor

    @classmethod
    def build(cls, cells: Tensor, n_levels: int = 3) -> Lattice:
        """Pad, sort and halve.

        Parameters
        ----------
        cells : Tensor
            (N, 2) integer (x, y) = (column, row) of each patch; any origin, any
            order.
        n_levels : int
            Levels of the pyramid, at least 2: without a level to halve to there is no
            padding that keeps the sentinels' cells free.

        Raises
        ------
        ValueError
            If there are no cells, they are not integers, or two are the same,
            whose rows the message names; or there are too few levels.
        """
        if n_levels < 2:
            raise ValueError(f"a pyramid has 2 levels or more, not {n_levels}")
        cells = _check_cells(cells)
        lowest = cells.amin(0)
        cells = cells - lowest
        extent = [int(side) + 1 for side in cells.amax(0)]
        if max(extent) > _LARGEST:
            raise ValueError(
                f"cells span {extent[0]} x {extent[1]}, more than {_LARGEST} patches along a side; "
                "give columns and rows, not pixels"
            )
        (left, width), (top, height) = (_pad_side(side, n_levels - 1) for side in extent)
        key = cells[:, 0] * extent[1] + cells[:, 1]
        ordered, order = key.sort(stable=True)
        if bool((ordered[1:] == ordered[:-1]).any()):
            raise ValueError(_duplicates(cells + lowest, ordered, order))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        inner = cells[order] + cells.new_tensor([left, top])
        corners = cells.new_tensor([[0, 0], [width - 1, height - 1]])
        current = torch.cat([corners[:1], inner, corners[1:]])
        levels = []
        for index in range(n_levels):
            size = (width >> index, height >> index)
            if index == n_levels - 1:
                none = current.new_empty(0)
                levels.append(Level(current, size, none, none))
                break
            parents = torch.div(current, 2, rounding_mode="floor")
            down = height >> (index + 1)
            unique, parent = torch.unique(
                parents[:, 0] * down + parents[:, 1], sorted=True, return_inverse=True
            )
            slot = 2 * (current[:, 0] % 2) + current[:, 1] % 2
            levels.append(Level(current, size, parent, slot))
            x = torch.div(unique, down, rounding_mode="floor")
            current = torch.stack([x, unique - x * down], dim=1)
        return cls(left, top, tuple(levels), order, rank)


def _check_cells(cells: Tensor) -> Tensor:
    if cells.ndim != 2 or cells.shape[1] != 2:
        raise ValueError(f"cells must have the shape (N, 2), got {tuple(cells.shape)}")
    if not len(cells):
        raise ValueError("no patches: at least one cell is needed")
    if cells.is_floating_point() or cells.is_complex() or cells.dtype == torch.bool:
        raise ValueError(
            f"cells must be whole numbers (columns and rows of patches), got {cells.dtype}"
        )
    cells = cells.long()
    # min and max first: abs() of the least int64 is negative.
    if int(cells.min()) < -_FARTHEST or int(cells.max()) > _FARTHEST:
        raise ValueError(f"cells must lie within ±{_FARTHEST}, got {int(cells.abs().max())}")
    return cells


def _pad_side(side: int, halvings: int) -> tuple[int, int]:
    """Padding before the first cell, and the padded extent, for one axis."""
    step = 2**halvings
    padded = step + step * max(0, -(-(side - step) // step)) + step
    return (padded - side) // 2, padded


def _duplicates(cells: Tensor, ordered: Tensor, order: Tensor) -> str:
    twice = torch.nonzero(ordered[1:] == ordered[:-1])[:, 0]
    pairs = [
        f"rows {int(order[i])} and {int(order[i + 1])} at {tuple(cells[order[i]].tolist())}"
        for i in twice[:5].tolist()
    ]
    more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
    return f"two patches share one cell (x, y): {'; '.join(pairs)}{more}; keep one of each"
