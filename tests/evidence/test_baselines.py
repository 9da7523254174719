from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.evidence.baselines import (
    centre_relevance,
    edge_relevance,
    random_regions,
    rank,
    stable_order,
    tiled_mean,
)


def test_the_middle_is_first_and_the_corners_last() -> None:
    order = rank(centre_relevance((5, 7)).ravel())
    assert order[0] == 2 * 7 + 3
    assert set(order[-4:].tolist()) == {0, 6, 28, 34}


def test_edges_agree_with_sobel() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.random.default_rng(0).random((2, 12, 15)).astype(np.float32)
    squares = sum(
        ndimage.sobel(channel, axis=axis, mode="nearest").astype(float) ** 2
        for channel in image
        for axis in (0, 1)
    )
    np.testing.assert_allclose(edge_relevance(image), np.sqrt(squares) / 8, rtol=1e-4, atol=1e-6)


def test_ties_are_drawn_by_lot_and_the_lot_is_repeatable() -> None:
    flat = np.zeros(1000)
    assert not np.array_equal(rank(flat, 0), np.arange(1000))
    np.testing.assert_array_equal(rank(flat, 7), rank(flat, 7))
    assert not np.array_equal(rank(flat, 0), rank(flat, 1))
    np.testing.assert_array_equal(np.sort(rank(flat)), np.arange(1000))


def test_not_a_number_comes_last() -> None:
    np.testing.assert_array_equal(rank(np.array([1.0, np.nan, 3.0, 2.0])), [2, 3, 0, 1])


def test_random_regions_hang_together_and_scattered_pixels_do_not() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")

    def parts(grain: float) -> int:
        values = random_regions((64, 64), 3, grain)
        return int(ndimage.label(values > np.quantile(values, 0.85))[1])

    assert parts(1 / 16) < 20 < 100 < parts(0.0)


def test_means_over_tiles() -> None:
    values = np.random.default_rng(0).random((10, 7)).astype(np.float32)
    tiles = tiled_mean(values, 4)
    assert tiles.shape == (3, 2)
    expected = [[values[i : i + 4, j : j + 4].mean() for j in (0, 4)] for i in (0, 4, 8)]
    np.testing.assert_allclose(tiles, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_quick_order_is_the_stable_one(kind: type) -> None:
    rng = np.random.default_rng(0)
    odd = np.array([np.nan, 1, np.nan, -0.0, 0.0, np.inf, -np.inf, np.inf, np.nan, 1])
    for values in (
        rng.standard_normal(5000),
        rng.integers(0, 4, 5000),
        rng.permutation(odd.repeat(100)),
        np.zeros(1),
        np.zeros(0),
    ):
        wanted = np.argsort(values.astype(kind), kind="stable")
        np.testing.assert_array_equal(stable_order(values.astype(kind)), wanted)
