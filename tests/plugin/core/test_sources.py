"""What a layer says about itself, and nothing beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.normalise import to_float
from napari_sparseattn.plugin.core.sources import (
    METADATA_KEY,
    ImageSettings,
    displayed_plane,
    field_of,
    guess_settings,
    pixel_size_of,
)

GREY = np.zeros((20, 30))


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({}, None),
        ({"scale": (0.5, 0.5)}, None),
        ({"scale": (0.5, 0.5), "units": ("um", "um")}, 0.5),
        ({"scale": (250, 250), "units": ("nm", "nm")}, 0.25),
        ({"scale": (0.5, 0.5), "units": ("um", "um"), "rotate": 33}, 0.5),
        ({"scale": (0.5, 0.7), "units": ("um", "um")}, None),
        ({"scale": (0.5, 0.5), "units": ("s", "um")}, None),
        ({"scale": (0.5, 0.5), "units": ("um", "um"), "affine": np.diag([2, 2, 1])}, 1.0),
    ],
)
def test_pixel_size_is_taken_from_lengths_only(attributes: dict, size: float | None) -> None:
    assert pixel_size_of(Image(GREY, **attributes)) == (
        None if size is None else pytest.approx(size)
    )


def test_colour_is_brightfield_and_grey_is_asked_for() -> None:
    colour = Image(np.zeros((20, 30, 3), dtype=np.uint8), rgb=True)
    assert guess_settings(colour).modality == "brightfield"
    assert guess_settings(Image(GREY)).modality == "unknown"


@pytest.mark.parametrize(("said", "taken"), [("phase", "phase"), ("x-ray", "unknown")])
def test_metadata_names_the_modality(said: str, taken: str) -> None:
    layer = Image(GREY, metadata={METADATA_KEY: {"modality": said}})
    assert guess_settings(layer).modality == taken


@pytest.mark.parametrize("factor", [1 / 255, 1.0, 257.0])
def test_decimal_colours_of_a_layer_are_read_as_those_of_a_file(
    viewer: ViewerModel, factor: float
) -> None:
    glass = np.full((40, 40, 3), 235, np.uint8)
    glass[10:20, 10:20] = (120, 40, 130)
    layer = viewer.add_image(glass * np.float32(factor), rgb=True)
    field = field_of(displayed_plane(viewer, layer), guess_settings(layer))
    np.testing.assert_allclose(to_float(field.plane()), glass / 255, atol=0.005)
    assert bool(field.notes) == (factor >= 1)


def test_whole_nm_of_a_layer_are_nm(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.arange(600, dtype=np.uint16).reshape(20, 30))
    settings = ImageSettings("opd", 0.1, "nm")
    field = field_of(displayed_plane(viewer, layer), settings)
    np.testing.assert_array_equal(to_float(field.plane())[..., 0], layer.data)


def test_a_multiscale_image_gives_its_best_level(viewer: ViewerModel) -> None:
    levels = [np.zeros((64, 96)), np.zeros((32, 48))]
    layer = viewer.add_image(levels, multiscale=True)
    assert displayed_plane(viewer, layer).data.shape == (64, 96)
