"""What a SPAN-MIL learns in place of classes: a number, hazards of intervals, or Cox's risk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...card import TargetSpec
from ...metrics import concordance, correlation
from ..data.span_data import SlideExample

__all__ = [
    "CoxObjective",
    "HazardObjective",
    "NumberObjective",
    "Objective",
    "check_outcomes",
    "check_validation",
    "cox_loss",
    "fit_target",
    "hazard_loss",
    "keep_reference",
]

#: Quantiles of the training slides' scores that a card keeps: every per cent.
_REFERENCE = 101
#: Patients with the event below which there is not one for each part of a split.
_FEWEST = 3


class Objective(Protocol):
    """A loss of slides with outcomes, and the figure that tells how good a model is.

    Attributes
    ----------
    together : bool
        Whether the loss is of several slides at once, which are compared.
    figure : str
        By which its epochs are reported; see `metrics.FIGURE_TITLES`.
    """

    together: bool
    figure: str

    def __init__(self, target: TargetSpec) -> None: ...

    def loss(self, outputs: Tensor, outcomes: Tensor) -> Tensor:
        """Mean loss () of the network's numbers (n, C), given outcomes (n, k)."""

    def measure(self, outputs: Tensor, outcomes: Tensor) -> float:
        """Return the figure; NaN where it cannot be told."""


def hazard_loss(logits: Tensor, times: Tensor, outcomes: Tensor) -> Tensor:
    """Mean negative log-likelihood of discrete hazards, with censoring.

    After Zadeh and Schmid (2021): who has the event in an interval has survived
    those before it, and had it there; who is censored has survived the intervals
    that ended by then, and says nothing of the others. Who is followed beyond
    the last interval has survived all of them, whatever came later.

    Parameters
    ----------
    logits : Tensor
        (n, K) log odds of the event in each interval, for those who reach it.
    times : Tensor
        (K,) where intervals end, ascending; an interval holds its end.
    outcomes : Tensor
        (n, 2) time, and event 1 or 0.

    Returns
    -------
    Tensor
        ().
    """
    time, event = outcomes[:, :1].to(times), outcomes[:, 1:] > 0
    survived = (times < time) | ((times == time) & ~event)
    here = event & ~survived & torch.cat([torch.ones_like(time) > 0, (times < time)[:, :-1]], 1)
    # log(1 - h) and log h of log odds, which do not overflow.
    losses = survived * torch.nn.functional.softplus(logits)
    losses = losses + here * torch.nn.functional.softplus(-logits)
    return losses.sum(1).mean()


def cox_loss(risk: Tensor, outcomes: Tensor) -> Tensor:
    """Negative log partial likelihood of Cox, per event, ties as Efron has them.

    Parameters
    ----------
    risk : Tensor
        (n,) log hazard ratios of slides that are compared with each other.
    outcomes : Tensor
        (n, 2) time, and event 1 or 0.

    Returns
    -------
    Tensor
        (); 0, with gradients of 0, where nobody had the event.
    """
    time, event = outcomes[:, 0], outcomes[:, 1] > 0
    if not event.any():
        return risk.sum() * 0
    when = torch.unique(time[event])
    at_risk = time >= when[:, None]
    tied = (time == when[:, None]) & event
    nobody = torch.full_like(risk, -torch.inf)
    whole = torch.where(at_risk, risk, nobody).logsumexp(1)
    own = torch.where(tied, risk, nobody).logsumexp(1)
    count = tied.sum(1).to(risk)
    total = risk[event].sum()
    for number in range(int(count.max())):
        there = count > number
        # Those who have the event at one time leave, on average, one after the other.
        left = number / count[there] * (own - whole)[there].exp()
        total = total - (whole[there] + torch.log1p(-left)).sum()
    return -total / event.sum()


class HazardObjective:
    """Hazards of intervals."""

    together = False
    figure = "c_index"

    def __init__(self, target: TargetSpec) -> None:
        self.target = target

    def loss(self, outputs: Tensor, outcomes: Tensor) -> Tensor:
        """See `hazard_loss`."""
        times = torch.tensor(self.target.times, dtype=torch.float32, device=outputs.device)
        return hazard_loss(outputs, times, outcomes)

    def measure(self, outputs: Tensor, outcomes: Tensor) -> float:
        """See `Objective`."""
        return _measure_concordance(self.target.score(outputs), outcomes)


class CoxObjective:
    """The risk of Cox's model."""

    together = True
    figure = "c_index"

    def __init__(self, target: TargetSpec) -> None:
        self.target = target

    def loss(self, outputs: Tensor, outcomes: Tensor) -> Tensor:
        """See `cox_loss`."""
        return cox_loss(outputs[:, 0], outcomes)

    def measure(self, outputs: Tensor, outcomes: Tensor) -> float:
        """See `Objective`."""
        return _measure_concordance(self.target.score(outputs), outcomes)


class NumberObjective:
    """Squared error of a number, in units of its standard deviation in training."""

    together = False
    figure = "pearson"

    def __init__(self, target: TargetSpec) -> None:
        self.target = target

    def loss(self, outputs: Tensor, outcomes: Tensor) -> Tensor:
        """Mean squared error."""
        wanted = ((outcomes[:, 0] - self.target.mean) / self.target.sd).to(outputs)
        return (outputs[:, 0] - wanted).square().mean()

    def measure(self, outputs: Tensor, outcomes: Tensor) -> float:
        """See `Objective`."""
        scores = self.target.score(outputs).double().cpu().numpy()
        found = correlation(scores, outcomes[:, 0].double().cpu().numpy())
        return float("nan") if found is None else found


def _measure_concordance(scores: Tensor, outcomes: Tensor) -> float:
    plain = outcomes.double().cpu().numpy()
    index = concordance(plain[:, 0], plain[:, 1] > 0, scores.double().cpu().numpy())
    found = index(np.ones(len(plain)))
    return float("nan") if found is None else found


def outcomes_of(examples: Sequence[SlideExample]) -> npt.NDArray[np.float64]:
    """Return the outcomes (n, k) of slides."""
    return np.array([example.outcome for example in examples], np.float64)


def check_outcomes(examples: Sequence[SlideExample], target: TargetSpec) -> None:
    """Refuse slides without an outcome, or too few with the event.

    Raises
    ------
    ValueError
        Saying what is missing.
    """
    width = len(target.row.columns)
    for example in examples:
        if len(example.outcome) != width or not np.isfinite(example.outcome).all():
            raise ValueError(
                f"{example.name}: the slide has no {' and '.join(target.row.columns)} to learn."
            )
        if target.row.survival and (example.outcome[0] < 0 or example.outcome[1] not in (0, 1)):
            raise ValueError(
                f"{example.name}: a time is 0 or more, and an event 1, or 0 where it is censored."
            )
    if target.row.survival:
        having = {example.belongs_to for example in examples if example.outcome[1]}
        if len(having) < _FEWEST:
            raise ValueError(
                f"{len(having)} of the patients had the event. At least {_FEWEST} are needed, to "
                "learn from, to choose on and to test on; add slides, or follow the patients for "
                "longer."
            )


def check_validation(validation: Sequence[SlideExample], target: TargetSpec) -> None:
    """Refuse slides that cannot choose the best epoch.

    Raises
    ------
    ValueError
        If nobody of them had the event.
    """
    if target.row.survival and not any(example.outcome[1] for example in validation):
        raise ValueError(
            "No slide that chooses the best epoch (validation) is of a patient who had the event. "
            "Take fewer folds, state another split, or add slides."
        )


def fit_target(target: TargetSpec, train: Sequence[SlideExample], intervals: int = 4) -> TargetSpec:
    """Return a target with what is to be known of the training slides, and of no others.

    Of hazards, intervals end at quantiles of the times of their events, the
    last at the latest event; of numbers, the mean and standard deviation.

    Parameters
    ----------
    target : TargetSpec
        What is to be learned.
    train : sequence of SlideExample
        With outcomes.
    intervals : int
        At most; fewer where many events are at one time.

    Raises
    ------
    ValueError
        If nobody had the event, or all numbers are the same.
    """
    outcomes = outcomes_of(train)
    if not target.row.survival:
        mean, sd = float(outcomes[:, 0].mean()), float(outcomes[:, 0].std())
        if sd == 0:
            raise ValueError(
                f"All training slides have the number {mean:g}: there is nothing to learn."
            )
        return target.model_copy(update={"mean": mean, "sd": sd})
    when = outcomes[outcomes[:, 1] > 0, 0]
    if not len(when):
        raise ValueError(
            "No training slide is of a patient who had the event. State another split, or add "
            "slides."
        )
    if not target.row.by_intervals:
        return target
    if not 1 <= intervals <= 100:
        raise ValueError(f"1 to 100 intervals can be learned, got {intervals}")
    ends = np.unique(np.quantile(when, np.arange(1, intervals + 1) / intervals))
    times = tuple(ends[ends > 0].tolist())
    if not times:
        raise ValueError("All events are at time 0: there is no time that could be learned.")
    return target.model_copy(update={"times": times})


def keep_reference(target: TargetSpec, outputs: Tensor) -> TargetSpec:
    """Return a target with the quantiles of the scores of training slides, of outputs (n, C)."""
    scores = target.score(outputs.double()).cpu().numpy()
    kept = np.quantile(scores, np.linspace(0, 1, _REFERENCE))
    return target.model_copy(update={"reference": tuple(np.sort(kept).tolist())})
