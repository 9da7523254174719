"""GeoJSON as the libraries geojson and shapely read it, with the members that QuPath reads."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
from shapely.geometry import Point, box, shape

from napari_sparseattn.images.slides.regions import read_regions

from . import results as made
from .conftest import KINDS, Write

#: What `PathObjectTypeAdapter.read` of QuPath 0.6 looks at.
PROPERTIES = {"objectType", "name", "classification", "measurements", "metadata", "isLocked"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_geojson_that_qupath_reads(write: Write, kind: str) -> None:
    path = write(kind, "geojson")
    parsed = geojson.loads(path.read_text(encoding="utf-8"))
    assert isinstance(parsed, geojson.FeatureCollection)
    assert parsed.is_valid, parsed.errors()
    ids = [uuid.UUID(feature["id"]) for feature in parsed["features"]]
    assert len(set(ids)) == len(ids) > 0
    for feature in parsed["features"]:
        assert shape(feature["geometry"]).is_valid
        properties = feature["properties"]
        assert set(properties) <= PROPERTIES
        assert properties["objectType"] in {"cell", "detection", "annotation", "tile"}
        for value in properties.get("measurements", {}).values():
            assert isinstance(value, float | int)
        for value in properties.get("metadata", {}).values():
            assert isinstance(value, str)
        if "classification" in properties:
            assert set(properties["classification"]) == {"name", "color"}
            assert all(0 <= part <= 255 for part in properties["classification"]["color"])
    assert parsed["napari-sparseattn"]["model_hash"] == made.HASH


def test_outlines_are_those_of_the_labels(write: Write) -> None:
    """Rasterised by shapely, pixel centre by pixel centre, they are the label image again."""
    found = read(write("cells", "geojson"))["features"]
    labels = made.label_image()
    again = np.zeros_like(labels)
    for feature in found:
        outline = shape(feature["geometry"])
        for row, column in np.ndindex(labels.shape):
            # QuPath's pixels have their top left corner at their index.
            if outline.contains(Point(column + 0.5, row + 0.5)):
                again[row, column] = int(feature["properties"]["name"])
    labels[22, 2] = 2  # holes are filled
    np.testing.assert_array_equal(again, labels)
    assert [feature["geometry"]["type"] for feature in found] == [
        "Polygon", "Polygon", "MultiPolygon",
    ]  # fmt: skip


def test_cells_have_their_numbers(write: Write) -> None:
    first, unclassified, last = read(write("cells", "geojson", made.cells(evidence=True)))[
        "features"
    ]
    assert first["properties"]["objectType"] == "cell"
    assert first["properties"]["classification"] == {"name": "round", "color": [0, 114, 178]}
    measured = first["properties"]["measurements"]
    assert measured["Probability: lobed"] == pytest.approx(0.2)
    assert measured["Confidence"] == pytest.approx(0.7)
    assert measured["dry_mass_pg"] == 12.5
    assert measured["Diameter µm"] == pytest.approx(np.sqrt(8 * 5) * 0.5, abs=1e-4)
    assert measured["Selected pixels"] == 2
    assert measured["Selected share"] == 2 / 16
    assert "classification" not in unclassified["properties"]
    assert "Confidence" not in unclassified["properties"]["measurements"]
    assert last["properties"]["classification"]["name"] == "small"


def test_cells_without_outlines_are_detections_with_their_box(write: Write) -> None:
    found = read(write("cells", "geojson", made.cells(labelled=False)))["features"]
    assert {feature["properties"]["objectType"] for feature in found} == {"detection"}
    assert shape(found[1]["geometry"]).equals(box(10, 4, 16, 10))


def test_frames_lie_in_their_plane_and_ids_stay(write: Write) -> None:
    found = read(write("frames", "geojson"))["features"]
    planes = [feature["geometry"].get("plane", {"t": 0})["t"] for feature in found]
    assert planes == [0, 0, 0, 2, 2, 2]
    again = read(write("frames", "geojson"))["features"]
    assert [f["id"] for f in again] == [f["id"] for f in found]
    sliced = read(write("cells", "geojson", index=(0, 3)))["features"]
    assert sliced[0]["geometry"]["plane"] == {"c": -1, "z": 3, "t": 0}


def test_patches_are_tiles_with_attention_in_multiples_of_uniform(write: Write) -> None:
    whole, *tiles = read(write("slide", "geojson"))["features"]
    assert whole["properties"]["objectType"] == "annotation"
    assert whole["properties"]["name"] == "tumour"
    assert whole["properties"]["measurements"]["Probability: tumour"] == 0.75
    assert whole["properties"]["metadata"]["model_hash"] == made.HASH
    assert shape(whole["geometry"]).equals(box(0, 0, 140, 100))
    assert len(tiles) == 4
    # The second patch is at row 0, column 2 of the grid: 16 down, 40 + 2 * 20 across, of 24.
    assert shape(tiles[1]["geometry"]).equals(box(80, 16, 104, 40))
    assert tiles[1]["properties"]["objectType"] == "tile"
    measured = tiles[1]["properties"]["measurements"]
    # Weights 0.4 of 0.8 over four patches, 0.6 of 0.9 over two cells; 12 and 22 µm.
    assert measured == {
        "Attention 12 µm (× uniform)": pytest.approx(2.0, abs=1e-5),
        "Attention 22 µm (× uniform)": pytest.approx(4 / 3, abs=1e-5),
    }
    assert "classification" not in tiles[1]["properties"]


def test_segmented_patches_have_class_and_probability(write: Write) -> None:
    path = write("regions", "geojson")
    whole, *tiles = read(path)["features"]
    assert [tile["properties"]["classification"]["name"] for tile in tiles] == [
        "benign", "tumour", "tumour", "benign",
    ]  # fmt: skip
    assert tiles[1]["properties"]["measurements"]["Probability: tumour"] == pytest.approx(0.9)
    assert "classification" not in whole["properties"]
    # Our own reader of QuPath's files agrees on where and what.
    regions = read_regions(path)
    assert [region.name for region in regions] == ["benign", "tumour", "tumour", "benign"]
    assert regions[1].outline.min(axis=0).tolist() == [16, 80]


def test_crops_are_annotations_inside_the_image(write: Write) -> None:
    whole, *crops = read(write("field", "geojson"))["features"]
    assert whole["properties"]["measurements"]["Probability: left"] == pytest.approx(0.6)
    assert [crop["properties"]["name"] for crop in crops] == [
        "Level 1, rank 2", "Level 1, rank 1", "Level 2, rank 1",
    ]  # fmt: skip
    # 48 + 16 is beyond the height of 60.
    assert shape(crops[2]["geometry"]).equals(box(16, 48, 32, 60))
    measured = crops[2]["properties"]["measurements"]
    assert measured["Evidence for left"] == pytest.approx(1.0)
    assert measured["Logit: right"] == 1.0
    assert measured["Downsample"] == 1.0
    assert crops[0]["properties"]["classification"]["name"] == "middle"
