"""Backgrounds that were added are removed, whatever the cells do."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.images.holograms.flatten import contrast, flatten, level_field

SHAPE = (200, 240)


def cells(height: float = 3.0) -> np.ndarray:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    image = np.zeros(SHAPE)
    for cy, cx, radius in ((60, 70, 30), (140, 170, 36), (20, 200, 14)):
        inside = np.maximum(radius**2 - (y - cy) ** 2 - (x - cx) ** 2, 0)
        image += height * np.sqrt(inside) / radius
    return image


def surface(profile: str) -> np.ndarray:
    y, x = (
        (np.arange(n) / n - 0.5)[:, None] if axis == 0 else np.arange(n) / n - 0.5
        for axis, n in enumerate(SHAPE)
    )
    plane = {"offset": 1.3 + 0 * y * x, "tilt": 1.3 + 2 * y - 1.5 * x}
    return plane.get(profile, 1.3 + 2 * y - 1.5 * x + 2 * y**2 + y * x - 1.2 * x**2)


@pytest.mark.parametrize("profile", ["offset", "tilt", "curved"])
def test_a_known_background_is_removed(profile: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, SHAPE)
    recorded = (cells() + surface(profile) + noise).astype(np.float32)
    flat, background = flatten(recorded, profile)
    error = flat - cells() - noise
    assert np.abs(error).max() < 0.04
    assert background.shape == SHAPE
    assert not background[cells() > 0.5].any()
    assert background[cells() == 0].mean() > 0.5


def test_a_tilt_fitted_over_the_cells_would_be_wrong() -> None:
    # What qpimage does by default, and why the fit is on background pixels only.
    recorded = cells() + surface("tilt")
    y, x = np.indices(SHAPE).reshape(2, -1)
    design = np.stack([np.ones(y.size), y, x], 1)
    whole = recorded.ravel() - design @ np.linalg.lstsq(design, recorded.ravel(), rcond=None)[0]
    ours, _ = flatten(recorded.astype(np.float32), "tilt")
    assert np.abs(whole.reshape(SHAPE) - cells()).max() > 0.3
    assert np.abs(ours - cells()).max() < 0.03


def test_negative_cells_do_not_draw_the_background() -> None:
    flat, _ = flatten((-cells() + surface("tilt")).astype(np.float32), "tilt")
    assert np.abs(flat + cells()).max() < 0.03


def test_the_border_serves_where_cells_fill_the_middle() -> None:
    full = np.zeros(SHAPE)
    full[20:-20, 20:-20] = 4.0
    flat, background = flatten((full + surface("tilt")).astype(np.float32), "tilt", "border")
    assert np.abs(flat - full).max() < 1e-3
    assert not background[20:-20, 20:-20].any()


def test_nothing_is_removed_when_nothing_is_asked_for() -> None:
    recorded = (cells() + 5).astype(np.float32)
    flat, _ = flatten(recorded, "none")
    assert np.array_equal(flat, recorded)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (131, 129), (7, 7)])
def test_odd_sizes_work(shape: tuple[int, int]) -> None:
    flat, background = flatten(np.full(shape, 2.0, np.float32), "offset")
    assert flat.shape == background.shape == shape
    assert np.abs(flat).max() < 1e-5


def test_a_field_is_levelled_before_it_is_unwrapped() -> None:
    phase = cells() + 40 * surface("tilt")
    level = level_field(np.exp(1j * phase).astype(np.complex64))
    ground = np.angle(level)[cells() == 0]
    assert np.abs(np.median(ground)) < 0.2
    assert np.percentile(np.abs(ground), 95) < 1.0


def test_a_dark_field_is_levelled_to_itself() -> None:
    assert np.array_equal(level_field(np.zeros((8, 8), np.complex64)), np.zeros((8, 8)))


def test_contrast_tells_delay_from_advance() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, SHAPE)
    image = (cells() + noise).astype(np.float32)
    up, down = contrast(image, cells() == 0)
    assert up > 100 * max(down, 0.1)
    assert contrast(-image, cells() == 0)[1] > 100 * max(down, 0.1)
    assert contrast(np.zeros((9, 9), np.float32), np.ones((9, 9), bool)) == (0, 0)
