"""Risks and numbers learned from bags whose hazard is known, and judged on others."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from made_outcomes import bags
from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import CropSpec, TargetSpec
from napari_sparseattn.judged import Estimated, EstimateReport
from napari_sparseattn.training.data.span_data import split_slides
from napari_sparseattn.training.loop.slides import SlideReport, SlideTraining, train_slides
from napari_sparseattn.training.loop.span import SpanOptions, estimate_outcomes
from napari_sparseattn.training.tune.cross_validation import Rows, cross_validate
from napari_sparseattn.training.tune.learners import SlideLearner
from small_span import ENCODER

QUICK = SpanOptions(epochs=5, learning_rate=2e-3)


def settings(kind: str, **changes: object) -> SlideTraining:
    options = dataclasses.replace(QUICK, slides_per_step=8, epochs=10) if kind == "cox" else QUICK
    made = SlideTraining(
        "bags",
        (),
        ENCODER,
        CropSpec(size=64, field_of_view_um=64.0),
        target=TargetSpec(kind=kind, unit="months"),  # type: ignore[arg-type]
        options=options,
        intervals=3,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(
    scope="module",
    params=["hazards", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cox", "number"))],
)
def learned(request: pytest.FixtureRequest) -> tuple[str, Bundle, SlideReport]:
    kind: str = request.param
    return kind, *train_slides(bags(40, 0, number=kind == "number"), settings(kind))


def test_held_out_patients_are_put_in_their_order(
    learned: tuple[str, Bundle, SlideReport],
) -> None:
    kind, bundle, _ = learned
    target = bundle.card.target
    assert target is not None
    fresh = bags(40, 99, number=kind == "number")
    judged = estimate_outcomes(bundle.slide_model(), fresh, target)
    report = judged.report()
    figure = target.row.figures[0]
    # By chance it would be a half, or none; the true hazard itself reaches about 0.84.
    least = 0.6 if kind == "number" else 0.7
    assert report.figures[figure] > least
    assert report.intervals[figure][0] > (0.3 if kind == "number" else 0.55)


def test_the_card_says_what_was_learned_and_how_good_it_is(
    learned: tuple[str, Bundle, SlideReport], tmp_path: Path
) -> None:
    kind, bundle, report = learned
    again = load_bundle(save_bundle(bundle, tmp_path / "x.safetensors").path or "")
    card, target = again.card, again.card.target
    assert target is not None
    assert (target.kind, target.unit) == (kind, "months")
    assert card.class_names == ("number",) if kind == "number" else ("risk",)
    assert len(target.reference) == 101
    train = split_slides(bags(40, 0, number=kind == "number"))["train"]
    known = np.array([each.outcome for each in train])
    if kind == "hazards":
        events = known[known[:, 1] > 0, 0]
        assert target.times == pytest.approx(np.quantile(events, (1 / 3, 2 / 3, 1)).tolist())
    if kind == "number":
        assert (target.mean, target.sd) == pytest.approx((known[:, 0].mean(), known[:, 0].std()))
    assert isinstance(report.test, EstimateReport)
    assert card.metrics["sentence"] == report.test.sentence
    assert report.test.sentence in card.summary()
    assert card.novelty is not None
    assert {row["epoch"] for row in card.training.history} == set(range(1, len(report.history) + 1))


def test_slides_of_one_patient_are_measured_together() -> None:
    outcomes = np.array([[5.0, 1], [5.0, 1], [9.0, 0], [2.0, 1]])
    scores = np.array([0.0, 4.0, 1.0, 3.0])
    judged = Estimated(tuple("abcd"), ("p", "p", "q", "r"), outcomes, scores, "cox")
    # Means of p, q and r are 2, 1 and 3: the order is right.
    assert judged.measure()(np.ones(4, np.int64)) == {"c_index": 1.0}
    report = judged.report()
    assert (report.n, report.n_groups, report.n_events) == (4, 3, 2)
    assert report.sentence.endswith("on 3 patients (4 slides), 2 with the event")
    # Drawn twice, p has the event twice at one time, which is no pair.
    assert judged.measure()(np.array([2, 2, 1, 0])) == {"c_index": 1.0}
    assert judged.measure()(np.array([0, 0, 1, 0])) == {"c_index": None}


def test_numbers_are_measured_by_correlation_and_error() -> None:
    truth, said = np.array([1.0, 2, 3, 10]), np.array([2.0, 2, 5, 7])
    judged = Estimated(tuple("abcd"), ("",) * 4, truth[:, None], said, "number", "%")
    figures = judged.measure()(np.ones(4, np.int64))
    assert figures["pearson"] == pytest.approx(np.corrcoef(truth, said)[0, 1])
    assert figures["mae"] == pytest.approx(1.5)
    assert figures["spearman"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1.5, 1.5, 3, 4])[0, 1])
    assert "mean absolute error 1.5 %" in judged.report().sentence


class Oracle:
    """Answers with the truth, or nearly: what is measured is the validation, not the learning."""

    unit = "slides"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.examples = bags(30, 5, number=kind == "number", slides=2)
        self.known = np.array([each.outcome for each in self.examples])
        self.asked: list[tuple[Rows, Rows, Rows]] = []

    @property
    def labels(self) -> list[int]:
        known = self.known
        return [0] * len(known) if self.kind == "number" else known[:, 1].astype(int).tolist()

    @property
    def groups(self) -> list[str]:
        return [each.belongs_to for each in self.examples]

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Estimated:
        self.asked.append((train, validation, test))
        rows = np.flatnonzero(test)
        # Risks of another model are on another scale, and say nothing beside each other.
        scores = self.known[rows, 0]
        if self.kind != "number":
            # At one time an event comes before a censoring.
            scores = 1000 * len(self.asked) - scores + 0.01 * self.known[rows, 1]
        own = [self.examples[row] for row in rows]
        names, groups = tuple(each.name for each in own), tuple(each.group for each in own)
        return Estimated(names, groups, self.known[rows], scores, self.kind, "%")


@pytest.mark.parametrize("kind", ["cox", pytest.param("number", marks=pytest.mark.slow)])
def test_cross_validation_is_by_patient_and_within_each_fold(kind: str, tmp_path: Path) -> None:
    learner, told = Oracle(kind), []
    found = cross_validate(learner, 5, curve=(0.5, 1.0), on_fold=told.append)
    names = np.array(learner.groups)
    for train, validation, test in learner.asked:
        assert not set(names[test]) & set(names[train | validation])
    figure = found.judged.figures[0]
    # Over all folds together risks would be ranked by the models that gave them.
    assert found.figures[figure] == pytest.approx(1)
    assert {(each.figure, round(each.accuracy, 6)) for each in told} == {(figure, 1)}
    said = found.to_dict()
    assert (said["pooled"] is None) == (kind == "cox")
    assert said["with_twice_as_many_groups"] is None
    assert len(said["learning_curve"]) == 2
    assert "on 60 slides of 30 groups, each judged by a model that had not seen" in found.sentence
    found.write_csv(tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == 60
    wanted = ["image", "group", "value", "predicted", "fold"]
    assert list(rows[0]) == (
        wanted if kind == "number" else ["image", "group", "time", "event", "risk", "fold"]
    )


def test_intervals_of_time_are_those_of_each_fold_alone() -> None:
    examples = bags(12, 7)
    learner = SlideLearner(
        examples, settings("hazards", options=SpanOptions(epochs=1), intervals=2)
    )
    assert learner.unit == "slides"
    half = np.arange(12) % 3
    judged = learner.learn(half == 0, half == 1, half == 2)
    assert isinstance(judged, Estimated)
    assert judged.names == tuple(each.name for each in examples[2::3])
    assert judged.outcomes == pytest.approx(np.array([each.outcome for each in examples[2::3]]))
