"""A classified picture, and what table, gallery and map share of it, without a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel

from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.population.session import Population
from napari_sparseattn.plugin.session import Session

from ..conftest import add_labels, add_picture


@pytest.fixture(autouse=True)
def own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another one annotated, or where it left a dock."""
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))


@pytest.fixture
def population(session: Session, viewer: ViewerModel) -> Iterator[Population]:
    """All four cells classified; work is done at once."""
    add_picture(viewer)
    add_labels(session, viewer)
    session.cells.classify_all()
    assert session.cells.results is not None
    made = Population.of(viewer)
    made.annotating.attach()
    made.attach()
    yield made
    made.detach()
    made.annotating.detach()


def lanes_of(population: Population) -> Any:
    assert population.session.viewer is not None
    return Lanes.of(population.session.viewer)
