"""A model that gives a risk or a number, in the window: plain words, no class to correct."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from napari_sparseattn.card import CropSpec
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.train.session import FineTuning
from small_span import small_risk_bundle

from ..conftest import wait_until
from ..made_slides import PATCH, add_slide, keep_features_in, span_model
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


def risk_model(kind: str) -> Model:
    spec = span_model().bundle.card.encoder
    assert spec is not None
    crop = CropSpec(size=PATCH, field_of_view_um=float(PATCH))
    return Model(small_risk_bundle(kind, encoder=spec, crop=crop), "cpu", "CPU", ("cpu",))


def plain(label: Any) -> str:
    """What a label shows, without its tags."""
    return re.sub("<[^>]+>", "", label.text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hazards", "number"])
def test_the_slide_panel_says_the_risk(
    window: Window, kept: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keep_features_in(monkeypatch, kept)
    session, dock = window.session, window.dock
    session.selection.set_model(risk_model(kind))
    add_slide(window.viewer)
    dock.actions_box.field.click()
    wait_until(window.qtbot, lambda: session.slides.attention is not None)
    estimate = session.answer.estimate
    result: Any = dock.result_box
    assert result.estimate.isVisible()
    assert not result.wrong.isVisible()
    assert estimate.sentence in session.status.message.text
    if kind == "hazards":
        assert "Risk of recurrence above" in plain(result.estimate)
        assert "Chance of being free of recurrence:" in plain(result.estimate)
        rows = [(name, pytest.approx(p)) for name, p, _ in result.bars.rows]
        assert rows == [(f"at {when}", p) for when, p in estimate.curve]
        assert result.bars.isVisible()
        assert "no finding about a patient" in result.estimate.toolTip()
    else:
        assert f"Ki-67 index {estimate.score:.4g} %" in plain(result.estimate)
        assert not result.bars.isVisible()
    verdict = plain(result.faithfulness.verdict)
    assert "Faithfulness not measured: it is measured for classes" in verdict
    # What speaks for it is asked as of a class.
    box: Any = dock.pyramid_box
    assert [box.classes.itemText(i) for i in range(box.classes.count())] == [estimate.name]
    shares = session.slides.level_shares(0)
    assert shares[-1][0] == "rest"
    assert any(abs(value) > 0 for _, value in shares)
    session.slides.set_method("perturbation")
    wait_until(window.qtbot, lambda: session.slides.explanation is not None)
    assert f"speaks for {estimate.name}" in box.explanation.explanation_bar.toolTip()
    # A class's answer is shown as before.
    session.selection.set_model(span_model())
    dock.actions_box.field.click()
    wait_until(window.qtbot, lambda: len(result.bars.rows) == 2)
    assert not result.estimate.isVisible()
    assert result.wrong.isVisible()
    assert result.bars.isVisible()


@pytest.mark.slow
def test_annotations_cannot_teach_a_risk(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    tuning = FineTuning.of(window.viewer)
    tuning.attach()
    window.session.selection.set_model(risk_model("cox"))
    window.until(lambda: "annotations teach classes" in tuning.survey.text)
    assert not tuning.survey.enough
    tuning.detach()
