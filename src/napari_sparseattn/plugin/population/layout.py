"""Where each picture of a wall lies: sections below each other, each a heading and a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["Spot", "WallLayout"]


@dataclasses.dataclass(frozen=True)
class Spot:
    """A section of a wall and the place in it; -1 for its heading."""

    section: int
    index: int


class WallLayout:
    """The places of pictures, by arithmetic: what is not seen costs nothing.

    Parameters
    ----------
    counts : sequence of int
        Pictures per section; 0 where it is folded.
    width : int
        Of the wall in screen pixels.
    cell : (int, int)
        Width and height of a picture and what stands below it.
    heading : int
        Height of a heading.
    """

    def __init__(
        self, counts: Sequence[int], width: int, cell: tuple[int, int], heading: int
    ) -> None:
        self.counts, self.cell, self.heading = tuple(counts), cell, heading
        self.across = max(1, width // cell[0])
        lines = [-(-n // self.across) for n in self.counts]
        heights = [heading + n * cell[1] for n in lines]
        #: Top of each section, and below them the bottom of the last.
        self.tops = [0, *np.cumsum(heights, dtype=int).tolist()]

    @property
    def height(self) -> int:
        """Height of all."""
        return int(self.tops[-1])

    def corner(self, spot: Spot) -> tuple[int, int]:
        """Return left and top of a picture, or of a heading."""
        if spot.index < 0:
            return 0, self.tops[spot.section]
        line, column = divmod(spot.index, self.across)
        top = self.tops[spot.section] + self.heading + line * self.cell[1]
        return column * self.cell[0], top

    def at(self, x: int, y: int) -> Spot | None:
        """Return what is at a place; beside the pictures of a section, its heading."""
        section = self.section_at(y)
        if section is None:
            return None
        inside, column = y - self.tops[section] - self.heading, x // self.cell[0]
        if inside < 0 or not 0 <= column < self.across:
            return Spot(section, -1)
        index = inside // self.cell[1] * self.across + column
        return Spot(section, index if index < self.counts[section] else -1)

    def section_at(self, y: int) -> int | None:
        """Return the section at a height, or None."""
        if not self.counts or not 0 <= y < self.height:
            return None
        return int(np.searchsorted(self.tops, y, side="right")) - 1

    def visible(self, top: int, bottom: int) -> list[tuple[int, int, int]]:
        """Return (section, first, end) of the pictures between two heights."""
        found = []
        for section, count in enumerate(self.counts):
            begin = self.tops[section] + self.heading
            if self.tops[section + 1] <= top or self.tops[section] >= bottom:
                continue
            first = max(0, (top - begin) // self.cell[1]) * self.across
            end = min(count, max(0, -(-(bottom - begin) // self.cell[1])) * self.across)
            found.append((section, min(first, end), end))
        return found

    def step(self, spot: Spot, right: int, down: int) -> Spot | None:
        """Return the picture beside another, or above or below it; None at the end."""
        if right:
            return self._along(spot, right)
        index = spot.index + down * self.across
        count = self.counts[spot.section]
        if 0 <= index < count:
            return Spot(spot.section, index)
        last_line = (count - 1) // self.across
        if down > 0 and spot.index // self.across < last_line:
            return Spot(spot.section, count - 1)
        column = spot.index % self.across
        for section in self._beyond(spot.section, down):
            line = 0 if down > 0 else (self.counts[section] - 1) // self.across
            return Spot(section, min(line * self.across + column, self.counts[section] - 1))
        return None

    def _along(self, spot: Spot, right: int) -> Spot | None:
        index = spot.index + right
        if 0 <= index < self.counts[spot.section]:
            return Spot(spot.section, index)
        for section in self._beyond(spot.section, right):
            return Spot(section, 0 if right > 0 else self.counts[section] - 1)
        return None

    def _beyond(self, section: int, way: int) -> list[int]:
        """Return sections with pictures after or before one, the nearest first."""
        order = range(section + 1, len(self.counts)) if way > 0 else range(section - 1, -1, -1)
        return [each for each in order if self.counts[each]]
