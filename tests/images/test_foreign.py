"""Formats of microscopes that are not read: named, with what to do, and nothing in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from bad_slides import halves, scene
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.opening import open_field, open_image
from napari_sparseattn.images.slides.opening import is_slide, open_slide


def overview(path: Path) -> None:
    """Write as cellSens does: the file itself is a TIFF of the overview."""
    levels = halves(scene(600, 500), 2)
    with tifffile.TiffWriter(path) as file:
        for n, level in enumerate(levels):
            file.write(level, tile=(128, 128), photometric="rgb", subfiletype=int(n > 0))


@pytest.mark.parametrize(
    ("name", "head", "says"),
    [
        ("a.czi", b"ZISRAWFILE", "ZEISS"),
        ("a.lif", b"\x70\0\0\0", "Leica"),
        ("a.nd2", b"\xda\xce\xbe\x0a", "Nikon"),
        ("old.nd2", b"\0\0\0\x0cjP  \r\n\x87\n", "Nikon"),
        ("a.oib", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Olympus"),
        ("renamed.tif", b"\xda\xce\xbe\x0a", "Nikon"),
        ("renamed.dat", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Olympus"),
        ("a.isyntax", b"<?xml version", "Philips"),
    ],
)
def test_formats_are_named_with_what_to_do(
    tmp_path: Path, name: str, head: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(500))
    for read in (open_field, open_image) + ((open_slide,) if name != "a.czi" else ()):
        if name == "a.czi" and read is open_image:
            continue
        with pytest.raises(ImageError, match=rf"{says}.*OME-TIFF"):
            read(path)


def test_czi_that_openslide_cannot_read_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(500))
    with pytest.raises(ImageError, match=r"stained slides in CZI only.*OME-TIFF"):
        open_image(tmp_path / "a.czi")


def test_the_overview_of_a_vsi_is_never_taken_for_the_slide(tmp_path: Path) -> None:
    overview(tmp_path / "a.vsi")
    assert not is_slide(tmp_path / "a.vsi")
    for read in (open_field, open_image, open_slide):
        with pytest.raises(ImageError, match=r"overview: the pixels are in the folder _a_"):
            read(tmp_path / "a.vsi")


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_of_a_tiff_is_used_as_exif_is(tmp_path: Path, turn: int) -> None:
    import PIL.Image
    import PIL.ImageOps

    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="rgb",
        extratags=[(274, "H", 1, turn, True)],
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    with PIL.Image.open(tmp_path / "a.tif") as opened:
        expected = np.asarray(PIL.ImageOps.exif_transpose(opened))
    field = open_field(tmp_path / "a.tif")
    np.testing.assert_array_equal(field.data, expected)
    assert field.pixel_size == pytest.approx(0.5)
