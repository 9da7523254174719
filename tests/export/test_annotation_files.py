"""Annotations of a project as COCO JSON and GeoJSON, and back."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import geojson
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from shapely.geometry import box, shape

from drawn import annotations
from napari_sparseattn.export.annotation_files import (
    AnnotationFileError,
    read_coco_annotations,
    write_coco_annotations,
    write_geojson_annotations,
)
from napari_sparseattn.images.slides.regions import read_regions
from napari_sparseattn.training.data.annotations import Annotation, ImageRecord
from napari_sparseattn.training.data.project import Project

#: (y, x), pixel centres at whole numbers: from 9.5 to 19.5 down, 4.5 to 12.5 across.
SQUARE = ((9.5, 4.5), (9.5, 12.5), (19.5, 12.5), (19.5, 4.5))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.set_classes({"round": "#0072B2", "tumour": "#E69F00"})
    first = made.open(ImageRecord("a" * 16, "one", (40, 60), 0.5, "somewhere/one.tif"))
    first.add("cell", "round", position=(10.0, 20.0), diameter_px=8.0)
    first.add("cell", "tumour", position=(30.0, 5.0))
    first.add("region", "tumour", polygon=SQUARE)
    first.close()
    second = made.open(ImageRecord("b" * 16, "two", (10, 12)))
    second.add("image", "round")
    second.add("cell", "round", position=(3.0, 4.0), diameter_px=4.0, t=2)
    second.close()
    return made


def test_pycocotools_reads_it(project: Project, tmp_path: Path) -> None:
    assert write_coco_annotations(project, tmp_path / "all.json") == 4
    coco = COCO(str(tmp_path / "all.json"))
    assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == ["round", "tumour"]
    (one,) = [image for image in coco.loadImgs(coco.getImgIds()) if image["file_name"] == "one.tif"]
    sized, unsized, region = coco.loadAnns(coco.getAnnIds(imgIds=[one["id"]]))
    # Pixel (10, 20) has its centre at 10.5 down and 20.5 across.
    assert sized["bbox"] == [16.5, 6.5, 8.0, 8.0]
    assert (sized["size_known"], unsized["size_known"]) == (True, False)
    assert unsized["bbox"][2] == 6.0  # the median of 8 and 4
    assert region["bbox"] == [5.0, 10.0, 8.0, 10.0]
    assert region["area"] == 80
    assert coco.annToMask(region)[10:20, 5:13].all()
    assert coco.annToMask(region).sum() == 80
    others = [image for image in coco.loadImgs(coco.getImgIds()) if image["file_name"] == "two"]
    assert [(image.get("class"), image.get("frame")) for image in others] == [
        ("round", None), (None, 2),
    ]  # fmt: skip


def test_what_was_written_is_read_back(project: Project, tmp_path: Path) -> None:
    write_coco_annotations(project, tmp_path / "all.json")
    found = read_coco_annotations(tmp_path / "all.json")
    round_one, unsized, region = found["one.tif"]
    assert round_one.position == (10.0, 20.0)
    assert (round_one.label, round_one.diameter_px, round_one.origin) == ("round", 8.0, "imported")
    assert (unsized.position, unsized.diameter_px) == ((30.0, 5.0), None)
    assert region.polygon == SQUARE
    assert sorted((item.kind, item.label, item.t) for item in found["two"]) == [
        ("cell", "round", 2), ("image", "round", 0),
    ]  # fmt: skip


def test_other_peoples_coco(tmp_path: Path) -> None:
    path = tmp_path / "labelled.json"
    content = {
        "images": [{"id": 5, "file_name": "x.png", "height": 9, "width": 9}],
        "categories": [{"id": 3, "name": "gland", "supercategory": "tissue"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 2], "segmentation": []},
            {"id": 2, "image_id": 5, "category_id": 3, "bbox": [1, 1, 2, 2],
             "segmentation": [[1, 1, 3, 1, 3, 3]]},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": 1,
             "segmentation": {"counts": [1], "size": [9, 9]}},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    placed, outlined = read_coco_annotations(path)["x.png"]
    assert (placed.kind, placed.position) == ("cell", (0.5, 1.5))
    assert outlined.polygon == ((0.5, 0.5), (0.5, 2.5), (2.5, 2.5))
    content["annotations"][0]["category_id"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationFileError, match="refers to 99, which is not in it"):
        read_coco_annotations(path)
    for bad in ("[]", "{", '{"images": 3}', '{"images": [], "categories": []}'):
        path.write_text(bad)
        with pytest.raises(AnnotationFileError, match=r"labelled\.json cannot be read as COCO"):
            read_coco_annotations(path)


def test_geojson_for_qupath(project: Project, tmp_path: Path) -> None:
    files = write_geojson_annotations(project, tmp_path / "out")
    assert sorted(path.name for path in files) == ["one.geojson", "two.geojson"]
    parsed = geojson.loads((tmp_path / "out" / "one.geojson").read_text())
    assert parsed.is_valid
    shapes = [shape(feature["geometry"]) for feature in parsed["features"]]
    assert shapes[0].equals(box(16.5, 6.5, 24.5, 14.5))
    assert shapes[2].equals(box(5, 10, 13, 20))
    properties = parsed["features"][2]["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "tumour", "color": [230, 159, 0]}
    whole, late = geojson.loads((tmp_path / "out" / "two.geojson").read_text())["features"]
    assert shape(whole["geometry"]).equals(box(0, 0, 12, 10))
    assert late["geometry"]["plane"]["t"] == 2


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    empty = Project(tmp_path / "empty")
    for write in (write_coco_annotations, write_geojson_annotations):
        with pytest.raises(ValueError, match="no annotations in"):
            write(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["1e999", 5000 * "9", 400 * "9"])
def test_numbers_beyond_all_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '{"images": [{"id": 1, "file_name": "a.tif", "frame": ' + value + '}], "categories": '
        '[{"id": 1, "name": "a", "supercategory": "cell"}], "annotations": [{"image_id": 1, '
        '"category_id": 1, "bbox": [1, ' + value + ", 3, 4]}]}"
    )
    with pytest.raises(AnnotationFileError, match="cannot be read as COCO"):
        read_coco_annotations(path)


@pytest.mark.slow
@given(st.lists(annotations(), min_size=1, max_size=8))
def test_whatever_was_annotated_is_read_from_coco_again(items: list[Annotation]) -> None:
    with tempfile.TemporaryDirectory() as place:
        project = Project(place)
        book = project.open(ImageRecord("a" * 64, "one.tif", (480, 640), 0.25))
        book.put(items)
        book.close()
        write_coco_annotations(project, Path(place) / "out.json")
        read = read_coco_annotations(Path(place) / "out.json")
    assert set(read) == {"one.tif"}
    wholes = [item.label for item in items if item.kind == "image"]
    expected = [item for item in items if item.kind != "image"]
    found = [item for item in read["one.tif"] if item.kind != "image"]
    whole = [item.label for item in read["one.tif"] if item.kind == "image"]
    assert sorted(whole) == sorted(wholes)
    by_plane = sorted(expected, key=lambda item: _first_plane(expected, items, item))
    assert [(i.kind, i.label, i.t, i.z) for i in found] == [
        (i.kind, i.label, i.t, i.z) for i in by_plane
    ]
    for one, other in zip(found, by_plane, strict=True):
        assert one.position is None or one.position == pytest.approx(other.position, abs=2e-3)
        assert one.diameter_px == (other.diameter_px and pytest.approx(other.diameter_px, abs=2e-3))
        # Files have thousandths of a pixel.
        np.testing.assert_allclose(one.outline, other.outline, atol=1e-3)


def _first_plane(
    placed: list[Annotation], items: list[Annotation], item: Annotation
) -> tuple[int, int]:
    """Planes come in the order in which they were first annotated."""
    planes = list(dict.fromkeys((each.t, each.z) for each in items))
    return planes.index((item.t, item.z)), placed.index(item)


@pytest.mark.slow
@given(st.lists(annotations(), min_size=1, max_size=8))
def test_regions_are_read_from_geojson_again(items: list[Annotation]) -> None:
    with tempfile.TemporaryDirectory() as place:
        project = Project(place)
        book = project.open(ImageRecord("a" * 64, "one.tif", (480, 640), 0.25))
        book.put(items)
        book.close()
        (path,) = write_geojson_annotations(project, Path(place) / "out")
        found = read_regions(path)
    assert Counter(each.name for each in found) == Counter(item.label.strip() for item in items)
    regions = [item for item in items if item.kind == "region"]
    for item in regions:
        # A pixel's corner is at its index in GeoJSON, its centre in an annotation.
        outlines = [each.outline - 0.5 for each in found if each.name == item.label]
        same = [o for o in outlines if o.shape == item.outline.shape]
        kept = item.outline[:-1] if (item.outline[0] == item.outline[-1]).all() else item.outline
        same += [o for o in outlines if o.shape == kept.shape]
        assert any(np.allclose(o, kept[: len(o)], atol=1e-3) for o in same)
