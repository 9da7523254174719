"""Writes slides, sound and damaged: ``python tests/bad_slides.py FOLDER``.

Every damage is one that was met in a real archive or that a reader was seen
to die of: none of it needs more than a second or a megabyte to write.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile

SIDE, TILE = 1024, 256


def scene(height: int = SIDE, width: int = SIDE) -> npt.NDArray[np.uint8]:
    """Return smooth colours that differ everywhere, so that a shifted tile is seen."""
    return _scene(height, width).copy()


@functools.cache
def _scene(height: int, width: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(y / 37 + n) + np.cos(x / (23 + 7 * n)) for n in range(3)]
    ramp = [y / height, x / width, (y + x) / (height + width)]
    stacked = np.stack([w * 30 + r * 100 + 70 for w, r in zip(waves, ramp, strict=True)], -1)
    return np.clip(stacked, 0, 255).astype(np.uint8)


def halves(image: npt.NDArray[np.uint8], n: int) -> list[npt.NDArray[np.uint8]]:
    """Return `n` levels, each of half the size."""
    levels = [image]
    for _ in range(n - 1):
        last = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
        height, width = last.shape[0] // 2, last.shape[1] // 2
        mean = last.reshape(height, 2, width, 2, -1).astype(np.float32).mean((1, 3))
        levels.append(np.rint(mean).astype(np.uint8))
    return levels


def write_svs(
    path: Path,
    levels: Sequence[npt.NDArray[np.uint8]] | None = None,
    *,
    pixel_size: str | None = "0.5",
    compression: str = "jpeg",
    photometric: str = "rgb",
    tile: int = TILE,
) -> Path:
    """Write a slide laid out as Aperio's; the second page is a thumbnail in strips."""
    levels = halves(scene(), 3) if levels is None else levels
    height, width = levels[0].shape[:2]
    about = f"Aperio Image Library v11.2.1\r\n{width}x{height} ({tile}x{tile}) JPEG/RGB Q=90"
    if pixel_size is not None:
        about += f"|AppMag = 20|MPP = {pixel_size}"
    options: dict[str, Any] = {"compression": compression, "photometric": photometric}
    if photometric == "ycbcr":
        # tifffile stores the colours that it is given.
        images = [PIL.Image.fromarray(level).convert("YCbCr") for level in levels]
        levels = [np.asarray(image) for image in images]
    if compression == "jpeg":
        options["compressionargs"] = {"level": 90}
    with tifffile.TiffWriter(path) as writer:
        for n, level in enumerate(levels):
            text = about if n == 0 else about.split("|")[0]
            writer.write(
                level, tile=(tile, tile), description=text, metadata=None, software=False, **options
            )
            if n == 0:
                small = levels[-1][:100, :100]
                writer.write(
                    small, photometric="rgb", rowsperstrip=16, description=text, metadata=None
                )
    return path


def write_encoded(
    path: Path, shape: tuple[int, ...], tile: int, tiles: Iterator[bytes], **options: Any
) -> Path:
    """Write tiles that are already encoded."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            tiles, shape=shape, dtype=np.uint8, tile=(tile, tile), metadata=None, **options
        )
    return path


def patch_tag(path: Path, name: str, value: int | Sequence[int]) -> None:
    """Overwrite a tag of the first page in place."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages.first.tags[name]
        tag.overwrite(value, dtype="I" if isinstance(value, int) else tag.dtype)


def tile_places(path: Path, page: int = 0) -> tuple[list[int], list[int]]:
    """Return offsets and byte counts of the tiles of a page."""
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[page].aspage()
        return [int(n) for n in at.dataoffsets], [int(n) for n in at.databytecounts]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def zeroed(path: Path, tiles: Sequence[int] = (5,)) -> Path:
    """Write a slide some of whose tiles are zero, as after an unfinished copy."""
    write_svs(path)
    offsets, counts = tile_places(path)
    for tile in tiles:
        overwrite(path, offsets[tile], bytes(counts[tile]))
    return path


def half_zeroed(path: Path) -> Path:
    """Write a slide in which the middle of tile 5 is zero, and the end of tile 6."""
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    write_svs(path, [noise])
    offsets, counts = tile_places(path)
    overwrite(path, offsets[5] + counts[5] // 2, bytes(4096))
    overwrite(path, offsets[6] + counts[6] // 2, bytes(counts[6] - counts[6] // 2))
    return path


def truncated(path: Path, keep: float = 0.6) -> Path:
    """Write a slide that ends early; its first page's description is before its pixels."""
    write_svs(path, [scene()])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def huge_tile(path: Path) -> Path:
    """Declare tiles of 2**30 pixels a side; OpenSlide aborts on reading one."""
    write_svs(path, [scene()])
    patch_tag(path, "TileWidth", 2**30)
    patch_tag(path, "TileLength", 2**30)
    return path


def dims(path: Path, side: int) -> Path:
    """Declare an image of another size than its tiles."""
    write_svs(path, [scene()])
    patch_tag(path, "ImageWidth", side)
    patch_tag(path, "ImageLength", side)
    return path


def bomb(path: Path, declared: int, side: int = 8192) -> Path:
    """Write one deflated tile of `side` pixels that is declared to have `declared`."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(side * 3)) for _ in range(side)) + packer.flush()
    return write_encoded(
        path,
        (declared, declared, 3),
        declared,
        iter([packed]),
        compression="deflate",
        photometric="rgb",
    )


def large_jpeg(path: Path) -> Path:
    """Write a tile whose JPEG claims 65 500 pixels a side, 12 GB."""
    stream = bytearray(imagecodecs.jpeg8_encode(scene(TILE, TILE)))
    at = next(n for n in range(len(stream)) if stream[n : n + 2] in (b"\xff\xc0", b"\xff\xc2"))
    stream[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return write_encoded(
        path, (TILE, TILE, 3), TILE, iter([bytes(stream)]), compression="jpeg", photometric="ycbcr"
    )


def large_codestream(path: Path) -> Path:
    """Write a tile whose JPEG 2000 claims 2**30 pixels a side."""
    stream = bytearray(imagecodecs.jpeg2k_encode(scene(TILE, TILE), codecformat="j2k"))
    at = stream.find(b"\xff\x4f\xff\x51")
    stream[at + 8 : at + 16] = struct.pack(">II", 2**30, 2**30)
    return write_encoded(
        path, (TILE, TILE, 3), TILE, iter([bytes(stream)]), compression=33005, photometric="rgb"
    )


def ifd_loop(path: Path) -> Path:
    """Let the last page be followed by the first."""
    write_svs(path)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].aspage(), tif.pages[len(tif.pages) - 1].aspage()
        start, n_tags = last.offset, len(last.tags)
    overwrite(path, start + 2 + 12 * n_tags, struct.pack("<I", first.offset))
    return path


def outside(path: Path) -> Path:
    """Let one tile lie beyond the end of the file, and one claim 3 GB."""
    write_svs(path)
    offsets, counts = tile_places(path)
    offsets[1], counts[2] = 2**31, 3 * 2**30
    patch_tag(path, "TileOffsets", offsets)
    patch_tag(path, "TileByteCounts", counts)
    return path


def anisotropic(path: Path, y: float = 0.5, x: float = 0.25) -> Path:
    """Write an OME-TIFF whose pixels are not square."""
    unit = {"PhysicalSizeYUnit": "µm", "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(
        path,
        scene(512, 512),
        tile=(TILE, TILE),
        photometric="rgb",
        ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": y, **unit},
    )
    return path


def write_ome(path: Path, levels: Sequence[npt.NDArray[np.uint8]], pixel_size: float) -> Path:
    """Write an OME-TIFF with its levels in SubIFDs."""
    metadata = {"axes": "YXS", "PhysicalSizeX": pixel_size, "PhysicalSizeY": pixel_size}
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return path


def bad_zarr(path: Path, *, named: str = "0", **changes: Any) -> Path:
    """Write the metadata of an OME-Zarr of one level, some of it changed, by hand."""
    level = path / "0"
    level.mkdir(parents=True)
    array = {
        "zarr_format": 2,
        "shape": [3, 512, 512],
        "chunks": [3, 256, 256],
        "dtype": "|u1",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
    scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    datasets = [{"path": named, "coordinateTransformations": [scale]}]
    (path / ".zattrs").write_text(
        json.dumps({"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]})
    )
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (level / ".zarray").write_text(json.dumps({**array, **changes}))
    (level / "0.0.0").write_bytes(bytes(3 * 256 * 256))
    return path


def picture(path: Path) -> Path:
    """Write a PNG under a slide's name."""
    path.write_bytes(imagecodecs.png_encode(scene(64, 64)))
    return path


def folder(path: Path) -> Path:
    """Make a folder under a slide's name."""
    path.mkdir()
    return path


def written(path: Path, data: bytes) -> Path:
    """Write bytes."""
    path.write_bytes(data)
    return path


#: Name, how to write it, and a part of the message that opening it must give.
REFUSED: tuple[tuple[str, Callable[[Path], Path], str], ...] = (
    ("cut_to_its_head.svs", lambda p: truncated(p, 0.002), "damaged"),
    ("tile_of_2_30.svs", huge_tile, "pieces of 1073741824"),
    ("dims_0.svs", lambda p: dims(p, 0), "damaged"),
    ("dims_2_31.svs", lambda p: dims(p, 2**31 - 1), "more than any slide"),
    ("dims_not_its_tiles.svs", lambda p: dims(p, 60000), "lists 16"),
    ("bomb.tif", lambda p: bomb(p, 8192), "the most that is decoded"),
    ("picture.svs", picture, "is a PNG image"),
    ("text.svs", lambda p: written(p, b"not a slide" * 50), "is not a slide"),
    ("text.ndpi", lambda p: written(p, b"II*\0\xff\xff\xff\x7f"), "damaged"),
    ("empty.svs", lambda p: written(p, b""), "empty file"),
    ("folder.svs", folder, "is a folder"),
    ("pickle.zarr", lambda p: bad_zarr(p, filters=[{"id": "pickle"}]), "'pickle'"),
    ("objects.zarr", lambda p: bad_zarr(p, dtype="|O"), "8- nor 16-bit"),
    ("climbs.zarr", lambda p: bad_zarr(p, named="../0"), "lacks its level"),
    ("chunk.zarr", lambda p: bad_zarr(p, chunks=[3, 2**20, 2**20]), "pieces of 1048576"),
    ("dims.zarr", lambda p: bad_zarr(p, shape=[3, 0, 2**31]), "nothing to read"),
    ("nothing.zarr", lambda p: written(folder(p) / ".zattrs", b"{}").parent, "no 'multiscales'"),
)

#: Name, how to write it, and the share of full-resolution tiles that must fail.
PARTLY: tuple[tuple[str, Callable[[Path], Path], int], ...] = (
    ("zeroed_tiles.svs", zeroed, 1),
    ("half_zeroed_tiles.svs", half_zeroed, 2),
    ("tiles_outside.svs", outside, 2),
    ("bomb_in_a_tile.tif", lambda p: bomb(p, 256), 1),
    ("small_bomb_in_a_tile.tif", lambda p: bomb(p, 256, 4096), 1),
    ("truncated.svs", truncated, 3),
    ("large_jpeg.tif", large_jpeg, 1),
    ("large_codestream.tif", large_codestream, 1),
    ("ifd_loop.svs", ifd_loop, 0),
    ("schnitt_ä_切片.svs", write_svs, 0),
)

#: Name, how to write it, and a part of the note about its missing µm per pixel.
UNCALIBRATED: tuple[tuple[str, Callable[[Path], Path], str], ...] = (
    ("no_mpp.svs", lambda p: write_svs(p, pixel_size=None), "does not say"),
    ("absurd_mpp.svs", lambda p: write_svs(p, pixel_size="25400"), "no slide has"),
    ("anisotropic.ome.tif", anisotropic, "0.5 µm high but 0.25 µm wide"),
)


def main(into: Path) -> None:
    """Write the whole corpus."""
    into.mkdir(parents=True, exist_ok=True)
    for name, write, _ in (*REFUSED, *PARTLY, *UNCALIBRATED):
        write(into / name)
    unreadable = write_svs(into / "no_permission.svs")
    unreadable.chmod(0)
    if hasattr(os, "mkfifo"):
        os.mkfifo(into / "pipe.svs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
