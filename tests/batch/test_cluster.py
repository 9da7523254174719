"""The same on a real dask cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_folders import make_plan, wait_for, write_field, write_fields
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import BatchUpdate, run_batch
from napari_sparseattn.batch.work import BatchTask, process_item

from .test_run import needs_pipes, worker_at

distributed = pytest.importorskip("distributed")


@pytest.fixture
def cluster() -> Iterator[object]:
    """Two worker processes, each with a nanny that begins it anew."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.mark.slow
@needs_pipes
def test_a_killed_worker_leaves_all_complete_and_the_same(
    tmp_path: Path, model_file: Path, cluster: object
) -> None:
    folder = tmp_path / "in"
    write_fields(folder, 8)
    (folder / "a-bad.png").write_bytes(b"no image")
    os.mkfifo(folder / "b-slow.png")
    plan = make_plan(folder, model_file, tmp_path / "out")
    updates: list[BatchUpdate] = []

    def run() -> None:
        updates.extend(run_batch(plan, scheduler=cluster.scheduler_address))

    thread = threading.Thread(target=run)
    thread.start()
    killed = wait_for(lambda: worker_at(plan, "b-slow.png"))
    write_field(tmp_path / "mended.png", 77).replace(folder / "b-slow.png")
    killed.kill()
    thread.join(600)
    assert not thread.is_alive()

    last = {update.changed.item.key: update.changed for update in updates}
    assert last.pop("a-bad.png").state == "failed"
    assert {state.state for state in last.values()} == {"done"}
    assert len(last) == 9
    assert {record.runs for record in Records(plan.out).read_all()} == {1}

    # The same, one by one in this process.
    alone = make_plan(folder, model_file, tmp_path / "alone")
    Records(alone.out).prepare()
    for item in alone.items:
        outcome = process_item(BatchTask.of(alone, item))
        for name in outcome.outputs:
            if name.endswith(".csv"):
                assert (alone.out / name).read_bytes() == (plan.out / name).read_bytes()


def test_no_scheduler_is_said(tmp_path: Path, model_file: Path, monkeypatch: object) -> None:
    from napari_sparseattn.batch import machines

    monkeypatch.setattr(machines, "_CONNECT_SECONDS", 1)
    write_fields(tmp_path / "in", 1)
    plan = make_plan(tmp_path / "in", model_file, tmp_path / "out")
    with pytest.raises(OSError, match=r"No dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        next(run_batch(plan, scheduler="tcp://127.0.0.1:9"))
