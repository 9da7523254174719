"""Faithfulness of all classified cells: measured, ranked, in the table and its exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel

from napari_sparseattn.export.tables import write_csv
from napari_sparseattn.inference.faithfulness import CARD, faithfulness_of_set
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import field_of
from napari_sparseattn.plugin.evidence.cells_requests import stream_cells
from napari_sparseattn.plugin.evidence.cells_session import COLUMNS, CellFaithfulness
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, add_labels, add_picture
from ..held import Held


@pytest.fixture
def held(session: Session, viewer: ViewerModel) -> Held:
    """Keep what is asked here until a test lets it go; the session answers at once."""
    runner = Lanes.of(viewer).runner = Held(stream_cells)
    return runner


@pytest.fixture
def measured(session: Session, viewer: ViewerModel, held: Held) -> Iterator[CellFaithfulness]:
    """What is asked for is measured when a test lets it go."""
    measured = CellFaithfulness.of(viewer)
    measured.attach()
    add_picture(viewer)
    add_labels(session, viewer)
    yield measured
    measured.detach()


def test_before_cells_are_classified_it_says_so(measured: CellFaithfulness) -> None:
    assert measured.measure_all() is None
    assert "Classify all" in measured.message


def test_all_cells_are_measured_as_the_library_measures_them(
    measured: CellFaithfulness, session: Session, held: Held
) -> None:
    session.cells.classify_all()
    request = measured.measure_all()
    assert measured.progress.total == len(CENTRES)
    held.go()
    results, field = session.cells.results, field_of(request.plane, request.settings)
    expected = faithfulness_of_set(
        field, results.cells, session.selection.model.bundle,
        settings=dataclasses.replace(CARD, extras=False), device="cpu",
    )  # fmt: skip
    gains = [measured.cells()[i].found.orders[expected.own[0]].gain for i in range(len(CENTRES))]
    np.testing.assert_allclose(gains, expected.gains(expected.own[0]))
    masses = [measured.cells()[i].found.mass_in_mask for i in range(len(CENTRES))]
    np.testing.assert_allclose(masses, expected.values("mass_in_mask"))
    assert measured.rank() == np.argsort(-np.array(gains), kind="stable").tolist()
    np.testing.assert_allclose(results.measures["evidence_gain"], gains)
    assert measured.of_class().verdict() == expected.verdict()


def test_the_ranking_can_be_of_one_class(
    measured: CellFaithfulness, session: Session, held: Held
) -> None:
    session.cells.classify_all()
    measured.measure_all()
    held.go()
    labels = session.cells.results.labels
    for name in set(labels):
        rows = measured.rank(name)
        assert sorted(rows) == [i for i, label in enumerate(labels) if label == name]
    assert measured.rank("no such class") == []
    assert measured.of_class("no such class") is None


def test_what_is_stopped_is_kept_and_gone_on_with(
    measured: CellFaithfulness, session: Session, held: Held
) -> None:
    session.cells.classify_all()
    request = measured.measure_all()
    held.give(1)
    measured.cancel()
    assert request.stop.is_set()
    held.go()
    assert list(measured.cells()) == [0]
    assert "after 1 cell;" in measured.message
    assert np.isnan(session.cells.results.measures["evidence_gain"]).tolist() == [
        False,
        True,
        True,
        True,
    ]
    others = measured.measure_all()
    assert others.rows == (1, 2, 3)
    held.go()
    assert np.isfinite(session.cells.results.measures["evidence_gain"]).all()
    assert measured.measure_all() is None


def test_another_image_has_no_line_about_the_last(
    measured: CellFaithfulness, session: Session, viewer: ViewerModel, held: Held
) -> None:
    session.cells.classify_all()
    measured.measure_all()
    held.give(1)
    measured.cancel()
    assert "after 1 cell;" in measured.message
    first = session.selection.image
    add_picture(viewer, name="other")
    assert session.selection.image is not first
    assert measured.message == ""
    session.selection.set_image(first)
    measured.measure_all()
    held.give(1)
    session.selection.set_image(viewer.layers["other"])
    assert measured.progress is None
    assert measured.message == ""


def test_exports_get_the_columns(
    measured: CellFaithfulness, session: Session, held: Held, tmp_path: Path
) -> None:
    session.cells.classify_all()
    measured.measure_all()
    held.go()
    path = tmp_path / "cells.csv"
    write_csv(session.cells.results, path)
    table = pd.read_csv(path, comment="#")
    np.testing.assert_allclose(
        table["evidence_gain"], session.cells.results.measures["evidence_gain"], atol=1e-4
    )
    assert set(COLUMNS) <= set(table.columns)


def test_another_run_starts_anew(measured: CellFaithfulness, session: Session, held: Held) -> None:
    session.cells.classify_all()
    measured.measure_all()
    held.go()
    session.cells.classify_all()
    assert measured.cells() == {}
    assert "evidence_gain" not in session.cells.results.measures


def test_cells_of_another_model_are_not_measured(
    measured: CellFaithfulness, session: Session, held: Held, tnet_model: Model
) -> None:
    session.cells.classify_all()
    session.selection.set_model(tnet_model)
    assert measured.measure_all() is None
    assert "another model" in measured.message


def test_pictures_show_the_crop_and_what_was_selected(
    measured: CellFaithfulness, session: Session, held: Held
) -> None:
    session.cells.classify_all()
    measured.measure_all()
    held.give(1)
    cell = measured.cells()[0]
    assert cell.picture.shape == (16, 16, 3)
    # Violet: the disc fills the crop's middle.
    np.testing.assert_allclose(cell.picture[8, 8], (95, 60, 150), atol=15)
    evidence = session.selection.model.bundle.card.architecture
    assert len(cell.selected) == evidence["k"]
