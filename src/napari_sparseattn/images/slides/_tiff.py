"""Slides of the TIFF family: one positioned read per tile, decoded in parallel."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ...addresses import Address
from .._decode import (
    TIFF_ERRORS,
    TIFF_MAGIC,
    check_tiff,
    colour_order,
    ome_pixels,
    tiff_pixel_size,
)
from .._foreign import foreign_format
from .._pages import open_pages
from .._stream_sizes import picture_fault
from .._streams import codestream_fault, jpeg_fault
from ..errors import ImageError
from ._channels import (
    MOST_CHANNELS,
    Channel,
    are_plain,
    ome_channels,
    plain_channels,
    primaries,
)
from ._checks import (
    check_level,
    check_unchanged,
    file_state,
    known_pixel_size,
)
from ._ledger import TileKey
from ._remote import NetworkSettings, RemoteError, RemoteFile, Stream, Traffic
from ._tiles import LazyImages, Tile
from .pyramid import Pyramid, levels_of, whole_downsample

if TYPE_CHECKING:
    import tifffile

__all__ = ["TiffPyramid", "level_pages", "open_tiff"]

# Tiles are read in groups at least this large, in pixels along a side: strips
# and NDPI's slivers of 8 rows would cost more to keep track of than to decode.
_LEAST_SIDE = 192
_GROUP_SIDE = 256
_GROUP_PIXELS = 2**22
_MOST_THREADS = 4
# What one strip that is not compressed is read in.
_PIECE_BYTES = 2**20
_JPEG = frozenset((6, 7, 33007, 34892))
_JPEG_2000 = frozenset((33003, 33004, 33005, 34712))
_APERIO_YCBCR = 33003
_PHOTOMETRIC = {0: "white is zero", 1: "black is zero", 2: "RGB", 6: "YCbCr"}
_NDPI_DERIVED = 3
_COLOURS = 3
_BITS = (8, 16)
_MOST_DERIVED_PIXELS = 2**24
_MOST_IMAGE_VALUES = 2**27
# Pages of a file that are looked at for levels.
_MOST_PAGES = 64
_MOST_PROFILE = 16 * 2**20
_HEAD_BYTES = 132
# What decoders raise on damaged tiles; imagecodecs' errors are RuntimeErrors,
# those of XML are SyntaxErrors.
_DECODE_ERRORS = (*TIFF_ERRORS, MemoryError, NotImplementedError, SyntaxError, AttributeError)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
    """How one level is stored: its chunks (tiles or strips) and how to decode them.

    `offsets` and `counts` are (P, N): colours may be P planes, each with N
    chunks of its own, of which number n is the decoder's number n plus `skip`
    for each plane before.
    """

    height: int
    width: int
    chunk: tuple[int, int]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    decoders: tuple[Callable[..., Any], ...]
    skip: int
    compression: int
    samples: int
    inverted: bool
    tables: bytes | None
    header: bytes | None
    dtype: np.dtype[Any]

    @property
    def n_columns(self) -> int:
        return math.ceil(self.width / self.chunk[1])

    @property
    def n_rows(self) -> int:
        return math.ceil(self.height / self.chunk[0])

    @property
    def group(self) -> tuple[int, int]:
        """Chunks along y and x that are read together."""
        y, x = (1 if side >= _LEAST_SIDE else math.ceil(_GROUP_SIDE / side) for side in self.chunk)
        most = max(1, _GROUP_PIXELS // (self.chunk[0] * self.chunk[1]))
        return min(y, self.n_rows, most), min(x, self.n_columns, most)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width in pixels of what is read together."""
        return self.group[0] * self.chunk[0], self.group[1] * self.chunk[1]

    @property
    def most_bytes(self) -> int:
        """What a chunk may take at the worst, so that no table makes us read the whole file."""
        return 4 * self.chunk[0] * self.chunk[1] * self.samples * self.dtype.itemsize + 2**16

    def chunks_of(self, tile: TileKey) -> Iterator[int]:
        """Give the numbers of the chunks that are read together as a tile."""
        rows, columns = self.group
        for row in range(tile[0] * rows, min((tile[0] + 1) * rows, self.n_rows)):
            for column in range(tile[1] * columns, min((tile[1] + 1) * columns, self.n_columns)):
                yield row * self.n_columns + column


class TiffPyramid(Pyramid):
    """A slide in a TIFF file; made by `open_tiff`."""

    def __init__(
        self,
        source: _Source,
        stored: Sequence[_Stored],
        associated: Mapping[str, npt.NDArray[Any]],
        icc_profile: bytes | None,
        pixel_size: float | None,
        notes: tuple[str, ...],
        n_derived: int = 0,
        channel_info: tuple[Channel, ...] = (),
    ) -> None:
        shapes, last = [(s.height, s.width) for s in stored], stored[-1]
        shapes += [(last.height >> n, last.width >> n) for n in range(1, n_derived + 1)]
        tiles = [s.tile for s in stored] + shapes[len(stored) :]
        try:
            levels = levels_of(shapes, tiles)
        except ValueError as error:
            raise ImageError(f"{source.name}: {error}; export it again") from error
        super().__init__(
            levels,
            channels=len(channel_info) or (1 if stored[0].samples == 1 else 3),
            name=Path(source.name).stem,
            path=source.path,
            address=source.address,
            pixel_size=pixel_size,
            dtype=stored[0].dtype,
            notes=notes,
            channel_info=channel_info,
        )
        self._source = source
        self._stored = tuple(stored)
        self._associated = associated
        self._icc_profile = icc_profile

    @property
    def associated(self) -> Mapping[str, npt.NDArray[Any]]:
        """Other images in the file by name, read when taken."""
        return self._associated

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC colour profile of the pixels, where the file holds one."""
        return self._icc_profile

    def close(self) -> None:
        """Close the file; what was read stays."""
        super().close()
        self._source.close()

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded of a slide on another machine so far; else None."""
        return self._source.traffic

    def read_bytes(self, spans: Sequence[tuple[int, int]]) -> tuple[int, list[bytes]] | None:
        """Return the size of a file on another machine, and parts of it; else None."""
        if self.address is None:
            return None
        with self._source.reading():
            return self._source.size, self._source.read_spans(spans)

    def _bring(self, level: int, tiles: Sequence[TileKey]) -> None:
        if level < len(self._stored):
            with self._source.reading():
                self._load(level, tiles, slice(None))

    def _load(self, level: int, tiles: Sequence[TileKey], planes: slice) -> None:
        """Load tiles from another machine, those left out that would not be decoded."""
        if self.address is None:
            return
        stored, found = self._stored[level], list[tuple[int, int]]()
        for tile in tiles:
            for index in stored.chunks_of(tile):
                starts, sizes = stored.offsets[planes, index], stored.counts[planes, index]
                places = zip(starts.tolist(), sizes.tolist(), strict=True)
                found += [place for place in places if 0 < place[1] <= stored.most_bytes]
        self._source.bring(found)

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        with self._source.reading():
            if level >= len(self._stored):
                return [self._derive(level)]
            self._load(level, tiles, slice(None))
            if len(tiles) == 1 or self._source.threads == 1:
                return [self._read_tile(level, tile) for tile in tiles]
            return list(self._source.pool.map(lambda tile: self._read_tile(level, tile), tiles))

    def fetch_channel(self, level: int, tiles: Sequence[TileKey], channel: int) -> Sequence[Tile]:
        """Read and decode tiles of one channel, alone where it is stored alone: (h, w, 1)."""
        if len(self._stored[level].offsets) != self.channels:
            return super().fetch_channel(level, tiles, channel)
        with self._source.reading():
            self._load(level, tiles, slice(channel, channel + 1))
            if len(tiles) == 1 or self._source.threads == 1:
                return [self._read_tile(level, tile, channel) for tile in tiles]
            read = functools.partial(self._read_tile, level, plane=channel)
            return list(self._source.pool.map(read, tiles))

    def _derive(self, level: int) -> Tile:
        """Return a whole level that the file does not hold, from the coarsest that it does."""
        stored = len(self._stored) - 1
        factor = 2 ** (level - stored)
        height, width = self.levels[level].height, self.levels[level].width
        # What is given here is converted by whoever asked.
        source = self if not self.profile_applied else self.as_stored()
        region = source.read_region(0, 0, stored, height * factor, width * factor)
        blocks = region.pixels.reshape(height, factor, width, factor, self.channels)
        pixels = np.rint(blocks.mean((1, 3), dtype=np.float32)).astype(np.uint8)
        held = region.valid.reshape(height, factor, width, factor)
        valid = np.asarray(held.all((1, 3)))
        return Tile(pixels, None if valid.all() else valid)

    def _read_tile(self, level: int, tile: TileKey, plane: int | None = None) -> Tile:
        """Read what is read together, of all planes or of one of them."""
        stored, start = self._stored[level], time.perf_counter()
        planes = slice(None) if plane is None else slice(plane, plane + 1)
        (rows, columns), (ch, cw) = stored.group, stored.chunk
        if rows == columns == 1:
            index = tile[0] * stored.n_columns + tile[1]
            data, why = self._read_chunk(stored, index, planes)
            pixels = data if isinstance(data, np.ndarray) else None
            n_bytes = int(stored.counts[planes, index].sum())
            return Tile(pixels, None, n_bytes, time.perf_counter() - start, why)
        channels = self.channels if plane is None else 1
        whole = np.zeros((rows * ch, columns * cw, channels), self.dtype)
        valid, reason, n_bytes = np.zeros(whole.shape[:2], np.bool_), None, 0
        for row in range(tile[0] * rows, min((tile[0] + 1) * rows, stored.n_rows)):
            for column in range(tile[1] * columns, min((tile[1] + 1) * columns, stored.n_columns)):
                index = row * stored.n_columns + column
                part, why = self._read_chunk(stored, index, planes)
                n_bytes += int(stored.counts[planes, index].sum())
                reason = reason or why
                if part is not None:
                    y, x = (row - tile[0] * rows) * ch, (column - tile[1] * columns) * cw
                    there = np.s_[y : y + part.shape[0], x : x + part.shape[1]]
                    whole[there], valid[there] = part, True
        seconds = time.perf_counter() - start
        if not valid.any():
            return Tile(None, None, n_bytes, seconds, reason)
        return Tile(whole, None if valid.all() else valid, n_bytes, seconds, reason)

    def _read_chunk(
        self, stored: _Stored, index: int, planes: slice
    ) -> tuple[npt.NDArray[Any] | None, str | None]:
        """Return pixels, or why there are none; neither where the file holds none."""
        parts: list[npt.NDArray[Any]] = []
        for plane in range(len(stored.offsets))[planes]:
            part, why = self._read_plane(stored, index, plane)
            if part is None:
                # A plane that the file leaves out beside others is damage.
                why = why or ("some of its colours are missing" if parts else None)
                return None, why
            parts.append(part)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return self._as_colours(stored, whole), None

    def _read_plane(
        self, stored: _Stored, index: int, plane: int
    ) -> tuple[npt.NDArray[Any] | None, str | None]:
        n_bytes = int(stored.counts[plane, index])
        if n_bytes == 0:
            return None, None
        if n_bytes > stored.most_bytes:
            return None, f"it claims {n_bytes} bytes, more than its pixels"
        try:
            data = self._source.read(int(stored.offsets[plane, index]), n_bytes)
            if len(data) < n_bytes:
                return None, "the file ends before it"
            if why := _fault(stored, data):
                return None, why
            decode = stored.decoders[min(plane, len(stored.decoders) - 1)]
            place = index + plane * stored.skip
            part = decode(data, place, jpegtables=stored.tables, jpegheader=stored.header)[0]
            if part is None or part.dtype.newbyteorder("=") != stored.dtype:
                return None, f"it does not decode to {8 * stored.dtype.itemsize}-bit pixels"
            return part[0].astype(stored.dtype, copy=False), None
        except RemoteError:
            raise  # says nothing of the tile
        except _DECODE_ERRORS as error:
            return None, _short(error)

    def _as_colours(self, stored: _Stored, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        pixels: npt.NDArray[Any] = part[..., : self.channels]
        if stored.compression == _APERIO_YCBCR:
            return _ycbcr_to_rgb(pixels)
        return ~pixels if stored.inverted else pixels


class _Source(abc.ABC):
    """A file that is read at positions by several threads, and their pool.

    Parameters
    ----------
    name : str
        The file's name, with its ending.
    size : int
        Bytes of the file.
    threads : int, optional
        How many decode the tiles of one region; by default the cores, at most 4.
    """

    path: Path | None = None
    address: Address | None = None

    def __init__(self, name: str, size: int, threads: int | None = None) -> None:
        self.name, self.size = name, size
        self.threads = threads or max(1, min(_MOST_THREADS, os.cpu_count() or 1))
        self._idle = threading.Condition()
        self._n_readers = 0
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads to decode in; they end with this object."""
        with self._idle:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="slide")
            return self._pool

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded from another machine; None of a file on this one."""
        return None

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the file open for a while; raise ImageError if it is not the one opened."""
        with self._idle:
            if self._closed:
                raise ImageError(f"{self.name} has been closed; open it again")
            self._n_readers += 1
        try:
            self._check()
            yield
        finally:
            with self._idle:
                self._n_readers -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Close the file once nothing is being read from it."""
        with self._idle:
            self._closed = True
        self._interrupt()
        with self._idle:
            self._idle.wait_for(lambda: self._n_readers == 0)
        if self._pool is not None:
            self._pool.shutdown()
        self._finish()

    @abc.abstractmethod
    def open(self) -> contextlib.AbstractContextManager[tifffile.TiffFile]:
        """Open the file as tifffile does, to be used in a ``with``."""

    @abc.abstractmethod
    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes at a position, fewer where the file ends."""

    def read_spans(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes at several positions."""
        return [self.read(*span) for span in spans]

    def bring(self, spans: Sequence[tuple[int, int]]) -> None:
        """Load what will be read, where that takes long."""
        return

    def settle(self) -> None:
        """End the opening of the file, in which tifffile may have passed over what failed."""
        return

    @abc.abstractmethod
    def _check(self) -> None:
        """Refuse a file that is not the one opened."""

    def _interrupt(self) -> None:
        """Let readers that wait stop."""
        return

    @abc.abstractmethod
    def _finish(self) -> None:
        """Close the file, of which nothing is being read."""


class _LocalSource(_Source):
    """An open file of this computer."""

    path: Path

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._finaliser = weakref.finalize(self, os.close, self._descriptor)
        self._seeking = threading.Lock()
        self._state = file_state(path)
        super().__init__(path.name, self._state[2], threads)

    def open(self) -> contextlib.AbstractContextManager[tifffile.TiffFile]:
        """Open the file as tifffile does, to be used in a ``with``."""
        return open_pages(self.path)

    if sys.platform == "win32":

        def read(self, offset: int, n_bytes: int) -> bytes:
            """Return bytes at a position, fewer where the file ends."""
            with self._seeking:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                return os.read(self._descriptor, n_bytes)
    else:

        def read(self, offset: int, n_bytes: int) -> bytes:
            """Return bytes at a position, fewer where the file ends."""
            return os.pread(self._descriptor, n_bytes, offset)

    def _check(self) -> None:
        check_unchanged(self.path, self._state)

    def _finish(self) -> None:
        self._finaliser()


class _RemoteSource(_Source):
    """A file on another machine."""

    address: Address

    def __init__(
        self,
        address: Address,
        threads: int | None = None,
        network: NetworkSettings | None = None,
    ) -> None:
        self.address = address
        self._file = RemoteFile(address, network)
        super().__init__(address.name, self._file.size, threads)

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded from another machine."""
        return self._file.traffic

    def open(self) -> contextlib.AbstractContextManager[tifffile.TiffFile]:
        """Open the file as tifffile does, to be used in a ``with``."""
        return open_pages(cast("IO[bytes]", Stream(self._file)))

    def head(self) -> bytes:
        """Return the first bytes."""
        return self._file.read(0, _HEAD_BYTES)

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes at a position, fewer where the file ends."""
        return self._file.read_spans([(offset, n_bytes)])[0]

    def read_spans(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes at several positions."""
        return self._file.read_spans(spans)

    def bring(self, spans: Sequence[tuple[int, int]]) -> None:
        """Load what will be read, side by side."""
        self._file.bring(spans)

    def settle(self) -> None:
        """End the opening of the file, in which tifffile may have passed over what failed.

        Raises
        ------
        ImageError
            If a part of it could not be loaded.
        """
        self._file.settle()

    def _check(self) -> None:
        self._file.check()

    def _interrupt(self) -> None:
        self._file.close()

    def _finish(self) -> None:
        self._file.close()


def open_tiff(
    path: Path | Address,
    pixel_size: float | None = None,
    threads: int | None = None,
    network: NetworkSettings | None = None,
) -> TiffPyramid:
    """Open a TIFF file as a slide.

    Parameters
    ----------
    path : pathlib.Path or Address
        SVS, NDPI, OME-TIFF, Philips or generic TIFF, tiled or in strips.
    pixel_size : float, optional
        µm per pixel, in place of what the file says.
    threads : int, optional
        How many decode the tiles of one region; by default the cores, at most 4.

    network : NetworkSettings, optional
        How a file on another machine is read.

    Raises
    ------
    FileNotFoundError
        If there is no file at an address.
    ImageError
        If the file is damaged, or of a kind that is not read.
    """
    source: _Source
    if isinstance(path, Address):
        source = _RemoteSource(path, threads, network)
        _check_kind_of(source)
    else:
        source = _LocalSource(path, threads)
    try:
        with source.open() as tif:
            found = _from_tiff(tif, source, pixel_size)
        source.settle()
        return found
    except ImageError:
        source.close()
        raise
    except _DECODE_ERRORS as error:
        source.close()
        source.settle()
        raise ImageError(
            f"{path.name} is a damaged TIFF ({_short(error)}); copy or export it again"
        ) from error


def _check_kind_of(source: _RemoteSource) -> None:
    """Refuse what is no TIFF, or one of which the rest is in other files."""
    head = source.head()
    if foreign := foreign_format(Path(source.name), head):
        raise ImageError(foreign)
    if head[:4] in TIFF_MAGIC:
        return
    what = "neither TIFF nor OME-Zarr"
    if head.lstrip()[:1] == b"<":
        what = "a web page, or an error in the form of one"
    raise ImageError(
        f"What is at the address of {source.name} is {what}. From other machines slides of the "
        "TIFF family (SVS, NDPI, OME-TIFF) and of OME-Zarr are read; copy any other file to this "
        "computer, and open the copy."
    )


def _from_tiff(tif: tifffile.TiffFile, source: _Source, pixel_size: float | None) -> TiffPyramid:
    name = source.name
    if source.address is not None and (tif.is_bif or tif.is_scn):
        raise ImageError(
            f"{name} is of a kind that OpenSlide reads, from this computer only: copy it here, and "
            "open the copy"
        )
    if not tif.series:
        raise ImageError(f"{name} holds no image; export it again")
    main = _main_series(name, tif)
    levels = level_pages(tif, main)
    notes: tuple[str, ...] = ()
    info = _channels_of(tif, main, levels)
    planes = _channel_pages(main, len(info)) if info else _colour_planes(tif, main, levels)
    extra = [n for n, a in zip(main.shape, main.axes, strict=True) if a not in "YXS"]
    n_images = math.prod(extra) // (len(planes[0]) if planes else 1)
    if n_images > 1:
        notes += (f"the first of {n_images} planes of {name} is read",)
    elif planes and not info:
        notes += (f"the three planes of {name} were taken for red, green and blue",)
    if (turn := main.keyframe.tags.valueof(274, 1)) != 1:
        note = f"{name} says that it is to be looked at turned or mirrored (orientation {turn}); "
        notes += (note + "it is shown as it is stored, as other programs for slides do",)
    stored = [_describe_page(name, pages) for pages in planes or [[page] for page in levels]]
    if len({s.samples for s in stored}) > 1:
        raise ImageError(f"{name} has levels of different colours; export it again")
    pixel_size, about_scale = known_pixel_size(
        name, *_declared_pixel_size(tif, main), given=pixel_size
    )
    notes += about_scale
    profile = main.keyframe.iccprofile
    if profile is not None and len(profile) > _MOST_PROFILE:
        profile = None
    # OpenSlide gives NDPI as many more, from what libjpeg can scale down to.
    small = stored[-1].height * stored[-1].width <= _MOST_DERIVED_PIXELS
    n_derived = _NDPI_DERIVED if tif.is_ndpi and small else 0
    own = {page.offset for page in levels}
    own |= {page.offset for pages in planes for page in pages}
    images = _read_associated(source, tif, main, own)
    return TiffPyramid(source, stored, images, profile, pixel_size, notes, n_derived, info)


def _main_series(name: str, tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the image itself: the largest, but the first where the format says so."""
    images = [s for s in tif.series if "Y" in s.axes and "X" in s.axes and s.keyframe is not None]
    if not images:
        raise ImageError(f"{name} holds no image; export it again")
    # A damaged size must not make the thumbnail the slide.
    if tif.is_ndpi or tif.is_philips or (tif.is_svs and tif.series[0].keyframe.is_tiled):
        return tif.series[0]
    return max(images, key=lambda s: int(s.keyframe.imagelength) * int(s.keyframe.imagewidth))


def _channels_of(
    tif: tifffile.TiffFile, main: tifffile.TiffPageSeries, levels: Sequence[Any]
) -> tuple[Channel, ...]:
    """Return the channels of an image that is neither colours nor grey of 8 bits; else none."""
    page, dtype = levels[0], levels[0].dtype
    samples = int(page.samplesperpixel)
    count = main.shape[main.axes.index("C")] if "C" in main.axes else 1
    if dtype is None or 8 * dtype.itemsize not in _BITS or not 1 <= samples <= MOST_CHANNELS:
        return ()
    if samples == 1 and count > 1:
        if count > MOST_CHANNELS or _colour_planes(tif, main, levels):
            return ()
        return _named(tif, main, count) if _channel_pages(main, count) else ()
    coloured = samples in (_COLOURS, _COLOURS + 1)
    if dtype == np.uint8:
        dyes = coloured and int(page.photometric) in (0, 1) and _has_dyes(tif)
        return _named(tif, main, samples) if dyes or samples not in (1, 3, 4) else ()
    return primaries() if coloured and not _has_dyes(tif) else _named(tif, main, samples)


def _named(
    tif: tifffile.TiffFile, main: tifffile.TiffPageSeries, count: int
) -> tuple[Channel, ...]:
    """Return channels with the names and colours that OME, Akoya or ImageJ gave them."""
    if tif.ome_metadata:
        return ome_channels(ome_pixels(tif, main), count)
    found = plain_channels(count)
    if tif.is_qpi and "C" in main.axes:
        pages = [main.pages[n] for n in range(count)]
        about = [str(getattr(page, "description", "") or "")[: 2**16] for page in pages]
        return tuple(_of_akoya(text, plain) for text, plain in zip(about, found, strict=True))
    tables = (tif.imagej_metadata or {}).get("LUTs") or ()
    if len(tables) == count:
        return tuple(
            Channel(one.name, (int(red[-1]), int(green[-1]), int(blue[-1])))
            for one, (red, green, blue) in zip(found, tables, strict=True)
        )
    return found


def _of_akoya(text: str, plain: Channel) -> Channel:
    """Return a channel as the description of a page of a QPTIFF names it."""
    name = re.search(r"<Name>([^<]{1,80})</Name>", text)
    colour = re.search(r"<Color>(\d{1,3}),(\d{1,3}),(\d{1,3})</Color>", text)
    shown = None
    if colour is not None:
        red, green, blue = (min(int(part), 255) for part in colour.groups())
        shown = red, green, blue
    return Channel(plain.name if name is None else name[1].strip(), shown)


def _channel_pages(main: tifffile.TiffPageSeries, count: int) -> list[list[Any]]:
    """Return the pages of the channels of each level, where each has its own; else none."""
    axes, shape = main.axes, main.shape
    if "C" not in axes or "S" in axes or shape[axes.index("C")] != count:
        return []
    # Pages of a series come in the order of its axes, the last of them first.
    after = [n for n, a in zip(shape, axes, strict=True) if a not in "YX"]
    step = math.prod(after[[a for a in axes if a not in "YX"].index("C") + 1 :])
    if any(len(level.pages) <= (count - 1) * step for level in main.levels):
        return []
    found = [[level.pages[n * step] for n in range(count)] for level in main.levels]
    return [] if any(page is None for pages in found for page in pages) else found


def _colour_planes(
    tif: tifffile.TiffFile, main: tifffile.TiffPageSeries, levels: Sequence[Any]
) -> list[list[Any]]:
    """Return the pages of red, green and blue of each level, where they are three; else none."""
    if levels[0].dtype != np.uint8 or len(main.levels) != len(levels) or _has_dyes(tif):
        return []
    pages = _channel_pages(main, _COLOURS)
    order = colour_order(tif, main, _COLOURS)
    return [[level[n] for n in order] for level in pages] if order else pages


def _has_dyes(tif: tifffile.TiffFile) -> bool:
    """Tell whether an OME description names channels as fluorescence does."""
    text = str(tif.ome_metadata or "")[: 2**20]
    if re.search(r"\b(?:Fluor|EmissionWavelength|ExcitationWavelength)=", text):
        return True
    names = re.findall(r"<(?:\w+:)?Channel\b[^>]*\bName=\"([^\"]*)\"", text)
    return not are_plain(names)


def _describe_page(name: str, pages: Sequence[Any]) -> _Stored:
    """Check what a level's page declares, or those of its colours, and return how to read it."""
    # Of further planes tifffile keeps less.
    page = next((one for one in pages if hasattr(one, "imagelength")), pages[0])
    height, width = int(page.imagelength), int(page.imagewidth)
    samples = int(page.samplesperpixel)
    chunk = (
        (int(page.tilelength), int(page.tilewidth))
        if page.is_tiled
        else (min(int(page.rowsperstrip), height), width)
    )
    planes = samples if page.planarconfig == 2 else 1
    n_bytes = max(samples, 1) * (2 if page.bitspersample > _BITS[0] else 1)
    split = _is_one_piece(page, planes, height * width * n_bytes)
    if split:
        chunk = max(1, _PIECE_BYTES // (width * n_bytes)), width
    n_chunks = math.ceil(height / chunk[0]) if split else len(page.dataoffsets) // planes
    check_level(name, height, width, chunk, n_chunks, n_bytes)
    _check_kind(name, page, samples)
    if any(len(each.databytecounts) != len(each.dataoffsets) for each in pages):
        raise ImageError(f"{name} lists tiles without their sizes: it is damaged; copy it again")
    if len({len(each.dataoffsets) for each in pages}) > 1:
        raise ImageError(f"{name} has colours of different sizes: it is damaged; copy it again")
    offsets = np.concatenate([np.asarray(each.dataoffsets, np.int64) for each in pages])
    counts = np.concatenate([np.asarray(each.databytecounts, np.int64) for each in pages])
    decoders = tuple(each.decode for each in pages)
    if split:
        row = width * n_bytes // planes
        tops = np.arange(n_chunks, dtype=np.int64) * chunk[0]
        ends = np.minimum(tops + chunk[0], height)
        whole = offsets[:, np.newaxis], counts[:, np.newaxis]
        offsets = whole[0] + tops * row
        # Of a file that ends too early, what is there.
        counts = np.clip(whole[1] - tops * row, 0, (ends - tops) * row)
        stored_type, depth = page.dtype.newbyteorder(page.parent.byteorder), samples // planes
        decoders = (functools.partial(_plain_rows, stored_type, width, depth),)
    planes *= len(pages)
    return _Stored(
        height,
        width,
        chunk,
        offsets.reshape(planes, -1),
        counts.reshape(planes, -1),
        decoders,
        len(page.dataoffsets) // planes if len(pages) == 1 else 0,
        int(page.compression),
        samples * len(pages),
        int(page.photometric) == 0,
        page.jpegtables,
        getattr(page, "jpegheader", None),
        np.dtype(page.dtype).newbyteorder("="),
    )


def _is_one_piece(page: Any, planes: int, n_bytes: int) -> bool:
    """Tell whether a page is one large strip that is not compressed, as Python's writers leave it.

    It can be read in any rows; other strips only whole.
    """
    plain = int(page.compression) == 1 and int(page.predictor) == 1 and int(page.fillorder) == 1
    one = not page.is_tiled and len(page.dataoffsets) == planes
    return bool(plain and one and n_bytes > _PIECE_BYTES)


def _plain_rows(
    dtype: np.dtype[Any], width: int, depth: int, data: bytes, *_: object, **__: object
) -> tuple[npt.NDArray[Any]]:
    """Return rows that are not compressed, (1, h, w, samples), as tifffile's decoders do."""
    return (np.frombuffer(data, dtype).reshape(1, -1, width, depth),)


def _check_kind(name: str, page: Any, samples: int) -> None:
    whole = page.dtype is not None and page.dtype.kind == "u"
    if not whole or page.bitspersample not in _BITS:
        raise ImageError(
            f"{name} holds pixels of {page.bitspersample} bits"
            f"{'' if whole else ' that are no whole numbers'}; slides are read with 8 or 16 bits "
            "per channel: export it so"
        )
    if not 1 <= samples <= MOST_CHANNELS:
        raise ImageError(f"{name} stores {samples} channels; export it as RGB, or fewer channels")
    photometric, compression = int(page.photometric), int(page.compression)
    converted = photometric != 6 or compression in _JPEG or compression == _APERIO_YCBCR
    converted &= photometric != 6 or page.planarconfig == 1
    if photometric not in _PHOTOMETRIC or not converted or getattr(page, "tiledepth", 1) > 1:
        kind = getattr(page.photometric, "name", photometric)
        raise ImageError(
            f"{name} holds colours ({kind}, compression {compression}) that are not converted; "
            "export it as RGB"
        )


def _fault(stored: _Stored, data: bytes) -> str | None:
    if stored.compression in _JPEG and stored.header is None:
        return jpeg_fault(data, *stored.chunk, stored.samples // len(stored.offsets))
    if stored.compression in _JPEG_2000:
        return codestream_fault(data, *stored.chunk, stored.samples // len(stored.offsets))
    return picture_fault(stored.compression, data, *stored.chunk)


def level_pages(tif: tifffile.TiffFile, main: tifffile.TiffPageSeries) -> list[Any]:
    """Return the pages of the levels, finest first, in whatever order the file has them."""
    pages: list[Any] = [level.keyframe for level in main.levels]
    if tif.is_ome or tif.is_ndpi or tif.is_philips or not pages[0].is_tiled:
        return pages
    first, found = pages[0], {page.offset for page in pages}
    kind = first.samplesperpixel, first.photometric, first.dtype, first.planarconfig
    # Not all pages are in a series: tifffile leaves out what it cannot name.
    others: list[Any] = [level.keyframe for series in tif.series for level in series.levels]
    others += tif.pages[:_MOST_PAGES]
    for page in others:
        if page.offset in found or not getattr(page, "is_tiled", False):
            continue
        same = (page.samplesperpixel, page.photometric, page.dtype, page.planarconfig) == kind
        smaller = page.imagelength < first.imagelength and page.imagewidth < first.imagewidth
        if same and smaller and _fits(first, page):
            pages.append(page)
            found.add(page.offset)
    return sorted(pages, key=lambda page: -int(page.imagewidth))


def _fits(first: Any, page: Any) -> bool:
    """Tell whether a page can be a smaller level of another, maybe padded to whole tiles."""
    size, tile = (first.imagelength, first.imagewidth), (page.tilelength, page.tilewidth)
    return whole_downsample(size, (page.imagelength, page.imagewidth), tile) is not None


def _declared_pixel_size(
    tif: tifffile.TiffFile, main: tifffile.TiffPageSeries
) -> tuple[tuple[float, float] | None, str]:
    """Return µm per pixel, y and x, that the file states of the image, and where."""
    text = str(main.keyframe.description or "")[: 2**16]
    if tif.is_svs:
        found = re.search(r"\bMPP\s*=\s*([0-9.,]+(?:[eE][+-]?[0-9]+)?)", text)
        if found is not None and _number(found[1]) > 0:
            return (_number(found[1]),) * 2, "Aperio MPP"
    if tif.is_philips:
        found = re.search(r'DICOM_PIXEL_SPACING"[^>]*>\W*(?:&quot;)?([0-9.eE+-]+)\W', text)
        if found is not None and _number(found[1]) > 0:
            return (_number(found[1]) * 1e3,) * 2, "Philips pixel spacing"
    source = "OME PhysicalSize" if tif.ome_metadata else "TIFF resolution"
    try:
        return tiff_pixel_size(tif, main), source
    except _DECODE_ERRORS:
        return None, source  # a damaged description says nothing


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return 0.0


def _read_associated(
    source: _Source, tif: tifffile.TiffFile, main: tifffile.TiffPageSeries, levels: set[int]
) -> LazyImages:
    """Return the other series of the file, by their names; `levels` are pages of the slide."""
    found: dict[str, Callable[[], npt.NDArray[Any]]] = {}
    for index, series in enumerate(tif.series):
        if series is main or "Y" not in series.axes or "X" not in series.axes:
            continue
        if series.keyframe.offset in levels:
            continue
        name = (series.name or "").strip().lower() or f"image {index}"
        name = name if name not in found else f"{name} {index}"
        found[name] = lambda index=index: _read_series(source, index)  # type: ignore[misc]
    return LazyImages(found)


def _read_series(source: _Source, index: int) -> npt.NDArray[Any]:
    try:
        with source.reading(), source.open() as tif:
            check_tiff(Path(source.name), source.size, tif.series[index])
            if math.prod(tif.series[index].shape) > _MOST_IMAGE_VALUES:
                raise ImageError(f"image {index} of {source.name} is too large to be a label")
            return np.asarray(tif.series[index].asarray())
    except ImageError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageError(f"image {index} of {source.name} is damaged ({_short(error)})") from error


def _ycbcr_to_rgb(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Convert full-range YCbCr (JFIF, ITU-R BT.601), in which Aperio's 33003 is stored."""
    y, cb, cr = (pixels[..., n].astype(np.float32) for n in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    converted: npt.NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return converted


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}…"
