"""Tissue found on real and drawn slides; ink, blur, blank and unreadable areas left out."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_sparseattn.images.slides._tiles import Tile
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.pyramid import ArrayPyramid, VirtualPyramid
from napari_sparseattn.images.tissue._focus import energies
from napari_sparseattn.images.tissue.mask import Tissue, find_tissue, tissue_from_polygons

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
INKS = {
    "blue": (30, 60, 165),
    "dark blue": (20, 25, 90),
    "green": (20, 125, 60),
    "turquoise": (0, 150, 140),
    "red": (228, 22, 35),
    "black": (28, 26, 30),
}
STAINS = {
    "eosin": (225, 130, 170),
    "dense nuclei": (70, 40, 120),
    "pale counterstain": (165, 180, 210),
    "DAB": (110, 70, 40),
    "blood": (190, 60, 70),
    "collagen in trichrome": (120, 160, 200),
}


def section(side: int = 1024, seed: int = 0) -> np.ndarray:
    """Draw stained texture with nuclei in the middle of a slide, at 0.5 µm per pixel."""
    random = np.random.default_rng(seed)
    nuclei = ndimage.gaussian_filter(random.random((side, side)), 3)
    nuclei = np.clip((nuclei - np.quantile(nuclei, 0.8)) * 40, 0, 1.2)
    fibres = 0.25 + 0.3 * ndimage.gaussian_filter(random.random((side, side)), (1, 6))
    density = nuclei[..., None] * HAEMATOXYLIN + fibres[..., None] * EOSIN
    y, x = np.mgrid[:side, :side] / side - 0.5
    density *= (np.hypot(y, x) < 0.35)[..., None]
    return np.rint(np.clip(240 * np.exp(-density), 0, 255)).astype(np.uint8)


def disc(tissue: Tissue) -> np.ndarray:
    h, w = tissue.mask.shape
    y, x = (np.mgrid[:h, :w] + 0.5) / h - 0.5
    return np.hypot(y, x) < 0.35


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_finds_stained_tissue() -> None:
    tissue = find_tissue(ArrayPyramid(section(), pixel_size=0.5))
    assert tissue.downsample == 16
    assert dice(tissue.mask, disc(tissue)) > 0.97
    assert not tissue.pen.any()
    assert not tissue.blurred.any()
    assert sum(tissue.shares.values()) == pytest.approx(1)
    assert tissue.notes == ()


@pytest.mark.parametrize("shade", [0, 3, 128, 238, 255])
@pytest.mark.parametrize("noise", [0, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_slide_has_no_tissue(shade: int, noise: int, channels: int) -> None:
    image = np.random.default_rng(0).normal(shade, noise, (1024, 1024, channels))
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    tissue = find_tissue(ArrayPyramid(image, pixel_size=0.5))
    assert not tissue.mask.any()
    assert not tissue.pen.any()
    assert any("no tissue" in note for note in tissue.notes)


def test_an_unevenly_lit_empty_slide_has_no_tissue() -> None:
    light = 245 - 10 * np.linspace(-1, 1, 1024)[:, None] ** 2 * np.ones((1, 1024))
    image = np.repeat(np.rint(light).astype(np.uint8)[..., None], 3, axis=2)
    image[:, :300] = 255  # not scanned: filled with white
    assert not find_tissue(ArrayPyramid(image, pixel_size=0.5)).mask.any()


def test_glass_beside_pure_white_fill_is_no_tissue() -> None:
    image = section()
    glass = (image == 240).all(axis=2)
    image[glass] = 225
    image[:, :200] = 255
    tissue = find_tissue(ArrayPyramid(image, pixel_size=0.5))
    right = np.arange(64) > 13
    assert dice(tissue.mask & right, disc(tissue) & right) > 0.97


@pytest.mark.parametrize("ink", INKS)
def test_ink_is_found_beside_and_on_tissue(ink: str) -> None:
    image = section().astype(np.float64)
    stroke = np.zeros(image.shape[:2], bool)
    stroke[100:170, 60:960] = True
    stroke[480:560, 300:900] = True
    # Ink lets a part of what is below shine through.
    through = np.array(INKS[ink]) / 240 * (0.85 + 0.15 * image / 240)
    image[stroke] = (240 * through)[stroke]
    tissue = find_tissue(ArrayPyramid(np.rint(image).astype(np.uint8), pixel_size=0.5))
    small = stroke.reshape(64, 16, 64, 16).mean(axis=(1, 3))
    assert (tissue.pen & (small == 1)).sum() == (small == 1).sum()
    assert not (tissue.mask & (small > 0.5)).any()
    # It reaches hardly beyond the stroke, and tissue elsewhere stays.
    assert tissue.pen.sum() < 1.7 * (small > 0).sum()
    away = disc(tissue) & ~ndimage.binary_dilation(small > 0, iterations=4)
    assert (tissue.mask & away).sum() > 0.97 * away.sum()
    assert "marked by a pen" in tissue.summary()


@pytest.mark.parametrize("stain", STAINS)
def test_stains_are_no_ink(stain: str) -> None:
    random = np.random.default_rng(2)
    image = np.full((1024, 1024, 3), 240.0)
    image[200:800, 200:800] = STAINS[stain]
    image *= random.normal(1, 0.05, image.shape[:2])[..., None]
    tissue = find_tissue(ArrayPyramid(np.clip(image, 0, 255).astype(np.uint8), pixel_size=0.5))
    assert not tissue.pen.any()
    assert tissue.share == pytest.approx((600 / 1024) ** 2, abs=0.03)


def test_dark_backgrounds_and_grey_slides() -> None:
    random = np.random.default_rng(3)
    density = 1 - section().astype(np.float64).min(axis=2) / 240
    dark = np.clip(density * 40_000 + random.normal(600, 60, density.shape), 0, None)
    tissue = find_tissue(ArrayPyramid(dark.astype(np.uint16), pixel_size=0.5))
    assert dice(tissue.mask, disc(tissue)) > 0.85
    assert not tissue.pen.any()
    grey = (240 * (1 - density)).astype(np.uint8)
    assert dice(find_tissue(ArrayPyramid(grey, pixel_size=0.5)).mask, disc(tissue)) > 0.95


class Broken(ArrayPyramid):
    """A slide of which the tiles of the lower half cannot be decoded."""

    def _fetch(self, level, tiles):
        made = super()._fetch(level, tiles)
        return [
            Tile(None, failure="damaged") if row >= 2 else tile
            for (row, _), tile in zip(tiles, made, strict=True)
        ]


def test_what_cannot_be_read_is_never_tissue() -> None:
    tissue = find_tissue(Broken(section(), pixel_size=0.5))
    assert tissue.unreadable[32:].all()
    assert not tissue.unreadable[:32].any()
    assert not tissue.mask[32:].any()
    assert not tissue.pen.any()
    top = disc(tissue)[:31]
    assert dice(tissue.mask[:31], top) > 0.96
    assert "50 % not readable" in tissue.summary()


def test_a_slide_that_cannot_be_read_at_all_is_said_to_be_so() -> None:
    class Gone(ArrayPyramid):
        def _fetch(self, level, tiles):
            return [Tile(None, failure="damaged") for _ in tiles]

    tissue = find_tissue(Gone(section(512), pixel_size=0.5))
    assert not tissue.mask.any()
    assert tissue.unreadable.all()
    assert "could be read" in tissue.notes[0]


@pytest.fixture(scope="module")
def real(shared: Path) -> np.ndarray:
    with open_slide(shared / "data/slides/CMU-1-Small-Region.svs") as slide:
        return slide.read_region(0, 0, 0, *slide.shape).pixels


def test_real_tissue_is_sharp_and_its_blurred_part_is_not(real: np.ndarray) -> None:
    sharp = find_tissue(ArrayPyramid(real, pixel_size=0.499))
    assert sharp.share == pytest.approx(0.39, abs=0.02)
    assert not sharp.blurred.any()
    assert not sharp.pen.any()
    half = real.copy()
    half[1500:] = ndimage.gaussian_filter(real[1500:], (8, 8, 0))
    found = find_tissue(ArrayPyramid(half, pixel_size=0.499))
    below = np.arange(len(found.mask)) * found.downsample > 1500
    inside = ndimage.binary_erosion(sharp.mask & below[:, None], iterations=5)
    assert (found.blurred & inside).sum() > 0.95 * inside.sum()
    above = ndimage.binary_erosion(sharp.mask & ~below[:, None], iterations=5)
    assert not (found.blurred & above).any()
    assert not (found.mask & found.blurred).any()
    assert "out of focus" in found.summary()


def test_a_slide_out_of_focus_throughout_is_noted(real: np.ndarray) -> None:
    found = find_tissue(ArrayPyramid(ndimage.gaussian_filter(real, (7, 7, 0)), pixel_size=0.499))
    assert any("out of focus" in note for note in found.notes)


def test_pale_and_smooth_tissue_is_not_out_of_focus(real: np.ndarray) -> None:
    pale = (245 - (245 - real.astype(np.float64)) * 0.25).clip(0, 255)
    pale = np.rint(pale + np.random.default_rng(0).normal(0, 1, real.shape)).clip(0, 255)
    found = find_tissue(ArrayPyramid(pale.astype(np.uint8), pixel_size=0.499))
    assert found.share > 0.3
    assert found.blurred.mean() < 0.01
    smooth = np.full((1024, 1024, 3), 240, np.uint8)
    smooth[200:800, 200:800] = STAINS["eosin"]
    assert not find_tissue(ArrayPyramid(smooth, pixel_size=0.5)).blurred.any()


def test_real_slides_without_scale_and_with_a_dark_background(shared: Path) -> None:
    with open_slide(shared / "data/slides/tcga-cr-7395-01a-01-ts1.svs") as slide:
        tissue = find_tissue(slide)
    assert tissue.share == pytest.approx(0.64, abs=0.03)
    assert "pixel size is unknown" in tissue.notes[0]
    with open_slide(shared / "data/slides/test3-DAPI-2-387.ndpi") as slide:
        tissue = find_tissue(slide)
    assert tissue.share == pytest.approx(0.83, abs=0.05)
    assert not tissue.blurred.any()


def test_a_large_slide_without_small_levels_takes_bounded_memory() -> None:
    seen = []

    def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        seen.append((height, width))
        return np.full((height, width, 3), 240 if x < 5000 else 150, np.uint8)

    # 300 megabytes of pixels at its only level.
    pyramid = VirtualPyramid(render, 10_000, 10_000, n_levels=1, pixel_size=0.5, tile=1000)
    steps: list[tuple[int, int]] = []
    tracemalloc.start()
    tissue = find_tissue(pyramid, progress=lambda _, done, total: steps.append((done, total)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 220 * 2**20
    assert tissue.share == pytest.approx(0.5, abs=0.01)
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(steps))


def test_progress_may_stop_it() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        find_tissue(ArrayPyramid(section(), pixel_size=0.5), progress=stop)


def test_stopped_while_it_looks_closely_it_leaves_no_thread_behind() -> None:
    reached: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        reached.append(done)
        if done > total // 2:
            raise InterruptedError("stopped")

    with pytest.raises(InterruptedError):
        find_tissue(ArrayPyramid(section(4096), pixel_size=0.5), progress=stop)
    assert reached == list(range(len(reached)))
    assert not [each for each in threading.enumerate() if each.name.startswith("tissue")]


def test_structure_is_measured_as_by_filters() -> None:
    grey = np.random.default_rng(0).random((200, 144)).astype(np.float32)
    fine, coarse = energies(grey)
    laplace = ndimage.laplace(grey.astype(float), mode="nearest")
    smooth = 1.5**2 * ndimage.gaussian_laplace(grey.astype(float), 1.5)
    for found, wanted in ((fine, laplace), (coarse, smooth)):
        blocks = np.square(wanted).reshape(50, 4, 36, 4).mean((1, 3))
        np.testing.assert_allclose(found, blocks, rtol=1e-4, atol=1e-7)


def test_polygons_come_back_as_the_same_mask() -> None:
    image = section()
    image[450:560, 450:560] = 240  # a hole
    tissue = find_tissue(ArrayPyramid(image, pixel_size=0.5))
    assert not tissue.mask[30:33, 30:33].any()
    polygons = tissue.polygons()
    assert len(polygons) == 2
    assert polygons[0].min() >= 0
    again = tissue_from_polygons(tissue.shape, polygons, tissue.downsample)
    assert again.mask.shape == tissue.mask.shape
    assert dice(again.mask, tissue.mask) > 0.985


def square(top: float, left: float, side: float) -> np.ndarray:
    return np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) * side + (top, left)


def test_polygons_unite_where_they_cross_and_cut_where_they_lie_inside() -> None:
    crossing = tissue_from_polygons((100, 100), [square(0, 0, 60), square(40, 40, 60)], 1)
    assert crossing.mask.sum() == 2 * 3600 - 400
    ring = tissue_from_polygons((100, 100), [square(20, 20, 40), square(0, 0, 80)], 1)
    assert ring.mask.sum() == 6400 - 1600
    island = [square(0, 0, 80), square(20, 20, 40), square(30, 30, 10)]
    assert tissue_from_polygons((100, 100), island, 1).mask.sum() == 6400 - 1600 + 100
    outside = tissue_from_polygons((100, 100), [square(80, -50, 100)], 1)
    assert outside.mask.sum() == 20 * 50


def test_refuses_polygons_that_are_none() -> None:
    with pytest.raises(ValueError, match="three corners"):
        tissue_from_polygons((100, 100), [[(0, 0), (1, 1)]], 1)
    with pytest.raises(ValueError, match="downsample"):
        tissue_from_polygons((100, 100), [], 0)
    with pytest.raises(ValueError, match="positive"):
        find_tissue(ArrayPyramid(section(128), pixel_size=0.5), pixel_size=0)
