from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
import skimage.measure

from napari_sparseattn.images.fields.crops import crop_side, cut_crops, fit_crop
from napari_sparseattn.images.fields.field import Field

RNG = np.random.default_rng(1)


def _by_area(image: np.ndarray, centre: tuple[float, float], side: float, size: int) -> np.ndarray:
    """Area averages through an integral image: another way to the same numbers."""
    total = np.zeros(np.add(image.shape, 1))
    total[1:, 1:] = image.cumsum(0).cumsum(1)
    edges = [c + 0.5 - side / 2 + np.arange(size + 1) * side / size for c in centre]
    grid = np.stack(np.meshgrid(*edges, indexing="ij"))
    at = ndi.map_coordinates(total, grid, order=1)
    return np.diff(np.diff(at, axis=0), axis=1) / (side / size) ** 2


@pytest.mark.parametrize("side", [16.0, 20.5, 33.3, 40.0])
def test_shrinking_averages_over_exact_areas(side):
    image = RNG.random((80, 90))
    centres = RNG.uniform(25, 55, (6, 2))
    crops = cut_crops(image, centres, side, 16)
    assert crops.shape == (6, 16, 16, 1)
    assert crops.dtype == np.float32
    for crop, centre in zip(crops, centres, strict=True):
        np.testing.assert_allclose(crop[..., 0], _by_area(image, centre, side, 16), atol=2e-5)


@pytest.mark.parametrize("side", [16.0, 9.7, 4.0])
def test_enlarging_is_bilinear_with_reflected_edges(side):
    image = RNG.random((20, 25))
    centres = np.array([[10.2, 11.9], [0.3, 24.0], [19.6, 0.0], [-3.0, 5.5]])
    crops = cut_crops(image, centres, side, 16)
    for crop, centre in zip(crops, centres, strict=True):
        rows, columns = (c + (np.arange(16) + 0.5) * side / 16 - side / 2 for c in centre)
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"))
        expected = ndi.map_coordinates(image, grid, order=1, mode="reflect")
        np.testing.assert_allclose(crop[..., 0], expected, atol=2e-5)


def test_whole_factors_match_block_means():
    image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    expected = skimage.measure.block_reduce(image / 255, (2, 2, 1), np.mean)
    np.testing.assert_allclose(fit_crop(image, 32), expected, atol=1e-6)


def test_size_one_to_one_is_the_image_itself():
    image = RNG.integers(0, 65536, (40, 40)).astype(np.uint16)
    crop = cut_crops(image, [(19.5, 19.5)], 20, 20)[0, ..., 0]
    np.testing.assert_allclose(crop, image[10:30, 10:30] / 65535, atol=1e-6)


def test_crops_do_not_depend_on_their_batch():
    image = RNG.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    centres = RNG.uniform(-20, 220, (150, 2))
    together = cut_crops(image, centres, 90.3, 64)
    alone = np.concatenate([cut_crops(image, c[None], 90.3, 64) for c in centres])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_fit_crop_takes_the_centre_square():
    image = np.zeros((10, 30))
    image[:, 10:20] = 1
    np.testing.assert_allclose(fit_crop(image, 5), 1)


def test_a_constant_stays_constant_to_the_border_and_beyond():
    crops = cut_crops(np.full((9, 7), 3.5), [(0, 0), (8, 6), (-40, 300)], 12.5, 8)
    np.testing.assert_allclose(crops, 3.5, rtol=1e-6)


def test_a_single_pixel_fills_its_crop():
    crop = fit_crop(np.full((1, 1, 3), 51, np.uint8), 8)
    np.testing.assert_allclose(crop, 0.2, rtol=1e-6)
    assert crop.shape == (8, 8, 3)


def test_invalid_pixels_take_the_median_of_their_window_and_channel():
    image = np.stack([np.full((8, 8), 2.0), np.full((8, 8), 7.0)], axis=-1)
    image[3, 3, 0] = np.nan
    image[4, 4, 1] = np.inf
    kept = image.copy()
    crop = cut_crops(image, [(3.5, 3.5)], 8, 8)[0]
    np.testing.assert_allclose(crop, np.broadcast_to([2, 7], (8, 8, 2)))
    np.testing.assert_array_equal(image, kept)


def test_an_invalid_window_becomes_zero():
    assert not cut_crops(np.full((8, 8), np.nan), [(4, 4)], 4, 4).any()


def test_values_too_large_for_float32_are_filled():
    image = np.ones((8, 8))
    image[4, 4] = 1e300
    np.testing.assert_allclose(cut_crops(image, [(3.5, 3.5)], 8, 4), 1)


def test_bool_image():
    image = np.zeros((8, 8), bool)
    image[:, 4:] = True
    np.testing.assert_allclose(fit_crop(image, 2)[..., 0], [[0, 1], [0, 1]])


def test_no_cells_give_no_crops():
    assert cut_crops(np.zeros((9, 9, 3)), [], 4, 16).shape == (0, 16, 16, 3)


def test_a_field_gives_its_first_plane():
    data = RNG.random((3, 9, 9))
    field = Field.from_array(data)
    np.testing.assert_allclose(cut_crops(field, [(4, 4)], 9, 9)[0, ..., 0], data[0], atol=1e-6)


@pytest.mark.parametrize(
    ("centres", "side", "size", "message"),
    [
        ([(1, 2, 3)], 4, 4, "shape"),
        ([(1, np.nan)], 4, 4, "finite"),
        ([(1, 2)], 0, 4, "positive"),
        ([(1, 2)], np.inf, 4, "positive"),
        ([(1, 2)], 4, 0, "positive"),
    ],
)
def test_bad_requests_are_refused(centres, side, size, message):
    with pytest.raises(ValueError, match=message):
        cut_crops(np.zeros((9, 9)), centres, side, size)


def test_stacks_are_refused():
    with pytest.raises(ValueError, match="one image"):
        cut_crops(np.zeros((2, 3, 9, 9)), [(1, 1)], 4, 4)


def test_crop_side():
    assert crop_side(16, 0.25) == 64
    with pytest.raises(ValueError, match="positive"):
        crop_side(16, 0)
