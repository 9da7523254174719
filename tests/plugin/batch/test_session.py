"""The batch of a viewer without a window: what is chosen, where items stand, what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image

from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import BatchUpdate, ItemState
from napari_sparseattn.batch.work import BatchTask, process_item
from napari_sparseattn.export.summary import describe
from napari_sparseattn.plugin.batch.requests import (
    OpenRequest,
    RunRequest,
    SearchRequest,
    answer_open,
    answer_search,
)
from napari_sparseattn.plugin.batch.session import Batch
from napari_sparseattn.plugin.core.session import Session
from napari_sparseattn.plugin.core.sources import is_own

from ..conftest import CENTRES, picture


class AtOnce:
    """Does a batch's work when it is asked for, in this process; keeps the requests."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.runs: list[RunRequest] = []
        #: How many items are worked on before the run is left hanging.
        self.most = 1000
        batch.search_requested.connect(self.search)
        batch.run_requested.connect(self.run)
        batch.open_requested.connect(self.open)

    def search(self, request: SearchRequest) -> None:
        try:
            self.batch.accept_search(answer_search(request))
        except (OSError, ValueError) as error:
            self.batch.fail(request, error)

    def run(self, request: RunRequest) -> None:
        self.runs.append(request)
        plan = request.plan
        Records(plan.out).prepare()
        for i, item in enumerate(plan.items):
            running = BatchUpdate(ItemState(item, "running"), i, i, len(plan.items), None)
            self.batch.accept_update(request, running)
            if i >= self.most:
                return
            done = process_item(BatchTask.of(plan, item))
            found, files = describe(done.summary), tuple(plan.out / name for name in done.outputs)
            state = ItemState(item, done.state, done.reason, found, done.seconds, files)
            self.batch.accept_update(request, BatchUpdate(state, i, i + 1, len(plan.items), 1.0))
        self.batch.finish(request)

    def open(self, request: OpenRequest) -> None:
        try:
            self.batch.accept_open(answer_open(request))
        except (OSError, ValueError) as error:
            self.batch.fail(request, error)


@pytest.fixture
def batch(session: Session, viewer: ViewerModel) -> Iterator[Batch]:
    batch = Batch.of(viewer)
    batch.worker = AtOnce(batch)
    yield batch
    batch.detach()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good fields, and a file that is none."""
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(picture()).save(images / "a.png")
    (images / "b.png").write_bytes(b"no image")
    Image.fromarray(picture()[::-1].copy()).save(images / "c.png")
    return images


def states(batch: Batch) -> list[str]:
    return [state.state for state in batch.states]


def test_from_folder_to_results(batch: Batch, folder: Path, viewer: ViewerModel) -> None:
    batch.set_pixel_size(0.5)
    batch.add_inputs([str(folder)])
    assert [state.item.key for state in batch.states] == ["a.png", "b.png", "c.png"]
    assert batch.out == folder / "results"
    told = []
    batch.progress_changed.connect(told.append)
    batch.start()
    assert states(batch) == ["done", "failed", "done"]
    assert batch.message.level == "warning"
    assert batch.message.text == "2 done, 1 failed: see why in the queue."
    assert (told[0].done, told[-2].done, told[-1]) == (0, 3, None)
    assert told[-2].seconds_left is not None
    assert batch.states[0].found.startswith(f"{len(CENTRES)} cells")
    assert "is not a TIFF" in batch.states[1].reason
    # The folder of results is no input the next time.
    batch.clear()
    batch.add_inputs([str(folder)])
    assert len(batch.states) == 3
    batch.start()
    assert states(batch) == ["skipped", "failed", "skipped"]


def test_only_what_failed_is_retried(batch: Batch, folder: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.start()
    Image.fromarray(picture()).save(folder / "b.png")
    request = batch.retry_failed()
    assert request is not None
    assert [item.key for item in request.plan.items] == ["b.png"]
    assert states(batch) == ["done", "done", "done"]


def test_results_are_shown_on_their_image(batch: Batch, folder: Path, viewer: ViewerModel) -> None:
    batch.set_pixel_size(0.5)
    batch.add_inputs([str(folder)])
    batch.start()
    batch.open_row(0)
    image, rings = viewer.layers
    assert not is_own(image)
    np.testing.assert_array_equal(image.data, picture())
    assert is_own(rings)
    found = rings.data[np.lexsort(rings.data.T[::-1])]
    np.testing.assert_allclose(found, CENTRES, atol=1.5)
    assert set(rings.features["class"]) <= {"round", "lobed", "small"}
    # Once more: it is brought to the front, not opened again.
    viewer.layers.selection.active = None
    assert batch.open_row(0) is None
    assert len(viewer.layers) == 2
    assert viewer.layers.selection.active is image
    # What failed says why instead.
    assert batch.open_row(1) is None
    assert "is not a TIFF" in batch.message.text


def test_results_that_are_gone_are_said(batch: Batch, folder: Path, viewer: ViewerModel) -> None:
    batch.add_inputs([str(folder)])
    batch.start()
    for kept in (folder / "results" / ".napari-sparseattn" / "shown").iterdir():
        kept.write_bytes(kept.read_bytes()[:50])
    batch.open_row(2)
    assert "start the batch once more" in batch.message.text
    assert not viewer.layers


def test_what_is_missing_is_asked_for(batch: Batch, folder: Path) -> None:
    assert batch.start() is None
    assert batch.message.text == "Choose folders or files, or drop them here."
    batch.session.set_model(None)
    batch.add_inputs([str(folder)])
    assert "Choose a model" in batch.message.text
    assert batch.start() is None
    batch.set_formats([])
    assert "Choose a model" in batch.obstacle()
    batch.add_inputs([str(folder / "nowhere")])
    assert batch.message.level == "error"
    assert "no file or folder" in batch.message.text
    assert batch.states == []


def test_patterns_and_the_folder_of_results(batch: Batch, folder: Path, tmp_path: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.set_pattern("a*")
    assert [state.item.key for state in batch.states] == ["a.png"]
    batch.set_out(tmp_path / "elsewhere")
    batch.add_inputs([str(folder / "c.png")])
    assert batch.out == tmp_path / "elsewhere"
    batch.start()
    assert (tmp_path / "elsewhere" / "c.png.csv").is_file()
    batch.set_out(folder)
    assert "cannot go into the folder of the images" in batch.message.text


def test_cancelled_work_waits_again(batch: Batch, folder: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.worker.most = 1
    request = batch.start()
    assert batch.running
    assert states(batch) == ["done", "running", "waiting"]
    batch.add_inputs([str(folder / "c.png")])
    assert "when this batch is finished" in batch.message.text
    batch.cancel()
    assert request is not None
    assert request.stop.is_set()
    # As `run_batch` does when it stops.
    waiting = BatchUpdate(ItemState(batch.states[1].item), 1, 1, 3, None)
    batch.accept_update(request, waiting)
    batch.finish(request)
    assert states(batch) == ["done", "waiting", "waiting"]
    assert batch.message.text == "Cancelled: 1 done, the others wait for Start."


def test_a_stale_run_changes_nothing(batch: Batch, folder: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.worker.most = 1
    old = batch.start()
    assert old is not None
    batch.detach()
    assert old.stop.is_set()
    assert states(batch) == ["done", "waiting", "waiting"]
    late = BatchUpdate(ItemState(batch.states[2].item, "done"), 2, 3, 3, None)
    batch.accept_update(old, late)
    batch.finish(old)
    batch.fail(old, OSError("late"))
    assert states(batch) == ["done", "waiting", "waiting"]
    assert "late" not in batch.message.text


def test_a_run_that_cannot_go_on_says_why(batch: Batch, folder: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.worker.most = 1
    request = batch.start()
    batch.fail(request, OSError("the disk is full"))
    assert not batch.running
    assert states(batch) == ["done", "waiting", "waiting"]
    assert (batch.message.text, batch.message.level) == ("the disk is full", "error")
