"""Files that napari's own reader reads otherwise: layers get what the command line reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image
from PIL import Image as Picture

from napari_sparseattn.images.opening import open_field
from napari_sparseattn.plugin.core.field_layers import images_in_file
from napari_sparseattn.plugin.core.sources import displayed_plane, field_of
from napari_sparseattn.plugin.session import Session

from ..conftest import picture

pytestmark = pytest.mark.usefixtures("at_once")


def open_by_napari(viewer: ViewerModel, path: Path) -> Image:
    """Open a file as File > Open does, and return the image that the session then looks at."""
    session = Session.of(viewer)
    viewer.open(str(path), plugin="napari")
    session.selection.set_image(viewer.layers[-1])
    found = session.selection.image
    assert found is not None
    return found


def pixels(viewer: ViewerModel, layer: Image) -> np.ndarray:
    settings = Session.of(viewer).selection.settings_of(layer)
    return field_of(displayed_plane(viewer, layer), settings).plane()


def turned(path: Path) -> None:
    exif = Picture.Exif()
    exif[0x0112] = 6
    Picture.fromarray(picture()).save(path, exif=exif, quality=95)


def inks(path: Path) -> None:
    Picture.fromarray(picture()).convert("CMYK").save(path, quality=95)


def planes(path: Path) -> None:
    tifffile.imwrite(
        path, picture().transpose(2, 0, 1), ome=True, photometric="minisblack",
        metadata={"axes": "CYX"},
    )  # fmt: skip


def clear_corner(path: Path) -> None:
    alpha = np.full((120, 180, 1), 255, np.uint8)
    alpha[:30, :30] = 0
    data = np.concatenate([np.where(alpha, picture(), 0).astype(np.uint8), alpha], axis=2)
    Picture.fromarray(data).save(path)


def small_first(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture()[::4, ::4].copy(), photometric="rgb")
        writer.write(picture(), photometric="rgb")


def few_bits(path: Path) -> None:
    tifffile.imwrite(path, picture().astype(np.uint16) * 8, photometric="rgb")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("turned.jpg", turned),
        ("inks.jpg", inks),
        ("planes.ome.tif", planes),
        ("corner.png", clear_corner),
        ("small.tif", small_first),
        ("bits.tif", few_bits),
    ],
)
def test_a_layer_of_napari_gets_the_pixels_that_the_command_line_reads(
    viewer: ViewerModel, tmp_path: Path, name: str, write: object
) -> None:
    write(tmp_path / name)
    layer = open_by_napari(viewer, tmp_path / name)
    field = open_field(tmp_path / name)
    assert list(viewer.layers) == [layer]
    assert layer.rgb
    np.testing.assert_array_equal(pixels(viewer, layer), field.plane())
    assert Session.of(viewer).selection.settings.modality == "brightfield"
    if field.notes:
        assert field.notes[0] in Session.of(viewer).status.message.text


def test_pixels_that_the_user_changed_are_left(viewer: ViewerModel, tmp_path: Path) -> None:
    turned(tmp_path / "a.jpg")
    (layer,) = viewer.open(str(tmp_path / "a.jpg"), plugin="napari")
    layer.data = 255 - layer.data
    before = layer.data.copy()
    Session.of(viewer).selection.set_image(layer)
    np.testing.assert_array_equal(layer.data, before)


def test_another_image_of_the_file_can_be_chosen(viewer: ViewerModel, tmp_path: Path) -> None:
    small_first(tmp_path / "two.tif")
    layer = open_by_napari(viewer, tmp_path / "two.tif")
    session = Session.of(viewer)
    sizes, shown = images_in_file(layer)
    assert (sizes, shown) == (("45 x 30 pixels", "180 x 120 pixels"), 1)
    session.choose_in_file(0)
    assert session.selection.image is layer
    np.testing.assert_array_equal(pixels(viewer, layer), picture()[::4, ::4])
    assert images_in_file(layer)[1] == 0
    session.choose_in_file(1)
    np.testing.assert_array_equal(pixels(viewer, layer), picture())


def test_three_planes_become_one_image_in_colour(viewer: ViewerModel) -> None:
    layer = viewer.add_image(
        picture().transpose(2, 0, 1).copy(),
        name="stack",
        scale=(1, 0.25, 0.25),
        units=("pixel", "um", "um"),
    )
    session = Session.of(viewer)
    session.selection.set_image(layer)
    assert session.selection.settings.modality == "unknown"
    session.show_as_colour()
    (shown,) = viewer.layers
    assert session.selection.image is shown
    assert (shown.rgb, shown.name) == (True, "stack")
    assert session.selection.settings.pixel_size == pytest.approx(0.25)
    np.testing.assert_array_equal(pixels(viewer, shown), picture())
