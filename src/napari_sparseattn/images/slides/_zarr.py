"""Slides in OME-Zarr (0.4 and 0.5), chunk by chunk; what was never written is told from zeros."""

from __future__ import annotations

import dataclasses
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...addresses import Address
from .._decode import TIFF_ERRORS
from ..errors import ImageError
from ._channels import MOST_CHANNELS, Channel, are_plain, omero_channels
from ._checks import check_level, known_pixel_size
from ._folders import Folder, LocalFolder, RemoteFolder
from ._ledger import TileKey
from ._packed import PACKERS, fits
from ._remote import NetworkSettings, RemoteError, Traffic
from ._tiles import Tile
from .pyramid import Pyramid, levels_of

__all__ = ["ZarrPyramid", "is_zarr", "open_zarr"]

_MICROMETRES = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
# No codec runs that is not here: numcodecs would also unpickle.
_CODECS = frozenset(
    {"blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma"}
    | {"shuffle", "delta", "bytes", "transpose", "crc32c", "sharding_indexed"}
)
_MOST_LEVELS = 32
_DTYPES = ("|u1", "<u1", ">u1", "uint8", "<u2", ">u2", "uint16")
_COLOURS = 3
_DECODE_ERRORS = (*TIFF_ERRORS, MemoryError, NotImplementedError)
_METADATA = (".zattrs", "zarr.json")
_ARRAY_METADATA = ("zarr.json", ".zarray", ".zattrs")
# Where a chunk begins in a shard, and its bytes; behind the list of them stands a checksum.
_ENTRY = struct.Struct("<QQ")
_NOT_WRITTEN = 2**64 - 1
_SUM_BYTES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
    """One level: its array, its folder, and the place of y, x and colours among its axes."""

    array: Any
    # The same with another fill value: where the two differ, nothing was written.
    other: Any | None
    folder: Folder
    axes: str
    # What chunks are compressed by, and where the list of a shard's chunks is in its file.
    packer: str | None = None
    listed: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        shape = self.array.shape
        return int(shape[self.axes.index("y")]), int(shape[self.axes.index("x")])

    @property
    def chunk(self) -> tuple[int, int]:
        chunks = self.array.chunks
        return int(chunks[self.axes.index("y")]), int(chunks[self.axes.index("x")])

    @property
    def channels(self) -> int:
        return int(self.array.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.array.dtype).newbyteorder("=")
        return found


class ZarrPyramid(Pyramid):
    """A slide in OME-Zarr; made by `open_zarr`."""

    def __init__(
        self,
        stored: Sequence[_Stored],
        folder: Folder,
        pixel_size: float | None,
        notes: tuple[str, ...],
        channel_info: tuple[Channel, ...] = (),
    ) -> None:
        levels = levels_of([s.shape for s in stored], [s.chunk for s in stored])
        name = folder.name
        super().__init__(
            levels,
            channels=len(channel_info) or (1 if stored[0].channels == 1 else _COLOURS),
            name=name.removesuffix(".zarr").removesuffix(".ome") or name,
            path=folder.path,
            address=folder.address,
            pixel_size=pixel_size,
            dtype=stored[0].dtype,
            notes=notes,
            channel_info=channel_info,
        )
        self._stored, self._folder = tuple(stored), folder

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded of a slide on another machine so far; else None."""
        return self._folder.traffic

    def close(self) -> None:
        """Let go of the folder; what was read stays."""
        super().close()
        self._folder.close()

    def _bring(self, level: int, tiles: Sequence[TileKey]) -> None:
        self._load(level, tiles, slice(0, self.channels))

    def _load(self, level: int, tiles: Sequence[TileKey], channels: slice) -> None:
        stored = self._stored[level]
        # Of a shard no more is loaded than is asked for.
        if self.address is not None and not stored.array.shards:
            keys = [key for tile in tiles for key in _keys(stored, tile, channels)]
            stored.folder.bring(list(dict.fromkeys(keys)))

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        return self._read_tiles(level, tiles, slice(0, self.channels))

    def fetch_channel(self, level: int, tiles: Sequence[TileKey], channel: int) -> Sequence[Tile]:
        """Read and decode tiles of one channel: (h, w, 1)."""
        return self._read_tiles(level, tiles, slice(channel, channel + 1))

    def _read_tiles(self, level: int, tiles: Sequence[TileKey], channels: slice) -> list[Tile]:
        if not self._stored[level].folder.is_there():
            raise ImageError(f"{self.name} cannot be reached any more; open it again")
        self._load(level, tiles, channels)
        return [self._read_tile(self._stored[level], tile, channels) for tile in tiles]

    def _read_tile(self, stored: _Stored, tile: TileKey, channels: slice) -> Tile:
        start = time.perf_counter()
        n_bytes, n_missing, n_chunks = _held(stored, tile, channels)
        if n_missing == n_chunks:
            return Tile(seconds=time.perf_counter() - start)
        if n_bytes > 2 * _most_bytes(stored.array) * n_chunks + 2**16:
            return Tile(failure=f"it takes {n_bytes} bytes, more than its pixels")
        try:
            if not _unpacks(stored, tile, channels):
                return Tile(compressed=n_bytes, failure="it unpacks to more than its pixels")
            pixels, valid = _pixels(stored, stored.array, tile, channels), None
            # A colour whose every value is the fill value is not written, by the standard and by
            # zarr's own default: it is there. Only a tile without any colour was never scanned.
            # Chunks within a shard have no file of their own to look for.
            if stored.other is not None and (pixels == stored.array.fill_value).any():
                same = pixels == _pixels(stored, stored.other, tile, channels)
                valid = None if same.all() else np.asarray(same.any(axis=-1))
        except RemoteError:
            raise  # says nothing of the tile
        except _DECODE_ERRORS as error:
            why = " ".join(str(error).split())[:160] or type(error).__name__
            return Tile(compressed=n_bytes, failure=why)
        seconds = time.perf_counter() - start
        if valid is not None and not valid.any():
            return Tile(compressed=n_bytes, seconds=seconds)
        return Tile(pixels, valid, n_bytes, seconds)


def is_zarr(path: Path) -> bool:
    """Tell whether a folder holds zarr metadata."""
    return path.is_dir() and any((path / name).is_file() for name in (*_METADATA, ".zgroup"))


def open_zarr(
    path: Path | Address,
    pixel_size: float | None = None,
    network: NetworkSettings | None = None,
) -> ZarrPyramid:
    """Open an OME-Zarr folder as a slide.

    Parameters
    ----------
    path : pathlib.Path or Address
        The folder; of a bioformats2raw one, the first image.
    pixel_size : float, optional
        µm per pixel, in place of what the file says.
    network : NetworkSettings, optional
        How a folder on another machine is read.

    Raises
    ------
    ImageError
        If it is damaged, or of a kind that is not read, or zarr is missing.
    """
    folder: Folder = LocalFolder(path) if isinstance(path, Path) else RemoteFolder(path, network)
    try:
        return _open(folder, pixel_size)
    except BaseException:
        folder.close()
        raise


def _open(path: Folder, pixel_size: float | None) -> ZarrPyramid:
    image, multiscale, omero = _multiscale(path)
    try:
        axes = "".join(
            str(axis["name"] if isinstance(axis, dict) else axis) for axis in multiscale["axes"]
        ).lower()
        datasets = [
            (str(entry["path"]), entry.get("coordinateTransformations", ()))
            for entry in multiscale["datasets"][:_MOST_LEVELS]
        ]
        if not datasets or "y" not in axes or "x" not in axes or set(axes) - set("tczyx"):
            raise KeyError(f"axes {axes!r}, {len(datasets)} levels")
        image.bring([f"{name}/{key}" for name, _ in datasets for key in _ARRAY_METADATA])
        stored = [_describe_array(path, image, name, axes) for name, _ in datasets]
        notes: tuple[str, ...] = ()
        leading = [
            n for n, a in zip(stored[0].array.shape, axes, strict=True) if a in "tz" and n > 1
        ]
        if leading:
            notes += (f"the first of {math.prod(leading)} planes of {path.name} is read",)
        size = _scale(multiscale, datasets[0][1], axes)
        pixel_size, about_scale = known_pixel_size(
            path.name, size, "OME-Zarr scale", given=pixel_size
        )
        notes += about_scale
        info = _channels_of(stored[0], omero)
        return ZarrPyramid(stored, path, pixel_size, notes, info)
    except ImageError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageError(
            f"{path.name} is not an OME-Zarr image that can be read ({error}); write it again"
        ) from error


def _channels_of(stored: _Stored, omero: object) -> tuple[Channel, ...]:
    """Return the channels of an image that is neither colours nor grey of 8 bits; else none."""
    found = omero_channels(omero, stored.channels, stored.dtype)
    if stored.dtype != np.uint8 or stored.channels not in (1, _COLOURS, _COLOURS + 1):
        return found
    named = stored.channels > 1 and not are_plain([one.name for one in found])
    return found if named else ()


def _multiscale(path: Folder) -> tuple[Folder, Mapping[str, Any], object]:
    """Return the folder of the image, its description, and that of its channels."""
    for folder in (path, path.below("0")):
        attributes = _attributes(folder)
        described = attributes.get("ome", attributes)
        if not isinstance(described, dict):
            continue
        if "plate" in described:
            raise ImageError(f"{path.name} is a plate of many images; open one of its wells")
        found = described.get("multiscales")
        if isinstance(found, list) and found and isinstance(found[0], dict):
            return folder, found[0], described.get("omero", attributes.get("omero"))
    raise ImageError(
        f"{path.name} is a zarr folder without an OME image in it (no 'multiscales'); open the "
        "folder that holds the image"
    )


def _attributes(folder: Folder) -> Mapping[str, Any]:
    folder.bring(_METADATA)
    for name in _METADATA:
        held = folder.json(name)
        if held is not None:
            found = held.get("attributes", {}) if name == "zarr.json" else held
            return found if isinstance(found, dict) else {}
    return {}


def _describe_array(path: Folder, image: Folder, name: str, axes: str) -> _Stored:
    """Check what a level declares before zarr sees it, and open it."""
    out = ".." in Path(name).parts or Path(name).is_absolute()
    folder = None if out else image.below(name)
    held = None
    if folder is not None and folder.is_there():
        held = folder.json("zarr.json")
        held = folder.json(".zarray") if held is None else held
    if folder is None or held is None:
        raise ImageError(f"{path.name} lacks its level {name!r}; copy the whole folder again")
    for codec in _codecs(held):
        if codec not in _CODECS:
            raise ImageError(
                f"{path.name} is compressed by {codec!r}, which is not read; write it with zstd "
                "or blosc"
            )
    if held.get("dtype", held.get("data_type")) not in _DTYPES:
        raise ImageError(
            f"{path.name} holds neither 8- nor 16-bit pixels; write it as uint8 or uint16"
        )
    zarr = _zarr(path)
    array = zarr.open_array(folder.store(), mode="r")
    if len(array.shape) != len(axes):
        raise ImageError(f"{path.name} has axes {axes!r} but {len(array.shape)} of them")
    other = None
    if array.shards is not None:
        value = np.dtype(array.dtype).type(np.iinfo(array.dtype).max ^ int(array.fill_value))
        filled = dataclasses.replace(array.metadata, fill_value=value)
        other = zarr.Array(dataclasses.replace(array.async_array, metadata=filled))
    stored = _Stored(array, other, folder, axes, *_packing(path.name, held))
    n_bytes = math.prod(array.chunks[:-2]) * array.dtype.itemsize
    check_level(path.name, *stored.shape, stored.chunk, None, n_bytes)
    if not 1 <= stored.channels <= MOST_CHANNELS:
        raise ImageError(
            f"{path.name} has {stored.channels} channels; up to {MOST_CHANNELS} are read: write "
            "those that are needed"
        )
    return stored


def _zarr(path: Folder) -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError as error:
        raise ImageError(
            f"{path.name} is OME-Zarr, which needs one more package: pip install 'zarr>=3'"
        ) from error
    return zarr


def _packing(name: str, held: Any) -> tuple[str | None, str]:
    """Return what the chunks of an array are compressed by, and where its shards list them.

    Raises
    ------
    ImageError
        If that is done twice, or in a way that cannot be checked.
    """
    packers = [codec for codec in _codecs(held) if codec in PACKERS]
    outer = [codec for codec in held.get("codecs") or () if isinstance(codec, dict)]
    shards = [codec for codec in outer if codec.get("name") == "sharding_indexed"]
    about = shards[0].get("configuration", {}) if shards else {}
    listed = str(about.get("index_location", "end"))
    plain = [codec.get("name") for codec in about.get("index_codecs", ())]
    nested = _codecs(about).count("sharding_indexed")
    if len(packers) > 1 or (shards and (plain != ["bytes", "crc32c"] or nested or outer[1:])):
        raise ImageError(
            f"{name} is compressed or packed more than once; write it with zstd or blosc alone"
        )
    return (packers[0] if packers else None), listed if shards else ""


def _codecs(held: Any) -> list[str]:
    """Return the names of all codecs that an array's metadata asks for."""
    named = []
    for key in ("codecs", "index_codecs", "filters", "compressor"):
        entries = held.get(key) or ()
        for entry in [entries] if isinstance(entries, dict) else entries:
            if not isinstance(entry, dict):
                named.append(str(entry))
                continue
            named.append(str(entry.get("id", entry.get("name"))))
            named += _codecs(entry.get("configuration") or {})
    return named


def _scale(
    multiscale: Mapping[str, Any], transformations: Sequence[Any], axes: str
) -> tuple[float, float] | None:
    """Return µm per pixel, y and x, of level 0, or None where that is not stated."""
    factors = [1.0, 1.0]
    stated = False
    places = [axes.index("y"), axes.index("x")]
    for entry in (*transformations, *multiscale.get("coordinateTransformations", ())):
        if isinstance(entry, dict) and entry.get("type") == "scale":
            factors = [f * float(entry["scale"][n]) for f, n in zip(factors, places, strict=True)]
            stated = True
    units = [
        _MICROMETRES.get(str(axis.get("unit", ""))) if isinstance(axis, dict) else None
        for axis in (multiscale["axes"][n] for n in places)
    ]
    if not stated or units[0] is None or units[1] is None:
        return None
    return factors[0] * units[0], factors[1] * units[1]


def _keys(stored: _Stored, tile: TileKey, wanted: slice) -> list[str]:
    """Return the names of a tile's files: of its chunks, or of the shards that hold them."""
    array, axes = stored.array, stored.axes
    sides = array.shards or array.chunks
    ratio = [s // c for s, c in zip(sides, array.chunks, strict=True)]
    place = {"y": tile[0], "x": tile[1]}
    deep = sides[axes.index("c")] if "c" in axes else 1
    channels = sorted({n // deep for n in range(stored.channels)[wanted]})
    return [
        array.metadata.encode_chunk_key(
            tuple(
                channel if a == "c" else place.get(a, 0) // r
                for a, r in zip(axes, ratio, strict=True)
            )
        )
        for channel in channels
    ]


def _held(stored: _Stored, tile: TileKey, wanted: slice) -> tuple[int, int, int]:
    """Return the bytes of a tile's files, how many are missing, and how many it should have."""
    measure = stored.folder.length if stored.array.shards else stored.folder.size
    sizes = [measure(key) for key in _keys(stored, tile, wanted)]
    n_bytes = 0 if stored.array.shards else sum(size or 0 for size in sizes)
    return n_bytes, sizes.count(None), len(sizes)


def _unpacks(stored: _Stored, tile: TileKey, wanted: slice) -> bool:
    """Tell whether the chunks of a tile unpack to no more than their pixels."""
    if stored.packer is None:
        return True
    most = _most_bytes(stored.array) + _SUM_BYTES
    return all(fits(stored.packer, chunk, most) for chunk in _packed_chunks(stored, tile, wanted))


def _packed_chunks(stored: _Stored, tile: TileKey, wanted: slice) -> Iterator[bytes]:
    """Give the chunks of a tile as they are stored, one by one."""
    array, axes = stored.array, stored.axes
    sides, chunks = array.shards or array.chunks, array.chunks
    ratio = [s // c for s, c in zip(sides, chunks, strict=True)]
    place = {"y": tile[0], "x": tile[1]}
    deep = chunks[axes.index("c")] if "c" in axes else 1
    for channel in sorted({n // deep for n in range(stored.channels)[wanted]}):
        at = [channel if a == "c" else place.get(a, 0) for a in axes]
        outer = tuple(n // r for n, r in zip(at, ratio, strict=True))
        key, folder = array.metadata.encode_chunk_key(outer), stored.folder
        if not array.shards:
            whole = folder.read(key)
            if whole is not None:
                yield whole
            continue
        if folder.length(key) is None:
            continue
        inner = [n % r for n, r in zip(at, ratio, strict=True)]
        number = int(np.ravel_multi_index(inner, ratio))
        most = 2 * _most_bytes(array) + 2**16
        found = _in_shard(folder, key, number, ratio, stored.listed, most)
        if found is not None:
            yield found


def _in_shard(
    folder: Folder, key: str, number: int, ratio: Sequence[int], listed: str, most: int
) -> bytes | None:
    """Return one chunk of a shard as it is stored, or None where it was never written."""
    size, n_bytes = folder.length(key) or 0, _ENTRY.size * math.prod(ratio) + _SUM_BYTES
    begin = size - n_bytes if listed == "end" else 0
    if begin < 0:
        raise ValueError("a shard is shorter than the list of its chunks")
    # All of the list, as zarr will ask for it.
    listing = folder.read_part(key, begin, begin + n_bytes)
    start, count = _ENTRY.unpack_from(listing, _ENTRY.size * number)
    if start == count == _NOT_WRITTEN:
        return None
    if start + count > size or count > most:
        raise ValueError("a chunk lies outside of its shard, or takes more than its pixels")
    return folder.read_part(key, start, start + count)


def _most_bytes(array: Any) -> int:
    return int(math.prod(array.chunks) * array.dtype.itemsize)


def _pixels(stored: _Stored, array: Any, tile: TileKey, channels: slice) -> npt.NDArray[Any]:
    (height, width), axes = stored.chunk, stored.axes
    parts = {
        "y": slice(tile[0] * height, (tile[0] + 1) * height),
        "x": slice(tile[1] * width, (tile[1] + 1) * width),
        "c": channels,
    }
    pixels = np.asarray(array[tuple(parts.get(a, 0) for a in axes)], stored.dtype)
    order = [a for a in axes if a in "cyx"]
    if "c" not in order:
        return pixels.transpose([order.index("y"), order.index("x")])[..., np.newaxis]
    return pixels.transpose([order.index(a) for a in "yxc"])
