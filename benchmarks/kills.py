"""Kill training and annotating by SIGKILL at random moments, and count what was lost.

Processes of their own train small random models (`fine_tune` of a SparseAttnNet,
`tune_slides` of a SPAN-MIL and a SPAN-UNet, an epoch every few hundredths of a
second, a checkpoint after each) or annotate two images of a project as fast as
they can (add, relabel, remove, undo, redo, new classes, histories cut short).
They tell each epoch and each change once it is kept. A process is killed after a
random time; then the files are read: all that was told must be there, and every
file whole. A killed training is asked for again until it ends; its model must be
that of a run that nobody killed, bit for bit. See ``tests/killing.py``.

This is about processes. What a loss of power leaves is up to the disk: files are
brought to it before they are renamed, annotations within a tenth of a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from killing import Autosaves, Tally, Trainings, What

TRAININGS: dict[str, What] = {
    "fine_tune, SparseAttnNet": "cells",
    "tune_slides, SPAN-MIL": "slides",
    "tune_slides, SPAN-UNet": "regions",
}


def killed_trainings(what: What, kills: int, seed: int) -> Tally:
    tally, rng = Tally(), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), what)
        most = trainings.seconds()
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    every = ["annotating", *TRAININGS]
    parser.add_argument("--what", nargs="+", choices=every, default=every)
    arguments = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Tally)]
    print(f"| what | {' | '.join(names)} | s |\n|{'---|' * (len(names) + 2)}", flush=True)
    wrong = 0
    for name in arguments.what:
        began = time.perf_counter()
        if name in TRAININGS:
            tally = killed_trainings(TRAININGS[name], arguments.kills, arguments.seed)
        else:
            tally = killed_windows(arguments.kills, arguments.seed)
        cells = [str(getattr(tally, field)) for field in names]
        print(f"| {name} | {' | '.join(cells)} | {time.perf_counter() - began:.0f} |", flush=True)
        wrong += tally.lost + tally.unreadable + tally.different
    print(f"Lost, unreadable or different: {wrong}.")


if __name__ == "__main__":
    main()
