"""Libraries in another process: the same pixels, and crashes and hangs that cost one tile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bad_slides import halves, huge_tile, scene, write_svs, zeroed
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides._vendor import VendorPyramid, open_vendor
from napari_sparseattn.images.slides.opening import open_slide

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture
def slide(tmp_path: Path) -> Iterator[VendorPyramid]:
    pytest.importorskip("openslide")
    with open_vendor(write_svs(tmp_path / "a.svs"), "openslide") as opened:
        yield opened


def test_pixels_scale_and_images_are_those_of_our_own_reader(slide: VendorPyramid) -> None:
    assert slide.path is not None
    with open_slide(slide.path) as own:
        assert [(a.height, a.width, a.downsample) for a in slide.levels] == [
            (a.height, a.width, a.downsample) for a in own.levels
        ]
        assert slide.pixel_size == own.pixel_size == 0.5
        assert set(slide.associated) == set(own.associated) == {"thumbnail"}
        np.testing.assert_array_equal(slide.associated["thumbnail"], own.associated["thumbnail"])
        for level in range(3):
            mine = own.read_region(100, 40, level, 300, 250)
            theirs = slide.read_region(100, 40, level, 300, 250)
            np.testing.assert_array_equal(theirs.pixels, mine.pixels)
            np.testing.assert_array_equal(theirs.valid, mine.valid)


@pytest.mark.parametrize(("kind", "package"), [("openslide", "openslide"), ("dicom", "wsidicom")])
def test_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    """A module of that name that cannot be imported stands in for none."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('there is none')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImageError, match=f"pip install {package}"):
        open_vendor(tmp_path / "a.mrxs", kind)


@posix
def test_death_while_idle_is_not_noticed(slide: VendorPyramid) -> None:
    assert slide._process.pid is not None
    os.kill(slide._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, slide._process.pid, os.WEXITED | os.WNOWAIT)
    assert slide.read_region(0, 0, 0, 100, 100).valid.all()
    assert slide._process.n_started == 2


@posix
def test_hang_costs_one_tile_and_the_next_is_read(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = write_svs(tmp_path / "a.svs")
    with open_vendor(path, "openslide", read_seconds=0.5) as slide:
        assert slide._process.pid is not None
        os.kill(slide._process.pid, signal.SIGSTOP)
        region = slide.read_region(0, 0, 0, 256, 512)
        assert not region.valid[:, :256].any()
        assert region.valid[:, 256:].all()
        assert slide.ledger.snapshot().failed[0] == {(0, 0): "the library took longer than 0.5 s"}


def test_abort_of_the_library_is_a_failed_tile(tmp_path: Path) -> None:
    """OpenSlide aborts its process on a tile of 2**30 pixels."""
    pytest.importorskip("openslide")
    with open_vendor(huge_tile(tmp_path / "a.svs"), "openslide") as slide:
        region = slide.read_region(0, 0, 0, 64, 64)
        assert not region.valid.any()
        assert list(slide.ledger.snapshot().failed[0].values()) == ["the library crashed on it"]


def test_one_bad_tile_does_not_poison_the_others(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = zeroed(tmp_path / "a.svs", tiles=(0, 1, 5))
    with open_vendor(path, "openslide") as slide:
        region = slide.read_region(0, 0, 0, 1024, 1024)
        failed = slide.ledger.snapshot().failed[0]
        assert set(failed) == {(0, 0), (0, 1), (1, 1)}
        assert region.valid.mean() == 13 / 16
        assert slide._process.n_started == 1


@pytest.mark.parametrize("kind", ["openslide", "dicom"])
def test_what_is_no_slide_is_refused(tmp_path: Path, kind: str) -> None:
    pytest.importorskip({"dicom": "wsidicom"}.get(kind, kind))
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"not a slide" * 100)
    with pytest.raises(ImageError, match="cannot be opened as a slide"):
        open_vendor(path, kind)


_JFIF = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(200)


def _mrxs(path: Path, **files: str) -> Path:
    """Write a MIRAX slide's picture and its folder, as far as given."""
    path.write_bytes(_JFIF)
    for name, text in files.items():
        path.with_suffix("").mkdir(exist_ok=True)
        (path.with_suffix("") / name.replace("_", ".")).write_text(text)
    return path


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (_mrxs, "alone.mrxs", "pixels are in a folder alone beside it, which is missing"),
        (lambda p: _mrxs(p, other_txt=""), "a.mrxs", "lacks Slidedat.ini"),
        (lambda p: _mrxs(p, Slidedat_ini="[GENERAL]\n"), "b.mrxs", "SLIDE_"),
        (lambda p: p.write_bytes(b"junk" * 200), "a.czi", "does not begin as a CZI"),
        (lambda p: p.write_bytes(b"ZISRAWFILE" + bytes(600)), "b.czi", "cannot be opened"),
        (lambda p: p.write_bytes(b"ZISRAWFILE"), "c.czi", "cannot be opened"),
        (lambda p: p.write_bytes(b"junk" * 200), "a.bif", "cannot be opened"),
        (lambda p: p.write_text("[Virtual Microscope Specimen]\n"), "a.vms", "cannot be opened"),
        (lambda p: p.write_bytes(b"DICM" * 300), "a.dcm", "is not a slide|cannot be opened"),
    ],
)
def test_damaged_and_incomplete_vendors_files_say_what_is_wrong(
    tmp_path: Path, write: Callable[[Path], object], name: str, message: str
) -> None:
    pytest.importorskip("openslide")
    write(tmp_path / name)
    with pytest.raises(ImageError, match=message) as caught:
        open_slide(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_hang_on_opening_ends(tmp_path: Path) -> None:
    """OpenSlide waits for ever for the writer of a pipe."""
    pytest.importorskip("openslide")
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(ImageError, match="took longer than 1 s"):
        open_vendor(tmp_path / "a.svs", "openslide", open_seconds=1)


def test_replaced_file_is_noticed(slide: VendorPyramid, tmp_path: Path) -> None:
    write_svs(tmp_path / "b.svs").replace(tmp_path / "a.svs")
    with pytest.raises(ImageError, match="changed or replaced"):
        slide.read_region(0, 0, 0, 10, 10)


def test_closing_ends_the_process(slide: VendorPyramid) -> None:
    process = slide._process._process
    assert process is not None
    slide.close()
    assert process.returncode is not None
    with pytest.raises(ImageError, match="closed"):
        slide.read_region(600, 0, 0, 10, 10)


def test_transparent_is_not_there(tmp_path: Path) -> None:
    """OpenSlide gives alpha 0 for tiles that an Aperio file does not hold."""
    pytest.importorskip("openslide")
    from bad_slides import patch_tag, tile_places

    path = write_svs(tmp_path / "a.svs", halves(scene(), 1))
    offsets, counts = tile_places(path)
    offsets[3] = counts[3] = 0
    patch_tag(path, "TileOffsets", offsets)
    patch_tag(path, "TileByteCounts", counts)
    with open_vendor(path, "openslide") as theirs, open_slide(path) as ours:
        for slide in (theirs, ours):
            region = slide.read_region(0, 700, 0, 256, 324)
            assert region.valid[:, :68].all()
            assert not region.valid[:, 68:].any()
            assert slide.ledger.snapshot().absent[0] == {(0, 3)}


@pytest.mark.parametrize("library", ["wsidicom", "openslide"])
def test_dicom_has_its_size_scale_and_pixels(tmp_path: Path, library: str) -> None:
    """By each library; JPEG of quality 95 with half the colours' width."""
    pytest.importorskip("pydicom")
    pytest.importorskip(library)
    from dicom_slide import write_dicom

    levels = halves(scene(), 3)
    folder = write_dicom(tmp_path / "slide", levels, 0.25)
    kind = "dicom" if library == "wsidicom" else library
    with open_vendor(folder / "1.dcm", kind) as slide:
        assert slide.pixel_size == pytest.approx(0.25)
        assert [(level.height, level.downsample) for level in slide.levels] == [
            (1024, 1),
            (512, 2),
            (256, 4),
        ]
        for n, level in enumerate(levels):
            region = slide.read_region(100, 20, n, 150, 230)
            apart = region.pixels.astype(int) - level[100:250, 20:250]
            assert np.abs(apart).mean() < 1.5
            assert region.valid.all()


def test_dicom_folder_and_file_are_told_by_their_content(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom")
    from dicom_slide import write_dicom

    folder = write_dicom(tmp_path / "slide", halves(scene(), 2), 0.25)
    plain = (folder / "0.dcm").rename(folder / "0")
    with open_slide(folder) as slide:
        assert len(slide.levels) == 2
    plain.rename(tmp_path / "no-ending")
    with open_slide(tmp_path / "no-ending") as slide:
        assert slide.shape == (1024, 1024)


@pytest.mark.slow
def test_second_slide_of_a_dicom_folder_is_said(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom")
    from dicom_slide import write_dicom

    large = write_dicom(tmp_path / "slide", halves(scene(), 2), 0.25)
    small = write_dicom(tmp_path / "other", [scene(512, 512)], 0.25)
    (small / "0.dcm").rename(large / "another.dcm")
    with open_slide(large) as slide:
        assert (slide.shape, len(slide.levels)) == ((1024, 1024), 2)
        assert "holds 2 slides; the largest is read" in slide.notes[0]
    with open_slide(large / "another.dcm") as slide:
        assert slide.shape == (512, 512)


@pytest.mark.parametrize("paths", [1, 2])
def test_optical_paths_that_are_not_read_are_said(tmp_path: Path, paths: int) -> None:
    pytest.importorskip("wsidicom")
    from dicom_slide import write_dicom

    image = scene(512, 512)
    folder = write_dicom(tmp_path / "slide", [image], 0.25, paths=paths)
    with open_slide(folder) as slide:
        region = slide.read_region(0, 0, 0, 512, 512)
        assert np.abs(region.pixels.astype(int) - image).mean() < 1.5
        told = [note for note in slide.notes if "2 optical paths; the first is read" in note]
        assert len(told) == paths - 1


def test_damaged_frame_of_dicom_fails_alone(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom")
    from dicom_slide import write_dicom

    folder = write_dicom(tmp_path / "slide", [scene()], 0.25)
    data = (folder / "0.dcm").read_bytes()
    first = data.find(b"\xff\xd8\xff")
    (folder / "0.dcm").write_bytes(data[:first] + bytes(500) + data[first + 500 :])
    with open_slide(folder / "0.dcm") as slide:
        region = slide.read_region(0, 0, 0, 512, 512)
        assert not region.valid[:256, :256].any()
        assert region.valid[256:].all()
        assert list(slide.ledger.snapshot().failed[0]) == [(0, 0)]
