"""The batch of a viewer without a window: what is chosen, where items stand, what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image

from napari_sparseattn.batch import run
from napari_sparseattn.batch.work import BatchTask, Outcome, process_item
from napari_sparseattn.plugin.batch.requests import RunRequest
from napari_sparseattn.plugin.batch.session import Batch
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, picture
from ..held import Held


class InThisProcess:
    """Works on one item at a time, in this process."""

    capacity = 1

    def __init__(self, n: int) -> None:
        pass

    def submit(self, task: BatchTask) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(process_item(task))
        return future

    def close(self) -> None:
        pass


@pytest.fixture
def batch(
    session: Session, viewer: ViewerModel, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Batch]:
    """A batch whose work is done at once."""
    monkeypatch.setattr(run, "LocalProcesses", InThisProcess)
    batch = Batch.of(viewer)
    batch.attach()
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
    batch.choices.set_pixel_size(0.5)
    batch.add_inputs([str(folder)])
    assert [state.item.key for state in batch.states] == ["a.png", "b.png", "c.png"]
    assert batch.choices.out == folder / "results"
    told = []
    batch.progress_changed.connect(told.append)
    batch.start()
    assert states(batch) == ["done", "failed", "done"]
    assert batch.status.message.level == "warning"
    assert batch.status.message.text == "2 done, 1 failed: see why in the queue."
    assert (told[0].done, told[-2].done, told[-1]) == (0, 3, None)
    assert told[-2].seconds_left is not None
    assert batch.states[0].found.startswith(f"{len(CENTRES)} cells")
    assert "is not a TIFF" in batch.states[1].reason
    # The folder of results is no input the next time.
    batch.choices.clear()
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
    batch.choices.set_pixel_size(0.5)
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
    batch.open_row(0)
    assert len(viewer.layers) == 2
    assert viewer.layers.selection.active is image
    # What failed says why instead.
    batch.open_row(1)
    assert "is not a TIFF" in batch.status.message.text


def test_results_that_are_gone_are_said(batch: Batch, folder: Path, viewer: ViewerModel) -> None:
    batch.add_inputs([str(folder)])
    batch.start()
    for kept in (folder / "results" / ".napari-sparseattn" / "shown").iterdir():
        kept.write_bytes(kept.read_bytes()[:50])
    batch.open_row(2)
    assert "start the batch once more" in batch.status.message.text
    assert not viewer.layers


def test_what_is_missing_is_asked_for(batch: Batch, folder: Path) -> None:
    assert batch.start() is None
    assert batch.status.message.text == "Choose folders or files, or drop them here."
    batch.session.selection.set_model(None)
    batch.add_inputs([str(folder)])
    assert "Choose a model" in batch.status.message.text
    assert batch.start() is None
    batch.choices.set_formats([])
    assert "Choose a model" in batch.obstacle()
    batch.add_inputs([str(folder / "nowhere")])
    assert batch.status.message.level == "error"
    assert "no file or folder" in batch.status.message.text
    assert batch.states == []


def test_patterns_and_the_folder_of_results(batch: Batch, folder: Path, tmp_path: Path) -> None:
    batch.add_inputs([str(folder)])
    batch.choices.set_pattern("a*")
    assert [state.item.key for state in batch.states] == ["a.png"]
    batch.choices.set_out(tmp_path / "elsewhere")
    batch.add_inputs([str(folder / "c.png")])
    assert batch.choices.out == tmp_path / "elsewhere"
    batch.start()
    assert (tmp_path / "elsewhere" / "c.png.csv").is_file()
    batch.choices.set_out(folder)
    assert "cannot go into the folder of the images" in batch.status.message.text


def start_and_hold(batch: Batch, folder: Path) -> tuple[Held, RunRequest]:
    """The first item is done, the second is being worked on."""
    batch.add_inputs([str(folder)])
    held = Lanes.of(batch.viewer).runner = Held()
    request = batch.start()
    held.give(3)
    assert states(batch) == ["done", "running", "waiting"]
    return held, request


def test_cancelled_work_waits_again(batch: Batch, folder: Path) -> None:
    held, request = start_and_hold(batch, folder)
    assert batch.running
    batch.add_inputs([str(folder / "c.png")])
    assert "when this batch is finished" in batch.status.message.text
    batch.choices.set_pattern("a*")
    assert batch.choices.pattern == ""
    batch.cancel()
    assert request.stop.is_set()
    held.go()
    assert states(batch)[0] == "done"
    assert "running" not in states(batch)
    assert batch.status.message.text.startswith("Cancelled: ")
    assert batch.status.message.text.endswith("the others wait for Start.")


def test_a_stale_run_changes_nothing(batch: Batch, folder: Path) -> None:
    held, old = start_and_hold(batch, folder)
    _, slots = held.kept[0]
    batch.detach()
    assert old.stop.is_set()
    assert states(batch) == ["done", "waiting", "waiting"]
    slots["failed"](OSError("late"))
    held.go()
    assert states(batch) == ["done", "waiting", "waiting"]
    assert "late" not in batch.status.message.text
    batch.attach()


def test_a_run_that_cannot_go_on_says_why(batch: Batch, folder: Path) -> None:
    held, _ = start_and_hold(batch, folder)
    _, slots = held.kept[0]
    slots["failed"](OSError("the disk is full"))
    assert not batch.running
    assert states(batch) == ["done", "waiting", "waiting"]
    assert (batch.status.message.text, batch.status.message.level) == ("the disk is full", "error")
