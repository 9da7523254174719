"""The evidence of all classified cells: measured, ranked, in the table and its exports."""

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
from napari_sparseattn.plugin.cells.requests import Model
from napari_sparseattn.plugin.core.session import Session
from napari_sparseattn.plugin.core.sources import field_of
from napari_sparseattn.plugin.evidence.agreement_requests import AgreementRequest, stream_agreement
from napari_sparseattn.plugin.evidence.agreement_session import COLUMNS, Agreement

from ..conftest import CENTRES, add_labels, add_picture


@pytest.fixture
def agreement(session: Session, viewer: ViewerModel) -> Iterator[Agreement]:
    agreement = Agreement.of(viewer)
    agreement.attach()
    add_picture(viewer)
    add_labels(session, viewer)
    yield agreement
    agreement.detach()


def measure(agreement: Agreement, request: AgreementRequest, most: int = 100) -> None:
    for number, cell in enumerate(stream_agreement(request)):
        if number == most:
            return
        agreement.accept(request, cell)
    agreement.finish(request)


def test_before_cells_are_classified_it_says_so(agreement: Agreement) -> None:
    assert agreement.measure_all() is None
    assert "Classify all" in agreement.message


def test_all_cells_are_measured_as_the_library_measures_them(
    agreement: Agreement, session: Session
) -> None:
    session.classify_all()
    request = agreement.measure_all()
    assert agreement.progress.total == len(CENTRES)
    measure(agreement, request)
    results, field = session.results, field_of(request.plane, request.settings)
    expected = faithfulness_of_set(
        field, results.cells, session.model.bundle,
        settings=dataclasses.replace(CARD, extras=False), device="cpu",
    )  # fmt: skip
    gains = [agreement.cells()[i].found.difference().value for i in range(len(CENTRES))]
    np.testing.assert_allclose(gains, expected.gains(expected.own[0]))
    masses = [agreement.cells()[i].found.mass_in_mask for i in range(len(CENTRES))]
    np.testing.assert_allclose(masses, expected.values("mass_in_mask"))
    assert agreement.ranked() == np.argsort(-np.array(gains), kind="stable").tolist()
    np.testing.assert_allclose(results.measures["evidence_gain"], gains)
    assert agreement.of_class().verdict() == expected.verdict()


def test_the_ranking_can_be_of_one_class(agreement: Agreement, session: Session) -> None:
    session.classify_all()
    measure(agreement, agreement.measure_all())
    labels = session.results.labels
    for name in set(labels):
        rows = agreement.ranked(name)
        assert sorted(rows) == [i for i, label in enumerate(labels) if label == name]
    assert agreement.ranked("no such class") == []
    assert agreement.of_class("no such class") is None


def test_what_is_stopped_is_kept_and_gone_on_with(agreement: Agreement, session: Session) -> None:
    session.classify_all()
    request = agreement.measure_all()
    measure(agreement, request, most=1)
    agreement.cancel()
    assert request.stop.is_set()
    assert list(stream_agreement(request)) == []
    assert list(agreement.cells()) == [0]
    assert "1 cells" in agreement.message
    assert np.isnan(session.results.measures["evidence_gain"]).tolist() == [False, True, True, True]
    others = agreement.measure_all()
    assert others.rows == (1, 2, 3)
    measure(agreement, others)
    assert np.isfinite(session.results.measures["evidence_gain"]).all()
    assert agreement.measure_all() is None


def test_exports_get_the_columns(agreement: Agreement, session: Session, tmp_path: Path) -> None:
    session.classify_all()
    measure(agreement, agreement.measure_all())
    path = tmp_path / "cells.csv"
    write_csv(session.results, path)
    table = pd.read_csv(path, comment="#")
    np.testing.assert_allclose(
        table["evidence_gain"], session.results.measures["evidence_gain"], atol=1e-4
    )
    assert set(COLUMNS) <= set(table.columns)


def test_another_run_starts_anew(agreement: Agreement, session: Session) -> None:
    session.classify_all()
    measure(agreement, agreement.measure_all())
    session.classify_all()
    assert agreement.cells() == {}
    assert "evidence_gain" not in session.results.measures


def test_cells_of_another_model_are_not_measured(
    agreement: Agreement, session: Session, tnet_model: Model
) -> None:
    session.classify_all()
    session.set_model(tnet_model)
    assert agreement.measure_all() is None
    assert "another model" in agreement.message


def test_pictures_show_the_crop_and_what_was_selected(
    agreement: Agreement, session: Session
) -> None:
    session.classify_all()
    measure(agreement, agreement.measure_all(), most=1)
    cell = agreement.cells()[0]
    assert cell.picture.shape == (16, 16, 3)
    # Violet: the disc fills the crop's middle.
    np.testing.assert_allclose(cell.picture[8, 8], (95, 60, 150), atol=15)
    evidence = session.model.bundle.card.architecture
    assert len(cell.selected) == evidence["k"]
