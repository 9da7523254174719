"""Slides open at the right size and scale, and bad ones end in a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import bad_slides
from bad_slides import PARTLY, REFUSED, UNCALIBRATED, halves, scene, write_svs
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.opening import is_slide, open_slide

REAL = [
    ("CMU-1-Small-Region.svs", (2967, 2220), 0.499, 1, {"label", "macro", "thumbnail"}),
    ("tcga-cr-7395-01a-01-ts1.svs", (3567, 4443), None, 2, {"thumbnail"}),
    ("test3-DAPI-2-387.ndpi", (4864, 3968), 0.2282, 7, {"macro", "map"}),
]


@pytest.mark.parametrize(("name", "shape", "pixel_size", "n_levels", "images"), REAL)
def test_real_slide_has_its_size_scale_and_images(
    shared: Path,
    name: str,
    shape: tuple[int, int],
    pixel_size: float | None,
    n_levels: int,
    images: set[str],
) -> None:
    with open_slide(shared / "data/slides" / name) as slide:
        assert slide.shape == shape
        assert slide.pixel_size == (
            None if pixel_size is None else pytest.approx(pixel_size, rel=1e-3)
        )
        assert bool(slide.notes) == (pixel_size is None)
        assert len(slide.levels) == n_levels
        assert set(slide.associated) == images
        for image in slide.associated.values():
            assert image.ndim in (2, 3)
            assert image.size > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry[0] for entry in REAL])
def test_real_slide_has_the_pixels_that_tifffile_decodes(shared: Path, name: str) -> None:
    path = shared / "data/slides" / name
    with open_slide(path) as slide, tifffile.TiffFile(path) as tif:
        for n, level in enumerate(tif.series[0].levels[:4]):
            whole = level.asarray()
            height, width = whole.shape[:2]
            # Over the right and lower edge, where tiles are cut.
            region = slide.read_region(height - 500, width - 300, n, 520, 310)
            np.testing.assert_array_equal(region.pixels[:500, :300], whole[-500:, -300:])
            assert region.valid[:500, :300].all()
            assert not region.valid[500:].any()
            assert not region.valid[:, 300:].any()


def test_coarse_levels_of_ndpi_are_those_of_openslide(shared: Path) -> None:
    """OpenSlide lets libjpeg scale down what the file holds; averaging differs by its rounding."""
    openslide = pytest.importorskip("openslide")
    path = shared / "data/slides/test3-DAPI-2-387.ndpi"
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as other:
        assert [(level.width, level.height) for level in slide.levels] == list(
            other.level_dimensions
        )
        for n in (4, 5, 6):
            level = slide.levels[n]
            region = slide.read_region(0, 0, n, level.height, level.width)
            theirs = other.read_region((0, 0), n, (level.width, level.height))
            apart = region.pixels.astype(int) - np.asarray(theirs)[..., :3]
            assert np.abs(apart).mean() < 1
            assert region.valid.all()


def test_real_profile_is_the_files(shared: Path) -> None:
    with open_slide(shared / "data/slides/tcga-cr-7395-01a-01-ts1.svs") as slide:
        assert slide.icc_profile is not None
        assert slide.icc_profile[36:40] == b"acsp"
    with open_slide(shared / "data/slides/CMU-1-Small-Region.svs") as slide:
        assert slide.icc_profile is None


def test_real_file_that_is_no_slide_says_so(shared: Path) -> None:
    with pytest.raises(ImageError, match="is not a slide"):
        open_slide(shared / "data/slides/broken.svs")


def test_given_mpp_goes_before_the_files(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", pixel_size="0.5")
    with open_slide(path) as slide:
        assert slide.pixel_size == 0.5
    with open_slide(path, pixel_size=0.25) as slide:
        assert slide.pixel_size == 0.25
    with pytest.raises(ValueError, match="pixel size"):
        open_slide(path, pixel_size=0)


def test_content_decides_whatever_the_ending(tmp_path: Path) -> None:
    """An SVS called .mrxs is read as the TIFF it is."""
    path = write_svs(tmp_path / "a.svs").rename(tmp_path / "a.mrxs")
    with open_slide(path) as slide:
        assert slide.shape == (1024, 1024)
        assert len(slide.levels) == 3


def test_is_slide_leaves_ordinary_images_to_others(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "flat.tif", scene(300, 300), photometric="rgb")
    assert not is_slide(tmp_path / "flat.tif")
    assert not is_slide(bad_slides.written(tmp_path / "text.tif", b"II*\0no"))
    assert not is_slide(tmp_path / "nothing.tif")
    assert is_slide(write_svs(tmp_path / "a.svs"))
    assert is_slide(bad_slides.write_ome(tmp_path / "a.ome.tif", halves(scene(), 3), 0.5))


def test_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        open_slide(tmp_path / "a.svs")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_file_without_permission_says_so(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs")
    path.chmod(0)
    with pytest.raises(ImageError, match="no permission"):
        open_slide(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(ImageError, match="not an ordinary file"):
        open_slide(tmp_path / "a.svs")


def _write(entry: tuple[object, ...], folder: Path) -> Path:
    name, write = entry[:2]
    if ".zarr" in str(name):
        pytest.importorskip("zarr")
    return write(folder / str(name))  # type: ignore[operator]


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry[0])
def test_bad_slide_is_refused_with_a_message(tmp_path: Path, entry: tuple) -> None:
    with pytest.raises(ImageError) as caught:
        open_slide(_write(entry, tmp_path))
    assert entry[2] in str(caught.value)
    assert entry[0].split(".")[0] in str(caught.value), "the message names the file"


@pytest.mark.parametrize("entry", PARTLY, ids=lambda entry: entry[0])
def test_bad_tiles_are_left_out_and_counted(tmp_path: Path, entry: tuple) -> None:
    with open_slide(_write(entry, tmp_path)) as slide:
        level = slide.levels[0]
        region = slide.read_region(0, 0, 0, level.height, level.width)
        reading = slide.ledger.snapshot()
        failed = np.zeros((level.height, level.width), bool)
        for row, column in reading.failed[0]:
            failed[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256] = True
        assert len(reading.failed[0]) == entry[2]
        np.testing.assert_array_equal(region.valid, ~failed)
        assert not region.pixels[failed].any(), "no pixels are made up"
        assert reading.fraction_failed == pytest.approx(failed.mean())
        assert reading.fraction_read == pytest.approx(1 - failed.mean())
        assert all(reading.failed[0].values()), "each has a reason"


@pytest.mark.parametrize("entry", UNCALIBRATED, ids=lambda entry: entry[0])
def test_scale_is_never_guessed(tmp_path: Path, entry: tuple) -> None:
    with open_slide(_write(entry, tmp_path)) as slide:
        assert slide.pixel_size is None
        assert entry[2] in slide.notes[0]
    with open_slide(tmp_path / entry[0], pixel_size=0.3) as slide:
        assert slide.pixel_size == 0.3
        assert slide.notes == ()


@pytest.mark.parametrize("in_place", [True, False])
def test_file_replaced_while_open_is_noticed(tmp_path: Path, in_place: bool) -> None:
    path = write_svs(tmp_path / "a.svs")
    with open_slide(path) as slide:
        slide.read_region(0, 0, 0, 10, 10)
        other = write_svs(tmp_path / "b.svs", halves(255 - scene(), 3))
        if in_place:
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(1, 1))
        else:
            slide._source.close() if sys.platform == "win32" else None
            other.replace(path)
        with pytest.raises(ImageError, match="changed or replaced"):
            slide.read_region(600, 600, 0, 10, 10)
    with open_slide(path) as slide:
        assert slide.read_region(600, 600, 0, 10, 10).valid.all()


def test_closed_slide_says_so(tmp_path: Path) -> None:
    slide = open_slide(write_svs(tmp_path / "a.svs"))
    slide.close()
    with pytest.raises(ImageError, match="closed"):
        slide.read_region(0, 0, 0, 10, 10)


_READ_ALL = r"""
import json, re, sys
from napari_sparseattn.images.slides.opening import open_slide
said = {}
for path in sys.argv[1:]:
    try:
        with open_slide(path) as slide:
            level = slide.levels[0]
            slide.read_region(0, 0, 0, min(level.height, 2048), min(level.width, 2048))
            said[path] = slide.ledger.snapshot().summary()
    except ValueError as error:
        said[path] = str(error)
# getrusage would also count the process that started this one.
status = open("/proc/self/status").read()
print(json.dumps([said, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is taken from /proc")
def test_the_whole_corpus_is_survived_within_200_mb(tmp_path: Path) -> None:
    """One process reads all; what the files declare adds up to exabytes."""
    entries = [e for e in (*REFUSED, *PARTLY, *UNCALIBRATED) if ".zarr" not in e[0]]
    paths = [str(_write(entry, tmp_path)) for entry in entries]
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, *paths], capture_output=True, timeout=600, check=True
    )
    said, peak = json.loads(done.stdout)
    assert set(said) == set(paths)
    assert peak < 200 * 2**20
