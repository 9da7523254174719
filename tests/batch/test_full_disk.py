"""Disks that are full or read-only: said, with all earlier results as they were."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_folders import finish, make_plan, write_fields
from napari_sparseattn.batch.plan import BatchPlan
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import BatchStoppedError, run_batch


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    try:
        mount("-t", "tmpfs", "-o", "size=160k", "tmpfs", folder)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def sound(plan: BatchPlan) -> dict[str, bool]:
    """Which items have records, and whether all their results are right."""
    records = Records(plan.out)
    return {r.key: records.intact_formats(r) == {"csv", "shown"} for r in records.read_all()}


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path, model_file: Path, disk: Path) -> None:
    write_fields(tmp_path / "in", 20)
    plan = make_plan(tmp_path / "in", model_file, disk / "out")
    last = {}

    def run() -> None:
        for update in run_batch(plan, workers=1):
            last[update.changed.item.key] = update.changed

    with pytest.raises(BatchStoppedError, match=r"No space left .*Free space there"):
        run()
    kept = sound(plan)
    assert 0 < len(kept) < 20
    assert all(kept.values())
    assert [s.state for s in last.values()] == ["done"] * len(kept) + ["failed"]

    mount("-o", "remount,size=4m", disk)
    states = finish(plan, workers=1)
    assert {s.item.key for s in states if s.state == "skipped"} == set(kept)
    assert {s.state for s in states} == {"done", "skipped"}
    assert sound(plan) == {item.key: True for item in plan.items}
    assert {record.runs for record in Records(plan.out).read_all()} == {1}
    assert not list(Records(plan.out).read_failures())


@pytest.mark.slow
def test_a_read_only_disk(tmp_path: Path, model_file: Path, disk: Path) -> None:
    write_fields(tmp_path / "in", 2)
    plan = make_plan(tmp_path / "in", model_file, disk / "out")
    finish(plan, workers=1)
    mount("-o", "remount,ro", disk)
    more = write_fields(tmp_path / "in", 3)
    assert len(more) == 3
    plan = make_plan(tmp_path / "in", model_file, disk / "out")
    with pytest.raises(OSError, match=r"cannot be written to .*Read-only file system.*choose"):
        next(run_batch(plan, workers=1))
    assert sound(plan) == {"f000.png": True, "f001.png": True}
