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
