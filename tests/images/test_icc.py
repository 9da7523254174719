"""Colour profiles: applied where they change something, left out on request, and told of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from bad_slides import halves, scene
from colour_profiles import converted, same_profile, wide_profile
from napari_sparseattn.features.hashes import slide_hash
from napari_sparseattn.images._icc import ProfileError, ToSrgb, to_srgb
from napari_sparseattn.images.opening import open_field, open_image
from napari_sparseattn.images.slides import overview
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.overview import make_overview
from napari_sparseattn.process.options import ProcessOptions

ABOUT = "Aperio Image Library v11\r\n1024x1024 (256x256) none|AppMag = 20|MPP = 0.5"


def write_svs(path: Path, profile: bytes | None, **options: Any) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for n, level in enumerate(halves(scene(), 3)):
            given = {"tile": (256, 256), "photometric": "rgb", "metadata": None, **options}
            writer.write(level, iccprofile=profile, description=ABOUT if n == 0 else None, **given)
    return path


def test_colours_are_those_of_the_textbook() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    convert = to_srgb(wide_profile())
    assert convert.changes
    assert np.abs(convert(pixels) - converted(pixels)).max() < 1
    deep = convert(pixels.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - converted(pixels)).max() < 0.2
    stack = np.stack([pixels, pixels[::-1]])
    np.testing.assert_array_equal(convert(stack)[1], convert(pixels)[::-1])


def test_srgb_changes_nothing_and_is_left_out(tmp_path: Path) -> None:
    assert not ToSrgb(same_profile()).changes
    with open_slide(write_svs(tmp_path / "a.svs", same_profile())) as slide:
        assert slide.icc_profile is not None
        assert (slide.profile_name, slide.profile_applied) == (None, False)
        assert slide.colour_notes == ()


@pytest.mark.parametrize("damage", [lambda p: p[:80], lambda p: b"x" * len(p)])
def test_damaged_profiles_are_said_and_not_used(tmp_path: Path, damage: Any) -> None:
    broken = damage(wide_profile())
    with pytest.raises(ProfileError, match="damaged"):
        ToSrgb(broken)
    with open_slide(write_svs(tmp_path / "a.svs", broken)) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 99, 99).pixels, scene()[:99, :99])
        assert "was not used" in slide.colour_notes[0]


def test_a_slide_has_its_colours_or_what_is_stored(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", wide_profile())
    with open_slide(path) as slide, open_slide(path, icc=False) as stored:
        for n, level in enumerate(halves(scene(), 3)):
            part = level[10:90, 20:200]
            found = slide.read_region(10, 20, n, 80, 180).pixels
            assert np.abs(found - converted(part)).max() < 1
            np.testing.assert_array_equal(stored.read_region(10, 20, n, 80, 180).pixels, part)
        assert (slide.profile_applied, stored.profile_applied) == (True, False)
        assert "converted from the profile" in slide.colour_notes[0]
        assert "was not applied" in stored.colour_notes[0]
        # Features that are kept of one are not those of the other.
        assert slide_hash(slide) != slide_hash(stored)
        twin = slide.with_own_ledger()
        slide.use_profile(False)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 50, 50).pixels, scene()[:50, :50])
        assert slide_hash(slide) == slide_hash(stored)
        # Work that began before goes on as it began.
        expected = converted(scene()[:50, :50])
        assert np.abs(twin.read_region(0, 0, 0, 50, 50).pixels - expected).max() < 1


def test_the_overview_serves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "FLAT_PIXELS", 2**18)
    monkeypatch.setattr(overview, "MOST_SIDE", 256)
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, scene(), iccprofile=wide_profile(), photometric="rgb", rowsperstrip=8)
    with open_slide(path) as slide:
        make_overview(slide)
        assert slide.overview is not None
        small = halves(scene(), 3)[2]
        shown = slide.overview.read_region(0, 0, 1, 256, 256).pixels
        assert np.abs(shown - converted(small)).mean() < 1
        slide.use_profile(False)
        shown = slide.overview.read_region(0, 0, 1, 256, 256).pixels
        assert np.abs(shown.astype(int) - small).max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_fields_too(tmp_path: Path, kind: str) -> None:
    path, image = tmp_path / f"a.{kind}", scene(80, 90)
    if kind == "tif":
        tifffile.imwrite(path, image, iccprofile=wide_profile(), photometric="rgb")
    else:
        Image.fromarray(image).save(path, icc_profile=wide_profile(), quality=95, subsampling=0)
    stored, field = open_field(path, icc=False), open_image(path)
    assert np.abs(stored.data.astype(int) - image).max() <= (8 if kind == "jpg" else 0)
    assert np.abs(field.data - converted(stored.data)).max() < 1  # type: ignore[union-attr]
    assert "converted from the profile" in field.notes[-1]
    assert "was not applied" in stored.notes[-1]
    assert (field.profile, field.profile_applied) == (stored.profile, True)  # type: ignore[union-attr]


def test_files_without_a_profile_are_as_they_were(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.fromarray(scene(80, 90)).save(held, "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(held.getvalue())
    expected = np.asarray(Image.open(held))
    field = open_field(path)
    np.testing.assert_array_equal(field.data, expected)
    assert (field.profile, field.notes) == ("", ())
    grey = tmp_path / "grey.png"
    Image.fromarray(scene(80, 90)[..., 0]).save(grey, icc_profile=wide_profile())
    np.testing.assert_array_equal(open_field(grey).data, scene(80, 90)[..., 0])


def test_batches_are_told_apart_by_the_choice() -> None:
    assert ProcessOptions(icc=False).hash != ProcessOptions().hash


def test_dicom_profiles_are_those_of_the_optical_path(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom")
    import pydicom

    from dicom_slide import write_dicom

    folder = write_dicom(tmp_path / "slide", halves(scene(512, 512), 2), 0.25)
    with open_slide(folder, icc=False) as slide:
        stored = slide.read_region(0, 0, 0, 200, 200).pixels
    for file in folder.iterdir():
        held = pydicom.dcmread(file)
        for path in held.OpticalPathSequence:
            path.ICCProfile = wide_profile()
        held.save_as(file)
    with open_slide(folder) as slide:
        assert slide.profile_applied
        found = slide.read_region(0, 0, 0, 200, 200).pixels
    assert np.abs(found - converted(stored)).max() < 1
