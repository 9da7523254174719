"""The TIFF backend against tifffile and OpenSlide."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from bad_slides import TILE, halves, scene, write_encoded, write_ome, write_svs
from napari_sparseattn.images._streams import jpeg_fault
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.opening import open_slide


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_colours_are_openslides(tmp_path: Path, photometric: str) -> None:
    """Both of Aperio's ways to store colours; libjpeg decodes both, so to the bit."""
    openslide = pytest.importorskip("openslide")
    path = write_svs(tmp_path / "a.svs", photometric=photometric)
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as other:
        for level in range(3):
            region = slide.read_region(30, 50, level, 180, 190)
            corner = 50 * 2**level, 30 * 2**level
            expected = np.asarray(other.read_region(corner, level, (190, 180)))[..., :3]
            np.testing.assert_array_equal(region.pixels, expected)
        near = slide.read_region(0, 0, 0, 1024, 1024).pixels.astype(int) - scene()
    # JPEG of quality 90 on smooth colours.
    assert np.abs(near).mean() < 2


def _aperio(path: Path, compression: int, planes: np.ndarray) -> Path:
    tiles = (
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(planes[y : y + TILE, x : x + TILE]),
            level=0,
            mct=compression == 33005,
            codecformat="j2k",
        )
        for y in (0, TILE)
        for x in (0, TILE)
    )
    description = "Aperio Image Library v11\r\n512x512 (256x256) J2K/KDU Q=70|MPP = 0.25"
    return write_encoded(
        path,
        (512, 512, 3),
        TILE,
        tiles,
        compression=compression,
        photometric="rgb",
        description=description,
    )


def test_jpeg_2000_as_rgb(tmp_path: Path) -> None:
    image = scene(512, 512)
    with open_slide(_aperio(tmp_path / "a.svs", 33005, image)) as slide:
        assert slide.pixel_size == 0.25
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 512, 512).pixels, image)


def test_jpeg_2000_as_ycbcr_is_converted(tmp_path: Path) -> None:
    """Pillow's YCbCr is JFIF's, which Aperio's 33003 holds; both round once."""
    import PIL.Image

    image = scene(512, 512)
    planes = np.asarray(PIL.Image.fromarray(image).convert("YCbCr"))
    with open_slide(_aperio(tmp_path / "a.svs", 33003, planes)) as slide:
        pixels = slide.read_region(0, 0, 0, 512, 512).pixels
    expected = np.asarray(PIL.Image.fromarray(planes, "YCbCr").convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert np.abs(pixels.astype(int) - image).max() <= 3


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "webp", "png"])
def test_lossless_tiles_come_back(tmp_path: Path, compression: str | None) -> None:
    image = scene(600, 700)
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb"}
    if compression == "webp":
        options["compressionargs"] = {"lossless": True}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, **options)
    with open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 600, 700)
    np.testing.assert_array_equal(region.pixels, image)
    assert region.valid.all()


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_is_grey_with_zero_as_black(tmp_path: Path, photometric: str) -> None:
    image = scene(300, 300)[..., 0]
    path = tmp_path / "a.tif"
    stored = image if photometric == "minisblack" else ~image
    tifffile.imwrite(path, stored, photometric=photometric, tile=(128, 128))
    with open_slide(path) as slide:
        assert slide.channels == 1
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 300, 300).pixels[..., 0], image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["rgb", "planes", "deep"])
def test_one_strip_that_is_not_compressed_is_read_in_rows(
    tmp_path: Path, kind: str, order: str
) -> None:
    image, path = scene(1900, 700), tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "rgb", "byteorder": order}
    if kind == "deep":
        image = image.astype(np.uint16) * 3
    if kind == "planes":
        tifffile.imwrite(path, image.transpose(2, 0, 1), planarconfig="separate", **options)
    else:
        tifffile.imwrite(path, image, **options)
    with open_slide(path) as slide:
        assert slide.levels[0].tile[0] < 1000
        found = slide.read_region(900, 30, 0, 900, 600)
        assert found.valid.all()
        np.testing.assert_array_equal(found.pixels, image[900:1800, 30:630])
        assert slide.ledger.snapshot().fraction_read < 1
    path.write_bytes(path.read_bytes()[: image.nbytes // 6])
    with contextlib.suppress(ImageError), open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 1900, 700)
        np.testing.assert_array_equal(region.pixels[region.valid], image[region.valid])


def test_strips_and_small_tiles_are_read_in_groups(tmp_path: Path) -> None:
    image = scene(700, 500)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", rowsperstrip=7)
    tifffile.imwrite(tmp_path / "b.tif", image, photometric="rgb", tile=(64, 32))
    for name, tile in (("a.tif", (259, 500)), ("b.tif", (256, 256))):
        with open_slide(tmp_path / name) as slide:
            assert slide.levels[0].tile == tile
            region = slide.read_region(250, 100, 0, 450, 400)
        np.testing.assert_array_equal(region.pixels, image[250:, 100:])
        assert region.valid.all()


def test_one_bad_strip_of_a_group_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = scene(512, 400)
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=16, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[3]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(50))
    with open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 512, 400)
        assert list(slide.ledger.snapshot().failed[0]) == [(0, 0)]
    good = np.ones(512, bool)
    good[48:64] = False
    np.testing.assert_array_equal(region.valid, np.broadcast_to(good[:, np.newaxis], (512, 400)))
    np.testing.assert_array_equal(region.pixels[good], image[good])


def test_levels_in_subifds(tmp_path: Path) -> None:
    """OpenSlide sees one level in such a file."""
    levels = halves(scene(), 3)
    with open_slide(write_ome(tmp_path / "a.ome.tif", levels, 0.325)) as slide:
        assert slide.pixel_size == pytest.approx(0.325)
        assert [(level.height, level.downsample) for level in slide.levels] == [
            (1024, 1),
            (512, 2),
            (256, 4),
        ]
        for n, level in enumerate(levels):
            region = slide.read_region(10, 20, n, 200, 100)
            np.testing.assert_array_equal(region.pixels, level[10:210, 20:120])


def test_levels_as_reduced_pages(tmp_path: Path) -> None:
    """The generic pyramid that vips and bioformats write, with its resolution in cm."""
    levels, path = halves(scene(), 3), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for n, level in enumerate(levels):
            writer.write(
                level,
                tile=(TILE, TILE),
                photometric="rgb",
                subfiletype=int(n > 0),
                resolution=(20000 / 2**n, 20000 / 2**n),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    with open_slide(path) as slide:
        assert slide.pixel_size == pytest.approx(0.5)
        assert len(slide.levels) == 3
        np.testing.assert_array_equal(slide.read_region(0, 0, 2, 256, 256).pixels, levels[2])


def test_tiles_that_the_file_does_not_hold_are_absent_not_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiles = [scene(TILE, TILE).tobytes(), b"", b"", scene(TILE, TILE).tobytes()]
    write_encoded(path, (512, 512, 3), TILE, iter(tiles), photometric="rgb")
    with open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 512, 512)
        reading = slide.ledger.snapshot()
    assert reading.absent[0] == {(0, 1), (1, 0)}
    assert reading.n_failed == 0
    assert reading.fraction_read == 0.5
    assert not region.valid[:TILE, TILE:].any()
    assert "2 tiles are not in the file" in reading.summary()


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((300, 300), np.float32), {"photometric": "minisblack"}, "8 or 16 bits"),
        (np.zeros((300, 300, 4), np.uint8), {"photometric": "separated"}, "export it as RGB"),
    ],
)
def test_kinds_that_are_not_read_say_so(
    tmp_path: Path, image: np.ndarray, options: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(128, 128), **options)
    with pytest.raises(ImageError, match=message):
        open_slide(tmp_path / "a.tif")


def test_every_cut_of_a_file_is_survived(tmp_path: Path) -> None:
    """Whatever the length, it opens or says why; valid pixels are the right ones."""
    whole = write_svs(tmp_path / "a.svs", halves(scene(512, 512), 2)).read_bytes()
    with open_slide(tmp_path / "a.svs") as slide:
        sound = slide.read_region(0, 0, 0, 512, 512).pixels
    path = tmp_path / "cut.svs"
    for length in np.random.default_rng(0).integers(5, len(whole), 60):
        path.write_bytes(whole[:length])
        try:
            with open_slide(path) as slide:
                region = slide.read_region(0, 0, 0, 512, 512)
                np.testing.assert_array_equal(region.pixels[region.valid], sound[region.valid])
        except ImageError:
            continue


def test_blank_tiles_of_optimised_jpeg_are_not_taken_for_damaged() -> None:
    """Their blocks are coded in two zero bits: hundreds of zero bytes in a row."""
    for side in (256, 512):
        for optimise in (True, False):
            data = imagecodecs.jpeg8_encode(
                np.full((side, side, 3), 255, np.uint8),
                level=90,
                optimize=optimise,
                subsampling="444",
            )
            assert jpeg_fault(data, side, side, 3) is None


def _planar(path: Path, levels: list[np.ndarray]) -> None:
    """Write red, green and blue as planes of one page."""
    with tifffile.TiffWriter(path) as file:
        for n, level in enumerate(levels):
            file.write(
                level.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
                tile=(128, 128), subfiletype=int(n > 0), compression="deflate",
            )  # fmt: skip


def _pages(path: Path, levels: list[np.ndarray], names: list[str] | None = None) -> None:
    """Write red, green and blue as three pages of an OME-TIFF, as raw2ometiff does by default."""
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    if names is not None:
        metadata["Channel"] = {"Name": names}
    options = {"photometric": "minisblack", "tile": (128, 128), "compression": "jpeg"}
    options["compressionargs"] = {"level": 98}
    with tifffile.TiffWriter(path, ome=True) as file:
        first, *others = (level.transpose(2, 0, 1) for level in levels)
        file.write(first, subifds=len(others), metadata=metadata, **options)
        for level in others:
            file.write(level, subfiletype=1, **options)


@pytest.mark.parametrize("write", [_planar, _pages], ids=["planar", "pages"])
def test_colours_stored_as_planes_are_colours(tmp_path: Path, write: Any) -> None:
    levels = halves(scene(600, 500), 2)
    path = tmp_path / ("a.tif" if write is _planar else "a.ome.tif")
    write(path, levels)
    with open_slide(path) as slide:
        assert (slide.channels, len(slide.levels)) == (3, 2)
        for n, level in enumerate(levels):
            region = slide.read_region(10, 20, n, 200, 210)
            apart = region.pixels.astype(int) - level[10:210, 20:230]
            assert np.abs(apart).max() <= (0 if write is _planar else 12)
            assert region.valid.all()
        if write is _pages:
            assert "taken for red, green and blue" in slide.notes[0]


def test_planes_are_red_green_and_blue_by_their_names(tmp_path: Path) -> None:
    levels = halves(scene(600, 500), 2)
    _pages(tmp_path / "a.ome.tif", [level[..., ::-1] for level in levels], ["Blue", "Green", "Red"])
    with open_slide(tmp_path / "a.ome.tif") as slide:
        for n, level in enumerate(levels):
            region = slide.read_region(10, 20, n, 200, 210)
            assert np.abs(region.pixels.astype(int) - level[10:210, 20:230]).max() <= 12


def test_planes_of_dyes_are_no_colours(tmp_path: Path) -> None:
    _pages(tmp_path / "a.ome.tif", halves(scene(600, 500), 2), ["DAPI", "FITC", "TRITC"])
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [one.name for one in slide.channel_info] == ["DAPI", "FITC", "TRITC"]
        assert slide.channels == 3
        assert not any("planes" in note for note in slide.notes)


def test_orientation_of_a_slide_is_said(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", scene(300, 300), tile=(128, 128), extratags=[(274, "H", 1, 6, True)]
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert "orientation 6" in slide.notes[0]
