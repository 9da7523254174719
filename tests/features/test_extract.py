"""Features of patches: the same however they are made, interrupted or damaged."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from napari_sparseattn.features.encoders import Encoder
from napari_sparseattn.features.extract import FeatureError, extract_features, slide_hash
from napari_sparseattn.features.files import read_features
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides._tiles import Tile
from napari_sparseattn.images.slides.patches import PatchGrid, patch_grid, read_patch
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.images.tissue.mask import tissue_from_polygons

SIDE, SIZE = 640, 32


class Means(Encoder):
    """Mean colours of 32 places; counts what it has encoded."""

    name, width, hash, licence = "means", 128, "a" * 64, "none"
    size, pixel_size = SIZE, 0.5

    def __init__(self, log: Path | None = None, pause: float = 0.0) -> None:
        self.calls: list[int] = []
        self.log, self.pause = log, pause

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        time.sleep(self.pause)
        self.calls.append(len(patches))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{len(patches)}\n")
        flat = patches.reshape(len(patches), -1).astype(np.float32)
        return flat[:, : 128 * 24].reshape(len(patches), 128, 24).mean(axis=2)


def slide(seed: int = 0) -> ArrayPyramid:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return ArrayPyramid(pixels, pixel_size=0.5, name="slide", tile=64)


def grid_of(pyramid: ArrayPyramid) -> PatchGrid:
    corners = [(0, 0), (0, SIDE), (SIDE, SIDE), (SIDE, 0)]
    tissue = tissue_from_polygons((SIDE, SIDE), [corners], 8)
    return patch_grid(pyramid, tissue, pixel_size=0.5, size=SIZE)


@functools.cache
def truth() -> np.ndarray:
    """Encode patch by patch, without threads, batches or files."""
    pyramid = slide()
    grid, encoder = grid_of(pyramid), Means()
    return np.concatenate(
        [encoder(read_patch(pyramid, grid, i)[0][np.newaxis]) for i in range(len(grid))]
    )


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def stop_after(n: int):
    def progress(stage: str, done: int, total: int) -> None:
        if done >= n:
            raise InterruptedError

    return progress


def test_encoding_side_by_side_leaves_other_threads_theirs() -> None:
    """Each on one core; the caller's own number of threads stays."""
    seen: list[int] = []

    class Watched(Means):
        parallel = True

        def __call__(self, patches: np.ndarray) -> np.ndarray:
            seen.append(torch.get_num_threads())
            return super().__call__(patches)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pyramid = slide()
        found = extract_features(pyramid, grid_of(pyramid), Watched(), batch=50)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
    assert np.array_equal(found.read(), truth())


@pytest.mark.parametrize("batch", [7, 64, 1000])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("parallel", [False, True])
def test_batches_and_threads_change_nothing(
    batch: int, threads: int, parallel: bool, tmp_path: Path
) -> None:
    pyramid = slide()
    grid, encoder = grid_of(pyramid), Means()
    encoder.parallel = parallel
    steps: list[tuple[int, int]] = []
    kept = extract_features(
        pyramid, grid, encoder, batch=batch, threads=threads, progress=lambda _, *s: steps.append(s)
    )
    assert np.array_equal(kept.read(), truth())
    assert sum(encoder.calls) == len(grid) == 400
    assert steps[0] == (0, 400)
    assert steps[-1] == (400, 400)
    filed = extract_features(pyramid, grid, Means(), tmp_path / "f.h5", batch=batch)
    assert np.array_equal(filed.read(), truth())
    assert np.array_equal(filed.cells, grid.cells)
    assert names(tmp_path) == ["f.h5"]


def test_a_file_says_where_its_features_come_from(tmp_path: Path) -> None:
    pyramid = slide()
    grid = grid_of(pyramid)
    path = tmp_path / "sub" / "f.h5"
    made = extract_features(pyramid, grid, Means(), path)
    found = read_features(path)
    for each in (made, found):
        assert (each.encoder, each.encoder_hash) == ("means", "a" * 64)
        assert each.slide_hash == slide_hash(pyramid)
        assert (each.step, each.side, each.pixel_size, each.origin) == (SIZE, SIZE, 0.5, (0, 0))
        assert each.path == path
        assert each.unit == "px"
        assert each.features.shape == (400, 128)
    rows = np.array([399, 3, 3, 200])
    assert np.array_equal(found.features[rows], truth()[rows])
    assert np.array_equal(found.features[10:20], truth()[10:20])
    # As CLAM and TRIDENT have them, so that others can read the file.
    with h5py.File(path) as file:
        assert np.array_equal(file["coords"][()], grid.corners[:, ::-1])
        assert file["coords"].attrs["patch_size_level0"] == SIZE


def test_stopped_and_gone_on_with_no_patch_twice(tmp_path: Path) -> None:
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    first, second = Means(), Means()
    with pytest.raises(InterruptedError):
        extract_features(pyramid, grid, first, path, batch=16, progress=stop_after(160))
    assert not path.exists()
    assert sum(first.calls) == 160
    steps: list[int] = []
    # Another batch size goes on with the parts that are there.
    found = extract_features(
        pyramid, grid, second, path, batch=64, progress=lambda _, done, total: steps.append(done)
    )
    assert steps[0] == 160
    assert sum(second.calls) == 240
    assert np.array_equal(found.read(), truth())
    third = Means()
    again = extract_features(pyramid, grid, third, path)
    assert third.calls == []
    assert np.array_equal(again.read(), truth())


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_extract import Means, extract_features, grid_of, slide
pyramid = slide()
folder = Path(sys.argv[2])
extract_features(pyramid, grid_of(pyramid), Means(folder / "log", 0.01), folder / "f.h5", batch=8)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_at_any_point_nothing_is_lost(tmp_path: Path) -> None:
    random = np.random.default_rng(int(time.time()))
    log, kills = tmp_path / "log", 0
    for _ in range(3):
        before = len(log.read_text().split()) if log.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path)]
        )
        wanted = before + int(random.integers(4, 14))
        while process.poll() is None and (
            not log.exists() or len(log.read_text().split()) < wanted
        ):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    encoded = sum(map(int, log.read_text().split()))
    pyramid, encoder = slide(), Means()
    found = extract_features(pyramid, grid_of(pyramid), encoder, tmp_path / "f.h5", batch=8)
    assert np.array_equal(found.read(), truth())
    # Each kill can cost the one batch that was being encoded or written.
    assert 400 <= encoded + sum(encoder.calls) <= 400 + 8 * kills
    assert names(tmp_path) == ["f.h5", "log"]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap", "remove"])
def test_damaged_parts_are_made_again(harm: str, tmp_path: Path) -> None:
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    with pytest.raises(InterruptedError):
        extract_features(pyramid, grid, Means(), path, batch=16, progress=stop_after(160))
    folder = tmp_path / "f.h5.parts"
    part, other = folder / "000003.part", folder / "000004.part"
    content = bytearray(part.read_bytes())
    if harm == "flip":
        content[-5] ^= 1
    elif harm == "cut":
        del content[-100:]
    elif harm == "empty":
        content.clear()
    elif harm == "swap":
        content = bytearray(other.read_bytes())
    part.write_bytes(content)
    if harm == "remove":
        part.unlink()
    encoder = Means()
    found = extract_features(pyramid, grid, encoder, path, batch=16)
    assert sum(encoder.calls) == 240 + 16
    assert np.array_equal(found.read(), truth())


def test_parts_of_other_runs_are_refused_and_kept(tmp_path: Path) -> None:
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    with pytest.raises(InterruptedError):
        extract_features(pyramid, grid, Means(), path, progress=stop_after(64))
    newer = Means()
    newer.hash = "b" * 64
    with pytest.raises(FeatureError, match="another version of the encoder"):
        extract_features(pyramid, grid, newer, path)
    with pytest.raises(FeatureError, match="another slide"):
        extract_features(slide(1), grid, Means(), path)
    extract_features(pyramid, grid, Means(), path)
    with pytest.raises(FeatureError, match="made with another version of the encoder"):
        extract_features(pyramid, grid, newer, path)
    assert np.array_equal(read_features(path).read(), truth())


def test_never_writes_over_what_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((2, 128))
    before = path.read_bytes()
    pyramid = slide()
    with pytest.raises(FeatureError, match="not made here"):
        extract_features(pyramid, grid_of(pyramid), Means(), path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["f.h5"]
    with pytest.raises(FeatureError, match="folder"):
        extract_features(pyramid, grid_of(pyramid), Means(), tmp_path)


def test_a_damaged_file_is_made_again_rather_than_trusted(tmp_path: Path) -> None:
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    extract_features(pyramid, grid, Means(), path)
    with h5py.File(path, "r+") as file:
        file["features"][7, 3] += 1e-3
    found = read_features(path)
    with pytest.raises(FeatureError, match="damaged"):
        found.read()
    encoder = Means()
    again = extract_features(pyramid, grid, encoder, path)
    assert sum(encoder.calls) == 400
    assert np.array_equal(again.read(), truth())


@pytest.mark.parametrize("name", ["step", "mpp", "encoder_hash", "origin_x"])
def test_changed_attributes_are_noticed(name: str, tmp_path: Path) -> None:
    path, pyramid = tmp_path / "f.h5", slide()
    extract_features(pyramid, grid_of(pyramid), Means(), path)
    with h5py.File(path, "r+") as file:
        file.attrs[name] = "c" * 64 if name == "encoder_hash" else 17.0
    with pytest.raises(FeatureError, match="damaged"):
        read_features(path)


def test_a_thread_waits_for_one_that_is_being_cancelled(tmp_path: Path) -> None:
    """In the window the same slide can be asked for again before the first has come to its end."""
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    begun, may_end = threading.Event(), threading.Event()

    def cancelled(stage: str, done: int, total: int) -> None:
        if done:
            begun.set()
            assert may_end.wait(100)
            raise InterruptedError

    def first() -> None:
        with contextlib.suppress(InterruptedError):
            extract_features(pyramid, grid, Means(), path, batch=64, progress=cancelled)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(100)
    waited: list[int] = []

    def second(stage: str, done: int, total: int) -> None:
        waited.append(done)
        may_end.set()

    found = extract_features(pyramid, grid, Means(), path, batch=64, progress=second)
    thread.join()
    assert waited[0] == 0
    assert np.array_equal(found.read(), truth())

    def stopped(stage: str, done: int, total: int) -> None:
        raise InterruptedError

    begun.clear()
    may_end.clear()
    path.unlink()
    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(100)
    with pytest.raises(InterruptedError):
        extract_features(pyramid, grid, Means(), path, batch=64, progress=stopped)
    may_end.set()
    thread.join()


def test_two_processes_do_not_make_one_file(tmp_path: Path) -> None:
    pyramid = slide()
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    seen: list[str] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        if done == 64:
            with pytest.raises(FeatureError, match="another process") as caught:
                extract_features(pyramid, grid, Means(), path)
            seen.append(str(caught.value))

    found = extract_features(pyramid, grid, Means(), path, progress=meanwhile)
    assert len(seen) == 1
    assert np.array_equal(found.read(), truth())


class Holed(ArrayPyramid):
    """One tile of 64 x 64 pixels, which holds 4 patches, cannot be decoded."""

    def _fetch(self, level, tiles):
        made = super()._fetch(level, tiles)
        return [
            Tile(None, failure="damaged") if key == (2, 3) else tile
            for key, tile in zip(tiles, made, strict=True)
        ]


@pytest.mark.parametrize("stored", [False, True])
def test_patches_that_cannot_be_read_are_left_out_and_reported(
    stored: bool, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pyramid = Holed(pixels, pixel_size=0.5, tile=64)
    grid = grid_of(pyramid)
    found = extract_features(pyramid, grid, Means(), tmp_path / "f.h5" if stored else None)
    lost = {(6, 4), (7, 4), (6, 5), (7, 5)}
    assert {tuple(cell) for cell in grid.cells[found.failed]} == lost
    assert lost.isdisjoint({tuple(cell) for cell in found.cells})
    assert np.array_equal(found.read(), truth()[~found.failed])
    assert "4 of 400 patches" in found.notes[0]


def test_a_slide_that_fails_while_it_is_read_says_so(tmp_path: Path) -> None:
    class Gone(ArrayPyramid):
        left = 200

        def _fetch(self, level, tiles):
            self.left -= len(tiles)
            if self.left < 0:
                raise ImageError("the slide is gone")
            return super()._fetch(level, tiles)

    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pyramid = Gone(pixels, pixel_size=0.5, tile=64)
    grid, path = grid_of(pyramid), tmp_path / "f.h5"
    with pytest.raises(ImageError, match="gone"):
        extract_features(pyramid, grid, Means(), path)
    pyramid.left = 10**6
    encoder = Means()
    assert np.array_equal(extract_features(pyramid, grid, encoder, path).read(), truth())
    assert sum(encoder.calls) < 400


def test_refuses_nothing_to_do_and_bad_encoders() -> None:
    pyramid = slide()
    nothing = patch_grid(
        pyramid, tissue_from_polygons((SIDE, SIDE), [], 8), pixel_size=0.5, size=SIZE
    )
    with pytest.raises(FeatureError, match="no patches"):
        extract_features(pyramid, nothing, Means())

    class Wrong(Means):
        def __call__(self, patches):
            return np.full((len(patches), 128), np.nan, np.float32)

    with pytest.raises(FeatureError, match="no numbers"):
        extract_features(pyramid, grid_of(pyramid), Wrong())


def test_slides_are_told_apart(tmp_path: Path) -> None:
    assert slide_hash(slide()) == slide_hash(slide())
    assert slide_hash(slide()) != slide_hash(slide(1))
    counted = slide()
    slide_hash(counted)
    assert counted.ledger.snapshot().n_used == 0
    file = tmp_path / "slide.bin"
    for content in (b"one", b"two"):
        file.write_bytes(content * 1000)
        counted.path = file
        assert slide_hash(counted) == slide_hash(counted)
    changed = slide_hash(counted)
    file.write_bytes(b"one" * 1000)
    assert slide_hash(counted) != changed
