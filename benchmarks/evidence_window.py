"""Time from the mouse button to a measured verdict on the evidence, in a real window.

    python benchmarks/evidence_window.py [--clicks 20] [--model FILE]

Opens a window on a picture of 140 drawn cells, presses and releases the mouse on one
cell after another, and waits until the line "Faithfulness vs. random" shows what was measured. All
times are from the release of the button:

overlay    layers and result panel are updated, while evidence is measured with each click
without    the same with "Measure each clicked cell" turned off
verdict    the evidence has been measured and the line shows it

Run it with OMP_NUM_THREADS=1 for figures of one thread, and on a quiet machine: the
load is printed.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
from interaction import Bench, machine
from qtpy.QtTest import QTest

from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness


def clicks(
    bench: Bench, evidence: AnswerFaithfulness, order: np.ndarray
) -> tuple[list[float], list[float]]:
    """Click cells; return seconds to the overlay and, if it is measured, to the verdict."""
    overlay, verdict = [], []
    for i in order:
        began = time.perf_counter()
        overlay.append(bench.click(bench.centres[i])[0] / 1000)
        if evidence.automatic:
            while evidence.measured is None:
                # Not `bench.wait`, which takes the interpreter from the worker all the time.
                QTest.qWait(5)
            verdict.append(time.perf_counter() - began)
        QTest.qWait(50)
    return overlay, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--model", help="a model file; by default the one the window opens with")
    options = parser.parse_args()
    bench = Bench(options.model)
    evidence = AnswerFaithfulness.of(bench.viewer)
    order = np.random.default_rng(1).integers(0, len(bench.centres), options.clicks + 2)
    clicks(bench, evidence, order[:2])
    overlay, verdict = clicks(bench, evidence, order[2:])
    runs = evidence.measured.runs if evidence.measured is not None else 0
    evidence.set_automatic(False)
    without, _ = clicks(bench, evidence, order[2:])
    print(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}")
    model = bench.session.selection.model
    print(f"model: {model.bundle.card.name} on {model.device}, {runs} runs per verdict")
    print(f"{options.clicks} clicks, s from the button's release:")
    for name, times in (("overlay", overlay), ("without", without), ("verdict", verdict)):
        median, p95 = np.percentile(times, [50, 95])
        print(f"{name:8s} median {median:6.3f}  p95 {p95:6.3f}  max {max(times):6.3f}")
    bench.viewer.close()


if __name__ == "__main__":
    main()
