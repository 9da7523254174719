"""How much a chunk of Zarr unpacks to, told before it is: 6 KB of zstd can hold 200 MB."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["PACKERS", "fits"]

# What zlib can make of a byte at most.
_ZLIB_RATIO = 1032
_SMALL = 2**24
_LZMA_MEMORY = 2**28
_ZSTD_MAGIC = 0xFD2FB528
_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)


def fits(codec: str, data: bytes, most: int) -> bool:
    """Tell whether a chunk unpacks to no more than so many bytes; damaged ones do not.

    Parameters
    ----------
    codec : str
        One of `PACKERS`.
    data : bytes
        The chunk as it is stored.
    most : int
        Bytes.
    """
    try:
        return PACKERS[codec](data, most)
    except (struct.error, IndexError, ValueError, EOFError, OSError, zlib.error, lzma.LZMAError):
        return False


def _by_blosc(data: bytes, most: int) -> bool:
    return int(struct.unpack("<I", data[4:8])[0]) <= most


def _by_lz4(data: bytes, most: int) -> bool:
    return int(struct.unpack("<I", data[:4])[0]) <= most


def _by_zstd(data: bytes, most: int) -> bool:
    magic, told = struct.unpack("<IB", data[:5])
    if magic != _ZSTD_MAGIC:
        return False
    single = told >> 5 & 1
    at = 5 + (1 - single) + _DICTIONARY_BYTES[told & 3]
    n = _SIZE_BYTES[told >> 6] or single
    if n == 0:
        return _unpacks_to(data, most)
    held = data[at : at + n]
    size = int.from_bytes(held, "little") + (256 if n == 2 else 0)
    return len(held) == n and size <= most


def _unpacks_to(data: bytes, most: int) -> bool:
    """Unpack zstd that does not say its size, into no more than there may be."""
    import imagecodecs

    try:
        imagecodecs.zstd_decode(data, out=most)
    except imagecodecs.ZstdError:
        return False
    return True


def _by_zlib(data: bytes, most: int) -> bool:
    if len(data) * _ZLIB_RATIO <= max(most, _SMALL):
        return True
    return _streams(lambda: zlib.decompressobj(47), data, most)


def _by_bz2(data: bytes, most: int) -> bool:
    return _streams(bz2.BZ2Decompressor, data, most)


def _by_lzma(data: bytes, most: int) -> bool:
    return _streams(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), data, most)


def _streams(begin: Callable[[], Any], data: bytes, most: int) -> bool:
    """Unpack one stream after the other, never more than there may be."""
    left = most
    while data and left >= 0:
        unpacker = begin()
        left -= len(unpacker.decompress(data, left + 1))
        if not unpacker.eof:
            return left >= 0
        data = unpacker.unused_data.lstrip(b"\0")
    return left >= 0


#: By the names that zarr gives them.
PACKERS: dict[str, Callable[[bytes, int], bool]] = {
    "blosc": _by_blosc,
    "zstd": _by_zstd,
    "lz4": _by_lz4,
    "zlib": _by_zlib,
    "gzip": _by_zlib,
    "bz2": _by_bz2,
    "lzma": _by_lzma,
}
