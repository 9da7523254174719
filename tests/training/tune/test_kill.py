"""SIGKILL at random moments: nothing that was told is lost, nothing half-written is read.

``benchmarks/kills.py`` does the same more often.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from killing import Autosaves, Tally, Trainings, What
from napari_sparseattn.bundle import find_bundles
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
MANY = pytest.param(25, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("what", "kills"),
    [
        *(pytest.param(what, 2, marks=pytest.mark.slow) for what in ("cells", "slides")),
        *(
            pytest.param(what, 25, marks=pytest.mark.long)
            for what in ("cells", "slides", "regions")
        ),
    ],
)
def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_been(
    what: What, kills: int, tmp_path: Path
) -> None:
    trainings, tally = Trainings(tmp_path, what), Tally()
    rng, most = np.random.default_rng(kills), trainings.seconds
    while tally.kills < kills:
        trainings.attack(tally, rng.uniform(0, most))
    trainings.attack(tally, 60)
    assert tally.runs >= 1
    assert tally.told > 0
    assert (tally.lost, tally.unreadable, tally.different) == (0, 0, 0), tally


@pytest.mark.parametrize("kills", [pytest.param(4, marks=pytest.mark.slow), MANY])
def test_a_killed_window_has_lost_no_annotation(kills: int, tmp_path: Path) -> None:
    autosaves, tally, rng = Autosaves(tmp_path), Tally(), np.random.default_rng(kills)
    for seed in range(kills):
        autosaves.attack(tally, rng.uniform(0.02, 0.4), seed)
    assert tally.told > 10 * kills
    assert (tally.lost, tally.unreadable) == (0, 0), tally


def test_an_unfinished_file_is_no_image_of_the_project(tmp_path: Path) -> None:
    project = Project(tmp_path)
    book = project.open(ImageRecord("a" * 64, "a.tif"))
    book.add("cell", "round", position=(1.0, 2.0))
    book.close()
    (path,) = (tmp_path / "images").glob("a*.jsonl")
    # What a process leaves that is killed while it writes the file anew.
    path.with_name(f".{path.stem[:40]}-x1y2z3.jsonl").write_bytes(path.read_bytes())
    assert [image.hash for image in project.images()] == ["a" * 64]
    assert project.counts() == {"round": 1}


def test_an_unfinished_file_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path))
    (tmp_path / ".mine-x1y2z3.safetensors").write_bytes(b"half")
    (tmp_path / "mine.safetensors").write_bytes(b"whole")
    assert "mine" in find_bundles()
    assert not any(name.startswith(".") for name in find_bundles())
