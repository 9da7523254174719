"""The carrier is found where a plain Fourier sum has its maximum."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.images.holograms.sideband import (
    HologramError,
    fill_bad,
    find_sideband,
    spectrum,
)


def fringes(shape: tuple[int, int], carrier: tuple[float, float], noise: float = 4) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    wave = 110 + 60 * np.cos(2 * np.pi * (carrier[0] * y + carrier[1] * x) + 0.4)
    noisy = wave + np.random.default_rng(0).normal(0, noise, shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "carrier",
    [(-0.2, 0.2), (-0.2, -0.2), (-0.31, 0.0), (0.0, 0.31), (-0.1234, 0.0777), (-0.4, 0.33)],
)
@pytest.mark.parametrize("shape", [(128, 128), (150, 97)])
def test_every_direction_is_found(carrier: tuple[float, float], shape: tuple[int, int]) -> None:
    found = find_sideband(fringes(shape, carrier))
    assert np.hypot(*np.subtract(found, carrier)) < 0.3 / max(shape)


def test_the_half_with_negative_rows_is_returned() -> None:
    assert find_sideband(fringes((128, 128), (0.2, -0.1))) == pytest.approx((-0.2, 0.1), abs=1e-3)


def test_an_image_without_fringes_is_refused() -> None:
    noise = np.random.default_rng(0).normal(100, 20, (128, 128))
    with pytest.raises(HologramError, match="No fringes"):
        find_sideband(noise)
    with pytest.raises(HologramError, match="No fringes"):
        find_sideband(np.zeros((64, 64)))


def test_bad_pixels_do_not_hide_the_carrier() -> None:
    image = fringes((128, 128), (-0.2, 0.15)).astype(np.float32)
    image[10:20, 5:50] = np.nan
    image[60, 60] = np.inf
    assert find_sideband(image) == pytest.approx((-0.2, 0.15), abs=2e-3)


def test_the_spectrum_shows_the_carrier_where_it_says() -> None:
    shown = spectrum(fringes((96, 128), (-0.25, 0.125)))
    assert shown.shape == (128, 128)
    assert np.isfinite(shown).all()
    half = np.where(np.arange(128)[:, None] < 60, shown, -np.inf)
    row, column = np.unravel_index(half.argmax(), half.shape)
    assert ((row - 64) / 128, (column - 64) / 128) == pytest.approx((-0.25, 0.125), abs=0.01)


def test_bad_pixels_are_counted_and_filled() -> None:
    image = np.array([[1, 2], [np.nan, np.inf]])
    filled, bad = fill_bad(image)
    assert bad == 2
    assert filled.tolist() == [[1, 2], [1.5, 1.5]]
    assert fill_bad(np.array([[255, 0]], np.uint8))[1] == 1
    assert fill_bad(np.full((2, 2), np.nan))[0].tolist() == [[0, 0], [0, 0]]
