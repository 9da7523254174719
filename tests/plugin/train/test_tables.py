"""Training on a table of slides from the window: what is said of it, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel

from made_outcomes import cohort
from napari_sparseattn.bundle import find_bundles, load_bundle
from napari_sparseattn.plugin.core import models as model_list
from napari_sparseattn.plugin.core.lanes import AtOnce, Lanes
from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.plugin.train.table_box import TableTrainingBox
from napari_sparseattn.plugin.train.table_training import TableTraining
from napari_sparseattn.training.runs.slide_training import SlideTrainingRequest

from ..held import Held


@pytest.fixture
def tables(
    viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TableTraining]:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    monkeypatch.setattr(model_list, "find_bundles", find_bundles)
    tuning = FineTuning.of(viewer)
    Lanes.of(viewer).runner = AtOnce()
    tuning.attach()
    yield tuning.tables
    tuning.detach()


def choose(tables: TableTraining, table: Path, **more: Any) -> None:
    tables.choose(table=table, features=table.parent / "features")
    tables.choose(encoder="theirs", patch_um=128.0, **more)


def test_what_a_table_states_is_said_before_anything_is_trained(
    tables: TableTraining, tmp_path: Path
) -> None:
    table = cohort(tmp_path / "a", 6)
    assert not tables.ready
    choose(tables, table)
    assert "6 slides of 6 patients (groups): follow-up in months" in tables.survey.text
    assert "expect wide intervals" in tables.survey.hints[0]
    assert tables.ready
    assert tables.choices.name == "table"
    tables.choose(features=None)
    assert "no file p0s0" in tables.survey.text
    assert not tables.ready
    assert tables.start() is None
    numbers = cohort(tmp_path / "b", 6, number=True)
    choose(tables, numbers)
    assert tables.survey.text.endswith("a number in %.")
    numbers.write_text("slide,time,event\np0s0,soon,1\n")
    tables.choose(target="cox")
    assert "time 'soon' is no number" in tables.survey.text


@pytest.mark.slow
def test_a_model_is_trained_in_its_process_and_kept_with_the_others(
    tables: TableTraining, tmp_path: Path
) -> None:
    choose(tables, cohort(tmp_path / "a", 12), target="cox", outcome="recurrence", name="mine")
    said: list[str] = []
    tables.changed.connect(lambda: said.append(tables.stage))
    assert isinstance(tables.start(), SlideTrainingRequest)
    status = tables.tuning.session.status
    assert tables.trained is not None, status.message.text
    assert not tables.working
    assert tables.epoch is not None
    assert any(text.startswith("epoch 1 of at most") for text in said)
    assert tables.trained.path == tmp_path / "models" / "mine.safetensors"
    card = load_bundle(tables.trained.path).card
    assert card.class_names == ("risk of recurrence",)
    assert card.target is not None
    assert card.target.kind == "cox"
    assert tables.trained.sentence == card.metrics["sentence"]
    assert "'mine' is among the models. C-index" in status.message.text
    assert "mine" in tables.tuning.session.models.cards
    assert tables.start() is None
    assert "a model 'mine' already" in status.message.text


@pytest.mark.slow
def test_what_cannot_be_learned_from_is_said(tables: TableTraining, tmp_path: Path) -> None:
    table = cohort(tmp_path / "a", 6)
    lines = table.read_text().splitlines()
    rows = [line.rpartition(",")[0] for line in lines[1:]]
    events = [f"{row},{int(i == 0)}" for i, row in enumerate(rows)]
    table.write_text("\n".join([lines[0], *events]))
    choose(tables, table)
    tables.start()
    assert tables.trained is None
    assert not tables.working
    text = tables.tuning.session.status.message.text
    assert "1 of the patients had the event. At least 3 are needed" in text


def test_the_box_offers_what_the_table_needs(
    tables: TableTraining, tmp_path: Path, qtbot: Any
) -> None:
    box = TableTrainingBox(tables)
    qtbot.addWidget(box)
    box.show()
    assert "time and event (follow-up)" in box.survey.text()
    assert not box.start.isVisible()
    assert not box.targets.isVisible()
    choose(tables, cohort(tmp_path / "a", 6))
    assert box.choose.text() == "table.csv"
    assert box.features.text() == "features"
    for widget in (box.targets, box.outcome, box.encoder, box.patch, box.name, box.start):
        assert widget.isVisible()
    assert box.start.isEnabled()
    assert box.targets.currentData() == "hazards"
    box.targets.setCurrentIndex(box.targets.findData("cox"))
    box.targets.activated.emit(1)
    assert tables.choices.target == "cox"
    assert box.targets.currentData() == "cox"
    qtbot.keyClicks(box.outcome, "death")
    assert tables.choices.outcome == "death"
    Lanes.of(tables.tuning.session.viewer).runner = Held()
    tables._lane._runner = lambda: Lanes.of(tables.tuning.session.viewer).runner
    box.start.click()
    assert tables.working
    assert box.cancel.isVisible()
    assert not box.choose.isEnabled()
    box.cancel.click()
    assert not tables.working
    assert box.start.isVisible()
    choose(tables, cohort(tmp_path / "b", 6, number=True))
    assert not box.targets.isVisible()
    assert box.outcome.isVisible()
    box.release()
