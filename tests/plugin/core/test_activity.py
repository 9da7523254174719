"""Long work is listed among napari's activities, with text, time left and Cancel."""

from __future__ import annotations

from typing import Any

import pytest
from napari.components import ViewerModel
from napari.utils import cancelable_progress, progress
from psygnal import Signal

from napari_sparseattn.plugin.batch.session import Batch
from napari_sparseattn.plugin.compare.session import Compare
from napari_sparseattn.plugin.core.activity import Activity
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.status import Progress
from napari_sparseattn.plugin.evidence.cells_session import CellFaithfulness
from napari_sparseattn.plugin.export.session import ExportSession, ModelExport
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.population.session import Population
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.train.session import FineTuning

from ..held import Held


class Job:
    changed = Signal(object)

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1
        self.changed.emit(None)


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, viewer: ViewerModel, job: Job) -> Any:
    """A viewer that has a window, and napari's list of activities."""
    from napari_sparseattn.plugin.core import activity

    monkeypatch.setattr(activity, "_listed", lambda _: True)
    activity.Activity.of(viewer).follow("Counting", (job.changed,), job.cancel)
    return activity.Activity.of(viewer)


def bars() -> list[Any]:
    return list(progress._all_instances)


@pytest.fixture(autouse=True)
def no_bar_left() -> Any:
    yield
    assert not bars()


def test_a_bar_says_how_far_it_is_and_cancels(listed: Activity, job: Job, at_once: None) -> None:
    job.changed.emit(Progress(0, 0, what="cells"))
    (bar,) = bars()
    assert isinstance(bar, cancelable_progress)
    assert bar.desc.startswith("Counting")
    job.changed.emit(Progress(3, 10, 7.0, "cells"))
    assert (bar.n, bar.total) == (3, 10)
    assert listed.shown == ["Counting: 3 of 10 cells, 7 s left"]
    assert bar.desc.startswith("Counting: 3 of 10 cells, 7 s left")
    # Back to the first of the next part.
    job.changed.emit(Progress(1, 4, what="rows"))
    assert (bar.n, bar.total) == (1, 4)
    bar.cancel()
    assert job.cancelled == 1
    assert not bars()
    assert listed.shown == []


def test_what_is_over_soon_is_not_listed(listed: Activity, job: Job, viewer: ViewerModel) -> None:
    later: list[Any] = []

    class Later(Held):
        def later(self, milliseconds: int, call: Any) -> None:
            later.append(call)

    Lanes.of(viewer).runner = Later()
    job.changed.emit(Progress(0, 3))
    job.changed.emit(Progress(1, 3))
    assert len(later) == 1
    job.changed.emit(None)
    job.changed.emit(Progress(0, 5))
    later[0]()  # of the work that is over
    assert not bars()
    later[1]()
    assert len(bars()) == 1
    job.changed.emit(None)


@pytest.mark.parametrize("newer", [Progress(2, 3), None])
def test_who_hears_of_progress_hears_of_the_newest_last(
    newer: Progress | None, listed: Activity, job: Job, viewer: ViewerModel
) -> None:
    later: list[Any] = []

    class Later(Held):
        def later(self, milliseconds: int, call: Any) -> None:
            later.append(call)

    Lanes.of(viewer).runner = Later()
    heard: list[Progress | None] = []
    job.changed.connect(heard.append)
    job.changed.emit(Progress(0, 3))
    later.pop()()
    (bar,) = bars()

    def work(_: object) -> None:
        """What Qt does when napari moves a bar."""
        bar.events.value.disconnect(work)
        job.changed.emit(newer)

    bar.events.value.connect(work)
    job.changed.emit(Progress(1, 3))
    while later:
        later.pop(0)()
    assert heard == [Progress(0, 3), Progress(1, 3), newer]
    if newer is not None:
        assert bar.n == 2
        job.changed.emit(None)
    assert not bars()


def test_without_a_window_nothing_is_listed(
    viewer: ViewerModel, job: Job, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Activity.of(viewer).follow("Counting", (job.changed,), job.cancel)
    job.changed.emit(Progress(1, 3))
    assert not bars()
    job.changed.emit(None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "title", "cancels"),
    [
        (Session, "Classifying", True),
        (Session, "Loading the model", False),
        (Batch, "Batch", True),
        (Holograms, "Reconstructing", True),
        (ExportSession, "Export", True),
        (ModelExport, "Exporting the model", False),
        (Compare, "Comparing", True),
        (CellFaithfulness, "Faithfulness of the cells", True),
        (Population, "Map of cells", True),
        (FineTuning, "Fine-tuning", True),
        (FineTuning, "Cross-validation", True),
        (FineTuning, "Training on a table", True),
    ],
)
def test_each_kind_of_long_work_is_followed(
    kind: Any, title: str, cancels: bool, viewer: ViewerModel
) -> None:
    kind.of(viewer)
    jobs = {job._title: job for job in Activity.of(viewer)._jobs}
    assert title in jobs
    assert (jobs[title]._cancel is not None) == cancels


def test_a_run_over_all_cells_is_listed_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, session: Session, viewer: ViewerModel
) -> None:
    from napari_sparseattn.plugin.core import activity

    from ..conftest import add_labels, add_picture

    monkeypatch.setattr(activity, "_listed", lambda _: True)
    session.selection.set_image(add_picture(viewer))
    add_labels(session, viewer)
    held = Held()
    held.later = lambda _, call: call()  # type: ignore[method-assign]
    Lanes.of(viewer).runner = held
    session.cells.classify_all()
    (bar,) = bars()
    bar.cancel()
    assert not session.status.running
    assert not bars()
