"""Which groups are held out, without pixels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.training.data.datasets import hash_folds
from napari_sparseattn.training.data.split import cell_groups, shown_pairs, split_groups


@pytest.mark.parametrize("seed", range(5))
def test_some_of_each_class_is_held_out_and_half_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, 90, p=(0.7, 0.2, 0.07, 0.03)).astype(np.int64)
    groups = [f"{seed}:{g}" for g in rng.integers(0, 30, 90)]
    split = split_groups(labels, groups)
    total = np.bincount(labels, minlength=4)
    held = np.bincount(labels[split.held_out], minlength=4)
    for label in range(4):
        apart = len({g for g, n in zip(groups, labels, strict=True) if n == label})
        if total[label] >= 3 and apart >= 3:
            assert held[label] >= 1
        assert 2 * held[label] <= total[label]
    assert not split.left_out.any()
    for group in set(groups):
        assert (
            len({bool(o) for g, o in zip(groups, split.held_out, strict=True) if g == group}) == 1
        )


def test_of_many_groups_the_hash_alone_decides() -> None:
    rng = np.random.default_rng(0)
    groups = [str(g) for g in rng.integers(0, 500, 3000)]
    split = split_groups(rng.integers(0, 3, 3000), groups)
    np.testing.assert_array_equal(split.held_out, hash_folds(groups, 5) == 0)


def test_one_group_cannot_be_split_and_two_cells_are_too_few() -> None:
    labels = np.array([0] * 6 + [1, 1], np.int64)
    one = split_groups(labels, ["a"] * 8)
    assert not one.held_out.any()
    each = split_groups(labels, [str(i) for i in range(8)])
    assert not each.held_out[6:].all()


def test_crops_show_cells_within_half_their_side() -> None:
    centres = np.array([(0.0, 0.0), (0.0, 7.9), (8.0, 0.0), (50.0, 50.0)])
    shows, seen = shown_pairs(centres, 16.0)
    assert set(zip(shows.tolist(), seen.tolist(), strict=True)) == {(0, 1), (1, 0)}


def test_blocks_are_a_quarter_of_a_small_image_and_less_where_all_lie_together() -> None:
    corners = np.array([(10.0, 10.0), (10.0, 600.0), (400.0, 10.0), (400.0, 600.0)])
    groups = cell_groups("i", (0, 0), corners, 250.0, (480, 640))
    assert groups == ["i:0:0:0:0", "i:0:0:0:3", "i:0:0:2:0", "i:0:0:2:3"]
    near = cell_groups("i", (0, 0), 10 + corners / 10, 16.0, (4000, 4000))
    assert len(set(near)) == 4
    assert len(set(cell_groups("i", (0, 0), corners, 100.0, (9000, 9000)))) == 4
