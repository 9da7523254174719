"""Faithfulness of what is shown: when it is measured, what is dropped, what is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.evidence.faithfulness import Faithfulness
from napari_sparseattn.inference.faithfulness import faithfulness_of_cell
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import field_of
from napari_sparseattn.plugin.evidence.requests import stream_faithfulness
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.evidence.words import (
    about_method,
    compare_to_baselines,
    order_rows,
    plain_sentence,
    single_rows,
    versus_random,
)
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, add_labels, add_picture
from ..held import Held
from ..made_slides import add_slide, keep_features_in, span_model


@pytest.fixture
def held(session: Session, viewer: ViewerModel) -> Held:
    """Keep what is asked here until a test lets it go; the session answers at once."""
    runner = Lanes.of(viewer).runner = Held(stream_faithfulness)
    return runner


@pytest.fixture
def faithfulness(session: Session, viewer: ViewerModel, held: Held) -> Iterator[AnswerFaithfulness]:
    """What is asked for is measured when a test lets it go."""
    faithfulness = AnswerFaithfulness.of(viewer)
    faithfulness.attach()
    yield faithfulness
    faithfulness.detach()


def click(session: Session, cell: int) -> None:
    session.cells.click(session.selection.image.data_to_world(CENTRES[cell]))


def without_time(found: Faithfulness) -> dict[str, Any]:
    return {**found.to_dict(), "seconds": 0}


def test_a_clicked_cell_is_measured_by_itself(
    faithfulness: AnswerFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    add_picture(viewer)
    add_labels(session, viewer)
    assert faithfulness.subject is None
    click(session, 2)
    assert faithfulness.subject == "cell"
    assert faithfulness.progress is not None
    assert faithfulness.measured is None
    held.go()
    field, cells = (
        field_of(session.shown.plane, session.selection.settings),
        faithfulness.request().cells,
    )
    expected = faithfulness_of_cell(
        field, cells, cells.nearest(CENTRES[2]), session.selection.model.bundle, device="cpu"
    )
    assert without_time(faithfulness.measured) == without_time(expected)
    # A disc of radius 9 px in a crop of 16 px covers all of its middle: the mask was found.
    assert faithfulness.measured.mask_share > 0.5
    assert faithfulness.progress is None


def test_another_click_drops_what_is_measured_too_late_to_be_stopped(
    faithfulness: AnswerFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    add_picture(viewer)
    click(session, 0)
    held.work()
    click(session, 1)
    label, probability = session.answer.label, session.answer.confidence
    held.give(1000)
    assert faithfulness.measured is None
    assert faithfulness.progress is not None
    held.go()
    assert faithfulness.measured.label == label
    assert faithfulness.measured.probability == pytest.approx(probability, abs=1e-4)


def test_another_click_stops_what_is_measured(
    faithfulness: AnswerFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    add_picture(viewer)
    click(session, 0)
    ((values, _),) = held.kept
    click(session, 1)
    assert [given for given in values if isinstance(given, Faithfulness)] == []


def test_what_stopped_for_a_click_is_said_a_little_later_if_no_answer_has_come(
    faithfulness: AnswerFaithfulness,
    session: Session,
    viewer: ViewerModel,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_picture(viewer)
    click(session, 0)
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(held, "later", lambda milliseconds, call: later.append(call))
    told: list[bool] = []
    faithfulness.changed.connect(lambda: told.append(faithfulness.can_measure))
    session.asked.emit(dataclasses.replace(session.shown))
    assert told == []
    (say,) = later
    say()
    assert told == [True]
    # Where the answer, or another click, has come meanwhile, there is nothing to say.
    faithfulness.measure()
    session.asked.emit(dataclasses.replace(session.shown))
    told.clear()
    say()
    assert told == []
    click(session, 1)
    told.clear()
    later[-1]()
    assert told == []


def test_measuring_by_itself_can_be_turned_off_and_on(
    faithfulness: AnswerFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    add_picture(viewer)
    faithfulness.set_automatic(False)
    click(session, 0)
    assert held.kept == []
    assert faithfulness.can_measure
    faithfulness.set_automatic(True)
    assert len(held.kept) == 1


def test_a_field_is_measured_when_asked_for(
    faithfulness: AnswerFaithfulness,
    session: Session,
    viewer: ViewerModel,
    tnet_model: Model,
    held: Held,
) -> None:
    add_picture(viewer)
    session.selection.set_model(tnet_model)
    session.task.ask("whole")
    assert faithfulness.subject == "field"
    assert held.kept == []
    request = faithfulness.measure()
    assert not request.by_itself
    assert faithfulness.measure() is None
    faithfulness.cancel()
    assert request.stop.is_set()
    assert faithfulness.can_measure
    faithfulness.measure()
    held.go()
    assert faithfulness.measured.label == session.answer.label
    assert faithfulness.measured.probability == pytest.approx(session.answer.confidence, abs=1e-4)
    session.selection.set_model(tnet_model)
    assert faithfulness.measured is None


@pytest.mark.slow
def test_a_slide_is_measured_on_its_patches(
    faithfulness: AnswerFaithfulness,
    session: Session,
    viewer: ViewerModel,
    held: Held,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    worker = session.worker
    add_slide(viewer)
    session.selection.set_model(span_model())
    session.slides.classify()
    assert len(worker.slides) == 1
    assert faithfulness.subject == "slide"
    faithfulness.measure()
    held.go()
    assert faithfulness.measured.label == session.answer.label
    assert faithfulness.measured.probability == pytest.approx(session.answer.confidence, abs=1e-4)
    assert faithfulness.measured.own[0] == "attention"


def test_a_model_of_patches_says_why_it_is_not_measured(
    faithfulness: AnswerFaithfulness,
    session: Session,
    viewer: ViewerModel,
    held: Held,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    worker = session.worker
    add_slide(viewer)
    session.selection.set_model(span_model(segments=True))
    session.slides.classify()
    assert len(worker.slides) == 1
    assert "each patch" in faithfulness.why_not
    assert faithfulness.measure() is None


def test_a_failure_is_said_only_of_what_is_shown(
    faithfulness: AnswerFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    add_picture(viewer)
    click(session, 0)
    _, slots = held.kept[0]
    click(session, 1)
    slots["failed"](ValueError("of old"))
    assert faithfulness.why_not == ""
    slots["finished"]()
    _, slots = held.kept[-1]
    slots["failed"](ValueError("the image has gone"))
    assert "the image has gone" in faithfulness.why_not
    assert not faithfulness.can_measure


# -- words


def faithful(gains: dict[str, float], spread: float = 0.0, most: float = 0.3) -> Faithfulness:
    """Evidence whose orders have these gains, over two fills; the first is the model's own."""
    from napari_sparseattn.evidence.faithfulness import Curves, OrderScore

    shares = np.array([0.0, 0.5, 1.0])
    orders = {}
    for name, gain in gains.items():
        middle = np.array([0.9, 0.5, 0.1])
        curves = Curves(
            shares, middle - np.array([0, gain, 0]), middle[::-1] + np.array([0, gain, 0])
        )
        drawn = np.array([spread, -spread]) if name == "random" else np.array([0.0])
        each = {"mean": gain + drawn, "blur": gain + drawn}
        orders[name] = OrderScore(curves, each, 0.62, 0.04)
    return Faithfulness(
        label="round", probability=0.9, selected=0.15, own=(next(iter(gains)),), orders=orders,
        sparseness=0.4, stability={"shift": 0.8, "noise": 0.9, "chance": 0.1},
        mass_in_mask=0.7, mask_share=0.4, control=float("nan"), runs=12, seconds=0.5,
        random_drops=np.linspace(0, most, 39),
    )  # fmt: skip


def test_the_line_has_the_numbers_and_a_plain_verdict() -> None:
    found = faithful({"selection": 0.4, "random": 0.0, "edges": 0.1, "centre": 0.5}, spread=0.1)
    assert plain_sentence(found, "cell") == (
        "Removing these pixels changes the answer more than removing random ones.",
        True,
    )
    assert versus_random(found) == (
        "Without them the probability falls by 62 points, without as many random ones by 15 points "
        "(difference +0.47 [0.32, 0.62], p = 0.025 of 39 random orders)."
    )
    assert compare_to_baselines(found) == "By gain better than edges, not better than centre."
    worse = faithful({"selection": 0.4, "random": 0.0}, spread=0.1, most=0.9)
    assert plain_sentence(worse, "slide") == (
        "Removing these patches changes the answer no more than removing random ones.",
        False,
    )
    assert "[−0.28, 0.62]" in versus_random(worse)
    assert compare_to_baselines(worse) == ""


def test_the_tooltip_says_what_was_done() -> None:
    said = about_method(faithful({"selection": 0.4, "random": 0.0}, spread=0.1), "cell")
    assert "12 times in 500 ms" in said
    assert "what surrounds it and a blur" in said
    assert "whole model ran anew" in said


def test_the_rows_are_of_the_orders_and_single_measures() -> None:
    found = faithful({"selection": 0.4, "random": 0.0, "edges": 0.1}, spread=0.1)
    rows = {name: values for name, _, values in order_rows(found)}
    assert rows["gain"] == ["+0.40", "+0.00", "+0.10"]
    assert rows["necessary"] == ["−62", "−62", "−62"]
    assert rows["sufficient"] == ["−4", "−4", "−4"]
    single = {name: value for name, value, _ in single_rows(found)}
    tips = {name: tip for name, _, tip in single_rows(found)}
    assert single["beside random"] == "+0.47 [0.32, 0.62], p = 0.025"
    assert versus_random(found) in tips["beside random"]
    assert single["beside others"] == "better than edges"
    assert single["in the outline"] == "70 %, which covers 40 %"
    assert single["stable"] == "80 % (1 px aside), 90 % (a little noise)"
    assert "learned" not in single
