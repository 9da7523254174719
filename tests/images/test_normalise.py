from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.images.normalise import Normalisation, to_float


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1]),
        (np.array([0, 13107, 65535], np.uint16), [0, 0.2, 1]),
        (np.array([False, True]), [0, 1]),
        (np.array([-3.5, 180.0], np.float64), [-3.5, 180]),
        (np.array([1.0, 2.0], ">f4"), [1, 2]),
    ],
)
def test_integers_are_scaled_and_floats_keep_their_unit(values, expected):
    result = to_float(values)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("values", [np.zeros(2, complex), np.array(["a"]), np.array([None])])
def test_other_types_are_refused(values):
    with pytest.raises(TypeError, match="not supported"):
        to_float(values)


def test_white_normalisation_takes_out_illumination_per_channel():
    crops = np.random.default_rng(0).uniform(0.3, 0.9, (2, 3, 16, 16)).astype(np.float32)
    lamp = np.array([0.9, 0.7, 0.5], np.float32)[:, None, None]
    normalise = Normalisation("white", 0.5, 0.1)
    np.testing.assert_allclose(normalise(crops * lamp), normalise(crops), rtol=1e-4, atol=1e-4)


def test_stain_normalisation_takes_out_depth_and_keeps_hue():
    """Half the stain is the square root of transmission: Beer-Lambert."""
    rng = np.random.default_rng(0)
    amount = rng.uniform(0, 1, (2, 1, 32, 32)).astype(np.float32)
    amount[:, :, :8] = 0  # the ground
    stain = np.array([0.8, 1.6, 0.4], np.float32)[:, None, None]
    normalise = Normalisation("stain", 0, 1)
    full = normalise(np.exp(-amount * stain))
    for depth in (0.5, 1.5):
        got = normalise(np.exp(-depth * amount * stain))
        np.testing.assert_allclose(got, full, atol=2e-3)
    density = -np.log(full)
    np.testing.assert_allclose(np.percentile(density.mean(1), 99), 1.2, rtol=0.02)
    inside = amount[:, 0] > 0.2
    np.testing.assert_allclose(density[:, 1][inside], 4 * density[:, 2][inside], rtol=1e-3)


def test_an_empty_ground_is_not_amplified_without_end():
    noise = 1 + np.random.default_rng(0).normal(0, 0.01, (1, 3, 32, 32)).astype(np.float32)
    assert Normalisation("stain", 0, 1)(noise).std() < 0.01 * 1.2 / 0.2 * 1.5


def test_fixed_normalisation_keeps_the_unit():
    crops = np.full((1, 1, 8, 8), 150, np.float32)
    np.testing.assert_allclose(Normalisation("fixed", 100, 25)(crops), 2)


def test_a_black_crop_stays_finite():
    assert np.isfinite(Normalisation()(np.zeros((1, 3, 8, 8), np.float32))).all()


@pytest.mark.parametrize("arguments", [("grey", 0, 1), ("fixed", 0, 0), ("fixed", np.nan, 1)])
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="normalisation"):
        Normalisation(*arguments)
