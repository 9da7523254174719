"""A folder of fields: killed in the middle and resumed, one process and two, local and dask.

The fields are *simulated* smears of 192 x 192 pixels with about four cells
each. Prints JSON.

``kill``: 500 fields, 5 of them corrupt in different ways, worked on by
``napari-sparseattn batch`` with two processes, which is sent SIGKILL once half
of the results are there, then started again. Says how often each field was
worked on to the end, and why the corrupt ones failed.

``speed``: fields per second with one and two processes of this machine and of
a ``LocalCluster``, the start of processes (torch and the model) told apart: a
first run on few fields, a second on all. Whether all four gave the same tables.

``loss``: three processes at work, one killed. With one executor per process, as
the batch has it; with one ``ProcessPoolExecutor`` for all; with a
``LocalCluster``. How many tasks were lost with it.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil
from PIL import Image

from napari_sparseattn.batch.plan import BatchPlan, plan_batch
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import run_batch
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.simulate import smear

#: MiB of the processes, half way.
MEMORY: list[float] = []
MODEL, PIXEL_SIZE = "blood-cells", 0.25


def write_fields(folder: Path, n: int, corrupt: bool) -> None:
    """Smears, and on request five files that are none."""
    folder.mkdir(parents=True)
    for i in range(n - 5 * corrupt):
        Image.fromarray(smear(shape=(192, 192), seed=i).data).save(folder / f"field{i:04}.png")
    if corrupt:
        good = (folder / "field0000.png").read_bytes()
        (folder / "bad-cut.png").write_bytes(good[:2000])
        (folder / "bad-empty.png").write_bytes(b"")
        (folder / "bad-flipped.png").write_bytes(good[:900] + bytes(50) + good[950:])
        (folder / "bad-text.tif").write_text("patient;date\n")
        Image.fromarray(smear(shape=(192, 192), seed=0).data[..., 0]).save(folder / "bad-grey.png")


def plan_of(folder: Path, out: Path) -> BatchPlan:
    return plan_batch([folder], MODEL, out, ProcessOptions(pixel_size=PIXEL_SIZE, device="cpu"))


def kill(fields: int, folder: Path) -> dict[str, object]:
    write_fields(folder / "in", fields, corrupt=True)
    out = folder / "out"
    command = [sys.executable, "-m", "napari_sparseattn.cli.app", "batch", str(folder / "in")]
    command += ["--model", MODEL, "--out", str(out), "--workers", "2", "--device", "cpu"]
    command += ["--pixel-size", str(PIXEL_SIZE), "--json"]
    kept = out / ".napari-sparseattn" / "records"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        while not kept.is_dir() or len(list(kept.iterdir())) < fields // 2:
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
    before = {record.key for record in Records(out).read_all()}
    began = time.perf_counter()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = json.loads(second.stdout)
    times = collections.Counter(record.runs for record in Records(out).read_all())
    return {
        "fields": fields,
        "done_when_killed": len(before),
        "second_run": dict(collections.Counter(row["state"] for row in rows)),
        "seconds_second_run": round(time.perf_counter() - began, 1),
        "exit_status": second.returncode,
        "times_each_good_field_was_worked_on": dict(times),
        "failed": {row["item"]: row["reason"] for row in rows if row["state"] == "failed"},
    }


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    ) as made:
        yield made.scheduler_address


def seconds_of(plan: BatchPlan, **how: object) -> tuple[float, float]:
    """Seconds of the whole run, and per field once each process has done two."""
    began, done, first = time.perf_counter(), 0, 0.0
    for update in run_batch(plan, **how):
        if update.finished == len(plan.items) // 2:
            MEMORY.extend(
                child.memory_info().rss / 2**20
                for child in psutil.Process().children(recursive=True)
                if "spawn_main" in " ".join(child.cmdline()) and "scheduler" not in how
            )
        if update.finished == 4 and not first:
            first, done = time.perf_counter(), update.finished
    end = time.perf_counter()
    return end - began, (end - first) / (len(plan.items) - done)


def tables(out: Path) -> str:
    """A hash of all tables."""
    whole = hashlib.sha256()
    for path in sorted(out.glob("*.png.csv")):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def speed(fields: int, folder: Path) -> dict[str, object]:
    write_fields(folder / "in", fields, corrupt=False)
    rows, hashes = [], set()
    for workers in (1, 2):
        plan = plan_of(folder / "in", folder / f"local{workers}")
        rows.append(("processes", workers, *seconds_of(plan, workers=workers)))
        hashes.add(tables(plan.out))
        plan = plan_of(folder / "in", folder / f"dask{workers}")
        with cluster(workers) as address:
            rows.append(("dask", workers, *seconds_of(plan, scheduler=address)))
        hashes.add(tables(plan.out))
    began = time.perf_counter()
    again = collections.Counter(
        update.changed.state for update in run_batch(plan, workers=2) if update.changed.finished
    )
    return {
        "fields": fields,
        "runs": [
            {
                "by": by,
                "workers": workers,
                "seconds": round(all_of_it, 1),
                "fields_per_second": round(1 / each, 2),
            }
            for by, workers, all_of_it, each in rows
        ],
        "tables_are_the_same": len(hashes) == 1,
        "mib_per_process": round(max(MEMORY)),
        "verified_per_second": round(again["skipped"] / (time.perf_counter() - began), 1),
    }


def _sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def loss() -> dict[str, int]:
    """Tasks lost with one killed process of three."""
    context, lost = get_context("spawn"), {}
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        pids = {pool.submit(_sleep, 0.5) for _ in range(3)}
        victim = next(iter(wait(pids).done)).result()
        tasks = [pool.submit(_sleep, 2) for _ in range(9)]
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        lost["one pool for all"] = sum(task.exception() is not None for task in tasks)
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(3)]
    victim = pools[0].submit(_sleep, 0.1).result()
    tasks = [pool.submit(_sleep, 2) for pool in pools]
    time.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    lost["one executor per process, of the three at work"] = sum(
        task.exception() is not None for task in tasks
    )
    for pool in pools:
        pool.shutdown()
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kill", "speed", "loss"])
    parser.add_argument("--fields", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "kill":
            found: dict[str, object] = kill(arguments.fields, folder)
        elif arguments.what == "speed":
            found = speed(arguments.fields, folder)
        else:
            found = {"tasks_lost": loss()}
    found["cores"] = psutil.cpu_count()
    found["load"] = [round(load, 1) for load in os.getloadavg()]
    found["machine"] = platform.processor() or platform.machine()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
