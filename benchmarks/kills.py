"""Kill whatever writes by SIGKILL at random moments, and count what was lost.

Processes of their own train small random models (`fine_tune` of a SparseAttnNet,
`tune_slides` of a SPAN-MIL and a SPAN-UNet, an epoch every few hundredths of a
second, a checkpoint after each) or annotate two images of a project as fast as
they can (add, relabel, remove, undo, redo, new classes, histories cut short).
They tell each epoch and each change once it is kept. A process is killed after a
random time; then the files are read: all that was told must be there, and every
file whole. A killed training is asked for again until it ends; its model must be
that of a run that nobody killed, bit for bit. Others write results in all formats,
save a model file with other weights in turns, or run a batch, in processes of this
machine or on a dask cluster (``--scheduler`` of the command line): a batch is given
again until it ends, and its tables must be those of one that nobody killed.
See ``tests/killing.py``.

This is about processes. What a loss of power leaves is up to the disk: files are
brought to it before they are renamed, annotations within a tenth of a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from killing import Autosaves, Batches, Exports, ModelFiles, Tally, Trainings, What

TRAININGS: dict[str, What] = {
    "fine_tune, SparseAttnNet": "cells",
    "tune_slides, SPAN-MIL": "slides",
    "tune_slides, SPAN-UNet": "regions",
}


def killed_trainings(what: What, kills: int, seed: int) -> Tally:
    tally, rng = Tally(), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), what)
        most = trainings.seconds
        while tally.kills < kills:
            trainings.attack(tally, rng.uniform(0, most))
        # The last run is left in peace, so that it comes to its end too.
        trainings.attack(tally, 600)
    return tally


def killed_windows(kills: int, seed: int) -> Tally:
    tally, rng = Tally(), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        autosaves = Autosaves(Path(folder))
        for number in range(kills):
            autosaves.attack(tally, rng.uniform(0.02, 0.6), seed + number)
    return tally


def killed_writers(kind: type[Exports | ModelFiles], kills: int, seed: int) -> Tally:
    tally, rng = Tally(), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        files = kind(Path(folder))
        for _ in range(kills):
            files.attack(tally, rng.uniform(0.1, 3.0))
    return tally


def killed_batches(address: str | None, kills: int, seed: int) -> Tally:
    tally, rng = Tally(), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        batches = Batches(Path(folder), address)
        began = time.perf_counter()
        batches.attack(Tally(), 600)
        most = time.perf_counter() - began
        while tally.kills < kills:
            batches.attack(tally, rng.uniform(0, most))
        batches.attack(tally, 600)
    return tally


def killed_clients(kills: int, seed: int) -> Tally:
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        return killed_batches(cluster.scheduler_address, kills, seed)


#: How each is killed, and how often, 200 times in all.
KINDS: dict[str, tuple[Callable[[int, int], Tally], int]] = {
    "annotating": (killed_windows, 30),
    "exports, all formats": (functools.partial(killed_writers, Exports), 40),
    "model file": (functools.partial(killed_writers, ModelFiles), 40),
    **{name: (functools.partial(killed_trainings, what), 25) for name, what in TRAININGS.items()},
    "batch, --scheduler": (killed_clients, 10),
    # Each begins processes that import torch.
    "batch, processes": (functools.partial(killed_batches, None), 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, help="of each kind; by default 200 in all")
    parser.add_argument("--seed", type=int, default=0)
    every = list(KINDS)
    parser.add_argument("--what", nargs="+", choices=every, default=every)
    arguments = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Tally)]
    print(f"| what | {' | '.join(names)} | s |\n|{'---|' * (len(names) + 2)}", flush=True)
    wrong = kills = 0
    for name in arguments.what:
        began = time.perf_counter()
        kill, times = KINDS[name]
        tally = kill(arguments.kills or times, arguments.seed)
        cells = [str(getattr(tally, field)) for field in names]
        print(f"| {name} | {' | '.join(cells)} | {time.perf_counter() - began:.0f} |", flush=True)
        kills += tally.kills
        wrong += tally.lost + tally.unreadable + tally.different
    print(f"{kills} kills. Lost, unreadable or different: {wrong}.")


if __name__ == "__main__":
    main()
