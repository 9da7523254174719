"""How many pixels a compressed picture claims to hold, read from its head alone.

Decoders of these kinds take the memory that the picture asks for: 70 bytes of LERC are enough
for 140 MB. JPEG and JPEG 2000 are looked at in `_streams`; what zlib, zstd, LZW and their like
unpack is bounded by tifffile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

__all__ = ["PICTURES", "picture_fault"]

Size = tuple[int, int]
#: Kinds by the number of their compression in TIFF.
PICTURES = {34933: "PNG", 50001: "WebP", 34927: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
PICTURES |= {34887: "LERC", 22610: "JPEG XR", 34934: "JPEG XR"}
#: Widths of the numbers among which JPEG XL chooses, and its aspect ratios.
_JXL_BITS = (9, 13, 18, 30)
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_JXR_TAGS = {0xBC80: 1, 0xBC81: 0, 0xBCC0: 2}
_MOST_BOXES = 64


def picture_fault(compression: int, data: bytes, height: int, width: int) -> str | None:
    """Return what is wrong with a tile or strip of one of these kinds, or None.

    Parameters
    ----------
    compression : int
        As TIFF numbers it; of other kinds nothing is said.
    data : bytes
        The compressed picture.
    height, width : int
        What the tile is declared to have.
    """
    kind = PICTURES.get(compression)
    if kind is None:
        return None
    try:
        size = _SIZES[kind](data)
    except (struct.error, IndexError, ValueError):
        return f"it does not begin as a {kind}"
    if size[0] > height or size[1] > width:
        return f"it holds {size[0]} x {size[1]} pixels, the tile {height} x {width}"
    return None


def _png(data: bytes) -> Size:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise ValueError
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _webp(data: bytes) -> Size:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError
    form = data[12:16]
    if form == b"VP8X":
        return (
            int.from_bytes(data[27:30], "little") + 1,
            int.from_bytes(data[24:27], "little") + 1,
        )
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if form != b"VP8 ":
        raise ValueError
    width, height = struct.unpack("<HH", data[26:30])
    return height & 0x3FFF, width & 0x3FFF


def _lerc(data: bytes) -> Size:
    if data[:6] != b"Lerc2 ":
        raise ValueError
    (version,) = struct.unpack("<i", data[6:10])
    at = 14 if version >= 3 else 10
    rows, columns = struct.unpack("<ii", data[at : at + 8])
    return rows, columns


def _jpeg_xl(data: bytes) -> Size:
    if data[:2] != b"\xff\x0a":
        data = _jxl_box(data)
    bits = int.from_bytes(data[2:18], "little")

    def take(n: int) -> int:
        nonlocal bits
        value = bits & (1 << n) - 1
        bits >>= n
        return value

    by_eight = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if by_eight else take(_JXL_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio == 0:
        return height, side()
    above, below = _JXL_RATIOS[ratio - 1]
    return height, height * above // below


def _jxl_box(data: bytes) -> bytes:
    """Return the stream within the boxes of a JPEG XL file."""
    at = 0
    for _ in range(_MOST_BOXES):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if length == 1:
            (length,) = struct.unpack(">Q", data[start : start + 8])
            start += 8
        if kind in (b"jxlc", b"jxlp"):
            stream = data[start + (4 if kind == b"jxlp" else 0) :]
            if stream[:2] == b"\xff\x0a":
                return stream
            break
        if length < 8:
            break
        at += length
    raise ValueError


def _jpeg_xr(data: bytes) -> Size:
    """Return the size that the container states; the stream within must state the same."""
    if data[:3] != b"II\xbc":
        raise ValueError
    (at,) = struct.unpack("<I", data[4:8])
    (n,) = struct.unpack("<H", data[at : at + 2])
    found = [0, 0, 0]
    for place in range(at + 2, at + 2 + 12 * n, 12):
        tag, kind, _, value = struct.unpack("<HHII", data[place : place + 12])
        if tag in _JXR_TAGS:
            found[_JXR_TAGS[tag]] = value & {1: 0xFF, 3: 0xFFFF}.get(kind, 0xFFFFFFFF)
    height, width, start = found
    stream = data[start : start + 20]
    if stream[:8] != b"WMPHOTO\0" or len(stream) < 20:
        raise ValueError
    # After the flags of the stream: sizes less one, of 16 or 32 bits.
    short = bool(stream[10] & 0x80)
    sides = struct.unpack(">HH" if short else ">II", stream[12 : 16 if short else 20])
    return max(height, sides[1] + 1), max(width, sides[0] + 1)


_SIZES: dict[str, Callable[[bytes], Size]] = {
    "PNG": _png,
    "WebP": _webp,
    "LERC": _lerc,
    "JPEG XL": _jpeg_xl,
    "JPEG XR": _jpeg_xr,
}
