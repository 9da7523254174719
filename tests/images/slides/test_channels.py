"""Slides of dyes or 16 bits: each channel read alone, named, and refused by models."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from bad_slides import halves, scene
from napari_sparseattn.features.extract import extract_features
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.images.slides.channels import (
    ChannelPyramid,
    estimate_limits,
    refuse_channels,
)
from napari_sparseattn.images.slides.opening import is_slide, open_slide
from napari_sparseattn.images.slides.patches import patch_grid
from napari_sparseattn.images.slides.pyramid import Pyramid
from napari_sparseattn.images.tissue.mask import find_tissue

NAMES = ["DAPI", "FITC", "Cy5"]
#: OME's signed RGBA of blue, green and magenta.
COLOURS = [0x0000FFFF, 0x00FF00FF, 0xFF00FFFF - 2**32]
RGB = [(0, 0, 255), (0, 255, 0), (255, 0, 255)]


def dim(side: int = 1024, channels: int = 3) -> npt.NDArray[np.uint16]:
    """Draw cells of 12-bit values far below white, (C, side, side); each channel its own."""
    return _dim(side, channels).copy()


@functools.cache
def _dim(side: int, channels: int) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side]
    planes = []
    for n in range(channels):
        plane = 100 + 10 * n + rng.normal(0, 3, (side, side))
        for row, column in rng.integers(150, side - 150, (12, 2)):
            plane[np.hypot(y - row, x - column) < 30] += 600 + 300 * n
        planes.append(plane)
    return np.stack(planes).astype(np.uint16)


def pyramid(planes: npt.NDArray[Any], n: int = 3) -> list[npt.NDArray[Any]]:
    return [planes[:, :: 2**i, :: 2**i] for i in range(n)]


def write_ome(path: Path, planes: npt.NDArray[Any], **about: Any) -> Path:
    """Write channels as OME-TIFF, each on pages of its own, with levels."""
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, **about}
    first, *others = pyramid(planes)
    options = {"photometric": "minisblack", "tile": (256, 256), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        file.write(first, subifds=len(others), metadata=metadata, **options)
        for level in others:
            file.write(level, subfiletype=1, **options)
    return path


def write_zarr(path: Path, planes: npt.NDArray[Any], omero: Any, version: int = 2) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    datasets = []
    for n, level in enumerate(pyramid(planes)):
        array = group.create_array(
            str(n), shape=level.shape, chunks=(1, 256, 256), dtype=level.dtype
        )
        array[:] = level
        scale = [1, 0.5 * 2**n, 0.5 * 2**n]
        datasets.append(
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    held = {"multiscales": [{"axes": axes, "datasets": datasets}], "omero": omero}
    group.attrs.update(held if version == 2 else {"ome": {"version": "0.5", **held}})
    return path


def check_pixels(slide: Pyramid, planes: npt.NDArray[Any]) -> None:
    """Every channel of every level, alone and together, as it was written."""
    assert slide.dtype == planes.dtype
    for n, level in enumerate(pyramid(planes)):
        together = slide.read_region(20, 30, n, 150, 210)
        assert together.valid.all()
        expected = level[:, 20:170, 30:240]
        np.testing.assert_array_equal(together.pixels, expected.transpose(1, 2, 0))
        for channel in range(len(planes)):
            alone = ChannelPyramid(slide, channel).read_region(20, 30, n, 150, 210)
            np.testing.assert_array_equal(alone.pixels[..., 0], expected[channel])


def test_ome_tiff_has_its_names_colours_and_values(tmp_path: Path) -> None:
    planes = dim()
    about = {"Channel": {"Name": NAMES, "Color": COLOURS}}
    path = write_ome(tmp_path / "a.ome.tif", planes, **about)
    assert is_slide(path)
    with open_image(path) as slide:
        assert isinstance(slide, Pyramid)
        assert [one.name for one in slide.channel_info] == NAMES
        assert [one.colour for one in slide.channel_info] == RGB
        assert slide.pixel_size == 0.5
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert slide.notes == ()
        check_pixels(slide, planes)


def test_one_channel_is_read_without_the_others(tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tif", dim())) as slide:
        one = ChannelPyramid(slide, 1)
        one.read_region(0, 0, 0, 1024, 1024)
        slide.read_region(0, 0, 0, 1024, 1024)
        alone, whole = (x.ledger.snapshot().bytes_decoded for x in (one, slide))
    assert 3 * alone == whole


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_has_what_omero_says(tmp_path: Path, version: int) -> None:
    planes = dim()
    shown = [
        {"label": name, "color": colour, "window": {"start": low, "end": high}}
        for name, colour, low, high in zip(
            NAMES, ["0000FF", "00FF00", "FF00FF"], [90, 0, 0], [900, 65535, 65535], strict=True
        )
    ]
    path = write_zarr(tmp_path / "a.ome.zarr", planes, {"channels": shown}, version)
    with open_slide(path) as slide:
        assert [one.name for one in slide.channel_info] == NAMES
        assert [one.colour for one in slide.channel_info] == RGB
        assert estimate_limits(ChannelPyramid(slide, 0)) == (90, 900)
        # All that the type can hold is no choice of anybody's.
        assert estimate_limits(ChannelPyramid(slide, 1))[1] < 2000
        check_pixels(slide, planes)


def test_dyes_in_zarr_of_8_bits_are_no_colours(tmp_path: Path) -> None:
    planes = (dim() // 8).astype(np.uint8)
    named = {"channels": [{"label": name} for name in NAMES]}
    with open_slide(write_zarr(tmp_path / "a.zarr", planes, named)) as slide:
        assert [one.name for one in slide.channel_info] == NAMES
    with open_slide(write_zarr(tmp_path / "b.zarr", planes, {})) as slide:
        assert (slide.channels, slide.channel_info) == (3, ())


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_five_channels_in_one_page(tmp_path: Path, planar: str) -> None:
    planes = dim(512, 5)
    stored = planes if planar == "separate" else planes.transpose(1, 2, 0)
    path = tmp_path / "a.tif"
    options = {"photometric": "minisblack", "tile": (128, 128), "planarconfig": planar}
    tifffile.imwrite(path, stored, **options)
    with open_slide(path) as slide:
        assert [one.name for one in slide.channel_info] == [f"channel {n}" for n in range(1, 6)]
        for n in range(5):
            found = ChannelPyramid(slide, n).read_region(0, 0, 0, 512, 512).pixels[..., 0]
            np.testing.assert_array_equal(found, planes[n])


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_and_grey_of_16_bits(tmp_path: Path, order: str) -> None:
    deep = scene(600, 500).astype(np.uint16) * 16
    for image, names in ((deep, ["red", "green", "blue"]), (deep[..., 0], ["channel 1"])):
        path = tmp_path / "a.tif"
        kind = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(path, image, byteorder=order, photometric=kind, tile=(256, 256))
        with open_slide(path) as slide:
            assert [one.name for one in slide.channel_info] == names
            found = slide.read_region(0, 0, 0, 600, 500).pixels
            np.testing.assert_array_equal(found.squeeze(), image)
            low, high = estimate_limits(ChannelPyramid(slide, 0))
            assert 0 <= low < high <= 4080


def test_limits_are_those_of_the_values(tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tif", dim())) as slide:
        low, high = estimate_limits(ChannelPyramid(slide, 0))
        assert slide.ledger.snapshot().n_decoded == 0
    assert 85 <= low <= 110
    assert 650 <= high <= 720
    flat = np.full((1, 512, 512), 7, np.uint16)
    with open_slide(write_ome(tmp_path / "b.ome.tif", flat)) as slide:
        low, high = estimate_limits(ChannelPyramid(slide, 0))
    assert low < high


def test_models_refuse_them_in_plain_words(tmp_path: Path) -> None:
    about = {"Channel": {"Name": NAMES}}
    with open_slide(write_ome(tmp_path / "a.ome.tif", dim(), **about)) as slide:
        with pytest.raises(ValueError, match=r"3 channels of 16 bits \(DAPI, FITC, Cy5\)"):
            refuse_channels(slide)
        # Where the cells are can be told; what they are, no model was taught.
        tissue = find_tissue(slide)
        assert 0.01 < tissue.share < 0.5
        grid = patch_grid(slide, tissue, pixel_size=1.0, size=64)
        with pytest.raises(ValueError, match="nothing is converted unasked"):
            extract_features(slide, grid, "stain-texture")
    write = halves(scene(512, 512), 2)
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        for level in write:
            file.write(level, tile=(128, 128), photometric="rgb", metadata=None)
    with open_slide(tmp_path / "c.tif") as slide:
        refuse_channels(slide)
