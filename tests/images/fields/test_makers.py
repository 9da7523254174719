"""Images as their makers meant them: which of several, how bright, how large a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.simulate.smears import smear


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.ascontiguousarray(smear(seed=3).plane())


def n_cells(field: Field) -> int:
    return len(find_cells(field))


@pytest.mark.parametrize("ome", [True, False])
def test_of_several_images_the_largest_is_opened_and_said_to_be(
    image: np.ndarray, tmp_path: Path, ome: bool
) -> None:
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    small = np.ascontiguousarray(image[::4, ::4])
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for pixels, size in ((small, 1.0), (image, 0.25)):
            about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(pixels, photometric="rgb", metadata=about if ome else None)
    field = open_field(path)
    np.testing.assert_array_equal(field.plane(), image)
    assert field.pixel_size == (0.25 if ome else None)
    assert "holds 2 images; number 1, the largest" in field.notes[0]
    first = open_field(path, image=0)
    np.testing.assert_array_equal(first.plane(), small)
    assert first.pixel_size == (1.0 if ome else None)
    assert first.notes == ()
    with pytest.raises(ImageError, match="has no image 2: it holds 2"):
        open_field(path, image=2)


@pytest.mark.slow
@pytest.mark.parametrize("imagej", [True, False])
def test_dots_per_inch_are_no_pixel_size(image: np.ndarray, tmp_path: Path, imagej: bool) -> None:
    path = tmp_path / "a.tif"
    if imagej:
        about = {"resolution": (300, 300), "metadata": {"unit": "inch"}, "imagej": True}
    else:
        about = {"resolution": (300, 300), "resolutionunit": "INCH", "photometric": "rgb"}
    tifffile.imwrite(path, image, **about)
    field = open_field(path)
    assert field.pixel_size is None
    assert "screen or a printer" in field.notes[0]
    assert n_cells(field) == n_cells(Field.from_array(image))


def test_micrometres_in_imagej_files_are_one(image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    field = open_field(path)
    assert field.pixel_size == pytest.approx(0.25)
    assert field.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("share", [1 / 16, 0.05, 0.4])
def test_a_dark_16_bit_image_has_its_cells(image: np.ndarray, share: float) -> None:
    """A camera of 12 bits fills a sixteenth of the range; less with half the exposure."""
    bright = Field.from_array(image)
    dark = Field.from_array(np.rint(image * (257 * share)).astype(np.uint16))
    assert "image's own white" in dark.notes[0]
    white = np.quantile(dark.plane(), 0.98)
    assert white == pytest.approx(0.92 * 65535, rel=0.01)
    a, b = find_cells(bright), find_cells(dark)
    assert len(a) == len(b)
    np.testing.assert_allclose(a.centres, b.centres, atol=3)


def test_a_well_exposed_16_bit_image_is_left_alone(image: np.ndarray) -> None:
    deep = image.astype(np.uint16) * 257
    field = Field.from_array(deep)
    assert field.notes == ()
    np.testing.assert_array_equal(field.plane(), deep)


@pytest.mark.slow
def test_transparent_corners_are_no_cells(image: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:60, :60] = alpha[-50:, -80:] = 0
    shown = np.where(alpha[..., None] > 0, image, 0).astype(np.uint8)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.dstack([shown, alpha])).save(path)
    field = open_field(path)
    assert "not part of the image" in field.notes[0]
    centres = find_cells(field).centres
    assert len(centres)
    whole = find_cells(Field.from_array(image)).centres
    for centre in centres:
        assert np.hypot(*(whole - centre).T).min() < 10


def test_three_planes_of_a_bright_image_are_its_colours(image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, metadata={"axes": "CYX"}, photometric="minisblack")
    field = open_field(path)
    assert field.modality == "brightfield"
    np.testing.assert_array_equal(field.plane(), image)


def test_orientation_and_printing_colours_are_read_in_one_way(
    image: np.ndarray, tmp_path: Path
) -> None:
    turned = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif, quality=97)
    found = open_field(tmp_path / "a.jpg").plane().astype(int)
    assert found.shape == image.shape
    assert np.abs(found - image).mean() < 4
    PIL.Image.fromarray(image).convert("CMYK").save(tmp_path / "b.jpg", quality=97)
    field = open_field(tmp_path / "b.jpg")
    assert field.modality == "brightfield"
    assert np.abs(field.plane().astype(int) - image).mean() < 8
