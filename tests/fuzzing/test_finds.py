"""What was found by damaging files at random, read again; and whether the search finds at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fuzzing.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((Path(__file__).parent / "finds").glob("*/*/"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_what_was_found_is_read_or_refused(folder: Path, tmp_path: Path) -> None:
    target = TARGETS[folder.parent.name.replace("-", " ")]
    shutil.copytree(folder, tmp_path / "input")
    began, refusal = time.process_time(), "none"
    try:
        target.read(tmp_path / "input")
    except target.refusals as error:
        refusal = str(error)
    assert refusal
    assert time.process_time() - began < target.seconds


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    if sys.platform != "linux":
        pytest.skip("processes are forked, and tell their memory under /proc")
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts/fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the module of their class.
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


def _raise(folder: Path) -> int:
    raise KeyError(folder.name)


def _swell(folder: Path) -> int:
    return 10 * bytearray(200 * 2**20).count(1)


def _hang(folder: Path) -> int:
    while True:
        pass


def _die(folder: Path) -> int:
    os.abort()


def _refuse_silently(folder: Path) -> int:
    raise ValueError


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (_raise, "KeyError in"),
        (_swell, "memory"),
        (_hang, "hangs for over"),
        (_die, "dies of 6"),
        (_refuse_silently, "says nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_kind_of_find_is_found(
    fuzz: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: Callable[[Path], int],
    said: str,
) -> None:
    def read(folder: Path) -> int:
        return 0 if (folder / "a").read_bytes() == b"sound" else what(folder)

    def seeds(folder: Path) -> None:
        (folder / "0").mkdir()
        (folder / "0/a").write_bytes(b"sound")

    target = Target(seeds, read, (ValueError,), seconds=0.5)
    monkeypatch.setitem(TARGETS, "made", target)
    counts = fuzz.watch("made", 1, 0.5, tmp_path / "corpus", tmp_path / "keep")
    (find,) = (tmp_path / "keep/made").iterdir()
    assert said in (find / "about.txt").read_text()
    assert (find / "input/a").read_bytes() != b"sound"
    assert dataclasses.astuple(counts)[0] > 1
