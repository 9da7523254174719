"""Coarse levels of slides that have none: made once, kept, and the means of the pixels."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from bad_slides import overwrite, scene, tile_places
from napari_sparseattn.cache import Cache
from napari_sparseattn.images.slides import _window, overview
from napari_sparseattn.images.slides._tiles import TileCache
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.overview import (
    attach_overview,
    is_flat,
    iter_overview,
    make_overview,
    overview_file,
)
from napari_sparseattn.images.slides.pyramid import Pyramid
from napari_sparseattn.images.tissue.mask import _overview, find_tissue

HEIGHT, WIDTH = 1500, 2300


@pytest.fixture(autouse=True)
def low_threshold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take slides of two megapixels for large ones, and keep to the test's own cache."""
    monkeypatch.setattr(overview, "FLAT_PIXELS", 2**20)
    monkeypatch.setattr(overview, "MOST_SIDE", 256)
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))


def stained() -> npt.NDArray[np.uint8]:
    """Draw rough pink tissue on glass, (HEIGHT, WIDTH, 3)."""
    image = np.full((HEIGHT, WIDTH, 3), 242, np.uint8)
    rough = np.random.default_rng(0).integers(-20, 20, (700, 900, 1))
    image[300:1000, 500:1400] = np.clip(np.array([200, 120, 170]) + rough, 0, 255)
    return image


def write_flat(path: Path, image: npt.NDArray[Any] | None = None, **options: Any) -> Path:
    """Write one level, by default in deflated strips of one row."""
    image = stained() if image is None else image
    given: dict[str, Any] = {"compression": "zlib", "rowsperstrip": 1, "photometric": "rgb"}
    given |= {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, **(given | options))
    return path


def means(image: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float64]:
    """Return means of blocks, of which the last repeat the edge."""
    pad = [(0, -side % factor) for side in image.shape[:2]] + [(0, 0)]
    padded = np.pad(image, pad, mode="edge").astype(float)
    h, w = padded.shape[0] // factor, padded.shape[1] // factor
    found: npt.NDArray[np.float64] = padded.reshape(h, factor, w, factor, -1).mean((1, 3))
    return found


def level_of(slide: Pyramid, n: int) -> Any:
    at = slide.levels[n]
    return slide.read_region(0, 0, n, at.height, at.width)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_are_means_and_there_the_next_time(tmp_path: Path, dtype: Any) -> None:
    image = scene(HEIGHT, WIDTH).astype(dtype) * (1 if dtype is np.uint8 else 16)
    path = write_flat(tmp_path / "a.tif", image)
    with open_slide(path) as slide:
        assert is_flat(slide)
        assert slide.overview is None
        told: list[tuple[str, int, int]] = []
        make_overview(slide, progress=lambda *step: told.append(step))
        assert told[-1] == ("overview", len(told), len(told))
        assert slide.ledger.snapshot().n_decoded == 0, "what made it is no part of an answer"
    with open_slide(path) as slide:
        found = slide.overview
        assert found is not None
        assert [level.downsample for level in slide.levels] == [1]
        assert [level.downsample for level in found.levels] == [1, 4, 16]
        np.testing.assert_array_equal(level_of(found, 0).pixels, image)
        for n, factor in ((1, 4), (2, 16)):
            region = level_of(found, n)
            assert region.valid.all()
            # Means of rounded means: half a grey level for each step.
            apart = np.abs(region.pixels - means(image, factor))
            assert apart[:-1, :-1].max() <= 0.5 * n + 1e-9
        make_overview(slide, progress=lambda *_: pytest.fail("it was there"))


def test_tissue_is_found_without_reading_the_slide(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "a.tif")
    with open_slide(path) as slide:
        before = find_tissue(slide)
        make_overview(slide)
        read = slide.ledger.snapshot().n_decoded
        after = find_tissue(slide)
        assert slide.ledger.snapshot().n_decoded == read
        assert (before.mask != after.mask).mean() < 0.002
        assert before.mask.any()
        assert any("overview of a made earlier" in note for note in after.notes)


def test_strips_are_decoded_once_for_the_tissue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_window, "_WINDOW_PIXELS", 2**16)
    with open_slide(write_flat(tmp_path / "a.tif")) as slide:
        group = slide.levels[0].tile[0] * WIDTH * 3
        slide._cache = TileCache(2 * group + 2**12)
        rows = slide.levels[0].grid[0]
        _overview(slide, 16.0, lambda *_: None)
        assert slide.ledger.snapshot().n_decoded == rows


def test_memory_holds_bands_and_not_the_image(tmp_path: Path) -> None:
    tall = np.full((12_000, 800, 3), 230, np.uint8)
    path = write_flat(tmp_path / "a.tif", tall, rowsperstrip=16)
    with open_slide(path) as slide:
        slide._cache._most = 2**20
        tracemalloc.start()
        make_overview(slide)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < tall.nbytes / 3


def test_what_was_not_scanned_and_what_cannot_be_read_stay_told_apart(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "a.tif", scene(HEIGHT, WIDTH), tile=(256, 256), rowsperstrip=None)
    offsets, counts = tile_places(path)
    overwrite(path, offsets[1], bytes(counts[1]))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages.first.tags["TileByteCounts"]
        tag.overwrite([0 if n == 3 else count for n, count in enumerate(tag.value)])
    with open_slide(path) as slide:
        make_overview(slide)
        found = slide.overview
        assert found is not None
        region = level_of(found, 1)
        assert not region.valid[:64, 64:128].any()
        assert not region.valid[:64, 192:256].any()
        assert region.valid[:64, :64].all()
        assert region.valid[64:].all()
        rows, columns = np.array([10.0]), np.array([100.0, 220.0])
        # What failed is known by the tile of the overview.
        assert found.failed_at(1, rows, columns)[0, 0]


def test_a_changed_file_has_an_overview_of_its_own(tmp_path: Path) -> None:
    path, cache = write_flat(tmp_path / "a.tif"), Cache.default()
    with open_slide(path) as slide:
        make_overview(slide)
    kept = overview_file(path, cache)
    assert [entry.path for entry in cache.entries()] == [kept]
    os.utime(path, ns=(1, 1))
    assert overview_file(path, cache) != kept
    with open_slide(path) as slide:
        assert slide.overview is None


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    path, file = write_flat(tmp_path / "a.tif"), tmp_path / "made" / "a.h5"
    with open_slide(path) as slide:
        bands = iter_overview(slide, file)
        first = next(bands)
        assert (first.done, first.top) == (1, 0)
        assert first.total > 1
        bands.close()
    assert list(file.parent.iterdir()) == []


def test_a_damaged_overview_is_made_again(tmp_path: Path) -> None:
    path, cache = write_flat(tmp_path / "a.tif"), Cache.default()
    with open_slide(path) as slide:
        make_overview(slide)
        kept = overview_file(path, cache)
        kept.write_bytes(kept.read_bytes()[:2000])
    with open_slide(path) as slide:
        assert not attach_overview(slide)
        make_overview(slide)
        assert slide.overview is not None
        np.testing.assert_array_equal(level_of(slide.overview, 2).pixels[0, 0], 242)


def test_slides_with_coarse_levels_are_left_alone(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "a.tif", scene(600, 700))
    with open_slide(path) as slide:
        make_overview(slide)
        assert slide.overview is None
    assert not (tmp_path / "cache").exists()
