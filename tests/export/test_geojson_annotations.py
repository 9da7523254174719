"""Annotations from GeoJSON: as QuPath writes it, as it comes back, and what is no GeoJSON."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
from shapely.geometry import Point, Polygon, shape

from napari_sparseattn.export.annotation_files import (
    AnnotationFileError,
    read_annotation_files,
    read_geojson_annotations,
    write_coco_annotations,
    write_geojson_annotations,
)
from napari_sparseattn.training.data.annotations import Annotation, ImageRecord, new_annotation
from napari_sparseattn.training.data.project import Project
from napari_sparseattn.training.data.rings import join_rings
from napari_sparseattn.training.data.taking_in import plan_arrivals

IMAGE = ImageRecord("a" * 16, "one", (400, 600), 0.5, "somewhere/one.tif")
#: As QuPath 0.5 and 0.6 write them: *File > Export objects as GeoJSON*, pretty or not.
TUMOUR = {
    "type": "Feature",
    "id": "e3b0c442-98fc-4c14-9afb-4c8996fb9242",
    "geometry": {
        "type": "Polygon",
        "coordinates": [
            [[100, 50], [200, 50], [200, 150], [100, 150], [100, 50]],
            [[130, 80], [130, 110], [160, 110], [160, 80], [130, 80]],
        ],
    },
    "properties": {
        "objectType": "annotation",
        "name": "Region 1",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "isLocked": True,
        "measurements": {"Area px^2": 9100.0, "Odd": "NaN"},
    },
}
CELL = {
    "type": "Feature",
    "id": "0c2f4c79-1111-4222-8333-9a5f5c1d2e3f",
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]],
    },
    "nucleusGeometry": {
        "type": "Polygon",
        "coordinates": [[[15, 25], [25, 25], [25, 35], [15, 35], [15, 25]]],
    },
    "properties": {
        "objectType": "cell",
        "classification": {"names": ["Tumor", "Positive"], "color": [250, 62, 62]},
        "measurements": {"Nucleus: Area": 100.0},
    },
}
POINTS = {
    "type": "Feature",
    "id": "4a7d1ed4-1474-4e4b-b5c7-0c5f1c2d3e4f",
    "geometry": {"type": "MultiPoint", "coordinates": [[5.5, 6.5], [7.25, 8.0]],
                 "plane": {"c": -1, "z": 2, "t": 3}},
    "properties": {"objectType": "annotation",
                   "classification": {"name": "Stroma", "color": [150, 200, 150]}},
}  # fmt: skip
PIECES = {
    "type": "Feature",
    "id": "9f86d081-884c-4d65-9a2f-eaa0c55ad015",
    "geometry": {
        "type": "MultiPolygon",
        "coordinates": [
            [[[300, 300], [320, 300], [320, 320], [300, 300]]],
            [
                [[400, 300], [450, 300], [450, 350], [400, 350], [400, 300]],
                [[410, 310], [410, 320], [420, 320], [410, 310]],
            ],
        ],
    },
    "properties": {
        "objectType": "annotation",
        "classification": {"name": "Stroma", "color": [150, 200, 150]},
    },
}
#: As QuPath 0.2 and 0.3 wrote them.
OLD = {
    "type": "Feature",
    "id": "PathDetectionObject",
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]},
    "properties": {
        "classification": {"name": "Negative", "colorRGB": -9404272,
                           "parentClass": {"name": "Immune cells", "colorRGB": -6268256}},
        "isLocked": False,
        "measurements": [{"name": "Circularity", "value": 0.9}],
    },
}  # fmt: skip


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def read(path: Path, content: Any) -> list[Annotation]:
    (found,) = read_geojson_annotations(write(path, content))
    return found.items


def outline(item: Annotation) -> Polygon:
    """What an annotation encloses, with a pixel's corner at its index as in the file."""
    outer, *holes = (ring[:, ::-1] + 0.5 for ring in item.rings)
    return Polygon(outer, holes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.geojson"


def test_what_qupath_writes(path: Path) -> None:
    content = {"type": "FeatureCollection", "features": [TUMOUR, CELL, POINTS, PIECES]}
    assert geojson.loads(json.dumps(content)).is_valid
    (found,) = read_geojson_annotations(write(path, content))
    assert found.notes == []
    tumour, cell, first, second, third, fourth = found.items
    assert outline(tumour).equals(shape(TUMOUR["geometry"]))
    assert (tumour.kind, tumour.label, tumour.origin) == ("region", "Tumor", "imported")
    middle = shape(CELL["geometry"]).centroid
    assert cell.position == (middle.y - 0.5, middle.x - 0.5) == (29.5, 19.5)
    assert (cell.kind, cell.label, cell.diameter_px) == ("cell", "Tumor: Positive", 20.0)
    assert [first.position, second.position] == [(6.0, 5.0), (7.5, 6.75)]
    assert (first.kind, first.t, first.z) == ("cell", 3, 2)
    pieces = shape(PIECES["geometry"]).geoms
    assert [outline(third).equals(pieces[0]), outline(fourth).equals(pieces[1])] == [True, True]
    assert outline(fourth).interiors
    assert found.colours == {
        "Tumor": "#C80000", "Tumor: Positive": "#FA3E3E", "Stroma": "#96C896",
    }  # fmt: skip
    # Nobody said who: nobody is written.
    assert {item.rater for item in found.items} == {""}


def test_a_bare_list_and_a_lone_feature(path: Path) -> None:
    assert [item.label for item in read(path, [TUMOUR, CELL])] == ["Tumor", "Tumor: Positive"]
    assert [item.label for item in read(path, TUMOUR)] == ["Tumor"]
    path.write_text("\ufeff" + json.dumps([TUMOUR], indent=2), encoding="utf-8")
    assert len(read_geojson_annotations(path)[0].items) == 1


def test_old_qupath(path: Path) -> None:
    (found,) = read_geojson_annotations(write(path, [OLD]))
    (cell,) = found.items
    assert (cell.kind, cell.label) == ("cell", "Immune cells: Negative")
    assert cell.position == (1.5, 1.5)
    # Java's -9404272 is 0xFF708090.
    assert found.colours == {"Immune cells: Negative": "#708090"}


def test_the_middle_is_that_of_the_area(path: Path) -> None:
    corners = [[3, 3], [33, 5], [20, 44], [18, 12], [6, 21]]
    ring = [*corners, corners[0]]
    one = {**CELL, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (cell,) = read(path, [one])
    middle = Polygon(corners).centroid
    assert cell.position is not None
    assert Point(cell.position[::-1]).distance(Point(middle.x - 0.5, middle.y - 0.5)) < 1e-9


def test_a_cell_that_has_only_a_nucleus(path: Path) -> None:
    (cell,) = read(path, [{**CELL, "geometry": None}])
    assert (cell.position, cell.diameter_px) == ((29.5, 19.5), 10.0)


def test_objects_below_others(path: Path) -> None:
    above = json.loads(json.dumps(TUMOUR))
    above["properties"]["childObjects"] = [CELL]
    assert [item.kind for item in read(path, [above])] == ["region", "cell"]


def test_what_is_left_out_is_said(path: Path) -> None:
    plain = json.loads(json.dumps(TUMOUR))
    del plain["properties"]["classification"]
    line = {**TUMOUR, "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}
    tile = {**TUMOUR, "properties": {"objectType": "tile"}}
    bad = {**TUMOUR, "geometry": {"type": "Polygon", "coordinates": [[[0, "x"], [1, 1]]]}}
    far = {**TUMOUR, "geometry": {"type": "Point", "coordinates": [float("inf"), 1]}}
    (found,) = read_geojson_annotations(write(path, [plain, line, tile, bad, far, 7, TUMOUR]))
    assert len(found.items) == 1
    assert sorted(found.notes) == [
        "1 left out: they are lines, which enclose nothing, or empty.",
        "1 left out: they are tiles, which carry no class of a cell.",
        "1 left out: they have no class; give them one in QuPath, or in the import.",
        "3 left out: they are damaged, or no GeoJSON.",
    ]
    (found,) = read_geojson_annotations(path, "tissue")
    assert [item.label for item in found.items] == ["tissue", "Tumor"]


def test_packed_files(tmp_path: Path) -> None:
    text = json.dumps([TUMOUR]).encode()
    (tmp_path / "one.geojson.gz").write_bytes(gzip.compress(text))
    (found,) = read_annotation_files(tmp_path / "one.geojson.gz")
    assert (found.name, len(found.items)) == ("one.geojson", 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../a.geojson", text)
        packed.writestr("sub/b.geojson", text)
        packed.writestr("__MACOSX/._a.geojson", b"\x00")
        packed.writestr("readme.txt", "no")
    found_both = read_annotation_files(tmp_path / "all.zip")
    assert [each.name for each in found_both] == ["a.geojson", "b.geojson"]
    assert not (tmp_path.parent / "a.geojson").exists()
    # A folder is read file by file.
    (tmp_path / "all.zip").unlink()
    write(tmp_path / "two.geojson", [CELL])
    assert [each.name for each in read_annotation_files(tmp_path)] == ["one.geojson", "two.geojson"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"type": "FeatureCollection", "features": [{"type": "Feature"', "cut off"),
        (b'{"type": "FeatureCollection", "features": []}', "no features in it"),
        (b'{"type": "FeatureCollection", "features": [1 2]}', "stands where ',' should"),
        (b"[] []", "follows the end"),
        (b'{"type": "Topology", "features": []}', "its type is 'Topology'"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[\xff\xfe]", "no text in UTF-8"),
        (b"\x1f\x8b\x08\x00broken", "damaged"),
        (b"PK\x03\x04broken", "damaged"),
        (b"a,b\n1,2\n", "no file of annotations that can be imported: it takes GeoJSON"),
        (b"", "no file of annotations"),
        (b'{"shapes": []}', "COCO JSON"),
    ],
)
def test_what_is_no_geojson(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(AnnotationFileError, match=said) as caught:
        read_annotation_files(path)
    assert str(caught.value).startswith("one.geojson")


@pytest.mark.slow
def test_a_part_that_never_ends_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.export import feature_stream

    monkeypatch.setattr(feature_stream, "_LONGEST", 2**20)
    path.write_text('[{"type": "Feature", "geometry": [' + "1," * 3_000_000)
    with pytest.raises(AnnotationFileError, match="longer than 1 MiB"):
        read_annotation_files(path)
    # A bomb of 20 MiB in 20 KiB is not unpacked beyond the limit.
    monkeypatch.setattr(feature_stream, "_MOST_BYTES", 10 * 2**20)
    path.write_bytes(gzip.compress(b'[{"type": "Feature"},' + b" " * (20 * 2**20)))
    with pytest.raises(AnnotationFileError, match="split it"):
        read_annotation_files(path)


def test_features_are_read_across_the_pieces_that_a_file_comes_in(path: Path) -> None:
    many = [{**CELL, "properties": {**CELL["properties"], "name": "x" * 700}}] * 4000
    write(path, {"crs": {"a": list(range(9))}, "features": many, "type": "FeatureCollection"})
    assert path.stat().st_size > 4 * 2**20
    (found,) = read_geojson_annotations(path)
    assert len(found.items) == 4000
    assert {item.position for item in found.items} == {(29.5, 19.5)}


# -- round trips


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One with everything: holes, sizes, planes, raters, a decision, a class with a colon."""
    made = Project(tmp_path / "project")
    made.set_classes({"round": "#0072B2", "tumour": "#E69F00", "B cell: CD20": "#123456"})
    book = made.open(IMAGE)
    book.rater = "anna"
    one = book.add("cell", "round", position=(10.0, 20.0), diameter_px=8.0)
    book.add("cell", "B cell: CD20", position=(30.5, 5.25))
    square = np.array([[50, 50], [50, 90], [90, 90], [90, 50]], float)
    ring = join_rings(square, [square / 4 + 50])
    book.add("region", "tumour", polygon=tuple(map(tuple, ring.tolist())))
    book.add("image", "round")
    book.add("cell", "tumour", position=(99.0, 98.0), diameter_px=12.5, t=2, z=1)
    book.rater = "ben"
    book.relabel([one.id], "tumour")
    other = book[-1]
    decision = new_annotation(
        "cell", "round", position=(10.0, 20.0), rater="dora", settles=(one.id, other.id)
    )
    book.put([decision])
    book.close()
    return made


def plain(items: Any) -> list[tuple[Any, ...]]:
    return sorted(
        (x.id, x.kind, x.label, x.position, x.diameter_px, x.polygon, x.t, x.z, x.rater, x.settles,
         round(x.time))
        for x in items
    )  # fmt: skip


def test_geojson_goes_out_and_comes_back_the_same(project: Project, tmp_path: Path) -> None:
    (file,) = write_geojson_annotations(project, tmp_path / "out")
    ((_, items),) = project.annotations()
    parsed = geojson.loads(file.read_text())
    assert parsed.is_valid
    with_hole = shape(parsed["features"][2]["geometry"])
    assert with_hole.area == pytest.approx(40 * 40 - 10 * 10)
    (found,) = read_annotation_files(file)
    assert found.name == "one.tif"
    assert plain(found.items) == plain(items)
    assert found.colours["B cell: CD20"] == "#123456"
    taken = plan_arrivals(items, found.items, IMAGE.shape, "one")
    assert (taken.new, taken.changed, taken.there) == ((), (), 7)


def test_coco_goes_out_and_comes_back_the_same(project: Project, tmp_path: Path) -> None:
    write_coco_annotations(project, tmp_path / "all.json")
    ((_, items),) = project.annotations()
    found = read_annotation_files(tmp_path / "all.json")
    assert plain(x for each in found for x in each.items) == plain(items)


def test_what_was_changed_in_qupath_is_changed_here(project: Project, tmp_path: Path) -> None:
    (file,) = write_geojson_annotations(project, tmp_path / "out")
    ((_, items),) = project.annotations()
    content = json.loads(file.read_text())
    first, second = content["features"][:2]
    first["properties"]["classification"]["name"] = "flat"
    # QuPath rounds to hundredths.
    second["geometry"]["coordinates"][0][0][0] += 0.004
    content["features"].append(CELL)
    (found,) = read_geojson_annotations(write(file, content))
    taken = plan_arrivals(items, found.items, IMAGE.shape, "one", "carl")
    assert [item.label for item in taken.new] == ["Tumor: Positive"]
    assert taken.new[0].rater == "carl"
    (changed,) = taken.changed
    assert (changed.id, changed.label, changed.rater) == (items[0].id, "flat", "carl")
    # What has been changed here since stays.
    book = project.open(IMAGE)
    book.rater = "anna"
    book.relabel([items[0].id], "tumour")
    taken = plan_arrivals(book, found.items, IMAGE.shape, "one", "carl")
    book.close()
    assert (taken.changed, taken.kept) == ((), 1)
    assert "changed here since" in taken.notes[0]


def test_a_file_of_another_image_is_told(path: Path) -> None:
    items = read(path, [TUMOUR, CELL, PIECES])
    with pytest.raises(ValueError, match=r"3 of 4 objects lie outside of 'small' \(60 × 50 pix"):
        plan_arrivals((), items, (50, 60), "small")
    taken = plan_arrivals((), items, (200, 300), "larger")
    assert (len(taken.new), taken.outside) == (2, 2)
