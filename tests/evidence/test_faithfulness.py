from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from napari_sparseattn.evidence.faithfulness import (
    Curves,
    Faithfulness,
    FaithfulnessOfSet,
    OrderScore,
    describe_difference,
)
from napari_sparseattn.evidence.measures import Interval


def curves(deletion: list[float], insertion: list[float]) -> Curves:
    shares = np.linspace(0, 1, len(deletion))
    return Curves(shares, np.array(deletion, float), np.array(insertion, float))


def score(gains: dict[str, list[float]], drop: float = 0.5) -> OrderScore:
    arrays = {name: np.array(values) for name, values in gains.items()}
    return OrderScore(curves([1, 0.5, 0], [0, 0.5, 1]), arrays, drop, 0.1)


def item(
    own: float, drawn: list[float], edges: float, label: str = "a", drops: Sequence[float] = ()
) -> Faithfulness:
    orders = {
        "selection": score({"mean": [own + 0.1], "blur": [own - 0.1]}),
        "random": score({"mean": drawn, "blur": drawn}),
        "edges": score({"mean": [edges], "blur": [edges]}),
    }
    stability = {"shift": 0.8, "chance": 0.1}
    return Faithfulness(
        label, 0.9, 0.15, ("selection",), orders, 0.4, stability, 0.7, 0.2, 0.05, 40, 0.3,
        np.array(drops, float),
    )  # fmt: skip


def test_areas_of_a_linear_model_are_those_of_its_closed_form() -> None:
    # f(S) = sum of w over what is left; removing the largest first leaves 1 - W(k), where W is
    # the concave curve of cumulated weights, and inserting them gives W(k).
    w = np.array([0.5, 0.25, 0.15, 0.1])
    cumulated = np.concatenate([[0], w.cumsum()])
    found = Curves(np.arange(5) / 4, 1 - cumulated, cumulated)
    area = sum((cumulated[i] + cumulated[i + 1]) / 2 for i in range(4)) / 4
    assert found.insertion_area == pytest.approx(area)
    assert found.deletion_area == pytest.approx(1 - area)
    assert found.gain == pytest.approx(2 * area - 1)


def test_a_reversed_order_has_the_opposite_gain() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0])
    deletion, insertion = rng.random(7), rng.random(7)
    one = Curves(shares, deletion, insertion)
    # What is left after removing the last share s is what inserting 1 - s leaves.
    other = Curves(shares, insertion[::-1], deletion[::-1])
    assert other.gain == pytest.approx(-one.gain)


@pytest.mark.parametrize("shares", [[0.1, 1], [0, 0.9], [0, 0.5, 0.5, 1], [0]])
def test_shares_run_from_nothing_to_everything(shares: list[float]) -> None:
    values = np.zeros(len(shares))
    with pytest.raises(ValueError, match="shares"):
        Curves(np.array(shares, float), values, values)


def test_the_verdict_is_plain() -> None:
    assert (
        describe_difference(Interval(0.41, 0.32, 0.5), "random")
        == "better than random by +0.41 [0.32, 0.50]"
    )
    assert describe_difference(Interval(0.1, -0.1, 0.2), "random").startswith(
        "not better than random"
    )
    assert describe_difference(Interval(-0.4, -0.5, -0.2), "centre").startswith(
        "not better than nearness"
    )
    assert (
        describe_difference(Interval(0.2, np.nan, np.nan), "edges")
        == "too few to compare with edges (+0.20)"
    )


def test_one_prediction_is_tested_against_random_orders() -> None:
    below, equal = np.linspace(0.1, 0.48, 39), [*np.linspace(0.1, 0.48, 38), 0.5]
    one = item(0.3, [0.2, -0.1], 0.35, drops=below)
    assert one.p_random() == pytest.approx(1 / 40)
    assert one.more_than_random() is True
    found = one.difference("random")
    assert (found.low, found.high) == pytest.approx((0.5 - below[-1], 0.5 - below[0]))
    assert one.verdict().startswith("better than random by +0.21 [0.02, 0.40], p = 0.025")
    assert (
        one.sentence() == "Removing these pixels changes the answer more than removing random ones"
    )
    # One random order does as much: that happens to random maps as well.
    other = item(0.3, [0.2], 0.35, drops=equal)
    assert other.p_random() == pytest.approx(2 / 40)
    assert other.more_than_random() is False
    assert other.difference("random").low == pytest.approx(0)
    assert other.sentence("patches").startswith("Removing these patches changes the answer no more")
    assert one.verdict("edges").startswith("not better than edges")
    edges = one.difference("edges")
    assert (edges.low, edges.high) == pytest.approx((-0.15, 0.05))


def test_too_few_random_orders_prove_nothing() -> None:
    few = item(0.3, [0.2], 0.35, drops=[0.0] * 38)
    assert few.more_than_random() is False
    none = item(0.3, [0.2], 0.35)
    assert none.more_than_random() is None
    assert none.verdict().startswith("not tested")
    assert "not tested" in none.sentence()
    assert none.row()["better_than_random"] == ""


def test_a_set_says_how_many_and_how_many_by_chance() -> None:
    better, worse = (item(0.3, [0], 0.1, drops=[drop] * 39) for drop in (0.1, 0.6))
    good = FaithfulnessOfSet(tuple(range(40)), (*[better] * 36, *[worse] * 4))
    assert good.sentence() == (
        "Removing these pixels changes the answer more than removing random ones: "
        "in 36 of 40 (1 by chance)"
    )
    bad = FaithfulnessOfSet(tuple(range(40)), (*[better] * 4, *[worse] * 36))
    assert bad.sentence().startswith("Removing these pixels changes the answer no more than")


def test_a_set_pairs_its_predictions() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0.2, 0.3, 60)
    items = tuple(item(value + 0.1, [0.0], value, "ab"[i % 2]) for i, value in enumerate(level))
    together = FaithfulnessOfSet(tuple(range(60)), items)
    found = together.difference("edges")
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low < 1e-9
    assert together.verdict("edges").startswith("better than edges by +0.10")
    assert together.difference("edges", fill="blur").value == pytest.approx(0.0)
    assert together.difference("random").value == pytest.approx(level.mean() + 0.1)
    assert {k: len(v) for k, v in together.by_class().items()} == {"a": 30, "b": 30}
    order = together.ordered()
    assert items[order[0]].orders["selection"].gain == max(together.gains("selection"))
    rows = together.rows()
    assert rows[3]["id"] == 3
    assert rows[3]["gain_selection"] == pytest.approx(level[3] + 0.1)


def test_everything_goes_into_json() -> None:
    without_mask = item(0.3, [0.2], 0.1)
    content = json.loads(json.dumps(without_mask.to_dict(), allow_nan=False))
    assert content["verdicts"]["random"].startswith("not tested")
    assert content["p_random"] is None
    assert content["differences"]["random"][1] is None
    few = FaithfulnessOfSet((1, 2), (without_mask, item(0.1, [0.0], 0.2)))
    told = json.loads(json.dumps(few.to_dict(each=True), allow_nan=False))
    assert told["n"] == 2
    assert told["gains"]["selection"][1] is None
    assert len(told["each"]) == 2


def test_sets_must_agree() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FaithfulnessOfSet((), ())
    other = item(0.1, [0.0], 0.2)
    fewer = {"selection": other.orders["selection"]}
    import dataclasses

    with pytest.raises(ValueError, match="same orders"):
        FaithfulnessOfSet((1, 2), (other, dataclasses.replace(other, orders=fewer)))
