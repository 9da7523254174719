from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_sparseattn.evidence.measures import (
    bootstrap_mean,
    gini,
    overlap,
    relevance_mass,
    relevance_rank,
    spearman,
)


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    pairs = [abs(a - b) for a, b in itertools.product(values, values)]
    assert gini(values) == pytest.approx(np.mean(pairs) / (2 * values.mean()))
    assert gini(np.ones(9)) == pytest.approx(0)
    assert gini(np.eye(1, 100)[0]) == pytest.approx(0.99)
    assert gini(np.zeros(5)) == 0


def test_spearman_agrees_with_scipy_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 200), rng.random(200)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_overlap_of_masks() -> None:
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert overlap(a, b) == pytest.approx(1 / 3)
    assert overlap(a, a) == 1
    assert overlap(~a & a, a & ~a) == 1


def test_relevance_inside_a_mask() -> None:
    relevance = np.array([[4.0, 1.0], [-3.0, 3.0]])
    mask = np.array([[True, False], [True, False]])
    assert relevance_mass(relevance, mask) == pytest.approx(4 / 8)
    assert relevance_rank(relevance, mask) == pytest.approx(1 / 2)
    assert np.isnan(relevance_mass(np.zeros((2, 2)), mask))
    assert np.isnan(relevance_rank(relevance, mask & ~mask))


def test_the_bootstrap_interval_is_that_of_the_normal_law_for_many_values() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_mean(values) == found


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 5, 100)
    a, b = level + rng.normal(0.3, 0.1, 100), level
    paired, one = bootstrap_mean(a - b), bootstrap_mean(a)
    assert paired.low > 0
    assert paired.high - paired.low < 0.1 * (one.high - one.low)


def test_few_values_have_no_interval() -> None:
    few = bootstrap_mean(np.array([0.1, np.nan, 0.3]))
    assert few.value == pytest.approx(0.2)
    assert np.isnan(few.low)
    assert str(few) == "+0.20"
    assert np.isnan(bootstrap_mean(np.array([np.nan])).value)
