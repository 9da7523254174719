"""Batches in real processes: killed, resumed, shared, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from batch_folders import finish, make_plan, wait_for, write_field, write_fields
from napari_sparseattn.batch.plan import BatchPlan
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import BatchUpdate, run_batch

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def worker_at(plan: BatchPlan, key: str) -> psutil.Process | None:
    """The process that holds an item's lock."""
    lock = Path(Records(plan.out).lock(key).lock_file).resolve()
    for child in psutil.Process().children(recursive=True):
        try:
            if any(Path(file.path) == lock for file in child.open_files()):
                return child
        except psutil.Error:
            continue
    return None


def runs(plan: BatchPlan) -> dict[str, int]:
    return {record.key: record.runs for record in Records(plan.out).read_all()}


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    wait_for(lambda: not children(), 120)


@pytest.mark.slow
@needs_pipes
def test_a_killed_process_costs_its_item_only(tmp_path: Path, model_file: Path) -> None:
    folder = tmp_path / "in"
    write_fields(folder, 5)
    # Reading a pipe that nobody writes to takes as long as the test wants.
    os.mkfifo(folder / "b-slow.png")
    os.mkfifo(folder / "c-deadly.png")
    plan = make_plan(folder, model_file, tmp_path / "out")
    updates: list[BatchUpdate] = []

    def run() -> None:
        updates.extend(run_batch(plan, workers=2))

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: worker_at(plan, "b-slow.png")).kill()
    # Both wait for their second try, behind the others.
    first = wait_for(lambda: worker_at(plan, "c-deadly.png"))
    first.kill()
    write_field(tmp_path / "mended.png", 77).replace(folder / "b-slow.png")
    wait_for(lambda: (p := worker_at(plan, "c-deadly.png")) and p.pid != first.pid and p).kill()
    thread.join(600)
    assert not thread.is_alive()

    last = {update.changed.item.key: update.changed for update in updates}
    assert last["c-deadly.png"].state == "failed"
    assert "died each time" in last["c-deadly.png"].reason
    assert {s.state for key, s in last.items() if key != "c-deadly.png"} == {"done"}
    again = [u.changed for u in updates if "once more" in u.changed.reason]
    assert {state.item.key for state in again} == {"b-slow.png", "c-deadly.png"}
    assert set(runs(plan).values()) == {1}
    assert updates[-1].finished == updates[-1].total == 7
    assert [failed.key for failed in Records(plan.out).read_failures()] == ["c-deadly.png"]
    table = (plan.out / "batch.csv").read_text().splitlines()
    assert len(table) == 8


@pytest.mark.slow
def test_a_batch_that_was_killed_goes_on(tmp_path: Path, model_file: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_fields(folder, 20)
    for name in ("f004x.png", "f011x.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    command = [sys.executable, "-m", "napari_sparseattn.cli.app", "batch", str(folder)]
    command += ["--model", str(model_file), "--out", str(out), "--workers", "2"]
    command += ["--pixel-size", "0.5", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # A record that is just being written, under another name, is none yet.
        wait_for(lambda: len([*Records(out).read_all()]) > 3)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    # Without whoever gives out items, its processes leave too.
    assert not psutil.wait_procs(workers, timeout=120)[1]
    plan = make_plan(folder, model_file, out)
    before = runs(plan)
    assert 3 < len(before) < 20

    states = {state.item.key: state for state in finish(plan, workers=1)}
    assert len(states) == 22
    failed = {key: s.reason for key, s in states.items() if s.state == "failed"}
    assert set(failed) == {"f004x.png", "f011x.png"}
    assert all(failed.values())
    assert {key for key, s in states.items() if s.state == "skipped"} == set(before)
    # Each once, over both runs.
    assert runs(plan) == {f"f{i:03}.png": 1 for i in range(20)}
    assert not list((out / ".napari-sparseattn" / "staging").iterdir())


@pytest.mark.slow
def test_a_script_need_not_guard_itself(tmp_path: Path, model_file: Path) -> None:
    """Processes do not import it: it would begin a batch, or open a window, in each of them."""
    write_fields(tmp_path / "in", 2)
    script = tmp_path / "script.py"
    script.write_text(
        "from napari_sparseattn import plan_batch, run_batch\n"
        "print('begun', flush=True)\n"
        f"given = [{str(tmp_path / 'in')!r}], {str(model_file)!r}, {str(tmp_path / 'out')!r}\n"
        "plan = plan_batch(*given)\n"
        "for update in run_batch(plan, workers=1):\n"
        "    print(update.changed.state, flush=True)\n"
        "print(__file__)\n"
    )
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=800, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["begun", *["running", "done"] * 2, str(script)]


@pytest.mark.slow
def test_two_batches_share_a_folder(tmp_path: Path, model_file: Path) -> None:
    write_fields(tmp_path / "in", 12)
    plan = make_plan(tmp_path / "in", model_file, tmp_path / "out")
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: finish(plan, workers=1), range(2))
    for states in (one, two):
        assert {state.state for state in states} <= {"done", "skipped"}
    done = [state.item.key for state in [*one, *two] if state.state == "done"]
    assert sorted(done) == [item.key for item in plan.items]
    assert set(runs(plan).values()) == {1}


@pytest.mark.slow
def test_stopping_keeps_what_is_done(tmp_path: Path, model_file: Path) -> None:
    write_fields(tmp_path / "in", 6)
    plan = make_plan(tmp_path / "in", model_file, tmp_path / "out")
    stop = threading.Event()
    last = {}
    for update in run_batch(plan, workers=1, stop=stop.is_set):
        last[update.changed.item.key] = update.changed.state
        if update.finished == 2:
            assert update.seconds_left is not None
            stop.set()
    # The one that was running waits again.
    assert "running" not in last.values()
    kept = runs(plan)
    assert 2 <= len(kept) < 6
    states = finish(plan, workers=1)
    assert {s.item.key for s in states if s.state == "skipped"} >= set(kept)
    assert {s.state for s in states} == {"done", "skipped"}


def test_closing_the_iterator_ends_the_work(tmp_path: Path, model_file: Path) -> None:
    write_fields(tmp_path / "in", 3)
    plan = make_plan(tmp_path / "in", model_file, tmp_path / "out")
    updates = run_batch(plan, workers=1)
    assert next(updates).changed.state == "running"
    updates.close()
    assert not children()
