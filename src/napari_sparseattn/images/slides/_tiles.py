"""Pixels that are decoded when they are taken: tiles, the few kept in memory, other images."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_TILE_BYTES", "LazyImages", "Region", "Tile", "TileCache"]

#: No tile larger than this is decoded; scanners write 0.2 to 3 MB.
MOST_TILE_BYTES = 64 * 2**20
# What a failed or absent tile weighs in the cache, so that endless ones end too.
_NOTE_BYTES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """One tile as it was read.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (h, w, C), optional
        None where the tile is absent or could not be decoded.
    valid : numpy.ndarray, shape (h, w), bool, optional
        False where the file holds no pixels; None when it holds them all.
    compressed : int
        Bytes read from the file.
    seconds : float
        Time spent reading and decoding.
    failure : str, optional
        Why it could not be decoded. Without pixels or failure it is absent:
        the file does not hold it.
    """

    pixels: npt.NDArray[Any] | None = None
    valid: npt.NDArray[Any] | None = None
    compressed: int = 0
    seconds: float = 0.0
    failure: str | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        pixels = 0 if self.pixels is None else self.pixels.nbytes
        return pixels + (0 if self.valid is None else self.valid.nbytes) + _NOTE_BYTES


class TileCache:
    """The tiles used last, up to a number of bytes; may be used from several threads.

    Parameters
    ----------
    most_bytes : int
        Bytes kept; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._tiles: collections.OrderedDict[tuple[int, int, int], Tile] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int, int]) -> Tile | None:
        """Return the tile (level, row, column), or None where it is not held."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: tuple[int, int, int], tile: Tile) -> None:
        """Keep a tile and drop those used longest ago."""
        with self._lock:
            old = self._tiles.pop(key, None)
            self._held -= 0 if old is None else old.n_bytes
            self._tiles[key] = tile
            self._held += tile.n_bytes
            while self._held > self._most:
                _, dropped = self._tiles.popitem(last=False)
                self._held -= dropped.n_bytes

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._tiles.clear()
            self._held = 0

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""
        return self._held


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Pixels read from a slide.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (h, w, C)
        Of the slide's dtype; 0 where not valid.
    valid : numpy.ndarray, shape (h, w), bool
        False outside of the image, where the file holds no pixels, and where
        a tile could not be decoded.
    """

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


class LazyImages(Mapping[str, npt.NDArray[Any]]):
    """Images by name; each is read when it is first taken, and then kept.

    Parameters
    ----------
    readers : mapping
        From a name to a callable that reads the image.
    """

    def __init__(self, readers: Mapping[str, Callable[[], npt.NDArray[Any]]]) -> None:
        self._readers = dict(readers)
        self._images: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._images:
            self._images[name] = self._readers[name]()
        return self._images[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"LazyImages({', '.join(self)})"
