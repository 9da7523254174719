from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.evidence.fills import FILLS, fill, local_mean, reference, smooth

RNG = np.random.default_rng(0)


def picture(height: int = 21, width: int = 34, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(0.5, 0.2, (channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("kind", FILLS)
def test_what_stays_is_untouched_and_what_goes_is_replaced(kind: str) -> None:
    image = picture()
    masks = RNG.random((3, 21, 34)) < 0.4
    masks[2] = False
    filled = fill(image, masks, kind, seed=3)
    assert filled.shape == (3, 3, 21, 34)
    assert filled.dtype == np.float32
    for mask, one in zip(masks, filled, strict=True):
        np.testing.assert_array_equal(one[:, ~mask], image[:, ~mask])
    assert (filled[0][:, masks[0]] != image[:, masks[0]]).mean() > 0.9
    np.testing.assert_array_equal(fill(image, masks, kind, seed=3), filled)
    np.testing.assert_array_equal(fill(image, masks[0], kind, seed=3), filled[0])


@pytest.mark.parametrize("kind", ["noise", "background"])
def test_another_seed_draws_otherwise(kind: str) -> None:
    image, mask = picture(), np.ones((21, 34), bool)
    assert not np.array_equal(fill(image, mask, kind, 0), fill(image, mask, kind, 1))


def test_the_local_mean_knows_nothing_of_what_was_removed() -> None:
    image, mask = picture(), RNG.random((21, 34)) < 0.5
    other = np.where(mask, np.float32(99), image)
    np.testing.assert_array_equal(fill(image, mask), fill(other, mask))


def test_the_local_mean_of_a_plane_is_the_plane() -> None:
    image = np.full((2, 16, 16), 0.25, np.float32)
    image[1] = -3
    mask = np.ones((16, 16), bool)
    mask[3, 5] = False
    np.testing.assert_allclose(fill(image, mask), image, atol=1e-6)


def test_a_hole_between_two_halves_lies_between_them() -> None:
    image = np.zeros((1, 32, 32), np.float32)
    image[:, :, 16:] = 1
    mask = np.zeros((32, 32), bool)
    mask[12:20, 12:20] = True
    hole = fill(image, mask)[0, 12:20, 12:20].mean(axis=0)
    assert (np.diff(hole) >= -1e-6).all()
    assert hole[0] < 0.3
    assert hole[-1] > 0.7


def test_one_missing_pixel_takes_the_mean_of_its_three_companions_at_least_in_part() -> None:
    image = np.zeros((1, 2, 2), np.float32)
    image[0] = [[9, 1], [2, 3]]
    mask = np.array([[True, False], [False, False]])
    # The coarser level has one pixel, the mean of 1, 2 and 3.
    assert fill(image, mask)[0, 0, 0] == pytest.approx(2)


def test_where_nothing_is_left_the_other_colour_stands() -> None:
    image = picture()
    gone = np.ones((1, 21, 34), bool)
    colour = np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(
        local_mean(image[None], gone, colour)[0],
        np.broadcast_to(colour[:, None, None], image.shape),
    )
    own = local_mean(image[None], gone)[0]
    np.testing.assert_allclose(own[:, 0, 0], image.mean(axis=(1, 2)), rtol=1e-5)


def test_many_masks_are_filled_as_each_alone() -> None:
    image, masks = picture(64, 64), RNG.random((40, 64, 64)) < 0.7
    together = fill(image, masks)
    np.testing.assert_array_equal(together[33], fill(image, masks[33]))


def test_blurring_keeps_a_constant_and_agrees_with_scipy_inside() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = picture(64, 80, 1)
    mine = smooth(image, 2.0)
    theirs = ndimage.gaussian_filter(image[0], 2.0, truncate=8)
    np.testing.assert_allclose(mine[0, 20:-20, 20:-20], theirs[20:-20, 20:-20], atol=1e-4)
    np.testing.assert_allclose(smooth(np.ones((1, 9, 9), np.float32), 3.0), 1, rtol=1e-6)


def test_noise_keeps_mean_spectrum_and_the_relation_of_the_channels() -> None:
    smoothed = smooth(picture(64, 64), 2.0)
    smoothed[1] = smoothed[0] * 0.5 + smoothed[1] * 0.1
    drawn = reference(smoothed, "noise", seed=5)
    np.testing.assert_allclose(drawn.mean(axis=(1, 2)), smoothed.mean(axis=(1, 2)), atol=0.01)
    before, after = (np.corrcoef(x[0].ravel(), x[1].ravel())[0, 1] for x in (smoothed, drawn))
    assert after == pytest.approx(before, abs=0.05)
    # But for the few values that are clipped, the spectrum is the same.
    spectra = [np.abs(np.fft.fft2(x[0] - x[0].mean())).ravel() for x in (smoothed, drawn)]
    assert np.corrcoef(*spectra)[0, 1] > 0.99
    # In another place: no more alike than by chance.
    assert abs(np.corrcoef(smoothed[2].ravel(), drawn[2].ravel())[0, 1]) < 0.5


def test_background_is_taken_from_the_background_alone() -> None:
    image = picture(32, 32, 1)
    image[:, 8:24, 8:24] = 50
    drawn = reference(image, "background", seed=0)
    assert drawn.max() < 50
    assert np.isin(drawn, image).all()
    only = np.zeros((32, 32), bool)
    only[4, 4] = True
    assert (reference(image, "background", 0, only) == image[0, 4, 4]).all()


def test_what_does_not_fit_is_refused() -> None:
    image = picture()
    with pytest.raises(ValueError, match="no fill 'grey'"):
        fill(image, np.zeros((21, 34), bool), "grey")
    with pytest.raises(ValueError, match="masks"):
        fill(image, np.zeros((20, 34), bool))
    with pytest.raises(ValueError, match="bool"):
        fill(image, np.zeros((21, 34), np.uint8))
