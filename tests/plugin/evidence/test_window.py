"""The real window: a verdict after a click, curves, what-ifs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.evidence.cells_session import CellFaithfulness
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.evidence.what_if_session import WhatIfSession

from ..conftest import CENTRES, add_picture
from ..held import Held
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


@pytest.fixture
def clicked(window: Window) -> Window:
    image = add_picture(window.viewer)
    window.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: window.session.answer is not None)
    return window


def evidence_of(window: Window) -> AnswerFaithfulness:
    return AnswerFaithfulness.of(window.viewer)


def test_a_click_is_followed_by_a_verdict_and_curves(clicked: Window) -> None:
    box, evidence = clicked.dock.result_box.faithfulness, evidence_of(clicked)
    assert "measuring" in box.verdict.text()
    clicked.until(lambda: evidence.measured is not None)
    found = evidence.measured
    assert found.sentence("pixels") in box.verdict.text()
    # The numbers are behind it.
    assert str(found.difference()).replace("-", "\N{MINUS SIGN}") in box.verdict.toolTip()
    assert f"{found.runs} times" in box.verdict.toolTip()
    label = box.verdict
    clicked.until(lambda: label.height() >= label.heightForWidth(label.width()))
    assert not box.details.isVisible()
    box.curves.click()
    assert box.details.isVisible()
    (name, shown), *others = box.details.deletion.lines
    np.testing.assert_array_equal(shown, found.orders[name].curves.deletion)
    assert [other for other, _ in others] == list(found.baselines)
    texts = box.details.rows()
    assert texts[0] == ["gain", "necessary", "sufficient"]
    model = next(row for row in texts if row[0] == "model")
    assert float(model[1].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        found.orders[found.own[0]].gain, abs=0.006
    )


@pytest.mark.slow
def test_the_curves_stay_unfolded_for_the_next_cell(clicked: Window) -> None:
    box, evidence = clicked.dock.result_box.faithfulness, evidence_of(clicked)
    clicked.until(lambda: evidence.measured is not None)
    box.curves.click()
    before, answer = evidence.measured, clicked.session.answer
    clicked.click(clicked.session.selection.image.data_to_world(CENTRES[0]))
    clicked.until(lambda: clicked.session.answer is not answer)
    clicked.until(lambda: evidence.measured is not None)
    assert evidence.measured is not before
    assert box.details.isVisible()
    _, shown = box.details.insertion.lines[0]
    own = evidence.measured.orders[evidence.measured.own[0]]
    np.testing.assert_array_equal(shown, own.curves.insertion)


@pytest.mark.slow
def test_a_closed_dock_measures_no_more(clicked: Window) -> None:
    evidence = evidence_of(clicked)
    clicked.close_dock()
    runner = Lanes.of(clicked.viewer).runner = Held()
    # Another viewer's window, or a script, may go on with the same session.
    clicked.session.answer_changed.emit(clicked.session.answer)
    assert runner.kept == []
    assert evidence.progress is None


@pytest.mark.slow
def test_a_lasso_a_question_and_back_again(clicked: Window) -> None:
    dock, what_ifs = clicked.dock, WhatIfSession.of(clicked.viewer)
    dock.sections["What if"].expand(animate=False)
    box = dock.what_if_box
    box.remove.click()
    assert "Lasso" in box.message.text()
    box.lasso.click()
    layer = clicked.viewer.layers.selection.active
    assert layer.name == "smear · what if"
    row, column = CENTRES[3]
    ring = [(row - 3, column - 3), (row - 3, column + 3), (row + 3, column + 3)]
    layer.add_polygons([np.array(ring)])
    box.remove.click()
    clicked.until(lambda: len(what_ifs.entries) == 1)
    (entry,) = what_ifs.entries
    texts = [box.table.item(0, column).text() for column in range(box.table.columnCount())]
    assert texts[1].startswith("removed")
    assert texts[2] == entry.found.after.label
    assert "before" in box.compared.text()
    box.undo.click()
    assert box.table.rowCount() == 0
    box.redo.click()
    assert box.table.rowCount() == 1
    box.clear.click()
    assert clicked.viewer.layers.selection.active == clicked.session.selection.image
    assert what_ifs.region().empty
    box.table.cellClicked.emit(0, 0)
    assert len(what_ifs.region().outlines) == 1


@pytest.mark.slow
def test_all_cells_are_measured_ranked_and_gone_to(window: Window) -> None:
    add_picture(window.viewer)
    dock, measured = window.dock, CellFaithfulness.of(window.viewer)
    dock.sections["Faithfulness per cell"].expand(animate=False)
    box = dock.faithfulness_box
    assert box.empty.isVisible()
    dock.actions_box.all.click()
    window.until(lambda: window.session.cells.results is not None)
    box.measure.click()
    window.until(lambda: measured.progress is None and len(measured.cells()) == len(CENTRES))
    shown = [*box.highest.patches(), *box.lowest.patches()]
    assert sorted(shown) == list(range(len(CENTRES)))
    assert "evidence" in [
        window.table.model.headerData(i, Qt.Orientation.Horizontal)
        for i in range(window.table.model.columnCount())
    ]
    first = box.highest.patches()[0]
    box.highest.itemClicked.emit(box.highest.item(0))
    window.until(lambda: window.session.answer is not None)
    frame = window.session.answer.evidence.frame
    centre = window.session.cells.results.cells.centres[first]
    np.testing.assert_allclose((frame.row, frame.column), centre)


@pytest.mark.slow
def test_a_report_is_saved(
    clicked: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence, path = evidence_of(clicked), tmp_path / "report"
    clicked.until(lambda: evidence.measured is not None)
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *_: (str(path), "JSON for programs (*.json)")
    )
    clicked.dock.result_box.faithfulness.curves.click()
    clicked.dock.result_box.faithfulness.details.save.click()
    clicked.until(lambda: "report.json" in clicked.session.status.message.text)
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["answer"]["class"] == clicked.session.answer.label
    assert found["model_hash"] == clicked.session.answer.model_hash
