"""Cross-validation: what is judged was never learned from, whatever is trained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.card import CropSpec, EncoderSpec
from napari_sparseattn.judged import Judged
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.slides import SlideTraining
from napari_sparseattn.training.loop.span import SpanOptions
from napari_sparseattn.training.tune.cross_validation import (
    CURVE,
    FoldDone,
    Rows,
    cross_validate,
)
from napari_sparseattn.training.tune.learners import SlideLearner, TunedCrops, TunedSlides
from napari_sparseattn.training.tune.task import FineTuneOptions
from small_model import small_bundle
from small_span import small_span_bundle


class Neighbours:
    """Nearest mean of one number: quick, and better the more it learns from."""

    unit = "images"

    def __init__(self, seed: int = 0, n: int = 400, leak: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 2, n).tolist()
        # Each patient has a value of its own, which tells nothing of other patients.
        self.groups = [f"P{i // 8}" for i in range(n)]
        self.labels = [int(label) for label in np.repeat(rng.integers(0, 2, n // 8), 8)]
        self.own = np.repeat(np.arange(n // 8), 8) if leak else None
        self.values = np.array(self.labels) + rng.normal(0, 1.0, n)
        self.asked: list[tuple[Rows, Rows, Rows]] = []

    def learn(self, train: Rows, validation: Rows, test: Rows) -> Judged:
        self.asked.append((train, validation, test))
        labels = np.array(self.labels)
        rows = np.flatnonzero(test)
        if self.own is not None:
            # By heart: right for patients that were learned from, and chance for others.
            known = {int(self.own[row]): labels[row] for row in np.flatnonzero(train)}
            share = np.array([known.get(int(self.own[row]), 0.5) for row in rows], float)
        else:
            means = [self.values[train & (labels == each)].mean() for each in (0, 1)]
            score = (self.values[rows] - np.mean(means)) * (means[1] - means[0])
            share = 1 / (1 + np.exp(-score))
        chances = np.stack([1 - share, share], axis=1).astype(np.float32)
        names = tuple(str(row) for row in rows)
        groups = tuple(self.groups[row] for row in rows)
        return Judged(names, groups, labels[rows], chances, ("no", "yes"))


@pytest.mark.slow
def test_grouping_never_leaks() -> None:
    learner = Neighbours(leak=True)
    found = cross_validate(learner, 5, curve=CURVE)
    names = np.array(learner.groups)
    for train, validation, test in learner.asked:
        sides = [set(names[rows]) for rows in (train, validation, test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
    # Who only knows patients by heart is right by chance: all are called "no".
    assert found.figures["accuracy"] == pytest.approx(1 - np.mean(learner.labels), abs=0.1)
    assert found.figures["auc"] == pytest.approx(0.5)


@pytest.mark.slow
def test_every_example_is_judged_once_and_intervals_hold_the_figures(tmp_path: Path) -> None:
    learner = Neighbours()
    told: list[FoldDone] = []
    found = cross_validate(learner, 5, curve=CURVE, on_fold=told.append)
    assert sorted(map(int, found.judged.names)) == list(range(400))
    assert [each.done for each in told] == list(range(1, 16))
    assert all(each.total == 15 for each in told)
    assert {each.share for each in told[:5]} == {1.0}
    for name in ("accuracy", "balanced_accuracy", "auc"):
        per_fold = [each[name] for each in found.per_fold]
        assert found.figures[name] == pytest.approx(np.mean(per_fold))
        low, high = found.intervals[name]
        assert low < found.figures[name] < high
    assert [point.share for point in found.curve] == [0.25, 0.5, 1.0]
    assert found.curve[0].n_groups < found.curve[1].n_groups < found.curve[2].n_groups
    assert found.more is not None
    low, high = found.more["interval"]
    assert low <= found.more["accuracy"] <= high
    assert found.more["accuracy"] >= found.curve[-1].figures["accuracy"] - 1e-9
    assert "With twice as many groups" in found.sentence
    found.write_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400
    fold_of = {}
    for row in rows:
        assert fold_of.setdefault(row["group"], row["fold"]) == row["fold"]
    assert not found.notes


def test_where_no_groups_are_known_that_is_said() -> None:
    learner = Neighbours(n=80)
    learner.groups = [""] * 80
    found = cross_validate(learner, 4)
    assert "may be too good" in found.notes[0]
    assert found.curve == ()
    assert found.more is None


def slides(n: int = 12, patches: bool = False) -> list[SlideExample]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        label = i % 2
        features = rng.normal(0, 1, (9, 128)).astype(np.float32)
        features[:, :8] += 2 * label
        cells = np.stack(np.divmod(np.arange(9), 3), axis=1)
        known = np.full(9, label, np.int8) if patches else None
        # Two slides of each patient.
        group = f"P{i // 4}{label}"
        found.append(
            SlideExample(features, cells, None if patches else label, known, group, f"s{i}")
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("patches", [False, True])
def test_a_span_is_cross_validated(patches: bool) -> None:
    settings = SlideTraining(
        name="x",
        class_names=("benign", "tumour"),
        encoder=EncoderSpec(name="none", hash="0" * 64, width=128),
        crop=CropSpec(size=64, field_of_view_um=64.0),
        kind="span-unet" if patches else "span-mil",
        options=SpanOptions.for_patches(epochs=1) if patches else SpanOptions(epochs=1),
        architecture={"width": 64, "channel_factor": 1} if patches else {"width": 64},
    )
    found = cross_validate(SlideLearner(slides(patches=patches), settings), 3)
    assert len(found.judged) == (108 if patches else 12)
    assert found.judged.n_groups == 6
    assert found.unit == ("patches" if patches else "slides")


@pytest.mark.slow
def test_a_span_that_is_fine_tuned_is_cross_validated() -> None:
    learner = TunedSlides(small_span_bundle(), slides(), ("benign", "odd"), epochs=1, device="cpu")
    found = cross_validate(learner, 3)
    # A class that the model before did not know is added.
    assert found.judged.class_names == ("benign", "tumour", "odd")
    assert set(found.judged.truth.tolist()) == {0, 2}


@pytest.mark.slow
def test_crops_that_are_fine_tuned_are_cross_validated() -> None:
    bundle = small_bundle()
    size = bundle.card.crop.size
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    crops = rng.integers(0, 60, (24, size, size, len(bundle.card.channels)), np.uint8)
    crops[labels == 1, size // 4 : size // 2] += 150
    groups = tuple(f"field {i // 4}" for i in range(24))
    names = tuple(bundle.card.class_names[:2])
    data = CropSet(crops, labels.astype(np.int64), names, tuple(map(str, range(24))), groups)
    options = FineTuneOptions(freeze="head", device="cpu")
    found = cross_validate(TunedCrops(bundle, data, options), 3)
    assert len(found.judged) == 24
    assert found.judged.class_names[:2] == names
