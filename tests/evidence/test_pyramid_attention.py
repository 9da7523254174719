from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from napari_sparseattn.evidence import AttendedLevel, PyramidAttention, scale_weights

#: Patches of an L, in an order that is not that of the lattice.
PATCHES = np.array([[2, 1], [0, 0], [1, 0], [2, 0]], dtype=np.int32)
PADDING = (3, 2)


@pytest.fixture
def attention() -> PyramidAttention:
    padded = np.unique(PATCHES + np.array(PADDING, np.int32), axis=0)
    halves = np.unique(padded // 2, axis=0)
    fine = AttendedLevel(
        1,
        padded,
        np.array([[0.1, 0.2, 0.3, 0.2], [0.3, 0.0, 0.1, 0.2]], np.float32),
        np.array([0.2, 0.4], np.float32),
        np.array([1.0, -1.0], np.float32),
    )
    coarse = AttendedLevel(
        2,
        halves,
        np.full((2, len(halves)), 0.25, np.float32),
        np.array([0.25, 0.25], np.float32),
        np.array([0.5, 0.25], np.float32),
    )
    return PyramidAttention(
        (100.0, 50.0), 10.0, 10.0, PADDING, PATCHES, (fine, coarse), ("a", "b"), np.zeros(2, "f4")
    )


def test_the_map_shows_each_cell_where_its_patches_are(attention: PyramidAttention) -> None:
    for level in (0, 1):
        grid = attention.grid(level, "relative")
        (scale, _), translate = attention.placement(level)
        for i, weight in enumerate(attention.patch_weights(level)):
            top, left, side = attention.patch_box(i)
            # The patch's middle in napari's coordinates, looked up in the map.
            row, column = (
                round((middle - 0.5 - start) / scale)
                for middle, start in zip((top + side / 2, left + side / 2), translate, strict=True)
            )
            assert grid[row, column] == pytest.approx(weight * len(attention.levels[level]))
        assert np.isfinite(grid).sum() == len(attention.levels[level])


def test_the_middle_of_the_first_cell(attention: PyramidAttention) -> None:
    assert attention.placement(0) == ((10, 10), (104.5, 54.5))
    # Two patches along a side; the lattice has 3 rows and 2 columns before the first patch.
    assert attention.placement(1) == ((20, 20), (100 - 10 + 9.5, 50 + 9.5))
    overlapping = dataclasses.replace(attention, side=16.0)
    assert overlapping.placement(0)[1] == (107.5, 57.5)


def test_kinds_of_map(attention: PyramidAttention) -> None:
    level = attention.levels[0]
    mean = np.array([0.2, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(scale_weights(level, "raw"), mean, rtol=1e-6)
    np.testing.assert_allclose(scale_weights(level, "relative"), mean / 0.7 * 4, rtol=1e-6)
    np.testing.assert_allclose(scale_weights(level, "percentile"), [100, 25, 100, 100])
    head = np.array([0.3, 0.0, 0.1, 0.2]) / 0.6 * 4
    np.testing.assert_allclose(
        scale_weights(level, "log", head=1), np.log10(np.maximum(head, 1e-4)), rtol=1e-5
    )
    with pytest.raises(ValueError, match="unknown kind"):
        scale_weights(level, "rank")  # type: ignore[arg-type]


def test_ranks_and_shares_follow_the_patches(attention: PyramidAttention) -> None:
    weights = attention.patch_weights()
    np.testing.assert_allclose(weights, np.array([0.2, 0.2, 0.1, 0.2]) / 0.7, rtol=1e-6)
    assert attention.rank_patches().tolist() == [0, 1, 3, 2]
    assert attention.share_of_top(1) == pytest.approx(2 / 7)
    np.testing.assert_allclose(attention.share_of_top([0, 3, 99]), [0, 6 / 7, 1], atol=1e-6)


def test_the_patch_at_a_position(attention: PyramidAttention) -> None:
    assert attention.patch_box(0) == (120, 60, 10)
    assert attention.nearest_patch(121, 69) == 0
    assert attention.nearest_patch(100, 50) == 1
    assert attention.nearest_patch(105, 65) is None
    apart = dataclasses.replace(attention, side=4.0)
    assert apart.nearest_patch(123, 63) == 0
    assert apart.nearest_patch(126, 66) is None


def test_probabilities_per_patch(attention: PyramidAttention) -> None:
    with pytest.raises(ValueError, match="no probability"):
        attention.probability_grid()
    chances = np.array([0.4, 0.1, 0.2, 0.3], np.float32)
    given = dataclasses.replace(attention, patch_probabilities=chances)
    grid = given.probability_grid()
    np.testing.assert_allclose(grid, [[0.1, np.nan], [0.2, np.nan], [0.3, 0.4]])
    assert given.probability_placement() == ((10, 10), (104.5, 54.5))
    with pytest.raises(ValueError, match="expected \\(4,\\)"):
        dataclasses.replace(attention, patch_probabilities=chances[:3])


def test_to_dict_is_json(attention: PyramidAttention) -> None:
    told = json.loads(json.dumps(attention.to_dict(most=2)))
    assert told["patches"] == 4
    assert [each["cells"] for each in told["levels"]] == [4, len(attention.levels[1])]
    assert told["top"][0] == {"y": 120, "x": 60, "weight": pytest.approx(2 / 7)}
    assert len(told["top"]) == 2


def test_what_does_not_fit_is_refused(attention: PyramidAttention) -> None:
    with pytest.raises(ValueError, match="must be 0"):
        dataclasses.replace(attention, cells=PATCHES + 1)
    with pytest.raises(ValueError, match="misses cells"):
        dataclasses.replace(attention, padding=(0, 0)).patch_weights()
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(attention.levels[0], itself=np.zeros(1, "f4"))
