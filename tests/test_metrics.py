"""Figures of merit against their definitions and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from napari_sparseattn.metrics import (
    classification_report,
    concordance,
    correlation,
    expected_calibration_error,
    group_intervals,
    roc_auc,
    whole_percent,
    wilson,
)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    logits = rng.normal(size=(200, 4)) + 2 * np.eye(4)[truth]
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(1, keepdims=True), truth


def test_report_counts_as_defined() -> None:
    probabilities, truth = data()
    predicted = probabilities.argmax(1)
    report = classification_report(probabilities, truth, ["a", "b", "c", "absent"])
    assert report.accuracy == pytest.approx((predicted == truth).mean())
    recalls, f1s = [], []
    for c, name in enumerate(["a", "b", "c"]):
        right = int(((predicted == c) & (truth == c)).sum())
        recall, precision = right / (truth == c).sum(), right / (predicted == c).sum()
        row = report.per_class[name]
        assert (row.recall, row.precision) == pytest.approx((recall, precision))
        assert row.support == (truth == c).sum()
        recalls.append(recall)
        f1s.append(2 * precision * recall / (precision + recall))
    assert report.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert report.macro_f1 == pytest.approx(np.mean(f1s)), "a class without images does not count"
    assert report.confusion.sum() == 200
    assert report.confusion[0, 1] == ((truth == 0) & (predicted == 1)).sum()


def test_calibration_error_by_brute_force() -> None:
    probabilities, truth = data()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    expected = 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert expected_calibration_error(probabilities, truth) == pytest.approx(expected)


def test_certain_and_right_has_no_calibration_error() -> None:
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (47, 50), (960, 1000)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((interval.low, interval.high), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0%"), (0.974, "97%"), (0.9949, "99%"), (0.998, "99%"), (1.0, "100%")]
)
def test_a_hundred_percent_is_not_said_lightly(share: float, text: str) -> None:
    assert whole_percent(share) == text


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        classification_report(np.empty((0, 2)), np.empty(0, int), ["a", "b"])
    with pytest.raises(ValueError, match="expected probabilities"):
        classification_report(np.ones((3, 5)), np.zeros(3, int), ["a", "b"])


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 12, 80) / 12, rng.random(80) < 0.4
    weights = rng.integers(0, 4, 80)
    above = scores[positive, None] - scores[~positive]
    pairs = weights[positive, None] * weights[~positive]
    expected = (pairs * ((above > 0) + 0.5 * (above == 0))).sum() / pairs.sum()
    assert roc_auc(scores, positive, weights) == pytest.approx(expected)
    assert roc_auc(scores, np.ones(80, bool)) is None
    probabilities, truth = data()
    report = classification_report(probabilities, truth, ["a", "b", "c", "absent"])
    assert report.per_class["absent"].auc is None
    assert report.per_class["b"].auc == roc_auc(probabilities[:, 1], truth == 1)


def test_intervals_draw_whole_groups() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat([str(i) for i in range(20)], 50)
    values = np.repeat(rng.random(20), 50)  # alike within a group

    def mean(counts: np.ndarray) -> dict[str, float | None]:
        assert set(np.unique(counts.reshape(20, 50).std(1))) == {0.0}
        return {"mean": float((counts * values).sum() / counts.sum()), "never": None}

    found = group_intervals(groups.tolist(), mean)
    assert set(found) == {"mean"}
    half = (found["mean"][1] - found["mean"][0]) / 2
    # As wide as of 20 values, not of 1000.
    assert half == pytest.approx(1.96 * values.std() / np.sqrt(20), rel=0.2)


@pytest.mark.parametrize("seed", range(6))
def test_the_c_index_is_that_of_lifelines_and_scikit_survival(seed: int) -> None:
    theirs = pytest.importorskip("lifelines.utils").concordance_index
    also = pytest.importorskip("sksurv.metrics").concordance_index_censored
    rng = np.random.default_rng(seed)
    n = 90
    # Few times and risks, so that there are ties of both, and of events with censored.
    time = rng.integers(1, 15, n).astype(float)
    event, risk = rng.uniform(size=n) < 0.6, rng.integers(0, 20, n) / 4
    found = concordance(time, event, risk)(np.ones(n))
    assert found == pytest.approx(theirs(time, -risk, event), abs=1e-12)
    assert found == pytest.approx(also(event, time, risk)[0], abs=1e-12)
    # Who is drawn twice counts as two patients who are alike.
    counts = rng.integers(0, 4, n)
    drawn = np.repeat(np.arange(n), counts)
    again = concordance(time, event, risk)(counts)
    assert again == pytest.approx(also(event[drawn], time[drawn], risk[drawn])[0], abs=1e-12)


def test_the_c_index_of_the_right_order_is_one_and_of_nobody_unknown() -> None:
    time, event = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    assert concordance(time, event, np.array([3.0, 2.0, 1.0]))(np.ones(3)) == 1
    assert concordance(time, event, np.array([1.0, 2.0, 3.0]))(np.ones(3)) == 0
    assert concordance(time, event, np.ones(3))(np.ones(3)) == 0.5
    assert concordance(time, np.zeros(3, bool), np.ones(3))(np.ones(3)) is None
    # Nothing is known of who was censored before the other's event.
    assert (
        concordance(np.array([1.0, 2.0]), np.array([False, True]), np.ones(2))(np.ones(2)) is None
    )


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    assert correlation(a, a + b) == pytest.approx(np.corrcoef(a, a + b)[0, 1])
    assert correlation(a, np.ones(40)) is None
