"""The grid of patches: where it lies, which it keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.patches import audit_grid, patch_grid, read_patch
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.images.tissue.mask import tissue_from_polygons


def slide(height: int = 400, width: int = 600, pixel_size: float | None = 0.5) -> ArrayPyramid:
    y, x = np.mgrid[:height, :width]
    image = np.stack([y % 256, x % 256, (y + x) % 256], axis=-1).astype(np.uint8)
    return ArrayPyramid(image, pixel_size=pixel_size, name="slide")


def everywhere(height: int = 400, width: int = 600, downsample: float = 1.0):
    corners = np.array([(0, 0), (0, width), (height, width), (height, 0)], float)
    return tissue_from_polygons((height, width), [corners], downsample)


def test_covers_the_slide_at_the_stated_scale() -> None:
    grid = patch_grid(slide(), everywhere(), pixel_size=1.0, size=32)
    assert (grid.side, grid.step, grid.size, grid.pixel_size) == (64, 64, 32, 1.0)
    assert len(grid) == (400 // 64) * (600 // 64)
    assert grid.scale_known
    assert grid.tissue_share == pytest.approx(1)
    assert grid.corners.max(axis=0).tolist() == [5 * 64, 8 * 64]


def test_a_step_of_no_whole_pixels_passes_the_audit() -> None:
    grid = patch_grid(slide(pixel_size=0.499), everywhere(), pixel_size=0.5, size=32)
    assert grid.side == pytest.approx(32 * 0.5 / 0.499)
    coords = np.floor(grid.corners[:, ::-1]).astype(int)
    found = audit_grid(coords, grid.step, extent=(400, 600))
    assert np.array_equal(found.cells, grid.cells)


def test_overlap_brings_patches_closer() -> None:
    grid = patch_grid(slide(), everywhere(), pixel_size=0.5, size=64, overlap=0.25)
    assert grid.step == 48
    assert grid.side == 64
    assert grid.cells.max(axis=0).tolist() == [(600 - 64) // 48, (400 - 64) // 48]


def test_keeps_patches_by_their_exact_share_of_tissue() -> None:
    # Tissue is x >= 96 + 16: half of the fourth patch, at a coarse mask of 16 px.
    corners = np.array([(0, 112), (0, 600), (400, 600), (400, 112)], float)
    tissue = tissue_from_polygons((400, 600), [corners], 16.0)
    grid = patch_grid(slide(), tissue, pixel_size=0.5, size=32, min_tissue=0.5)
    assert grid.cells[:, 0].min() == 3
    assert grid.tissue_share[grid.cells[:, 0] == 3] == pytest.approx(0.5, abs=1e-6)
    stricter = patch_grid(slide(), tissue, pixel_size=0.5, size=32, min_tissue=0.6)
    assert stricter.cells[:, 0].min() == 4


def test_no_tissue_gives_no_patches_even_without_a_least_share() -> None:
    nothing = tissue_from_polygons((400, 600), [], 8.0)
    assert len(patch_grid(slide(), nothing, pixel_size=0.5, size=32, min_tissue=0)) == 0


def test_asks_for_the_pixel_size_or_marks_the_grid() -> None:
    unknown = slide(pixel_size=None)
    with pytest.raises(ImageError, match=r"is not known.*Give"):
        patch_grid(unknown, everywhere(), pixel_size=0.5, size=32)
    grid = patch_grid(unknown, everywhere(), pixel_size=None, size=32)
    assert grid.side == 32
    assert not grid.scale_known
    # The slide's own pixels, whose size is known: calibrated.
    assert patch_grid(slide(), everywhere(), pixel_size=None, size=32).pixel_size == 0.5


def test_patches_are_in_bands_from_top_to_bottom() -> None:
    grid = patch_grid(slide(), everywhere(), pixel_size=0.5, size=16)
    band, y = grid.cells[:, 0] // 8, grid.cells[:, 1]
    assert (np.diff(band) >= 0).all()
    assert (np.diff(y)[np.diff(band) == 0] >= 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"pixel_size": 0},
        {"pixel_size": float("nan")},
        {"size": 4},
        {"overlap": 1},
        {"min_tissue": 2},
    ],
)
def test_refuses_numbers_out_of_range(options) -> None:
    with pytest.raises(ValueError, match=r"must|has|is a|is from"):
        patch_grid(slide(), everywhere(), **{"pixel_size": 0.5, "size": 32} | options)


def test_refuses_a_slide_smaller_than_a_patch() -> None:
    with pytest.raises(ImageError, match="less than one patch"):
        patch_grid(slide(), everywhere(), pixel_size=0.5, size=512)


def test_reads_the_very_pixels() -> None:
    pyramid = slide()
    grid = patch_grid(pyramid, everywhere(), pixel_size=None, size=32)
    index = 17
    pixels, valid = read_patch(pyramid, grid, index)
    y, x = grid.corners[index].astype(int)
    expected = pyramid.read_region(y, x, 0, 32, 32).pixels
    assert np.array_equal(pixels, expected)
    assert valid.all()


def test_a_grey_slide_gives_three_channels() -> None:
    pyramid = ArrayPyramid(np.full((64, 64), 30_000, np.uint16), pixel_size=0.5)
    grid = patch_grid(pyramid, everywhere(64, 64), pixel_size=None, size=32)
    pixels, _ = read_patch(pyramid, grid, 0)
    assert pixels.shape == (32, 32, 3)
    assert (pixels == round(30_000 / 65_535 * 255)).all()


@given(
    st.tuples(st.integers(60, 900), st.integers(60, 900)),
    st.floats(0.2, 1.0),
    st.sampled_from((0.25, 0.499, 0.5, 1 / 3)),
    st.integers(8, 24),
    st.floats(0, 0.9),
)
def test_any_grid_covers_the_slide_by_whole_patches(
    shape: tuple[int, int], wanted: float, pixel_size: float, size: int, overlap: float
) -> None:
    pyramid = slide(*shape, pixel_size)
    tissue = everywhere(*shape)
    side = size * wanted / pixel_size
    assume(side <= min(shape))
    grid = patch_grid(pyramid, tissue, pixel_size=wanted, size=size, overlap=overlap)
    ends = grid.corners + grid.side
    assert grid.corners.min() == 0
    assert (ends <= np.array(shape) + 1e-3).all()
    # One more in either direction would reach beyond the slide.
    assert (ends.max(axis=0) + grid.step > np.array(shape) - 1e-3).all()
    rows, columns = grid.cells.max(axis=0)[::-1] + 1
    assert len(np.unique(grid.cells, axis=0)) == len(grid) == rows * columns
    assert grid.pixel_size == pytest.approx(wanted)
    found = audit_grid(grid.corners[:, ::-1], grid.step, extent=shape)
    np.testing.assert_array_equal(found.cells, grid.cells)
