"""Disks that are full, folders that are read-only, clocks that jump, two processes on one project.

Whatever is kept for the user is the old one or the new one, and the message says what to do. How
batches take a full disk is in ``batch/test_full_disk.py``, what kills leave in ``test_kill.py``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from export import results as made
from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cache import Cache
from napari_sparseattn.export.formats import formats_for, write_results
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project
from small_model import small_bundle

#: Not AnnData: its files were left whole too, but libhdf5 then crashes the process as it ends.
FORMATS = [
    each.name
    for each in formats_for(made.cells(), made.field())
    if not each.missing and each.name != "anndata"
]


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond that: a write fails as on a full disk, wherever it is by then."""
    resource = pytest.importorskip("resource", reason="limits are set otherwise on Windows")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(format_name: str) -> Callable[[Path], object]:
    def act(folder: Path) -> object:
        return write_results(
            made.cells(), made.field(), folder, "a", [format_name], made.cell_card()
        )

    return act


def save(folder: Path) -> object:
    return save_bundle(small_bundle(seed=len(list(folder.iterdir()))), folder / "m.safetensors")


def add_class(folder: Path) -> object:
    return Project(folder).add_classes([f"a class of a long name {time.monotonic()}"])


ACTS = {**{name: write(name) for name in FORMATS}, "model": save, "classes": add_class}


# HDF5 tells once more, of each object that it could not write, when Python lets go of it.
@pytest.mark.qt_no_exception_capture
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("room", [0, 60, 900])
@pytest.mark.parametrize("name", ACTS)
def test_a_full_disk_leaves_the_old_files(name: str, room: int, tmp_path: Path) -> None:
    act = ACTS[name]
    act(tmp_path)
    before = {k: v for k, v in contents(tmp_path).items() if not k.endswith(".lock")}
    failed = ""
    with files_of_at_most(room):
        try:
            act(tmp_path)
        except OSError as error:
            failed = str(error)
    after = {k: v for k, v in contents(tmp_path).items() if not k.endswith(".lock")}
    assert failed or room
    if failed:
        assert after == before
    act(tmp_path)
    assert set(contents(tmp_path)) >= set(before)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("name", ACTS)
def test_a_folder_that_is_read_only_is_said(name: str, tmp_path: Path) -> None:
    ACTS[name](tmp_path)
    before = contents(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"."):
            ACTS[name](tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert contents(tmp_path) == before


def test_a_clock_that_jumps_loses_no_annotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, record = Project(tmp_path), ImageRecord("a" * 64, "a.tif")
    (path,) = [tmp_path / "images" / f"{'a' * 64}.jsonl"]
    real = time.time
    for n, offset in enumerate((0, -(10**9), 10**9, -real())):
        monkeypatch.setattr(time, "time", lambda offset=offset: real() + offset)
        book = project.open(record)
        book.add("cell", f"class {n}", position=(1.0, n))
        book.close()
    book = project.open(record)
    assert [item.label for item in book] == [f"class {n}" for n in range(4)]
    book.close()
    # The same second twice: what was put aside first is still there.
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101T000000")
    for torn in (b"first", b"second"):
        path.write_bytes(path.read_bytes() + torn)
        book = project.open(record)
        assert "put aside" in book.message
        book.close()
    aside = [each.read_bytes() for each in sorted(path.parent.glob("*.damaged-*"))]
    assert sorted(aside) == [b"first", b"second"]


def test_a_cache_is_trimmed_whatever_its_times_say(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2500)
    folder = cache.section("features")
    folder.mkdir()
    files = [folder / f"slide-{n:016x}.h5" for n in range(4)]
    for path, when in zip(files, (-(10**8), 0, 4 * 10**9, time.time()), strict=True):
        path.write_bytes(bytes(1000))
        os.utime(path, (when, when))
    with cache.using(files[0]):
        removed = cache.trim()
        # In use, though it was used longest ago before it was taken.
        assert files[0].exists()
    assert [entry.path for entry in removed] == [files[1], files[3]]
    assert cache.size() == 2000


def _add(folder: Path, name: str) -> None:
    project = Project(folder)
    book = project.open(ImageRecord(name * 64, f"{name}.tif"))
    for n in range(15):
        project.add_classes([f"{name} {n}"])
        book.add("cell", f"{name} {n}", position=(1.0, n))
    book.close()


@pytest.mark.slow
def test_two_processes_lose_none_of_each_others_classes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_add, args=(tmp_path, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    project = Project(tmp_path)
    assert set(project.classes()) == {f"{name} {n}" for name in "ab" for n in range(15)}
    assert len(set(project.classes().values())) > 1
    assert sum(project.counts().values()) == 30


def test_a_saved_model_is_the_one_that_was_saved_last(tmp_path: Path) -> None:
    for seed in range(3):
        saved = save_bundle(small_bundle(seed=seed), tmp_path / "m.safetensors")
        with files_of_at_most(100), contextlib.suppress(OSError):
            save_bundle(small_bundle(seed=seed + 10), tmp_path / "m.safetensors")
        found = load_bundle(tmp_path / "m.safetensors")
        assert found.hash == saved.hash
        assert all(np.isfinite(t.numpy()).all() for t in found.state.values())
