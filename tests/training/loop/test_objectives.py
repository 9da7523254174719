"""Losses of survival and numbers, against lifelines and against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from made_outcomes import bags
from napari_sparseattn.card import TargetSpec
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.objectives import (
    CoxObjective,
    HazardObjective,
    NumberObjective,
    check_outcomes,
    check_validation,
    cox_loss,
    fit_target,
    hazard_loss,
    keep_reference,
)
from napari_sparseattn.training.loop.span import SpanOptions, SpanSteps, fit_span
from small_span import small_span

Outcomes = npt.NDArray[np.float64]


def follow_up(n: int, seed: int, steps: int) -> Outcomes:
    """Times on a coarse scale, so that many are tied, and events of two in three."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, steps, n).astype(float)
    return np.stack([times, (rng.uniform(size=n) < 0.67).astype(float)], axis=1)


@pytest.mark.parametrize(("seed", "steps"), [(0, 1000), (1, 12), (2, 3)])
def test_the_partial_likelihood_is_that_of_lifelines(seed: int, steps: int) -> None:
    pd = pytest.importorskip("pandas")
    lifelines = pytest.importorskip("lifelines")
    known = follow_up(60, seed, steps)
    x = np.random.default_rng(seed).normal(size=(60, 2))
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": known[:, 0], "event": known[:, 1]})
    fitted = lifelines.CoxPHFitter().fit(table, "time", "event")
    risk = torch.from_numpy(x @ fitted.params_.to_numpy())
    ours = -float(cox_loss(risk, torch.from_numpy(known))) * known[:, 1].sum()
    assert ours == pytest.approx(fitted.log_likelihood_, abs=1e-8)


@pytest.mark.parametrize("steps", [1000, 5])
def test_the_partial_likelihood_is_efrons_one_event_after_the_other(steps: int) -> None:
    known = follow_up(30, 3, steps)
    risk = np.random.default_rng(3).normal(size=30)
    total = 0.0
    for when in np.unique(known[known[:, 1] > 0, 0]):
        own = np.flatnonzero((known[:, 0] == when) & (known[:, 1] > 0))
        whole = sum(math.exp(risk[i]) for i in range(30) if known[i, 0] >= when)
        tied = sum(math.exp(risk[i]) for i in own)
        for number, i in enumerate(own):
            total += risk[i] - math.log(whole - number / len(own) * tied)
    found = float(cox_loss(torch.from_numpy(risk), torch.from_numpy(known)))
    assert found == pytest.approx(-total / known[:, 1].sum(), abs=1e-10)


def test_without_an_event_the_partial_likelihood_teaches_nothing() -> None:
    risk = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert risk.grad is not None
    assert not risk.grad.any()


def test_the_likelihood_of_hazards_is_that_of_each_patient() -> None:
    times = (2.0, 5.0, 9.0)
    known = np.array(
        [[0, 1], [2, 1], [2.1, 1], [9, 1], [12, 1], [0, 0], [2, 0], [4.9, 0], [9, 0], [40, 0]],
        float,
    )
    logits = np.random.default_rng(0).normal(size=(len(known), 3)) * 2
    total = 0.0
    for (time, event), row in zip(known, 1 / (1 + np.exp(-logits)), strict=True):
        likelihood, start = 1.0, -1.0
        for end, hazard in zip(times, row, strict=True):
            if time > end or (time == end and not event):
                likelihood *= 1 - hazard
            elif event and start < time <= end:
                likelihood *= hazard
            start = end
        total -= math.log(likelihood)
    found = float(
        hazard_loss(torch.from_numpy(logits), torch.tensor(times).double(), torch.from_numpy(known))
    )
    assert found == pytest.approx(total / len(known), abs=1e-10)
    # Where many are alike, the best constant hazards are the life table's.
    many = torch.from_numpy(follow_up(500, 1, 10))
    free = nn.Parameter(torch.zeros(1, 3, dtype=torch.float64))
    steps = torch.optim.LBFGS([free], max_iter=100)

    def again() -> float:
        steps.zero_grad()
        loss = hazard_loss(free.expand(500, 3), torch.tensor(times).double(), many)
        loss.backward()
        return float(loss.detach())

    steps.step(again)
    wanted, start = [], -1.0
    for end in times:
        died = ((many[:, 0] > start) & (many[:, 0] <= end) & (many[:, 1] > 0)).sum()
        lived = ((many[:, 0] > end) | ((many[:, 0] == end) & (many[:, 1] == 0))).sum()
        wanted.append(float(died / (died + lived)))
        start = end
    assert free.detach().sigmoid()[0].numpy() == pytest.approx(wanted, abs=1e-4)


def test_hazards_far_from_a_half_do_not_overflow() -> None:
    logits = torch.tensor([[900.0, -900.0]], requires_grad=True)
    loss = hazard_loss(logits, torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 1.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1800)


@pytest.mark.parametrize("kind", ["hazards", "cox"])
def test_risk_rises_with_the_log_odds_and_survival_falls(kind: str) -> None:
    times = (1.0, 2.0, 3.0) if kind == "hazards" else ()
    target = TargetSpec(kind=kind, times=times)  # type: ignore[arg-type]
    low, high = torch.tensor([-1.0, 0.0, 0.3]), torch.tensor([-1.0, 0.5, 0.3])
    if kind == "cox":
        low, high = low[1:2], high[1:2]
    assert float(target.score(high)) > float(target.score(low))
    curve = target.survival(high)
    assert len(curve) == len(times)
    assert list(curve) == sorted(curve, reverse=True)


def test_intervals_end_at_quantiles_of_the_events_of_the_training_slides() -> None:
    train = bags(40, 1)
    known = np.array([each.outcome for each in train])
    target = fit_target(TargetSpec(kind="hazards"), train, 4)
    events = known[known[:, 1] > 0, 0]
    assert target.times == pytest.approx(np.quantile(events, (0.25, 0.5, 0.75, 1)).tolist())
    assert fit_target(TargetSpec(kind="hazards"), train, 1).times == (events.max(),)
    assert fit_target(TargetSpec(kind="cox"), train).times == ()
    shares = bags(20, 1, number=True)
    values = np.array([each.outcome[0] for each in shares])
    fitted = fit_target(TargetSpec(kind="number"), shares)
    assert (fitted.mean, fitted.sd) == pytest.approx((values.mean(), values.std()))


def test_a_score_is_placed_among_those_of_the_training_slides() -> None:
    kept = keep_reference(TargetSpec(kind="cox"), torch.arange(101.0)[:, None])
    assert kept.rank(25.0) == pytest.approx(0.25)
    assert (kept.rank(-5.0), kept.rank(500.0)) == (0, 1)
    assert TargetSpec(kind="cox").rank(1.0) is None


def with_outcomes(*outcomes: tuple[float, ...]) -> list[SlideExample]:
    cells = np.array([[0, 0]])
    features = np.zeros((1, 4), np.float32)
    return [
        SlideExample(features, cells, name=f"s{i}", outcome=each)
        for i, each in enumerate(outcomes)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (((1.0, 1.0), (2.0, 1.0), ()), "s2: the slide has no time and event"),
        (((1.0, 1.0), (-2.0, 1.0), (3.0, 1.0)), "s1: a time is 0 or more"),
        (((1.0, 1.0), (2.0, 0.5), (3.0, 1.0)), "s1: a time is 0 or more, and an event 1, or 0"),
        (((1.0, 1.0), (2.0, 0.0), (3.0, 1.0)), "2 of the patients had the event"),
    ],
)
def test_outcomes_that_cannot_be_learned_are_refused(
    outcomes: tuple[tuple[float, ...], ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_outcomes(with_outcomes(*outcomes), TargetSpec(kind="cox"))


def test_training_slides_without_an_event_or_a_difference_are_refused() -> None:
    with pytest.raises(ValueError, match="No training slide is of a patient who had the event"):
        fit_target(TargetSpec(kind="hazards"), with_outcomes((1.0, 0.0), (2.0, 0.0)))
    with pytest.raises(ValueError, match="All events are at time 0"):
        fit_target(TargetSpec(kind="hazards"), with_outcomes((0.0, 1.0), (2.0, 0.0)))
    with pytest.raises(ValueError, match="the number 3: there is nothing to learn"):
        fit_target(TargetSpec(kind="number"), with_outcomes((3.0,), (3.0,)))


def test_validation_slides_without_an_event_choose_nothing() -> None:
    with pytest.raises(ValueError, match="Take fewer folds"):
        check_validation(with_outcomes((1.0, 0.0), (2.0, 0.0)), TargetSpec(kind="cox"))
    check_validation(with_outcomes((1.0, 0.0), (2.0, 1.0)), TargetSpec(kind="cox"))
    check_validation(with_outcomes((1.0,)), TargetSpec(kind="number"))


def test_slides_one_by_one_give_the_gradient_of_all_together() -> None:
    examples = bags(6, 2)
    # Without dropout and changed grids, so that the same can be had in one go.
    model = small_span()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for refinement in model.refinements:
        for part in refinement.modules():
            for name in ("attention_dropout", "dropout"):
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
    objective = CoxObjective(TargetSpec(kind="cox"))
    options = SpanOptions(slides_per_step=6, augment=0.0)
    steps = SpanSteps(model, examples, examples, options, objective=objective)
    model.train()
    model.zero_grad()
    assert steps._compare(objective, np.arange(6), steps._new_score(), 0.0)
    ours = {
        name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
    }
    model.zero_grad()
    risks = torch.cat(
        [
            model(torch.from_numpy(each.features), torch.from_numpy(each.cells)).logits
            for each in examples
        ]
    )
    outcomes = torch.tensor([each.outcome for each in examples])
    objective.loss(risks, outcomes).backward()
    assert len(ours) > 10
    for name, each in model.named_parameters():
        if each.grad is not None and each.grad.any():
            torch.testing.assert_close(ours[name], each.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("number", NumberObjective), ("hazards", HazardObjective), ("cox", CoxObjective)],
)
def test_an_epoch_tells_loss_and_figure(kind: str, objective: type) -> None:
    examples = bags(6, 4, number=kind == "number")
    target = fit_target(TargetSpec(kind=kind), examples, 2)  # type: ignore[arg-type]
    model = small_span(outputs=target.n_outputs)
    options = SpanOptions(epochs=1, slides_per_step=3)
    (epoch,) = fit_span(model, examples[:3], examples[3:], options, objective=objective(target))
    assert epoch.figure == objective.figure == target.row.figures[0]
    assert math.isfinite(epoch.loss)
    assert ("C-index in training" in str(epoch)) == (kind != "number")
    with pytest.raises(ValueError, match="no outcome to learn"):
        next(fit_span(model, with_outcomes(()), examples, options, objective=objective(target)))
