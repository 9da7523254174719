"""The cache keeps to its limit, and to its own files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from napari_sparseattn.cache import Cache

COMMIT = "0123456789abcdef" * 2 + "01234567"


def feature(cache: Cache, number: int, size: int, used: float) -> Path:
    path = cache.section("features") / f"slide-{number:016x}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used, used))
    return path


def model(cache: Cache, size: int, used: float) -> Path:
    folder = cache.section("hub") / "owner--name" / COMMIT
    folder.mkdir(parents=True)
    for name, bytes_ in (("m.safetensors", size - 10), ("source.json", 10)):
        (folder / name).write_bytes(b"x" * bytes_)
        os.utime(folder / name, (used, used))
    os.utime(folder, (used, used))
    return folder


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 250)
    second, third = feature(cache, 2, 100, 2000), feature(cache, 3, 100, 3000)
    first = model(cache, 100, 1000)
    assert cache.size() == 300
    removed = cache.trim()
    assert [entry.path for entry in removed] == [first]
    assert not first.parent.exists(), "its empty folder stayed"
    assert second.exists()
    assert third.exists()
    assert cache.trim() == []
    cache.hold(second).release()  # used now
    assert [entry.path for entry in cache.trim(100)] == [third]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 0)
    used, other, folder = feature(cache, 1, 10, 1), feature(cache, 2, 10, 2), model(cache, 20, 3)
    with cache.using(folder / "m.safetensors"), cache.using(used):
        assert [entry.path for entry in cache.trim()] == [other]
    with cache.using(cache.section("features")), cache.using(folder):
        assert cache.trim() == []
    assert {entry.path for entry in cache.trim()} == {used, folder}


def test_another_process_holds_it_and_lets_go_when_it_dies(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 0)
    path = feature(cache, 1, 10, 1)
    code = (
        "import sys, time; from pathlib import Path; from napari_sparseattn.cache import Cache\n"
        f"lease = Cache(Path({str(cache.folder)!r}), 0).hold(Path({str(path)!r}))\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        assert cache.trim() == []
        other.kill()
        other.wait()
    assert [entry.path for entry in cache.trim()] == [path]
    assert not list((cache.folder / "in-use").iterdir()), "a dead process's lease stayed"


def test_only_our_own_entries_are_removed(tmp_path: Path) -> None:
    """Somebody may choose a folder that holds other things."""
    cache = Cache(tmp_path, 0)
    ours = feature(cache, 1, 10, 1)
    parts = ours.with_name(ours.name + ".parts")
    parts.mkdir()
    (parts / "000000.part").write_bytes(b"x")
    theirs = [
        tmp_path / "thesis.docx",
        tmp_path / "features" / "my-features.h5",
        tmp_path / "hub" / "owner--name" / "notes.txt",
        tmp_path / "samples" / "holiday.jpg",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    linked = tmp_path / "features" / f"link-{2:016x}.h5"
    linked.symlink_to(theirs[0])
    assert {entry.path for entry in cache.trim()} == {ours, parts}
    assert all(path.read_text() == "mine" for path in theirs)
    assert linked.is_symlink()


def test_folder_and_size_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path))
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE_GB", "1.5")
    assert Cache.default() == Cache(tmp_path, 1_500_000_000)
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE_GB", "much")
    with pytest.raises(ValueError, match="must be a number of GB, got 'much'"):
        Cache.default()
    monkeypatch.delenv("NAPARI_SPARSEATTN_CACHE_GB")
    assert Cache.default().limit == 20_000_000_000
    with pytest.raises(ValueError, match="no kind"):
        Cache.default().section("letters")
    with pytest.raises(ValueError, match="negative"):
        Cache(tmp_path, -1)
