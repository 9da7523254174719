"""What to annotate next."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.training.data.suggest import suggest, uncertainty


def test_uncertainty_is_one_minus_the_lead() -> None:
    found = uncertainty(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.6, 0.3, 0.1]]))
    np.testing.assert_allclose(found, [0, 1, 0.7])
    np.testing.assert_array_equal(uncertainty(np.ones((3, 1))), 1)


def test_doubtful_cells_come_first_and_alike_ones_once() -> None:
    rng = np.random.default_rng(0)
    sure = np.tile([0.98, 0.02], (50, 1))
    doubtful = np.tile([0.5, 0.5], (20, 1))
    places = np.concatenate([rng.normal(0, 1, (50, 2)), rng.normal(10, 0.01, (10, 2)),
                             rng.normal(-10, 0.01, (10, 2))])  # fmt: skip
    order = suggest(np.concatenate([sure, doubtful]), places, 70)
    assert sorted(order) == list(range(70))
    assert {order[0] // 10, order[1] // 10} == {5, 6}


def test_what_is_like_the_annotated_waits() -> None:
    doubtful = np.full((4, 2), 0.5)
    places = np.array([[0.0, 0], [0.1, 0], [9.0, 9], [9.1, 9]])
    first = suggest(doubtful, places, 1, annotated=np.array([[0.0, 0]]))
    assert first[0] in (2, 3)


def test_ranks_work_without_features_and_on_nothing() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), 300)
    order = suggest(probabilities, n=30)
    assert len(set(order)) == 30
    assert uncertainty(probabilities)[order[0]] == uncertainty(probabilities).max()
    assert len(suggest(np.empty((0, 4)))) == 0
    assert len(suggest(probabilities, n=0)) == 0
    with pytest.raises(ValueError, match="expected probabilities"):
        suggest(probabilities, np.zeros((3, 2)))
