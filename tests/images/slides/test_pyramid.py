"""Regions, windows and the ledger, against plain slicing and averaging."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from bad_slides import halves, scene
from napari_sparseattn.images.slides._tiles import Tile
from napari_sparseattn.images.slides.pyramid import (
    ArrayPyramid,
    Level,
    VirtualPyramid,
    level_for,
    read_window,
)


def _virtual(height: int, width: int, **options: object) -> VirtualPyramid:
    """Draw a slide whose pixels say where they are at level 0, modulo 251."""

    def render(level: int, y: int, x: int, h: int, w: int) -> np.ndarray:
        rows, columns = np.mgrid[y : y + h, x : x + w] * 2**level
        return np.stack([rows % 251, columns % 251, 0 * rows + level], -1).astype(np.uint8)

    return VirtualPyramid(render, height, width, **options)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (200, 250), (255, 256), (-30, -7), (900, 950)])
def test_region_is_the_slice_and_says_what_lies_outside(y: int, x: int) -> None:
    image = scene()
    padded = np.pad(image, ((100, 400), (100, 400), (0, 0)))
    inside = np.pad(np.ones(image.shape[:2], bool), ((100, 400), (100, 400)))
    region = ArrayPyramid(image).read_region(y, x, 0, 300, 320)
    part = np.s_[y + 100 : y + 400, x + 100 : x + 420]
    np.testing.assert_array_equal(region.pixels, padded[part])
    np.testing.assert_array_equal(region.valid, inside[part])


def test_region_wholly_outside_is_empty_and_reads_nothing() -> None:
    slide = ArrayPyramid(scene())
    region = slide.read_region(2000, -900, 0, 50, 60)
    assert not region.valid.any()
    assert not region.pixels.any()
    assert slide.ledger.snapshot().n_used == 0


def test_sizes_that_make_no_sense_are_refused() -> None:
    slide = ArrayPyramid(scene())
    with pytest.raises(IndexError, match="no level 1"):
        slide.read_region(0, 0, 1, 10, 10)
    for height, width in ((0, 10), (10, -1), (2**20, 2**20)):
        with pytest.raises(ValueError, match="cannot read"):
            slide.read_region(0, 0, 0, height, width)
    with pytest.raises(ValueError, match="window"):
        read_window(slide, 0, 0, float("nan"), 10, 8, 8)
    with pytest.raises(ValueError, match="pixel size"):
        ArrayPyramid(scene(), pixel_size=-0.5)
    with pytest.raises(ValueError, match="does not fit"):
        ArrayPyramid([scene(), scene(512, 100)])
    with pytest.raises(ValueError, match="numbers"):
        ArrayPyramid(np.zeros((4, 4, 2), np.uint8))


def test_downsample_of_rounded_levels_is_the_whole_number() -> None:
    slide = ArrayPyramid(
        [np.zeros(shape, np.uint8) for shape in ((1001, 777), (500, 388), (62, 48))]
    )
    assert [level.downsample for level in slide.levels] == [1, 2, 16]


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_window_is_the_mean_of_its_pixels(factor: int) -> None:
    image = scene(512, 512)
    slide = ArrayPyramid(image)
    pixels, valid = read_window(slide, 24, 48, 40 * factor, 48 * factor, 40, 48)
    part = image[24 : 24 + 40 * factor, 48 : 48 + 48 * factor].astype(np.float64) / 255
    mean = part.reshape(40, factor, 48, factor, 3).mean((1, 3))
    np.testing.assert_allclose(pixels, mean, atol=2e-6)
    assert valid.all()


def test_window_between_pixels_is_bilinear() -> None:
    ramp = np.arange(0, 200, 2, dtype=np.uint8)[np.newaxis].repeat(50, 0)
    pixels, _ = read_window(ArrayPyramid(ramp), 10.25, 20.5, 10, 20, 20, 40)
    # A ramp stays a ramp: the value at position p is 2 * (p - 0.5).
    expected = 2 * (20.5 + (np.arange(40) + 0.5) / 2 - 0.5) / 255
    np.testing.assert_allclose(pixels[..., 0], np.broadcast_to(expected, (20, 40)), atol=1e-6)


def test_window_reads_the_coarsest_level_that_has_the_resolution() -> None:
    slide = ArrayPyramid(halves(scene(), 4))
    for side, level in ((64, 0), (127, 0), (128, 1), (256, 2), (500, 2), (512, 3), (1024, 3)):
        own = slide.with_own_ledger()
        read_window(own, 0, 0, side, side, 64, 64)
        assert [bool(tiles) for tiles in own.ledger.snapshot().used].index(True) == level
    assert level_for(slide, 0.1) == 0


@pytest.mark.parametrize("size", [100, 256, 191, 300])
def test_window_on_a_tile_reads_no_other(size: int) -> None:
    slide = _virtual(1000, 1000, n_levels=1)
    read_window(slide, 256, 512, 256, 256, size, size)
    # Enlarged, the outermost pixels reach half a pixel over the edge.
    tiles = {(1, 2)} if size <= 256 else {(r, c) for r in range(3) for c in (1, 2, 3)}
    assert set(slide.ledger.snapshot().used[0]) == tiles


def test_window_over_the_edge_leaves_out_what_is_outside() -> None:
    white = np.full((100, 100), 255, np.uint8)
    pixels, valid = read_window(ArrayPyramid(white), -50, 0, 100, 100, 20, 20, fill=0.25)
    np.testing.assert_array_equal(valid, np.arange(20)[:, np.newaxis].repeat(20, 1) >= 10)
    np.testing.assert_allclose(pixels[valid], 1, atol=1e-6)
    np.testing.assert_array_equal(pixels[~valid], np.float32(0.25))


def test_window_of_a_single_level_is_read_in_blocks() -> None:
    """4096 px down to 4: one block would be 200 MB of floats."""
    slide = _virtual(4096, 4096, n_levels=1)
    pixels, valid = read_window(slide, 0, 0, 4096, 4096, 4, 4)
    rows = np.arange(4096) % 251
    expected = rows.reshape(4, -1).mean(1) / 255
    np.testing.assert_allclose(pixels[:, 0, 0], expected, atol=1e-5)
    assert valid.all()
    assert slide.ledger.fraction_read == 1


def test_float_images_keep_their_values() -> None:
    image = np.linspace(-2, 7, 64 * 64, dtype=np.float32).reshape(64, 64)
    pixels, _ = read_window(ArrayPyramid(image), 0, 0, 64, 64, 64, 64)
    np.testing.assert_allclose(pixels[..., 0], image, atol=1e-6)


def test_a_huge_virtual_slide_reads_only_what_is_asked() -> None:
    slide = _virtual(100_000, 100_352)
    assert slide.levels[-1] == Level(196, 196, 512.0)
    region = slide.read_region(99_900, 100_300, 0, 60, 40)
    np.testing.assert_array_equal(region.pixels[:, 0, 0], np.arange(99_900, 99_960) % 251)
    np.testing.assert_array_equal(region.pixels[0, :, 1], np.arange(100_300, 100_340) % 251)
    reading = slide.ledger.snapshot()
    # The last row of tiles is 160 px high; 100 352 is a whole number of tiles.
    assert reading.fraction_read == pytest.approx(160 * 256 / (100_000 * 100_352))
    assert reading.n_decoded == 1


def test_drawing_of_a_wrong_shape_is_refused() -> None:
    slide = VirtualPyramid(lambda *_: np.zeros((1, 1, 3), np.uint8), 100, 100)
    with pytest.raises(ValueError, match="render gave"):
        slide.read_region(0, 0, 0, 10, 10)


def test_ledger_counts_tiles_once_read_and_says_what_was_not() -> None:
    slide = _virtual(1000, 600)
    slide.read_region(0, 0, 0, 300, 100)
    slide.read_region(10, 10, 0, 20, 20)
    reading = slide.ledger.snapshot()
    assert dict(reading.used[0]) == {(0, 0): 2, (1, 0): 1}
    assert reading.n_decoded == 2, "the second read found its tile in memory"
    assert reading.bytes_decoded == 2 * 256 * 256 * 3
    assert reading.fraction_read == pytest.approx(2 * 256 * 256 / (1000 * 600))
    expected = np.ones((4, 3), bool)
    expected[:2, 0] = False
    np.testing.assert_array_equal(reading.unread_mask(0), expected)
    assert "tiles read" in reading.summary()


def test_difference_of_two_readings_is_one_prediction() -> None:
    slide = _virtual(1000, 600)
    slide.read_region(0, 0, 0, 10, 10)
    before = slide.ledger.snapshot()
    slide.read_region(0, 0, 0, 10, 300)
    slide.read_region(0, 0, 1, 10, 10)
    share = slide.ledger.snapshot() - before
    assert [dict(tiles) for tiles in share.used] == [{(0, 0): 1, (0, 1): 1}, {(0, 0): 1}, {}]
    assert share.n_decoded == 2
    assert share.bytes_decoded == 2 * 256 * 256 * 3


def test_own_ledger_shares_the_tiles_in_memory() -> None:
    slide = _virtual(1000, 600)
    slide.read_region(0, 0, 0, 10, 10)
    own = slide.with_own_ledger()
    own.read_region(0, 0, 0, 10, 10)
    assert own.ledger.snapshot().n_used == 1
    assert own.ledger.snapshot().n_decoded == 0
    assert dict(slide.ledger.snapshot().used[0]) == {(0, 0): 1}


def test_memory_stays_bounded() -> None:
    slide = _virtual(20_000, 20_000, cache_bytes=5 * 2**20)
    for y in range(0, 5000, 250):
        slide.read_region(y, 0, 0, 100, 2000)
    assert slide._cache.n_bytes <= 5 * 2**20


def test_large_tiles_are_decoded_few_at_a_time() -> None:
    """16 of these tiles would be 200 MB."""
    batches: list[int] = []

    class Watched(VirtualPyramid):
        def _fetch(self, level: int, tiles: Sequence[tuple[int, int]]) -> Sequence[Tile]:
            batches.append(len(tiles))
            return [Tile(failure="not drawn") for _ in tiles]

    slide = Watched(lambda *_: np.zeros((1, 1, 3), np.uint8), 8192, 8192, tile=2048)
    assert not slide.read_region(0, 0, 0, 8192, 8192).valid.any()
    assert sum(batches) == 16
    assert max(batches) * 2048 * 2048 * 3 <= 2**26


def test_threads_see_the_same_pixels_and_all_are_counted() -> None:
    slide = _virtual(4096, 4096, cache_bytes=2**20)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for y, x in rng.integers(0, 4000, (40, 2)):
            region = slide.read_region(int(y), int(x), 0, 64, 64)
            if (region.pixels[:, 0, 0] != np.arange(y, y + 64) % 251).any():
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    grid = 0
    for seed in range(4):
        for y, x in np.random.default_rng(seed).integers(0, 4000, (40, 2)):
            grid += ((y + 63) // 256 - y // 256 + 1) * ((x + 63) // 256 - x // 256 + 1)
    assert sum(slide.ledger.snapshot().used[0].values()) == grid
