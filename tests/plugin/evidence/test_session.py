"""Evidence of what is shown: when it is measured, what is dropped, what is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.evidence.faithfulness import Faithfulness
from napari_sparseattn.inference.faithfulness import faithfulness_of_cell
from napari_sparseattn.plugin.cells.requests import Model
from napari_sparseattn.plugin.core.session import Session
from napari_sparseattn.plugin.core.sources import field_of
from napari_sparseattn.plugin.evidence.requests import EvidenceRequest, stream_evidence
from napari_sparseattn.plugin.evidence.session import Evidence
from napari_sparseattn.plugin.evidence.words import (
    about_better,
    about_work,
    order_rows,
    single_rows,
    versus_random,
)

from ..conftest import CENTRES, add_labels, add_picture
from ..made_slides import SlidesAtOnce, add_slide, keep_features_in, span_model


class MeasuresWhenTold:
    """Keeps what is asked for; measures it in this thread when told to."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.asked: list[EvidenceRequest] = []
        evidence.requested.connect(self.asked.append)

    def measure(self, request: EvidenceRequest) -> None:
        try:
            for given in stream_evidence(request):
                if isinstance(given, tuple):
                    self.evidence.accept_progress(request, *given)
                else:
                    self.evidence.accept(request, given)
        except ValueError as error:
            self.evidence.fail(request, error)


@pytest.fixture
def evidence(session: Session, viewer: ViewerModel) -> Iterator[Evidence]:
    evidence = Evidence.of(viewer)
    evidence.attach()
    evidence.worker = MeasuresWhenTold(evidence)
    yield evidence
    evidence.detach()


def click(session: Session, cell: int) -> None:
    session.click(session.image.data_to_world(CENTRES[cell]))


def without_time(found: Faithfulness) -> dict[str, Any]:
    return {**found.to_dict(), "seconds": 0}


def test_a_clicked_cell_is_measured_by_itself(
    evidence: Evidence, session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    add_labels(session, viewer)
    assert evidence.subject is None
    click(session, 2)
    (request,) = evidence.worker.asked
    assert request.by_itself
    assert evidence.subject == "cell"
    assert evidence.progress is not None
    assert evidence.measured is None
    evidence.worker.measure(request)
    field = field_of(session.shown.plane, session.settings)
    expected = faithfulness_of_cell(
        field, request.cells, request.cells.nearest(CENTRES[2]), session.model.bundle, device="cpu"
    )
    assert without_time(evidence.measured) == without_time(expected)
    # A disc of radius 9 px in a crop of 16 px covers all of its middle: the mask was found.
    assert evidence.measured.mask_share > 0.5
    assert evidence.progress is None


def test_another_click_stops_what_is_measured_and_drops_it(
    evidence: Evidence, session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    click(session, 0)
    click(session, 1)
    first, second = evidence.worker.asked
    assert first.stop.is_set()
    assert not second.stop.is_set()
    # It was too late to stop it.
    late = dataclasses.replace(first)
    late.stop.clear()
    evidence.worker.measure(late)
    assert evidence.measured is None
    evidence.worker.measure(second)
    assert evidence.measured is not None


def test_a_stopped_measurement_gives_nothing(
    evidence: Evidence, session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    click(session, 0)
    (request,) = evidence.worker.asked
    request.stop.set()
    assert [given for given in stream_evidence(request) if isinstance(given, Faithfulness)] == []


def test_measuring_by_itself_can_be_turned_off_and_on(
    evidence: Evidence, session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    evidence.set_automatic(False)
    click(session, 0)
    assert evidence.worker.asked == []
    assert evidence.can_measure
    evidence.set_automatic(True)
    assert len(evidence.worker.asked) == 1


def test_a_field_is_measured_when_asked_for(
    evidence: Evidence, session: Session, viewer: ViewerModel, tnet_model: Model
) -> None:
    add_picture(viewer)
    session.set_model(tnet_model)
    session.classify_field()
    assert evidence.subject == "field"
    assert evidence.worker.asked == []
    request = evidence.measure()
    assert not request.by_itself
    assert evidence.measure() is None
    evidence.cancel()
    assert request.stop.is_set()
    assert evidence.can_measure
    evidence.worker.measure(evidence.measure())
    assert evidence.measured.label == session.answer.label
    assert evidence.measured.probability == pytest.approx(session.answer.confidence, abs=1e-4)
    session.set_model(tnet_model)
    assert evidence.measured is None


def test_a_slide_is_measured_on_its_patches(
    evidence: Evidence,
    session: Session,
    viewer: ViewerModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    worker = SlidesAtOnce(session)
    add_slide(viewer)
    session.set_model(span_model())
    session.classify_slide()
    assert len(worker.slides) == 1
    assert evidence.subject == "slide"
    evidence.worker.measure(evidence.measure())
    assert evidence.measured.label == session.answer.label
    assert evidence.measured.probability == pytest.approx(session.answer.confidence, abs=1e-4)
    assert evidence.measured.own[0] == "attention"


def test_a_model_of_patches_says_why_it_is_not_measured(
    evidence: Evidence,
    session: Session,
    viewer: ViewerModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    worker = SlidesAtOnce(session)
    add_slide(viewer)
    session.set_model(span_model(segments=True))
    session.classify_slide()
    assert len(worker.slides) == 1
    assert "each patch" in evidence.why_not
    assert evidence.measure() is None


def test_a_failure_is_said_only_of_what_is_shown(
    evidence: Evidence, session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    click(session, 0)
    click(session, 1)
    first, second = evidence.worker.asked
    evidence.fail(first, ValueError("of old"))
    assert evidence.why_not == ""
    evidence.fail(second, ValueError("the image has gone"))
    assert "the image has gone" in evidence.why_not
    assert not evidence.can_measure


# -- words


def faithful(gains: dict[str, float], spread: float = 0.0) -> Faithfulness:
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
    )  # fmt: skip


def test_the_line_has_the_numbers_and_a_plain_verdict() -> None:
    found = faithful({"selection": 0.4, "random": 0.0, "edges": 0.1, "centre": 0.5}, spread=0.1)
    assert versus_random(found) == "vs random: +0.40 [0.30, 0.50]"
    assert about_better(found) == ("better than random and edges; not better than centre", True)
    worse = faithful({"selection": 0.05, "random": 0.0, "edges": -0.1, "centre": 0.0}, spread=0.1)
    assert about_better(worse) == ("not better than random", False)
    assert versus_random(worse) == "vs random: +0.05 [−0.05, 0.15]"


def test_the_tooltip_says_what_was_done() -> None:
    said = about_work(faithful({"selection": 0.4, "random": 0.0}, spread=0.1), "cell")
    assert "12 times in 500 ms" in said
    assert "what surrounds it and a blur" in said
    assert "whole model ran anew" in said


def test_the_rows_are_of_the_orders_and_single_measures() -> None:
    found = faithful({"selection": 0.4, "random": 0.0, "edges": 0.1}, spread=0.1)
    rows = {name: values for name, _, values in order_rows(found)}
    assert rows["gain"] == ["+0.40", "+0.00", "+0.10"]
    assert rows["needed"] == ["−62", "−62", "−62"]
    assert rows["enough"] == ["−4", "−4", "−4"]
    single = {name: value for name, value, _ in single_rows(found, "cell")}
    assert single["in the cell"] == "70 %, which covers 40 %"
    assert single["stable"] == "80 % (1 px aside), 90 % (a little noise)"
    assert "learned" not in single
