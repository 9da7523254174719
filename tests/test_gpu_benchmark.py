"""What `make gpu` measures runs on the CPU too, with small sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_row_is_measured_on_the_cpu() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--minutes", "30"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = run.stdout
    for row in (
        "blood-cells, float32, batch 4",
        "blood-cells-tnet, bfloat16, batch 1",
        "blood-cells, float32: fastest at batch",
        "SPAN-MIL, inference, 120 patches, float32, ours, streamed",
        "SPAN-MIL, inference, 120 patches, bfloat16, edge list",
        "SPAN-MIL, training step, 120 patches, float32, dense",
        "holograms of 128 x 128, field on the cpu",
        "encoder tissue-mobilenet, float32, batch 2",
    ):
        assert row in said
    assert "not run" not in said
    most = re.findall(r"float32: probabilities differ by \S+ \(median\), (\S+) \(most\)", said)
    assert len(most) == 2
    assert all(float(value) < 1e-5 for value in most)
