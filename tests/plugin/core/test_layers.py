"""Where overlays lie: on the image's own pixels, however it is scaled, turned or sheared."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image, Points

from drawn import finite, places, transforms
from napari_sparseattn.export.annotation_files import write_geojson_annotations
from napari_sparseattn.images.slides.regions import read_regions
from napari_sparseattn.plugin.annotate.importing import read_layer
from napari_sparseattn.plugin.core.layers import _to_world, copied_transform
from napari_sparseattn.plugin.core.sources import data_position, pixel_size_of
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project

GREY = np.zeros((20, 30), np.float32)
Place = tuple[float, float]


def close(found: Any, expected: Any, image: Image) -> None:
    """Compare places in the world to a millionth of what the transform makes of a pixel."""
    size = np.abs(_to_world(image)).max() * 1e4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * max(1.0, size))


@given(transforms(), places())
def test_a_click_finds_the_pixel_that_is_there(transform: dict[str, Any], place: Place) -> None:
    image = Image(GREY, **transform)
    found = data_position(image, image.data_to_world(place))
    np.testing.assert_allclose(found, place, atol=1e-4)


@given(transforms(), places(), st.tuples(finite(0.1, 64), finite(0.1, 64)), places(-50, 50))
def test_an_overlay_lies_on_its_part_of_the_image(
    transform: dict[str, Any], origin: Place, step: Place, place: Place
) -> None:
    image = Image(GREY, **transform)
    layer = Points(np.empty((0, 2)), **copied_transform(image, origin, step))
    on_image = np.array(origin) + np.array(place) * step
    close(layer.data_to_world(place), image.data_to_world(on_image), image)


@given(transforms(), places())
def test_the_matrix_to_the_world_is_that_of_the_layer(
    transform: dict[str, Any], place: Place
) -> None:
    image = Image(GREY, **transform)
    close((_to_world(image) @ [*place, 1])[:2], image.data_to_world(place), image)


@given(transforms(), st.integers(0, 4), places())
def test_axes_before_y_and_x_are_kept(transform: dict[str, Any], frame: int, place: Place) -> None:
    flat = Image(GREY, **{key: v for key, v in transform.items() if key != "affine"})
    image = Image(np.zeros((5, 20, 30), np.float32), scale=(2, 1, 1), translate=(7, 0, 0))
    for name in ("scale", "translate"):
        setattr(image, name, [*getattr(image, name)[:1], *transform[name]])
    layer = Points(np.empty((0, 3)), **copied_transform(image, place, 2.0, (frame,)))
    np.testing.assert_allclose(
        layer.data_to_world((0, 0, 0)), image.data_to_world((frame, *place)), atol=1e-6
    )
    assert flat.ndim == 2


@given(finite(0.05, 20), places(), finite(-180, 180), st.sampled_from(("um", "nm", "mm")))
def test_the_size_of_a_pixel_is_that_of_its_side(
    scale: float, translate: Place, angle: float, unit: str
) -> None:
    image = Image(GREY, scale=(scale, scale), translate=translate, rotate=angle, units=(unit,) * 2)
    expected = scale * {"um": 1, "nm": 1e-3, "mm": 1e3}[unit]
    assert pixel_size_of(image) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@given(transforms(), transforms(), st.lists(places(-500, 500), min_size=1, max_size=5))
def test_what_is_marked_in_any_layer_is_where_it_was_in_geojson(
    transform: dict[str, Any], own: dict[str, Any], marks: list[Place]
) -> None:
    """World, the user's layer, the image, an annotation, GeoJSON, and back to the world."""
    image = Image(GREY, **transform)
    names = np.array([f"class {n}" for n in range(len(marks))], object)
    layer = Points(np.array(marks), features={"kind": names}, size=5, **own)
    with tempfile.TemporaryDirectory() as place:
        project = Project(place)
        book = project.open(ImageRecord("a" * 64, "a.tif", (20, 30)))
        book.put(read_layer(layer, image))
        book.close()
        (path,) = write_geojson_annotations(project, Path(place) / "out")
        regions = read_regions(path)
        features = json.loads(path.read_text())["features"]
    assert [region.name for region in regions] == list(names)
    size = max(np.abs(_to_world(each)).max() for each in (image, layer)) * 1e4
    for region, feature, mark in zip(regions, features, marks, strict=True):
        ring = np.array(feature["geometry"]["coordinates"][0])
        # (x, y) with a pixel's corner at its index; regions are (y, x), and the ring is open.
        np.testing.assert_array_equal(ring[:-1, ::-1], region.outline)
        # A cell is the box around it.
        again = image.data_to_world(region.outline.mean(axis=0) - 0.5)
        # Files have thousandths of a pixel.
        expected = layer.data_to_world(mark)
        np.testing.assert_allclose(again, expected, atol=2e-3 * max(1.0, size / 1e4))
