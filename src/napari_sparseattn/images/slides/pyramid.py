"""A slide as models see it: levels, µm per pixel, and regions read on demand.

Positions are in pixels with a pixel's top left *corner* at its index: a level
covers 0 to its height, whichever the level, so that positions scale from one
level to another by the downsample alone.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ...addresses import Address
from .._icc import ProfileError, ToSrgb, to_srgb
from ..errors import ImageError, isotropic_size
from ._channels import Channel
from ._ledger import Level, Reading, TileKey, TileLedger
from ._remote import Traffic
from ._tiles import Region, Tile, TileCache
from ._window import level_for, read_window

__all__ = [
    "ArrayPyramid",
    "Level",
    "Pyramid",
    "Reading",
    "Region",
    "TileLedger",
    "VirtualPyramid",
    "level_for",
    "read_window",
    "whole_downsample",
]

#: Most pixels of one region; larger ones are read in parts.
MOST_REGION_PIXELS = 2**28
_COLOURS = 3
_CACHE_BYTES = 64 * 2**20
# Tiles decoded before they are copied into a region, and their bytes: bounds
# the memory of a large one.
_BATCH = 64
_BATCH_BYTES = 2**26


class Pyramid(abc.ABC):
    """An image at several resolutions, read tile by tile.

    Backends give `_fetch`. Regions may be read from several threads.

    Parameters
    ----------
    levels : sequence of Level
        Finest first.
    channels : int
        3 (RGB), 1, or as many as `channel_info` has.
    name : str
        What to call it in tables and layers.
    path : pathlib.Path, optional
        The file it is read from.
    pixel_size : float, optional
        µm per pixel at level 0; None where it is not known.
    dtype : numpy.dtype
        Of the pixels; uint8 for slides.
    cache_bytes : int
        Decoded tiles kept in memory.
    notes : tuple of str
        What the user should know, such as why the µm per pixel is not known.
    background : sequence of int, optional
        Colour of what was not scanned; by default white where the slide is
        coloured, and 0 elsewhere.
    channel_info : tuple of Channel
        The channels of a slide that is neither colours nor grey of 8 bits; else empty.
    address : Address, optional
        Where it is read from on another machine.

    Attributes
    ----------
    ledger : TileLedger
        What has been read.
    overview : Pyramid or None
        The same slide with coarse levels that were made of it, where its file has none;
        see `make_overview`.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        channels: int = 3,
        name: str = "",
        path: Path | None = None,
        pixel_size: float | None = None,
        dtype: npt.DTypeLike = np.uint8,
        cache_bytes: int = _CACHE_BYTES,
        notes: tuple[str, ...] = (),
        background: Sequence[int] | None = None,
        channel_info: tuple[Channel, ...] = (),
        address: Address | None = None,
    ) -> None:
        if not levels or levels[0].downsample != 1:
            raise ValueError("a pyramid needs levels, of which the first has a downsample of 1")
        if any(min(level.height, level.width, *level.tile) < 1 for level in levels):
            raise ValueError("a level of the pyramid is empty")
        self.levels = tuple(levels)
        self.channels = channels
        self.name = name
        self.path, self.address = path, address
        self.pixel_size = None if pixel_size is None else isotropic_size(pixel_size)
        self.dtype = np.dtype(dtype)
        self.notes = notes
        self.channel_info = channel_info
        self.overview: Pyramid | None = None
        plain = channels > 1 and self.dtype == np.uint8 and not channel_info
        empty = 255 if plain else 0
        self.background = tuple(background or (empty,) * channels)
        self.ledger = TileLedger(self.levels)
        self._cache_bytes = cache_bytes
        self._cache = TileCache(cache_bytes)
        self._to_srgb: ToSrgb | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0 in pixels."""
        return self.levels[0].height, self.levels[0].width

    @property
    def is_stored(self) -> bool:
        """Whether it is read from a file, here or on another machine, and not from memory."""
        return self.path is not None or self.address is not None

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded of a slide on another machine so far; else None."""
        return None

    def read_bytes(self, spans: Sequence[tuple[int, int]]) -> tuple[int, list[bytes]] | None:
        """Return the size of a file on another machine, and parts of it; else None.

        Parameters
        ----------
        spans : sequence of (int, int)
            Start and number of bytes of each.
        """
        return None

    @property
    def associated(self) -> Mapping[str, npt.NDArray[Any]]:
        """Other images in the file by name (label, macro, thumbnail), read when taken."""
        return {}

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC colour profile of the pixels, where the file holds one."""
        return None

    @functools.cached_property
    def _profile(self) -> tuple[ToSrgb | None, str]:
        """What converts the colours, and why they are not; neither without a profile."""
        if self.channels != _COLOURS or self.dtype != np.uint8 or self.channel_info:
            return None, ""
        try:
            held = self.icc_profile
            if not held:
                return None, ""
            found = to_srgb(held)
        except (ProfileError, ImageError) as error:
            return None, f"the colour profile of {self.name} was not used: {error}"
        return (found, "") if found.changes else (None, "")

    @property
    def profile_name(self) -> str | None:
        """The colour profile that `use_profile` applies; None where that would change nothing.

        That is so where there is none, where it is sRGB within a grey level,
        and where it is damaged or not one of red, green and blue.
        """
        return None if self._profile[0] is None else self._profile[0].name

    @property
    def profile_applied(self) -> bool:
        """Whether pixels are converted from the embedded profile to sRGB as they are read."""
        return self._to_srgb is not None

    @property
    def colour_notes(self) -> tuple[str, ...]:
        """What became of the embedded colour profile, for the account of a prediction."""
        if self.profile_name is None:
            return (self._profile[1],) if self._profile[1] else ()
        if self.profile_applied:
            return (f"colours were converted from the profile '{self.profile_name}' to sRGB",)
        return (f"the embedded colour profile '{self.profile_name}' was not applied",)

    def use_profile(self, on: bool = True) -> None:
        """Convert colours from the embedded profile to sRGB from now on, or leave them as stored.

        Relative colorimetric. Of a slide without such a profile nothing changes.
        """
        chosen = self._profile[0] if on else None
        if chosen is self._to_srgb:
            return
        self._to_srgb = chosen
        # Not cleared: a twin may be reading with it.
        self._cache = TileCache(self._cache_bytes)
        if self.overview is not None:
            self.overview.use_profile(on)

    def as_shown(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return stored pixels (..., C) with the colours that reading gives them."""
        return pixels if self._to_srgb is None else self._to_srgb(pixels)

    def as_stored(self) -> Self:
        """Return this slide with a ledger of its own and colours as they are in the file."""
        twin = self.with_own_ledger()
        twin.overview = None
        twin.use_profile(False)
        return twin

    def with_own_ledger(self) -> Self:
        """Return this slide with a ledger of its own, for the account of one prediction.

        File and memory are shared; closing one closes both.
        """
        twin = copy.copy(self)
        twin.ledger = TileLedger(self.levels)
        return twin

    def read_region(self, y: int, x: int, level: int, height: int, width: int) -> Region:
        """Read a rectangle of one level.

        Parameters
        ----------
        y, x : int
            Top left corner in pixels of that level; may lie outside.
        level : int
            Index into `levels`.
        height, width : int
            Size in pixels of that level; may reach outside.

        Returns
        -------
        Region
            Tiles that cannot be decoded are not valid there, and are in the
            ledger with the reason; the others are still read.

        Raises
        ------
        IndexError
            If there is no such level.
        ValueError
            If the size is not positive, or over 2**28 pixels.
        ImageError
            If the file is gone or has changed since it was opened.
        """
        if not 0 <= level < len(self.levels):
            raise IndexError(f"{self.name} has no level {level}: it has {len(self.levels)}")
        if min(height, width) < 1 or height * width > MOST_REGION_PIXELS:
            raise ValueError(
                f"cannot read {height} x {width} pixels at once; ask for 1 to {MOST_REGION_PIXELS}"
            )
        pixels = np.zeros((height, width, self.channels), self.dtype)
        valid = np.zeros((height, width), np.bool_)
        at = self.levels[level]
        top, bottom = max(y, 0), min(y + height, at.height)
        left, right = max(x, 0), min(x + width, at.width)
        if top >= bottom or left >= right:
            return Region(pixels, valid)
        th, tw = at.tile
        rows = range(top // th, (bottom - 1) // th + 1)
        columns = range(left // tw, (right - 1) // tw + 1)
        for (row, column), tile in self._tiles(level, [(r, c) for r in rows for c in columns]):
            if tile.pixels is None:
                continue
            tile_y, tile_x = row * th, column * tw
            y0, y1 = max(tile_y, top), min(tile_y + tile.pixels.shape[0], bottom)
            x0, x1 = max(tile_x, left), min(tile_x + tile.pixels.shape[1], right)
            there = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
            here = np.s_[y0 - tile_y : y1 - tile_y, x0 - tile_x : x1 - tile_x]
            if y0 < y1 and x0 < x1:
                pixels[there] = tile.pixels[here]
                valid[there] = True if tile.valid is None else tile.valid[here]
                if tile.valid is not None:
                    pixels[there] *= tile.valid[here][..., np.newaxis]
        return Region(pixels, valid)

    def fetch_ahead(self, windows: Iterable[Sequence[float]]) -> None:
        """Load what windows will be read from at once, where a slide is on another machine.

        One after the other each would wait for the network. Of other slides nothing is done.

        Parameters
        ----------
        windows : iterable of (float, float, float, float, int, int)
            Top, left, height and width in level-0 pixels, and height and width in
            output pixels; see `read_window`.

        Raises
        ------
        ImageError
            As `read_region`.
        """
        if self.address is None:
            return
        wanted: dict[int, dict[TileKey, None]] = {}
        for top, left, side_h, side_w, out_h, out_w in windows:
            number = level_for(self, min(side_h / out_h, side_w / out_w))
            at = self.levels[number]
            corners = np.array([(top, top + side_h), (left, left + side_w)]) / at.downsample
            sizes = (at.height, at.width)
            (y0, y1), (x0, x1) = (
                (max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, size))
                for (low, high), size in zip(corners, sizes, strict=True)
            )
            if y0 >= y1 or x0 >= x1:
                continue
            th, tw = at.tile
            for row in range(y0 // th, (y1 - 1) // th + 1):
                for column in range(x0 // tw, (x1 - 1) // tw + 1):
                    if self._cache.get((number, row, column)) is None:
                        wanted.setdefault(number, {})[row, column] = None
        for number, tiles in wanted.items():
            self._bring(number, list(tiles))

    def _bring(self, level: int, tiles: Sequence[TileKey]) -> None:
        """Load tiles side by side, as they are stored; where that would save waiting."""
        return

    def failed_at(
        self,
        level: int,
        rows: npt.NDArray[np.floating[Any]],
        columns: npt.NDArray[np.floating[Any]],
    ) -> npt.NDArray[np.bool_]:
        """Return which places lie in tiles that could not be decoded when they were last read.

        What else is not valid in a region was never scanned.

        Parameters
        ----------
        level : int
            Index into `levels`.
        rows, columns : numpy.ndarray, shape (n,) and (m,)
            Places in pixels of that level.

        Returns
        -------
        numpy.ndarray, shape (n, m), bool
        """
        at, failed = self.levels[level], self.ledger.failed_mask(level)
        if not failed.any():
            return np.zeros((len(rows), len(columns)), np.bool_)
        row, column = (
            np.clip(places // side, 0, most - 1).astype(np.intp)
            for places, side, most in zip((rows, columns), at.tile, at.grid, strict=True)
        )
        found: npt.NDArray[np.bool_] = failed[np.ix_(row, column)]
        return found

    def close(self) -> None:
        """Close the file; what was read stays."""
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        """Read and decode tiles (row, column) of a level, all of them inside its grid."""

    def fetch_channel(self, level: int, tiles: Sequence[TileKey], channel: int) -> Sequence[Tile]:
        """Read and decode tiles as `_fetch` does, but of one channel: (h, w, 1)."""
        return [
            tile
            if tile.pixels is None
            else dataclasses.replace(tile, pixels=tile.pixels[..., channel : channel + 1])
            for tile in self._fetch(level, tiles)
        ]

    def _tiles(self, level: int, keys: Sequence[TileKey]) -> Iterator[tuple[TileKey, Tile]]:
        """Yield tiles from memory or the file, and enter them in the ledger."""
        missing = []
        for key in keys:
            tile = self._cache.get((level, *key))
            if tile is None:
                missing.append(key)
                continue
            self.ledger.record(
                level, key, decoded=False, failure=tile.failure, absent=tile.pixels is None
            )
            yield key, tile
        height, width = self.levels[level].tile
        n_bytes = height * width * self.channels * self.dtype.itemsize
        size = max(1, min(_BATCH, _BATCH_BYTES // n_bytes))
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            for key, stored in zip(batch, self._fetch(level, batch), strict=True):
                tile = stored
                if stored.pixels is not None and self._to_srgb is not None:
                    tile = dataclasses.replace(stored, pixels=self._to_srgb(stored.pixels))
                self._cache.put((level, *key), tile)
                self.ledger.record(
                    level,
                    key,
                    compressed=tile.compressed,
                    pixels=0 if tile.pixels is None else tile.pixels.nbytes,
                    seconds=tile.seconds,
                    failure=tile.failure,
                    absent=tile.pixels is None,
                )
                yield key, tile


class ArrayPyramid(Pyramid):
    """An image in memory as a pyramid.

    Parameters
    ----------
    image : numpy.ndarray or sequence of numpy.ndarray
        (H, W) or (H, W, C), C of 1 or 3, integers or floats; several are
        levels, finest first, each of the same scene.
    pixel_size, name, path
        See `Pyramid`.
    tile : int
        Side of the tiles that the ledger counts.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit.
    """

    def __init__(
        self,
        image: npt.NDArray[Any] | Sequence[npt.NDArray[Any]],
        *,
        pixel_size: float | None = None,
        name: str = "",
        path: Path | None = None,
        tile: int = 256,
    ) -> None:
        arrays = [image] if isinstance(image, np.ndarray) else list(image)
        arrays = [array[..., np.newaxis] if array.ndim == 2 else array for array in arrays]
        for array in arrays:
            if array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype.kind not in "uif":
                raise ValueError(
                    "an image of a pyramid must be numbers (H, W), (H, W, 1) or (H, W, 3), got "
                    f"{array.dtype} {array.shape}"
                )
        if len({(array.dtype, array.shape[2]) for array in arrays}) != 1:
            raise ValueError("all levels of a pyramid must have one dtype and number of channels")
        levels = levels_of([array.shape[:2] for array in arrays], [(tile, tile)] * len(arrays))
        super().__init__(
            levels,
            channels=arrays[0].shape[2],
            name=name,
            path=path,
            pixel_size=pixel_size,
            dtype=arrays[0].dtype,
            cache_bytes=0,
        )
        self._arrays = arrays

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        th, tw = self.levels[level].tile
        array = self._arrays[level]
        parts = [
            array[row * th : (row + 1) * th, column * tw : (column + 1) * tw]
            for row, column in tiles
        ]
        # Nothing of it is in a file: no bytes are read from one.
        return [Tile(part, compressed=0) for part in parts]


class VirtualPyramid(Pyramid):
    """An image of any size that is drawn when it is read; nothing is stored.

    Parameters
    ----------
    render : callable
        ``render(level, y, x, height, width)`` gives uint8 (height, width, C)
        of that level; asked for whole tiles inside of the level only.
    height, width : int
        Size of level 0.
    n_levels : int, optional
        Levels, each half the size of the one before; by default until both
        sides are at most `tile`.
    channels, pixel_size, name
        See `Pyramid`.
    tile : int
        Side of a tile.
    cache_bytes : int
        Drawn tiles kept in memory.
    """

    def __init__(
        self,
        render: Callable[[int, int, int, int, int], npt.NDArray[np.uint8]],
        height: int,
        width: int,
        *,
        n_levels: int | None = None,
        channels: int = 3,
        pixel_size: float | None = None,
        name: str = "",
        tile: int = 256,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if n_levels is None:
            n_levels = 1 + max(0, math.ceil(math.log2(max(height, width) / tile)))
        levels = [
            Level(math.ceil(height / 2**n), math.ceil(width / 2**n), float(2**n), (tile, tile))
            for n in range(n_levels)
        ]
        super().__init__(
            levels, channels=channels, name=name, pixel_size=pixel_size, cache_bytes=cache_bytes
        )
        self._render = render

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        return [self._draw(level, row, column) for row, column in tiles]

    def _draw(self, level: int, row: int, column: int) -> Tile:
        at, start = self.levels[level], time.perf_counter()
        y, x = row * at.tile[0], column * at.tile[1]
        height, width = min(at.tile[0], at.height - y), min(at.tile[1], at.width - x)
        pixels = np.asarray(self._render(level, y, x, height, width))
        if pixels.ndim == 2:
            pixels = pixels[..., np.newaxis]
        expected = (height, width, self.channels)
        if pixels.shape != expected or pixels.dtype != self.dtype:
            raise ValueError(
                f"render gave {pixels.dtype} {pixels.shape}; it must give {self.dtype} {expected}"
            )
        return Tile(pixels, seconds=time.perf_counter() - start)


def levels_of(
    shapes: Sequence[tuple[int, ...]], tiles: Sequence[tuple[int, int]]
) -> tuple[Level, ...]:
    """Return levels from their heights and widths, finest first.

    The downsample is the whole number that explains both sizes, rounded or
    padded to whole tiles, where there is one, else the mean ratio.

    Raises
    ------
    ValueError
        If a level is larger than the one before, or of another shape.
    """
    levels: list[Level] = []
    height, width = shapes[0][:2]
    for (h, w), tile in zip((shape[:2] for shape in shapes), tiles, strict=True):
        if min(h, w) < 1:
            raise ValueError("a level of the pyramid is empty")
        ratios = height / h, width / w
        downsample = sum(ratios) / 2
        whole = whole_downsample((height, width), (h, w), tile)
        if whole is not None:
            downsample = float(whole)
        elif abs(height / downsample - h) > 2 or abs(width / downsample - w) > 2:
            raise ValueError(f"a level of {h} x {w} pixels does not fit one of {height} x {width}")
        if downsample < (levels[-1].downsample if levels else 1):
            raise ValueError("the levels of the pyramid are not in order of their size")
        levels.append(Level(h, w, downsample, tile))
    return tuple(levels)


def whole_downsample(
    full: tuple[int, int], size: tuple[int, int], tile: tuple[int, int]
) -> int | None:
    """Return the whole number that makes a level of one size of another, or None.

    Parameters
    ----------
    full, size : (int, int)
        Height and width of level 0, and of the level.
    tile : (int, int)
        Height and width of the level's tiles: some programs count the pixels
        that fill up the last ones.
    """
    near = round((full[0] / size[0] + full[1] / size[1]) / 2)
    if near >= 1 and all(abs(a / near - b) <= 1 for a, b in zip(full, size, strict=True)):
        return near
    most = max(full[0] / size[0], full[1] / size[1])
    for factor in (1 << n for n in range(1, 13)):
        padded = [
            math.ceil(math.ceil(a / factor) / side) * side
            for a, side in zip(full, tile, strict=True)
        ]
        if factor >= most and tuple(padded) == tuple(size):
            return int(factor)
    return None
