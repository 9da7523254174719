"""Disks that are full, folders that are read-only, clocks that jump, two processes on one project.

Whatever is kept for the user is the old one or the new one, and the message says what to do. How
batches take a full disk is in ``batch/test_full_disk.py``, what kills leave in ``test_kill.py``.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from export import results as made
from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.cache import Cache
from napari_sparseattn.export.formats import formats_for, write_results
from napari_sparseattn.files import NoRoomError, replacing, replacing_folder, writing_hdf5
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project
from small_model import small_bundle

FORMATS = [each.name for each in formats_for(made.cells(), made.field()) if not each.missing]


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


def test_what_lacks_room_says_where_and_what_to_do(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with files_of_at_most(10):
        with pytest.raises(NoRoomError) as caught, replacing(target) as temporary:
            temporary.write_bytes(bytes(100))
        with pytest.raises(NoRoomError, match=re.escape(str(tmp_path / "folder"))):
            _fill(tmp_path / "folder")
    # As it comes from another process.
    error = copy.copy(caught.value)
    assert str(error) == (
        f"{target} cannot be written ({os.strerror(errno.EFBIG)}). Free some space, or choose a "
        "folder on another disk. What was there before is as it was."
    )
    assert error.errno == errno.EFBIG
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    # Of a file elsewhere, that one is named.
    elsewhere = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/b")
    with pytest.raises(OSError, match="/elsewhere/b") as other, replacing(target):
        raise elsewhere
    assert other.value is elsewhere


def _fill(folder: Path) -> None:
    with replacing_folder(folder) as made:
        made.mkdir()
        (made / "a").write_bytes(bytes(100))


def test_what_a_disk_refuses_of_hdf5_is_read_as_written_and_then_said(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.touch()
    rng = np.random.default_rng(0)
    parts = {f"part {n}": rng.integers(0, 255, (50, 40)) for n in range(30)}

    def write() -> None:
        with writing_hdf5(path) as (file, check):
            for name, values in parts.items():
                file.create_dataset(name, data=values, chunks=(10, 40), compression="lzf")
            file.flush()
            for name, values in parts.items():
                np.testing.assert_array_equal(file[name][:], values)
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                check()

    with files_of_at_most(20_000), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write()
    with writing_hdf5(path) as (file, check):
        file["a"] = parts["part 0"]
        check()
    with writing_hdf5(path, "r+") as (file, check):
        file["b"] = file["a"][:] + 1
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["b"], parts["part 0"] + 1)
        assert set(file) == {"a", "b"}


#: Run in a process of its own: libhdf5 would crash it as it ends.
_HDF5 = """
import resource, shutil, signal, sys
from pathlib import Path
import h5py, numpy as np
from napari_sparseattn.files import NoRoomError, replacing, writing_hdf5

def chunks(path):
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, check):
        made = file.create_dataset("rows", (4000, 64), "<f4", chunks=(100, 64))
        for start in range(0, 4000, 100):
            made[start : start + 100] = start
            check()
        file["cells"] = np.arange(4000)

def add(path):
    with replacing(path) as temporary:
        shutil.copyfile(sys.argv[2], temporary)
        with writing_hdf5(temporary, "r+") as (file, _):
            for n in range(20):
                file.create_dataset(f"more {n}", data=np.arange(500.0), fletcher32=True)

def table(path):
    from export import results as made
    from napari_sparseattn.export.formats import write_results
    write_results(made.cells(), made.field(), path.parent, "a", ["anndata"], made.cell_card())

act = {"chunks": chunks, "add": add, "table": table}[sys.argv[1]]
with h5py.File(sys.argv[2], "w") as file:
    file["a"] = np.arange(100)
# What is imported for it is there by now.
act(Path(sys.argv[2] + "-new.h5"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for room in (0, 60, 900, 3000, 9000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        act(Path(sys.argv[2] + "-new.h5"))
    except NoRoomError as error:
        print(error.filename)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits are set otherwise on Windows")
@pytest.mark.parametrize("act", ["chunks", "add", pytest.param("table", marks=pytest.mark.slow)])
def test_a_full_disk_does_not_crash_the_process_that_wrote_hdf5(act: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _HDF5, act, str(tmp_path / "a.h5")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    name = "a.h5ad" if act == "table" else "a.h5-new.h5"
    assert done.stdout.splitlines() == [str(tmp_path / name)] * 6
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", name}


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
