from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from napari_sparseattn.images.slides.regions import RegionError, read_regions

SQUARE = [[10, 20], [30, 20], [30, 60], [10, 60], [10, 20]]


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_classes_and_corners_as_qupath_writes_them(tmp_path: Path) -> None:
    hole = [[12, 22], [14, 22], [14, 24], [12, 22]]
    both = {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE[:3]]]}
    collection = {
        "type": "FeatureCollection",
        "features": [
            feature(polygon(SQUARE, hole), classification={"name": "Tumor", "color": [1, 2, 3]}),
            feature(both, classification={"names": ["Stroma", "Loose"]}),
            feature(polygon(SQUARE), objectType="annotation"),
            feature({"type": "Point", "coordinates": [1, 2]}, classification={"name": "Tumor"}),
            feature(polygon(SQUARE), label="Fat"),
        ],
    }
    found = read_regions(write(tmp_path / "a.geojson", collection))
    assert [each.name for each in found] == ["Tumor", "Stroma: Loose", "Stroma: Loose", "Fat"]
    assert found[0].outline.tolist() == [[20, 10], [20, 30], [60, 30], [60, 10]]
    assert len(found[2].outline) == 3


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f]])
def test_one_feature_or_a_list_of_them(tmp_path: Path, wrap: Any) -> None:
    content = wrap(feature(polygon(SQUARE), classification={"name": "Tumor"}))
    assert len(read_regions(write(tmp_path / "a.json", content))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<svg/>", "no GeoJSON"),
        ("3", "no GeoJSON features"),
        (feature(polygon([[1, 2], [3, 4]]), label="a"), "region 1 is no polygon"),
        (feature(polygon([[1, 2], [3, "b"], [4, 5]]), label="a"), "no numbers"),
        (feature(polygon([[1, 2], [3, float("nan")], [4, 5]]), label="a"), "no polygon"),
    ],
)
def test_what_is_no_region_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        read_regions(write(tmp_path / "a.geojson", content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Feature", "n": ' + 5000 * "9" + "}", "no GeoJSON"),
        (5000 * "[" + 5000 * "]", "no GeoJSON"),
        (json.dumps(feature(polygon([[1, 2], [3, 10**400], [4, 5]]), label="a")), "no numbers"),
    ],
    ids=["long number", "deep", "large number"],
)
def test_numbers_and_depths_that_python_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(RegionError, match=message):
        read_regions(path)


def test_names_that_are_no_list_are_no_class(tmp_path: Path) -> None:
    odd = feature(polygon(SQUARE), classification={"names": 1e308})
    assert read_regions(write(tmp_path / "a.geojson", odd)) == []
