"""Writes slides of which a part of a larger frame was scanned, as their makers lay them out."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from bad_slides import halves, scene

_TILED = {"tile": (256, 256), "photometric": "rgb", "metadata": None}


def write_scn(folder: Path, image: npt.NDArray[np.uint8]) -> tuple[Path, tuple[int, int]]:
    """Write a Leica SCN: an overview of 2000 x 2000 pixels, and one region in it.

    Returns the file, and (x, y) where the region begins.
    """
    path, place = folder / "a.scn", (700, 900)
    (height, width), nm = image.shape[:2], 500
    y, x = (nm * side for side in place)
    form = "http://www.leica-microsystems.com/scn/2010/10/01"

    def part(size: tuple[int, int], view: str, objective: float, page: int) -> str:
        return (
            f'<image name="i{page}" uuid="{page}"><creationDate>2011-01-01T00:00:00Z</creationDate>'
            '<device model="Leica SCN400;Leica SCN" version="1.5.1"/>'
            f'<pixels sizeX="{size[1]}" sizeY="{size[0]}"><dimension sizeX="{size[1]}" '
            f'sizeY="{size[0]}" r="0" ifd="{page}"/></pixels>{view}<scanSettings>'
            f"<objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>"
            "brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    whole = 2000 * nm
    shape = f'sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{x}" offsetY="{y}"'
    views = [
        f'<view sizeX="{whole}" sizeY="{whole}" offsetX="0" offsetY="0" spacingZ="0"/>',
        f'<view {shape} spacingZ="0"/>',
    ]
    about = (
        f'<?xml version="1.0" encoding="utf-8"?><scn xmlns="{form}"><collection name="t" uuid="c" '
        f'sizeX="{whole}" sizeY="{whole}"><barcode>A</barcode>'
        f"{part((512, 512), views[0], 0.6, 0)}{part((height, width), views[1], 20, 1)}"
        "</collection></scn>"
    )
    jpeg = {"compression": "jpeg", "compressionargs": {"level": 95}, "software": False}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(scene(512, 512), description=about, **jpeg, **_TILED)
        writer.write(image, **jpeg, **_TILED)
    return path, (place[1], place[0])


def write_mrxs(folder: Path, image: npt.NDArray[np.uint8]) -> tuple[Path, tuple[int, int]]:
    """Write a 3DHISTECH MRXS of two levels: 32 x 32 images of 256 pixels, few of which are there.

    Returns the file, and (x, y) where the scanned part begins.
    """
    tile, side, first = 256, 32, (8, 10)
    path, inner = folder / "a.mrxs", folder / "a"
    inner.mkdir()
    key = b"0123456789ABCDEF0123456789ABCDEF"
    data, pages = bytearray(b"01.02" + key + bytes(200)), []
    for n, level in enumerate(halves(image, 2)):
        entries = []
        pad = [(0, -length % tile) for length in level.shape[:2]]
        full = np.pad(level, (*pad, (0, 0)), constant_values=255)
        for y in range(full.shape[0] // tile):
            for x in range(full.shape[1] // tile):
                part = full[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile]
                coded = imagecodecs.jpeg8_encode(np.ascontiguousarray(part), level=95)
                place = (first[0] + y * 2**n) * side + first[1] + x * 2**n
                entries.append((place, len(data), len(coded), 0))
                data += coded
        pages.append(entries)
    (inner / "Data0000.dat").write_bytes(data)
    (inner / "Index.dat").write_bytes(_mrxs_index(key, pages))
    (inner / "Slidedat.ini").write_text(_mrxs_about(key.decode(), len(pages), side, tile))
    path.write_bytes(imagecodecs.jpeg8_encode(scene(64, 64)))
    return path, (first[1] * tile, first[0] * tile)


def _mrxs_index(key: bytes, pages: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Pointers to a list of levels, of each to its page, and of the page to the images."""
    start = 37 + 8
    heads, at = [], start + 4 * len(pages)
    body = b""
    for entries in pages:
        heads.append(at)
        page = struct.pack("<4i", 0, at + 8, len(entries), 0)
        page += b"".join(struct.pack("<4i", *entry) for entry in entries)
        body += page
        at += len(page)
    head = b"01.02" + key + struct.pack("<2i", start, at)
    return head + struct.pack(f"<{len(heads)}i", *heads) + body + bytes(4)


def _mrxs_about(key: str, levels: int, side: int, tile: int) -> str:
    lines = [
        "[GENERAL]", "SLIDE_VERSION = 01.02", f"SLIDE_ID = {key}", "SLIDE_NAME = a",
        f"IMAGENUMBER_X = {side}", f"IMAGENUMBER_Y = {side}", "OBJECTIVE_MAGNIFICATION = 20",
        "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]", "HIER_COUNT = 1", "NONHIER_COUNT = 0", "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {levels}",
    ]  # fmt: skip
    for n in range(levels):
        lines.append(f"HIER_0_VAL_{n} = ZoomLevel_{n}")
        lines.append(f"HIER_0_VAL_{n}_SECTION = LAYER_0_LEVEL_{n}_SECTION")
    lines += ["[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat"]
    for n in range(levels):
        lines += [
            f"[LAYER_0_LEVEL_{n}_SECTION]", "OVERLAP_X = 0.0", "OVERLAP_Y = 0.0",
            f"MICROMETER_PER_PIXEL_X = {0.5 * 2**n}", f"MICROMETER_PER_PIXEL_Y = {0.5 * 2**n}",
            "IMAGE_FORMAT = JPEG", "IMAGE_FILL_COLOR_BGR = 16777215",
            f"DIGITIZER_WIDTH = {tile}", f"DIGITIZER_HEIGHT = {tile}",
            f"IMAGE_CONCAT_FACTOR = {min(n, 1)}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"
