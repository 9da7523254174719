"""SIGKILL of whoever runs a batch: what was told is kept, and the tables are as without kills."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from killing import Batches, Tally

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL"),
    pytest.mark.long,
]


@pytest.fixture(params=["processes", "scheduler"])
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "processes":
        yield None
        return
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_a_killed_batch_goes_on_and_ends_as_if_nothing_had_been(
    address: str | None, tmp_path: Path
) -> None:
    batches, tally, rng = Batches(tmp_path, address), Tally(), np.random.default_rng(0)
    for _ in range(6):
        batches.attack(tally, rng.uniform(0.1, 8))
    batches.attack(tally, 300)
    assert tally.runs >= 1
    assert tally.kills > 0
    assert (tally.lost, tally.unreadable, tally.different) == (0, 0, 0), tally
