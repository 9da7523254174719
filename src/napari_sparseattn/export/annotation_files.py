"""Annotations of a project as COCO JSON or GeoJSON, and back."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..training.data.annotations import UNREADABLE, Annotation, ImageRecord, new_annotation
from ..training.data.project import Project
from ..training.data.raters import one_class_each
from .coco import annotation_row, categories_of
from .feature_stream import FeatureError, open_texts
from .geojson import classification, feature
from .geojson_annotations import ReadAnnotations, about_of, read_features, stated_image
from .json_stream import write_json_list
from .outlines import Ring, box_ring

__all__ = [
    "FORMATS",
    "AnnotationFileError",
    "read_annotation_files",
    "read_coco_annotations",
    "read_geojson_annotations",
    "write_coco_annotations",
    "write_geojson_annotations",
]

#: Side in pixels of a cell whose size nobody knows, where no other cell's is known.
_UNKNOWN_SIDE = 20.0
_MOST_BYTES = 2**30
_KEY = "napari-sparseattn"
#: What can be read, for people.
FORMATS = (
    "GeoJSON (.geojson or .json, also as .gz or .zip; in QuPath: File > Export objects as "
    "GeoJSON) and COCO JSON (.json with images, categories and annotations)"
)
_PACKED = (".geojson", ".json", ".gz", ".zip")
#: What tells the formats apart is looked for at their beginning.
_BEGINNING = 2**16
_GEOJSON = re.compile(r'\A\s*\[|"type"\s*:\s*"Feature(?:Collection)?"|"features"\s*:\s*\[')
_COCO = re.compile(r'"(?:images|categories|annotations|info|licenses)"\s*:\s*[\[{]')


class AnnotationFileError(ValueError):
    """A file of annotations that cannot be used; the message says why and what to do."""


def write_coco_annotations(project: Project, path: str | os.PathLike[str]) -> int:
    """Write all annotations of a project as one COCO file, atomically.

    Boxes and outlines are (x, y) in pixels with a pixel's top left corner at
    its index. A cell whose size is not known gets the median size of the
    others, and ``"size_known": false``. The class of a whole image is in the
    image's entry, as ``class``. A frame of a stack is an image of its own.

    Parameters
    ----------
    project : Project
        The annotations.
    path : path-like
        The file.

    Returns
    -------
    int
        Annotations of cells and regions that were written.

    Raises
    ------
    ValueError
        If there is nothing to write.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    by_image = _by_plane(project)
    if not by_image:
        raise ValueError(f"there are no annotations in {project.folder}")
    classes = _classes(project, by_image)
    numbers = {name: number for number, name in enumerate(classes, 1)}
    head = {
        "info": {
            "description": "Annotations made with napari-sparseattn",
            "date_created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            _KEY: {"software": _software(), "project": project.folder.name},
        },
        "licenses": [],
        "images": [
            _coco_image(number, record, plane, items)
            for number, ((record, plane), items) in enumerate(by_image.items(), 1)
        ],
        "categories": categories_of(list(classes), list(classes.values())),
    }
    placed = [item for items in by_image.values() for item in items if item.kind != "image"]
    rows = _coco_rows(by_image.values(), numbers, _usual_side(placed))
    write_json_list(Path(path), head, "annotations", rows)
    return len(placed)


def write_geojson_annotations(project: Project, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the annotations of each image as GeoJSON for QuPath, each file atomically.

    Cells and regions are annotations with their class; the class of a whole
    image is an annotation around all of it. Files are named after the images.

    Parameters
    ----------
    project : Project
        The annotations.
    folder : path-like
        Made if need be.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    ValueError
        If there is nothing to write.
    """
    planes = _by_plane(project)
    if not planes:
        raise ValueError(f"there are no annotations in {project.folder}")
    classes = _classes(project, planes)
    usual = _usual_side([item for items in planes.values() for item in items])
    images: dict[ImageRecord, list[tuple[tuple[int, int], Sequence[Annotation]]]] = {}
    for (record, plane), items in planes.items():
        images.setdefault(record, []).append((plane, items))
    taken: set[str] = set()
    written = []
    for record, parts in images.items():
        path = Path(folder) / f"{_stem(record, taken)}.geojson"
        head = {
            "type": "FeatureCollection",
            _KEY: {
                "software": _software(),
                "image": record.name,
                "image_file": Path(record.path).name,
                "image_hash": record.hash,
                "height": record.shape[0],
                "width": record.shape[1],
            },
        }
        features = (
            _geojson_feature(record, plane, item, usual, classes)
            for plane, items in parts
            for item in items
        )
        write_json_list(path, head, "features", features)
        written.append(path)
    return written


def read_annotation_files(path: str | os.PathLike[str], label: str = "") -> list[ReadAnnotations]:
    """Read annotations from a file of another program, or a folder of such files.

    Parameters
    ----------
    path : path-like
        One of `FORMATS`, told by what is in it, or a folder with some.
    label : str, optional
        The class of objects of GeoJSON that have none; they are left out otherwise.

    Returns
    -------
    list of ReadAnnotations
        One of each image.

    Raises
    ------
    AnnotationFileError
        If it is none of them, or damaged; the message says what to do.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in _PACKED)
        if not files:
            raise AnnotationFileError(
                f"There is no file to import in '{path}'. It takes {FORMATS}."
            )
        return [found for file in files for found in read_annotation_files(file, label)]
    if _is_coco(path):
        return [found for found in _read_coco(path) if found.items]
    return read_geojson_annotations(path, label)


def read_geojson_annotations(
    path: str | os.PathLike[str], label: str = ""
) -> list[ReadAnnotations]:
    """Read annotations and cells from GeoJSON, as QuPath or `write_geojson_annotations` wrote it.

    Annotations with an area become regions, with their holes, one for each piece; points,
    cells and detections become cells. Lines, tiles and cores are left out.

    Parameters
    ----------
    path : path-like
        The file, which may be packed by gzip or zip.
    label : str, optional
        The class of objects that have none; they are left out otherwise.

    Returns
    -------
    list of ReadAnnotations
        One of each file in a zip, else one.

    Raises
    ------
    AnnotationFileError
        If it is no GeoJSON.
    """
    path = Path(path)
    try:
        with open_texts(path) as texts:
            return [read_features(text, name, label) for name, text in texts]
    except FeatureError as error:
        raise AnnotationFileError(f"{path.name} cannot be read as GeoJSON: {error}.") from error


def _is_coco(path: Path) -> bool:
    """Tell COCO from GeoJSON.

    Raises
    ------
    AnnotationFileError
        If it is neither.
    """
    try:
        with open_texts(path) as texts:
            start = next(texts)[1].read(_BEGINNING)
    except FeatureError as error:
        raise AnnotationFileError(f"{path.name} cannot be imported: {error}.") from error
    if _GEOJSON.search(start):
        return False
    if start.lstrip().startswith("{") and _COCO.search(start):
        return True
    raise AnnotationFileError(
        f"{path.name} is no file of annotations that can be imported: it takes {FORMATS}."
    )


def read_coco_annotations(path: str | os.PathLike[str]) -> dict[str, list[Annotation]]:
    """Read the boxes and outlines of a COCO file as annotations.

    An outline of one ring becomes a region, unless the ``supercategory`` of
    its category is ``cell``; all else becomes a cell in the middle of its box.
    Crowds, and what has no box, are left out.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict of str to list of Annotation
        By the image's ``file_name``; `origin` is ``"imported"``.

    Raises
    ------
    AnnotationFileError
        If it is no COCO file, or refers to images or categories that it lacks.
    """
    return {found.name: found.items for found in _read_coco(Path(path))}


def _read_coco(path: Path) -> list[ReadAnnotations]:
    if path.stat().st_size > _MOST_BYTES:
        raise AnnotationFileError(f"{path.name} is over {_MOST_BYTES >> 30} GiB; split it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {row["id"]: row for row in content["images"]}
        names = {row["id"]: row for row in content["categories"]}
        found = {
            str(row["file_name"]): ReadAnnotations(str(row["file_name"]), of=stated_image(row))
            for row in images.values()
        }
        for row in content["annotations"]:
            if row.get("iscrowd"):
                continue
            image = images[row["image_id"]]
            item = _from_coco(row, names[row["category_id"]], image)
            if item is not None:
                found[str(image["file_name"])].items.append(item)
        for row in images.values():
            found[str(row["file_name"])].items += _whole_of(row)
    except (*UNREADABLE, RecursionError) as error:
        said = f"it refers to {error}, which is not in it" if isinstance(error, KeyError) else error
        raise AnnotationFileError(f"{path.name} cannot be read as COCO JSON: {said}") from error
    return list(found.values())


def _coco_rows(
    images: Iterable[Sequence[Annotation]], numbers: Mapping[str, int], usual: float
) -> Iterator[dict[str, Any]]:
    number = 0
    for image, items in enumerate(images, 1):
        for item in items:
            if item.kind == "image":
                continue
            number += 1
            box, rings = _shape_of(item, usual)
            row = annotation_row(number, image, numbers[item.label], box, rings)
            known = item.kind == "region" or item.diameter_px is not None
            yield row | _about(item) | {"size_known": known}


def _whole_of(row: Mapping[str, Any]) -> list[Annotation]:
    """Return what was said of an image as a whole."""
    known = row.get(_KEY)
    said = known.get("classes") if isinstance(known, Mapping) else None
    if said is None:
        said = [{"class": row["class"]}] if row.get("class") else []
    where = {"t": int(row.get("frame", 0)), "z": int(row.get("slice", 0))}
    return [
        new_annotation("image", str(one["class"]), origin="imported", **where, **about_of(one))
        for one in said
    ]


def _about(item: Annotation) -> dict[str, Any]:
    """Return what is written of an annotation beside its place, for reading it back."""
    about: dict[str, Any] = {"annotation": item.id, "kind": item.kind, "origin": item.origin}
    if item.rater:
        about["rater"] = item.rater
    if item.time:
        when = dt.datetime.fromtimestamp(item.time, dt.UTC)
        about["time"] = when.isoformat(timespec="microseconds")
    if item.settles:
        about["settles"] = " ".join(item.settles)
    if item.predicted:
        about |= {"predicted": item.predicted, "model": item.model}
    return about


def _from_coco(
    row: Mapping[str, Any], category: Mapping[str, Any], image: Mapping[str, Any]
) -> Annotation | None:
    values: dict[str, Any] = {"origin": "imported", "t": int(image.get("frame", 0))}
    values |= about_of(row)
    values["z"] = int(image.get("slice", 0))
    name, rings = str(category["name"]), row.get("segmentation")
    ring = rings[0] if isinstance(rings, list) and len(rings) == 1 else ()
    is_region = category.get("supercategory") != "cell" or row.get("kind") == "region"
    if len(ring) >= 6 and is_region:
        corners = np.asarray(ring, dtype=np.float64).reshape(-1, 2)[:, ::-1] - 0.5
        values["polygon"] = tuple(map(tuple, corners.tolist()))
        return new_annotation("region", name, **values)
    if not row.get("bbox"):
        return None
    x, y, width, height = (float(value) for value in row["bbox"])
    values["position"] = (y + height / 2 - 0.5, x + width / 2 - 0.5)
    if row.get("size_known", True):
        values["diameter_px"] = float(np.sqrt(width * height))
    return new_annotation("cell", name, **values)


def _by_plane(
    project: Project,
) -> dict[tuple[ImageRecord, tuple[int, int]], list[Annotation]]:
    """Annotations by image, and frame and slice."""
    found: dict[tuple[ImageRecord, tuple[int, int]], list[Annotation]] = {}
    for record, items in project.annotations():
        for item in items:
            found.setdefault((record, (item.t, item.z)), []).append(item)
    return found


def _classes(project: Project, planes: Mapping[Any, Sequence[Annotation]]) -> dict[str, str]:
    from ..training.data.annotations import class_colours

    return class_colours(project.classes(), (x.label for items in planes.values() for x in items))


def _usual_side(items: Sequence[Annotation]) -> float:
    known = [item.diameter_px for item in items if item.diameter_px is not None]
    return float(np.median(known)) if known else _UNKNOWN_SIDE


def _shape_of(item: Annotation, usual: float) -> tuple[npt.NDArray[np.float64], list[Ring]]:
    """Box (left, top, width, height) and outlines, with corners at whole numbers."""
    # A pixel's centre is at its index in an annotation.
    if item.kind == "region":
        # Of one with holes the whole way around them: COCO has no holes.
        ring = item.outline[:, ::-1] + 0.5
        low, high = ring.min(axis=0), ring.max(axis=0)
        return np.concatenate([low, high - low]), [ring]
    assert item.position is not None
    side = item.diameter_px or usual
    y, x = (value + 0.5 - side / 2 for value in item.position)
    return np.array([x, y, side, side]), []


def _coco_image(
    number: int, record: ImageRecord, plane: tuple[int, int], items: Sequence[Annotation]
) -> dict[str, Any]:
    height, width = record.shape
    row: dict[str, Any] = {
        "id": number,
        "file_name": Path(record.path).name or record.name or record.hash,
        "height": height,
        "width": width,
        _KEY: {"hash": record.hash, "name": record.name, "pixel_size_um": record.pixel_size},
    }
    if plane != (0, 0):
        row |= {"frame": plane[0], "slice": plane[1]}
    whole = [item for item in items if item.kind == "image"]
    if whole:
        row["class"] = one_class_each(whole)[-1].label
        row[_KEY]["classes"] = [{"class": item.label, **_about(item)} for item in whole]
    return row


def _geojson_feature(
    record: ImageRecord,
    plane: tuple[int, int],
    item: Annotation,
    usual: float,
    classes: Mapping[str, str],
) -> dict[str, Any]:
    holes: list[Ring] = []
    if item.kind == "image":
        height, width = record.shape
        rings = [box_ring((0, 0, max(height, 1), max(width, 1)))]
    elif item.kind == "region":
        outer, *holes = (ring[:, ::-1] + 0.5 for ring in item.rings)
        rings = [outer]
    else:
        (x, y, width, height), _ = _shape_of(item, usual)
        rings = [box_ring((y, x, y + height, x + width))]
    known = {} if item.kind != "cell" or item.diameter_px else {"size_known": "false"}
    return feature(
        rings,
        "annotation",
        f"{record.hash}|{item.id}",
        label=classification(item.label, classes[item.label]),
        plane=plane,
        metadata=_about(item) | {"class": item.label} | known,
        holes=holes,
    )


def _stem(record: ImageRecord, taken: set[str]) -> str:
    name = Path(record.path).stem or record.name or record.hash[:12]
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80] or "image"
    stem, number = safe, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{safe}-{number}"
    taken.add(stem.casefold())
    return stem


def _software() -> str:
    return f"napari-sparseattn {importlib.metadata.version('napari-sparseattn')}"
