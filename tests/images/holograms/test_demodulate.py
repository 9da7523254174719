"""The field of a hologram against qpretrieve's own, from whole transforms in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_sparseattn.images.holograms.demodulate import field_of, import_quietly
from napari_sparseattn.images.holograms.settings import FilterShape, HologramSettings


def hologram(shape: tuple[int, int], carrier: tuple[float, float]) -> np.ndarray:
    """Fringes over a few bumps, with noise in every frequency."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    bumps = 3 * np.exp(-((rows - 30) ** 2 + (columns - 41) ** 2) / 150)
    fringes = np.cos(2 * np.pi * (carrier[0] * rows + carrier[1] * columns) + bumps)
    noise = np.random.default_rng(1).normal(0, 0.3, shape)
    return 100 + 40 * fringes + noise


def expected(values: np.ndarray, settings: HologramSettings, side: int) -> np.ndarray:
    """qpretrieve's field of the hologram in a square of zeros."""
    assert settings.sideband is not None
    square = np.zeros((1, side, side))
    square[0, : values.shape[0], : values.shape[1]] = values - values.mean()
    transform = import_quietly("qpretrieve").fourier.FFTFilterNumpy(
        square, subtract_mean=False, padding=0, dtype_conversion=np.float64
    )
    # Just beyond whole steps, as it cuts off what is behind the point.
    steps = [round(part * side) for part in settings.sideband]
    at = tuple((step + math.copysign(1e-3, step)) / side for step in steps)
    radius = settings.filter_radius * math.hypot(*settings.sideband)
    field = transform.filter(settings.filter_shape, radius, at)
    return field.reshape(side, side)[: values.shape[0], : values.shape[1]]


@pytest.mark.parametrize("shape", ["disk", "smooth disk"])
@pytest.mark.parametrize(
    "carrier",
    [(0.23, 0.23), (-0.23, 0.23), (0.12, -0.29), (0.31, 0.0), (0.0, -0.31), (-0.47, 0.46)],
)
def test_only_the_disk_gives_the_field_of_whole_transforms(
    carrier: tuple[float, float], shape: FilterShape
) -> None:
    values = hologram((96, 72), carrier)
    settings = HologramSettings(sideband=carrier, filter_shape=shape)
    found = field_of(values.astype(np.float32), "hologram", settings)
    # The next fast length from 1.25 times the longer side on.
    reference = expected(values, settings, 120)
    assert found.dtype == np.complex64
    assert found.flags.c_contiguous
    scale = np.abs(reference).max()
    np.testing.assert_allclose(found / scale, reference / scale, atol=2e-6)
