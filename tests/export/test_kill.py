"""SIGKILL while results and models are written: each file is the old one or the new one."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from killing import Exports, ModelFiles, Tally

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
MANY = pytest.param(40, marks=pytest.mark.long)


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), MANY])
@pytest.mark.parametrize("kind", [Exports, ModelFiles])
def test_a_killed_writer_leaves_whole_files(
    kind: type[Exports | ModelFiles], kills: int, tmp_path: Path
) -> None:
    files, tally, rng = kind(tmp_path), Tally(), np.random.default_rng(kills)
    for _ in range(kills):
        files.attack(tally, rng.uniform(0.2, 4.0) * files.pace)
    assert tally.told > 0
    assert (tally.lost, tally.unreadable) == (0, 0), tally
