"""Which tiles of a slide were read, and what that cost."""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "Reading", "TileLedger"]

TileKey = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Parameters
    ----------
    height, width : int
        Size in pixels of this level.
    downsample : float
        Level-0 pixels per pixel of this level along each axis, at least 1.
    tile : (int, int)
        Height and width of the tiles it is read in, in pixels of this level.
    """

    height: int
    width: int
    downsample: float = 1.0
    tile: tuple[int, int] = (256, 256)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return math.ceil(self.height / self.tile[0]), math.ceil(self.width / self.tile[1])

    @property
    def n_pixels(self) -> int:
        """Pixels of this level."""
        return self.height * self.width

    def tile_pixels(self, tile: TileKey) -> int:
        """Return how many of the level's pixels lie in the tile (row, column)."""
        (row, column), (height, width) = tile, self.tile
        return max(min(height, self.height - row * height), 0) * max(
            min(width, self.width - column * width), 0
        )


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read of a slide, frozen.

    Parameters
    ----------
    levels : tuple of Level
        The slide's levels.
    used : tuple of mapping
        Per level, how often each tile (row, column) was used, be it decoded
        for that or still in memory.
    decoded : tuple of mapping
        Per level, how often each tile was decoded.
    failed : tuple of mapping
        Per level, the tiles that could not be decoded, and why.
    absent : tuple of frozenset
        Per level, the tiles that the file does not hold.
    bytes_compressed, bytes_decoded : int
        Bytes read from the file, and bytes of pixels made of them.
    seconds : float
        Time spent reading and decoding, summed over threads.
    """

    levels: tuple[Level, ...]
    used: tuple[Mapping[TileKey, int], ...]
    decoded: tuple[Mapping[TileKey, int], ...]
    failed: tuple[Mapping[TileKey, str], ...]
    absent: tuple[frozenset[TileKey], ...]
    bytes_compressed: int = 0
    bytes_decoded: int = 0
    seconds: float = 0.0

    def __sub__(self, earlier: Reading) -> Reading:
        """Return what was read since `earlier`, a snapshot of the same ledger.

        Failed and absent tiles stay where the newer reading used them.
        """
        used = _differences(self.used, earlier.used)
        return Reading(
            self.levels,
            used,
            _differences(self.decoded, earlier.decoded),
            tuple(
                {tile: why for tile, why in failed.items() if tile in now}
                for failed, now in zip(self.failed, used, strict=True)
            ),
            tuple(
                frozenset(tile for tile in absent if tile in now)
                for absent, now in zip(self.absent, used, strict=True)
            ),
            self.bytes_compressed - earlier.bytes_compressed,
            self.bytes_decoded - earlier.bytes_decoded,
            self.seconds - earlier.seconds,
        )

    @property
    def n_decoded(self) -> int:
        """Tiles decoded, over all levels; a tile decoded twice counts twice."""
        return sum(sum(tiles.values()) for tiles in self.decoded)

    @property
    def n_used(self) -> int:
        """Different tiles used, over all levels."""
        return sum(len(tiles) for tiles in self.used)

    @property
    def n_failed(self) -> int:
        """Tiles that could not be decoded, over all levels."""
        return sum(len(tiles) for tiles in self.failed)

    @property
    def fraction_read(self) -> float:
        """Share, 0..1, of the full-resolution pixels whose tiles were read."""
        level = self.levels[0]
        unreadable = self.failed[0].keys() | self.absent[0]
        seen = sum(level.tile_pixels(tile) for tile in self.used[0].keys() - unreadable)
        return seen / level.n_pixels

    @property
    def fraction_failed(self) -> float:
        """Share, 0..1, of the pixels asked for, at all levels, that could not be decoded."""
        asked = failed = 0
        for level, used, bad in zip(self.levels, self.used, self.failed, strict=True):
            asked += sum(level.tile_pixels(tile) for tile in used)
            failed += sum(level.tile_pixels(tile) for tile in bad)
        return failed / asked if asked else 0.0

    def unread_mask(self, level: int) -> npt.NDArray[np.bool_]:
        """Return which tiles of a level were not read: not asked for, failed or absent.

        Returns
        -------
        numpy.ndarray, shape (rows, columns), bool
            One value per tile, which covers ``levels[level].tile`` pixels.
        """
        mask = np.ones(self.levels[level].grid, dtype=np.bool_)
        unreadable = self.failed[level].keys() | self.absent[level]
        for tile in self.used[level].keys() - unreadable:
            mask[tile] = False
        return mask

    def summary(self) -> str:
        """Return one line for people: tiles, bytes, time and share."""
        text = (
            f"{self.n_used} tiles read ({self.bytes_compressed / 1e6:.1f} MB in the file, "
            f"{self.bytes_decoded / 1e6:.1f} MB of pixels, {self.seconds:.2f} s): "
            f"{100 * self.fraction_read:.3g} % of the full-resolution pixels"
        )
        if self.n_failed:
            text += f"; {self.n_failed} tiles could not be decoded and were left out"
        if n_absent := sum(len(tiles) for tiles in self.absent):
            text += f"; {n_absent} tiles are not in the file"
        return text


def _differences(
    now: Sequence[Mapping[TileKey, int]], earlier: Sequence[Mapping[TileKey, int]]
) -> tuple[Mapping[TileKey, int], ...]:
    return tuple(
        {tile: n - before.get(tile, 0) for tile, n in tiles.items() if n > before.get(tile, 0)}
        for tiles, before in zip(now, earlier, strict=True)
    )


class TileLedger:
    """Counts tiles as they are read; may be used from several threads.

    Parameters
    ----------
    levels : sequence of Level
        The slide's levels.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self._levels = tuple(levels)
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            n = len(self._levels)
            self._used = [collections.Counter[TileKey]() for _ in range(n)]
            self._decoded = [collections.Counter[TileKey]() for _ in range(n)]
            self._failed: list[dict[TileKey, str]] = [{} for _ in range(n)]
            self._absent: list[set[TileKey]] = [set() for _ in range(n)]
            self._compressed = self._bytes = 0
            self._seconds = 0.0

    def record(
        self,
        level: int,
        tile: TileKey,
        *,
        decoded: bool = True,
        compressed: int = 0,
        pixels: int = 0,
        seconds: float = 0.0,
        failure: str | None = None,
        absent: bool = False,
    ) -> None:
        """Note one use of a tile.

        Parameters
        ----------
        level : int
            Level of the tile.
        tile : (int, int)
            Its row and column in the level's grid of tiles.
        decoded : bool
            Whether it was decoded for that; False when still in memory.
        compressed, pixels : int
            Bytes read from the file, and bytes of pixels decoded.
        seconds : float
            Time that took.
        failure : str, optional
            Why it could not be decoded.
        absent : bool
            Whether the file does not hold it.
        """
        with self._lock:
            self._used[level][tile] += 1
            if failure is not None:
                self._failed[level][tile] = failure
            elif absent:
                self._absent[level].add(tile)
            elif decoded:
                self._decoded[level][tile] += 1
            self._compressed += compressed
            self._bytes += pixels
            self._seconds += seconds

    def snapshot(self) -> Reading:
        """Return what was read until now; subtract an earlier one for one prediction's share."""
        with self._lock:
            return Reading(
                self._levels,
                tuple(dict(tiles) for tiles in self._used),
                tuple(dict(tiles) for tiles in self._decoded),
                tuple(dict(tiles) for tiles in self._failed),
                tuple(frozenset(tiles) for tiles in self._absent),
                self._compressed,
                self._bytes,
                self._seconds,
            )

    @property
    def n_failed(self) -> int:
        """Tiles that could not be decoded, over all levels."""
        with self._lock:
            return sum(len(tiles) for tiles in self._failed)

    def failed_mask(self, level: int) -> npt.NDArray[np.bool_]:
        """Return (rows, columns) bool: which tiles of a level could not be decoded.

        What else is not valid in a region was never scanned.
        """
        mask = np.zeros(self._levels[level].grid, np.bool_)
        with self._lock:
            for tile in self._failed[level]:
                mask[tile] = True
        return mask

    @property
    def fraction_read(self) -> float:
        """Share, 0..1, of the full-resolution pixels whose tiles were read."""
        return self.snapshot().fraction_read

    def unread_mask(self, level: int) -> npt.NDArray[np.bool_]:
        """Return which tiles of a level were not read; see `Reading.unread_mask`."""
        return self.snapshot().unread_mask(level)
