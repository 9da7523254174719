"""Coarse levels of a slide that holds none: made once, kept in the cache, read from there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache import Cache
from ...files import replacing, writing_hdf5
from ...progress import Progress, ignore_progress
from ..errors import ImageError
from ._ledger import Level, TileKey
from ._tiles import Tile
from .pyramid import Pyramid

__all__ = [
    "Band",
    "OverviewPyramid",
    "attach_overview",
    "is_flat",
    "iter_overview",
    "make_overview",
    "overview_file",
    "overview_levels",
    "place_overview",
]

#: Of which a coarsest level with more pixels is made smaller: to draw it, napari reads it whole.
FLAT_PIXELS = 2**23
#: From one level that is made to the next, and the side up to which they are made.
STEP, MOST_SIDE = 4, 2048
_FORMAT = 1
_TILE = 256
_LEAST_ROWS = 256
_SAMPLE_BYTES = 2**16
_UNSCANNED, _VALID, _FAILED = 0, 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Band:
    """Rows of an overview that have just been made.

    Parameters
    ----------
    done, total : int
        Bands so far, and altogether.
    top : int
        First row at the coarsest level.
    pixels : numpy.ndarray, shape (h, w, C)
        Those rows, as stored in the slide; the background's colour where there are none.
    """

    done: int
    total: int
    top: int
    pixels: npt.NDArray[Any]


class OverviewPyramid(Pyramid):
    """A slide with the coarse levels that were made of it.

    Parameters
    ----------
    whole : Pyramid
        The slide; its file is shared.
    file : pathlib.Path
        Where the coarse levels are, as `iter_overview` wrote them.
    """

    def __init__(self, whole: Pyramid, file: Path) -> None:
        super().__init__(
            (*whole.levels, *overview_levels(whole)),
            channels=whole.channels,
            name=whole.name,
            path=whole.path,
            pixel_size=whole.pixel_size,
            dtype=whole.dtype,
            notes=whole.notes,
            background=whole.background,
            channel_info=whole.channel_info,
        )
        self.whole, self.file = whole, file
        self._to_srgb = whole._to_srgb

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC colour profile of the pixels, where the file holds one."""
        return self.whole.icc_profile

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        stored = len(self.whole.levels)
        if level < stored:
            return self.whole._fetch(level, tiles)
        return self._read(level - stored + 1, tiles)

    def fetch_channel(self, level: int, tiles: Sequence[TileKey], channel: int) -> Sequence[Tile]:
        """Read and decode tiles of one channel: (h, w, 1)."""
        if level < len(self.whole.levels):
            return self.whole.fetch_channel(level, tiles, channel)
        return super().fetch_channel(level, tiles, channel)

    def _read(self, number: int, tiles: Sequence[TileKey]) -> list[Tile]:
        import h5py

        found = []
        try:
            with h5py.File(self.file, "r") as held:
                pixels, states = held[f"level{number}"], held[f"state{number}"]
                for row, column in tiles:
                    y, x = row * _TILE, column * _TILE
                    part = np.s_[y : y + _TILE, x : x + _TILE]
                    found.append(_tile_of(pixels[part], states[part]))
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ImageError(
                f"the overview of {self.name} cannot be read any more ({error}); open the slide "
                "again"
            ) from error
        return found


def is_flat(pyramid: Pyramid) -> bool:
    """Tell whether even the coarsest level of a slide's file is too large to be drawn whole."""
    return pyramid.path is not None and pyramid.levels[-1].n_pixels > FLAT_PIXELS


def overview_levels(pyramid: Pyramid) -> tuple[Level, ...]:
    """Return the levels that are made of a slide, each a quarter of the one before along a side."""
    last, found, factor = pyramid.levels[-1], list[Level](), STEP
    while not found or max(found[-1].height, found[-1].width) > MOST_SIDE:
        height, width = math.ceil(last.height / factor), math.ceil(last.width / factor)
        found.append(Level(height, width, last.downsample * factor, (_TILE, _TILE)))
        factor *= STEP
    return tuple(found)


def overview_file(path: Path, cache: Cache) -> Path:
    """Return where the overview of a file is kept.

    Named by its size, its time of change and samples of its content, so that
    another file, or the same one after a change, has another.

    Raises
    ------
    OSError
        If the file is gone.
    """
    state = path.stat()
    digest = hashlib.sha256(f"{_FORMAT} {state.st_size} {state.st_mtime_ns}\0".encode())
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            held = file.stat()
            digest.update(f"{file.name} {held.st_size} {held.st_mtime_ns}\0".encode())
    else:
        with path.open("rb") as opened:
            for start in (0, state.st_size // 2, max(0, state.st_size - _SAMPLE_BYTES)):
                opened.seek(start)
                digest.update(opened.read(_SAMPLE_BYTES))
    return cache.section("overviews") / f"{path.stem[:40]}-{digest.hexdigest()[:16]}.h5"


def attach_overview(pyramid: Pyramid, cache: Cache | None = None) -> bool:
    """Give a slide the overview that was made of it earlier; return whether there is one.

    Parameters
    ----------
    pyramid : Pyramid
        The slide; its `overview` is set.
    cache : Cache, optional
        By default that of the user.
    """
    if not is_flat(pyramid) or pyramid.path is None:
        return False
    with contextlib.suppress(OSError):
        file = overview_file(pyramid.path, cache or Cache.default())
        if _is_whole(file, pyramid):
            place_overview(pyramid, file)
            return True
    return False


def place_overview(pyramid: Pyramid, file: Path) -> None:
    """Let a slide have the coarse levels in a file."""
    pyramid.overview = OverviewPyramid(pyramid, file)


def make_overview(
    pyramid: Pyramid, cache: Cache | None = None, *, progress: Progress | None = None
) -> None:
    """Make coarse levels of a slide that has none, and keep them in the cache.

    Looking for tissue, and drawing the whole, then read those. Patches are read
    from the slide itself, with and without. The slide is read once, in bands of
    rows; a slide that has coarse levels, or had them made, is left as it is.

    Parameters
    ----------
    pyramid : Pyramid
        The slide, from a file; its `overview` is set.
    cache : Cache, optional
        By default that of the user.
    progress : callable, optional
        Called with "overview", the bands done and their number; may raise to
        stop, and nothing is kept.

    Raises
    ------
    ImageError
        If the file is gone or has changed.
    OSError
        If the cache cannot be written.
    """
    report, kept = progress or ignore_progress, cache or Cache.default()
    if not is_flat(pyramid) or pyramid.path is None or attach_overview(pyramid, kept):
        return
    file = overview_file(pyramid.path, kept)
    for band in iter_overview(pyramid, file):
        report("overview", band.done, band.total)
    place_overview(pyramid, file)
    with kept.using(file):
        kept.trim()


def iter_overview(pyramid: Pyramid, file: Path) -> Generator[Band, None, None]:
    """Make the coarse levels of a slide band by band; the file is there after the last.

    Closing the iterator leaves nothing behind. Not more than some bands of
    rows are in memory. What is read is not entered in the slide's ledger.

    Raises
    ------
    ImageError
        If the slide's file is gone or has changed.
    OSError
        If the file cannot be written.
    """
    # Colours are kept as stored, so that they can be shown with and without the profile.
    twin, levels = pyramid.as_stored(), overview_levels(pyramid)
    last, number = twin.levels[-1], len(twin.levels) - 1
    factor = STEP ** len(levels)
    rows = math.ceil(_LEAST_ROWS / factor) * factor
    total = math.ceil(last.height / rows)
    # Without a cache of chunks, as whole ones are written.
    with (
        replacing(file) as temporary,
        writing_hdf5(temporary, rdcc_nbytes=0) as (held, check),
    ):
        writers = [
            _Writer(held, n, level, twin.channels, twin.dtype) for n, level in enumerate(levels, 1)
        ]
        for done in range(total):
            top = done * rows
            height = min(rows, last.height - top)
            region = twin.read_region(top, 0, number, height, last.width)
            pixels, valid = region.pixels, region.valid
            for n, writer in enumerate(writers, 1):
                pixels, valid = _reduced(pixels, valid)
                states = None
                if not valid.all():
                    states = _states(twin, number, valid, top // STEP**n, STEP**n)
                writer.add(pixels, states)
            check()
            if not valid.all():
                pixels = np.where(valid[..., np.newaxis], pixels, twin.background)
            yield Band(done + 1, total, top // factor, pixels.astype(twin.dtype, copy=False))
        for writer in writers:
            writer.flush()
        held.attrs["whole"] = True


class _Writer:
    """Writes rows of a level as whole tiles, one at a time: HDF5 holds up all other threads."""

    def __init__(
        self, held: Any, number: int, level: Level, channels: int, dtype: np.dtype[Any]
    ) -> None:
        size = level.height, level.width
        chunk = tuple(min(_TILE, side) for side in size)
        self._pixels = held.create_dataset(
            f"level{number}", (*size, channels), dtype, chunks=(*chunk, channels), compression="lzf"
        )
        self._states = held.create_dataset(
            f"state{number}", size, np.uint8, chunks=chunk, compression="lzf", fillvalue=_VALID
        )
        self._rows = np.zeros((_TILE, level.width, channels), dtype)
        self._row_states = np.full((_TILE, level.width), _VALID, np.uint8)
        self._top = self._held = 0

    def add(self, pixels: npt.NDArray[Any], states: npt.NDArray[np.uint8] | None) -> None:
        """Take the next rows (h, w, C), and their states where not all are valid."""
        done = 0
        while done < len(pixels):
            n = min(len(pixels) - done, _TILE - self._held)
            here = slice(self._held, self._held + n)
            self._rows[here] = pixels[done : done + n]
            self._row_states[here] = _VALID if states is None else states[done : done + n]
            self._held, done = self._held + n, done + n
            if self._held == _TILE:
                self.flush()

    def flush(self) -> None:
        """Write the rows that are held."""
        rows, width = slice(self._top, self._top + self._held), self._rows.shape[1]
        for left in range(0, width if self._held else 0, _TILE):
            columns = slice(left, min(left + _TILE, width))
            self._pixels[rows, columns] = self._rows[: self._held, columns]
            states = self._row_states[: self._held, columns]
            if (states != _VALID).any():
                self._states[rows, columns] = states
        self._top, self._held = self._top + self._held, 0


def _reduced(
    pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return pixels (h, w, C) as means of blocks, those of `valid` pixels only."""
    wide = np.uint32 if pixels.dtype.itemsize > 1 else np.uint16
    sums = _block_sums(pixels, wide)
    if valid.all():
        most = wide(STEP * STEP)
        whole = np.ones(sums.shape[:2], np.bool_)
        return ((sums + most // wide(2)) // most).astype(pixels.dtype), whole
    sums = _block_sums(pixels * valid[..., np.newaxis], wide)
    counts = _block_sums(valid.astype(np.uint8)[..., np.newaxis], np.uint16)
    means = (sums + counts // 2) // np.maximum(counts, 1)
    return means.astype(pixels.dtype), counts[..., 0] * 2 >= STEP * STEP


def _block_sums(values: npt.NDArray[Any], wide: type[np.unsignedinteger[Any]]) -> Any:
    """Return sums over blocks of (h, w, C); blocks beyond the edge repeat it."""
    height, width = values.shape[:2]
    pad = [(0, -height % STEP), (0, -width % STEP), (0, 0)]
    if pad[0][1] or pad[1][1]:
        values = np.pad(values, pad, mode="edge")
    rows = values[::STEP].astype(wide)
    for n in range(1, STEP):
        rows += values[n::STEP]
    sums = rows[:, ::STEP].copy()
    for n in range(1, STEP):
        sums += rows[:, n::STEP]
    return sums


def _states(
    pyramid: Pyramid, level: int, valid: npt.NDArray[np.bool_], top: int, factor: int
) -> npt.NDArray[np.uint8]:
    """Return for each reduced pixel whether it is valid, was never scanned, or failed."""
    rows = (top + np.arange(valid.shape[0]) + 0.5) * factor
    columns = (np.arange(valid.shape[1]) + 0.5) * factor
    failed = pyramid.failed_at(level, rows, columns)
    states = np.where(failed, _FAILED, _UNSCANNED)
    return np.where(valid, _VALID, states).astype(np.uint8)


def _tile_of(pixels: npt.NDArray[Any], states: npt.NDArray[np.uint8]) -> Tile:
    failure = "it could not be read when the overview was made"
    why = failure if (states == _FAILED).any() else None
    valid = states == _VALID
    if not valid.any():
        return Tile(failure=why)
    return Tile(pixels, None if valid.all() else valid, pixels.nbytes, failure=why)


def _is_whole(file: Path, pyramid: Pyramid) -> bool:
    """Tell whether a file holds an overview of a slide of this size and kind."""
    import h5py

    if not file.is_file():
        return False
    try:
        with h5py.File(file, "r") as held:
            return bool(held.attrs.get("whole", False)) and all(
                held[f"level{n}"].shape == (level.height, level.width, pyramid.channels)
                and held[f"level{n}"].dtype == pyramid.dtype
                for n, level in enumerate(overview_levels(pyramid), 1)
            )
    except (OSError, KeyError, RuntimeError, ValueError):
        return False  # damaged: it is made again
