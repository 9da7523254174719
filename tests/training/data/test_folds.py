"""Folds of whole groups: nothing of a patient on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.training.data.folds import group_folds, share_of_groups


def patients(seed: int, n: int = 60) -> tuple[np.ndarray, list[str]]:
    """Images of patients of very different numbers, some of several classes."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    for patient in range(n):
        kind = rng.choice(3, p=(0.6, 0.3, 0.1)) if patient > 8 else patient % 3
        for _ in range(int(rng.geometric(0.15))):
            labels.append(int(kind if rng.random() > 0.1 else rng.integers(3)))
            groups.append(f"patient {patient}")
    return np.array(labels), groups


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [3, 5, 10])
def test_no_group_is_split_and_classes_are_spread(seed: int, folds: int) -> None:
    labels, groups = patients(seed)
    fold = group_folds(labels, groups, folds, seed)
    for name in set(groups):
        assert (
            len({int(each) for each, group in zip(fold, groups, strict=True) if group == name}) == 1
        )
    assert set(fold.tolist()) == set(range(folds))
    share = np.bincount(fold[labels == 0], minlength=folds) / (labels == 0).sum()
    assert np.abs(share - 1 / folds).max() < 0.1
    np.testing.assert_array_equal(fold, group_folds(labels, groups, folds, seed))
    # What the examples are listed by is nothing to the folds.
    order = np.random.default_rng(0).permutation(len(labels))
    again = group_folds(labels[order], [groups[row] for row in order], folds, seed)
    np.testing.assert_array_equal(again, fold[order])


def test_one_huge_group_leaves_no_fold_empty() -> None:
    labels = np.array([0] * 50 + [0, 1, 1, 1, 0])
    groups = ["huge"] * 50 + list("abcde")
    assert len(set(group_folds(labels, groups, 5).tolist())) == 5


def test_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="2 folds are too few"):
        group_folds([0, 1, 0], list("abc"), 2)
    with pytest.raises(ValueError, match=r"There are 3 groups .* for 5 folds"):
        group_folds([0, 1, 0], list("abc"), 5)
    with pytest.raises(ValueError, match=r"Class 1 is of 2 group\(s\)"):
        group_folds([0, 0, 0, 1, 1], list("abcde"), 3)


def test_shares_are_nested_and_keep_every_class() -> None:
    labels, groups = patients(3)
    quarter, half, whole = (share_of_groups(labels, groups, each) for each in (0.25, 0.5, 1.0))
    assert whole.all()
    assert (quarter <= half).all()
    names = np.array(groups)
    assert not set(names[quarter]) & set(names[~quarter])
    assert set(labels[quarter].tolist()) == set(labels.tolist())
    assert 0.2 <= len(set(names[quarter])) / len(set(groups)) <= 0.35
