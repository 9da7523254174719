"""Slides as their makers meant them: scale, levels, frame, and what was not scanned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from shapely.geometry import shape

from bad_slides import halves, patch_tag, scene, tile_places, write_svs
from bounded_slides import write_mrxs, write_scn
from export import results as made
from napari_sparseattn.export.formats import write_results
from napari_sparseattn.images.slides.opening import is_slide, open_slide
from napari_sparseattn.images.slides.patches import patch_grid, read_patch
from napari_sparseattn.images.slides.pyramid import ArrayPyramid, whole_downsample
from napari_sparseattn.images.slides.regions import read_regions
from napari_sparseattn.images.tissue.mask import find_tissue

_TILED = {"tile": (256, 256), "photometric": "rgb", "metadata": None}


def stained(side: int = 1024) -> np.ndarray:
    """Draw a disc of rough pink tissue on glass."""
    y, x = np.mgrid[:side, :side] - side / 2
    image = np.full((side, side, 3), (242, 241, 243), np.uint8)
    rough = np.random.default_rng(0).integers(-20, 20, (side, side, 1))
    tissue = np.clip(np.array([200, 120, 170]) + rough, 0, 255).astype(np.uint8)
    disc = np.hypot(y, x) < 0.4 * side
    image[disc] = tissue[disc]
    return image


def test_scale_is_that_of_the_slide_and_not_of_the_macro_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for image, size in ((scene(300, 200), 8.0), (scene(1024, 768), 0.5)):
            about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(image, photometric="rgb", tile=(256, 256), metadata=about)
    with open_slide(path) as slide:
        assert slide.shape == (1024, 768)
        assert slide.pixel_size == 0.5


def test_a_thumbnail_before_the_pyramid_is_not_the_slide(tmp_path: Path) -> None:
    path, levels = tmp_path / "a.tif", halves(scene(), 3)
    with tifffile.TiffWriter(path) as writer:
        small = {"resolution": (1e4 / 4, 1e4 / 4), "resolutionunit": "CENTIMETER"}
        writer.write(scene(128, 128), photometric="rgb", metadata=None, **small)
        for n, level in enumerate(levels):
            dots = 1e4 / (0.5 * 2**n)
            writer.write(level, resolution=(dots, dots), resolutionunit="CENTIMETER", **_TILED)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert slide.pixel_size == pytest.approx(0.5, rel=1e-3)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert list(slide.associated) == ["image 0"]
        found = slide.read_region(0, 0, 1, 512, 512).pixels
        np.testing.assert_array_equal(found, levels[1])


def test_levels_are_found_in_any_order_of_pages(tmp_path: Path) -> None:
    path, levels = tmp_path / "a.svs", halves(scene(), 4)
    about = "Aperio Image Library v11\r\n1024x1024 (256x256) none|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as writer:
        for n in (0, 2, None, 3, 1):
            if n is None:
                writer.write(scene(200, 200), photometric="rgb", metadata=None, rowsperstrip=16)
            else:
                writer.write(levels[n], description=about if n == 0 else None, **_TILED)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4, 8]
        for n, level in enumerate(levels):
            found = slide.read_region(0, 0, n, *level.shape[:2]).pixels
            np.testing.assert_array_equal(found, level)


def test_levels_padded_to_whole_tiles_keep_their_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for n, level in enumerate(halves(scene(900, 700), 3)):
            pad = [(0, -side % 256) for side in level.shape[:2]]
            full = level if n == 0 else np.pad(level, (*pad, (0, 0)), constant_values=255)
            writer.write(full, **_TILED)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]


@pytest.mark.parametrize(
    ("size", "tile", "factor"),
    [
        ((1484, 1110), (256, 256), 2),
        ((1536, 1280), (256, 256), 2),
        ((768, 768), (256, 256), 4),
        ((512, 512), (256, 256), 8),
        ((1536, 1111), (256, 256), None),
        ((1024, 1024), (256, 256), None),
    ],
)
def test_a_level_is_explained_by_a_whole_number_or_not(
    size: tuple[int, int], tile: tuple[int, int], factor: int | None
) -> None:
    assert whole_downsample((2967, 2220), size, tile) == factor


@pytest.mark.parametrize(
    ("stated", "size"), [("2.527e-1", 0.2527), ("0,2527", 0.2527), ("0.2527", 0.2527)]
)
def test_mpp_has_exponents_and_commas(tmp_path: Path, stated: str, size: float) -> None:
    with open_slide(write_svs(tmp_path / "a.svs", pixel_size=stated)) as slide:
        assert slide.pixel_size == pytest.approx(size)


def test_dicom_levels_go_by_their_spacing_and_need_no_endings(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom")
    from dicom_slide import write_dicom

    levels = []
    for level in halves(scene(1280, 1024), 3):
        pad = [(0, -side % 256) for side in level.shape[:2]]
        levels.append(np.pad(level, (*pad, (0, 0)), constant_values=255))
    assert levels[1].shape[:2] == (768, 512)
    folder = write_dicom(tmp_path / "slide", levels, 0.25)
    for n, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"IM{n}")
    assert is_slide(folder)
    with open_slide(folder) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert slide.pixel_size == pytest.approx(0.25)


@pytest.mark.parametrize("write", [write_scn, write_mrxs])
def test_the_frame_of_a_slide_with_bounds_is_the_scanned_part(tmp_path: Path, write: Any) -> None:
    """As QuPath has it, whose GeoJSON begins there."""
    openslide = pytest.importorskip("openslide")
    path, corner = write(tmp_path, scene(768, 512))
    with openslide.OpenSlide(str(path)) as other:
        held = other.properties
        told = [int(held[f"openslide.bounds-{n}"]) for n in ("x", "y", "width", "height")]
        assert told == [*corner, 512, 768]
        theirs = np.asarray(other.read_region(corner, 0, (512, 768)))[..., :3]
        level = other.level_count - 1
        small = np.asarray(other.read_region(corner, level, (60, 80)))[..., :3]
    with open_slide(path) as slide:
        assert slide.shape == (768, 512)
        region = slide.read_region(0, 0, 0, 768, 512)
        assert region.valid.all()
        np.testing.assert_array_equal(region.pixels, theirs)
        np.testing.assert_array_equal(slide.read_region(0, 0, level, 80, 60).pixels, small)


@pytest.mark.parametrize("write", [write_scn, write_mrxs])
def test_geojson_of_a_slide_with_bounds_has_qupaths_frame(tmp_path: Path, write: Any) -> None:
    """Out: what is exported begins at the bounds. In: an outline lies where QuPath drew it."""
    openslide = pytest.importorskip("openslide")
    path, (left, top) = write(tmp_path, scene(768, 512))
    with open_slide(path) as slide:
        paths = write_results(
            made.slide(), slide, tmp_path / "out", "a", ["geojson"], made.slide_card()
        )
        whole, *tiles = json.loads(paths[0].read_text())["features"]
        assert shape(whole["geometry"]).bounds == (0, 0, 512, 768)
        assert shape(tiles[1]["geometry"]).bounds == (80, 16, 104, 40)
        outline = np.array([(100, 200), (100, 260), (150, 260), (150, 200)])
        ring = [*outline[:, ::-1].tolist(), outline[0, ::-1].tolist()]
        drawn = {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [ring]},
                    "properties": {"objectType": "annotation", "classification": {"name": "x"}},
                }
            ],
        }
        (tmp_path / "q.geojson").write_text(json.dumps(drawn))
        (region,) = read_regions(tmp_path / "q.geojson")
        y, x = region.outline.min(axis=0).astype(int)
        height, width = np.ptp(region.outline, axis=0).astype(int)
        ours = slide.read_region(y, x, 0, height, width).pixels
    # QuPath crops OpenSlide's frame to the bounds, so that it adds them where it reads.
    with openslide.OpenSlide(str(path)) as other:
        theirs = np.asarray(other.read_region((left + 200, top + 100), 0, (60, 50)))[..., :3]
    np.testing.assert_array_equal(ours, theirs)


def _without_tiles(path: Path, missing: list[int], damaged: list[int] = ()) -> Path:
    offsets, counts = tile_places(path)
    for tile in missing:
        offsets[tile] = counts[tile] = 0
    with path.open("r+b") as file:
        for tile in damaged:
            file.seek(offsets[tile])
            file.write(b"\x55" * counts[tile])
    patch_tag(path, "TileOffsets", offsets)
    patch_tag(path, "TileByteCounts", counts)
    return path


def test_what_was_not_scanned_is_not_damaged(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", halves(stained(), 1), pixel_size="2")
    _without_tiles(path, missing=[1, 2], damaged=[15])
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        assert tissue.unscanned is not None
        share = tissue.unscanned.mean()
        assert share == pytest.approx(2 / 16, abs=0.01)
        assert tissue.unreadable.mean() == pytest.approx(1 / 16, abs=0.01)
        assert "12.5 % not scanned" in tissue.summary()
        assert "6.25 % not readable" in tissue.summary()
        grid = patch_grid(slide, tissue, pixel_size=2, size=64, min_tissue=0.25)
        whole = patch_grid(
            slide, find_tissue(ArrayPyramid(stained(), pixel_size=2)), pixel_size=2, size=64
        )
        kept = {tuple(cell) for cell in grid.cells.tolist()}
        # Patches on tissue that is there are all kept.
        there = {
            (x, y)
            for x, y in whole.cells.tolist()
            if not (y < 4 and 4 <= x < 12) and not (x > 11 and y > 11)
        }
        assert there <= kept
        x, y = min(kept, key=lambda cell: cell[1])
        rows = [n for n, cell in enumerate(grid.cells.tolist()) if cell == [x, y]]
        assert read_patch(slide, grid, rows[0])[1].all()


def test_a_patch_keeps_what_is_there_and_has_the_glass_elsewhere(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", halves(stained(), 1), pixel_size="2")
    _without_tiles(path, missing=[5], damaged=[10])
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        grid = patch_grid(slide, tissue, pixel_size=2, size=96, min_tissue=0.1)
        found = {tuple(cell): n for n, cell in enumerate(grid.cells.tolist())}
        # Tile 5 covers 256 to 512 along both axes, tile 10 from 512 to 768.
        pixels, valid = read_patch(slide, grid, found[2, 3])
        assert valid.all()
        assert (pixels[:, 64:] == 255).all()
        assert pixels[:, :60].mean() < 220
        _, damaged = read_patch(slide, grid, found[5, 5])
        assert not damaged.all()
        assert damaged.any()


def test_black_fill_is_not_a_dark_background() -> None:
    image = stained()
    y, x = np.mgrid[:1024, :1024] - 512
    filled = image.copy()
    filled[np.hypot(y, x) > 460] = 0
    filled[:, 860:] = 0
    slide = ArrayPyramid(filled, pixel_size=2)
    tissue, plain = find_tissue(slide), find_tissue(ArrayPyramid(image, pixel_size=2))
    assert tissue.black_fill
    assert tissue.unscanned is not None
    black = (filled.max(axis=2) == 0).mean()
    assert tissue.unscanned.mean() == pytest.approx(black, abs=0.04)
    assert (tissue.mask & ~plain.mask).mean() < 0.01
    assert (tissue.mask & plain.mask).sum() > 0.9 * (plain.mask & ~tissue.unscanned).sum()
    assert not tissue.pen.any()
    grid = patch_grid(slide, tissue, pixel_size=2, size=64)
    for n in range(len(grid)):
        pixels, _ = read_patch(slide, grid, n)
        assert pixels.max(axis=2).min() > 8


def test_one_channel_has_no_pen() -> None:
    grey = stained().mean(axis=2).astype(np.uint8)
    grey[400:520, 400:520] = 20
    tissue = find_tissue(ArrayPyramid(grey, pixel_size=2))
    assert not tissue.pen.any()
    assert tissue.mask[115:125, 115:125].all()
