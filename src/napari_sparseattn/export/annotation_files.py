"""Annotations of a project as COCO JSON or GeoJSON, and back."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..training.data.annotations import UNREADABLE, Annotation, ImageRecord, new_annotation
from ..training.data.project import Project
from .coco import annotation_row, categories_of
from .geojson import classification, feature
from .json_stream import write_json_list
from .outlines import Ring, box_ring

__all__ = [
    "AnnotationFileError",
    "read_coco_annotations",
    "write_coco_annotations",
    "write_geojson_annotations",
]

#: Side in pixels of a cell whose size nobody knows, where no other cell's is known.
_UNKNOWN_SIDE = 20.0
_MOST_BYTES = 2**30
_KEY = "napari-sparseattn"


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
            _KEY: {"software": _software(), "image": record.name, "image_hash": record.hash},
        }
        features = (
            _geojson_feature(record, plane, item, usual, classes)
            for plane, items in parts
            for item in items
        )
        write_json_list(path, head, "features", features)
        written.append(path)
    return written


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
    path = Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise AnnotationFileError(f"{path.name} is over {_MOST_BYTES >> 30} GiB; split it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {row["id"]: row for row in content["images"]}
        names = {row["id"]: row for row in content["categories"]}
        found: dict[str, list[Annotation]] = {str(r["file_name"]): [] for r in images.values()}
        for row in content["annotations"]:
            if row.get("iscrowd"):
                continue
            image = images[row["image_id"]]
            item = _from_coco(row, names[row["category_id"]], image)
            if item is not None:
                found[str(image["file_name"])].append(item)
        for row in images.values():
            if row.get("class"):
                item = new_annotation("image", str(row["class"]), origin="imported")
                found[str(row["file_name"])].append(item)
    except (*UNREADABLE, RecursionError) as error:
        said = f"it refers to {error}, which is not in it" if isinstance(error, KeyError) else error
        raise AnnotationFileError(f"{path.name} cannot be read as COCO JSON: {said}") from error
    return found


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
            about = {"annotation": item.id, "kind": item.kind, "origin": item.origin}
            yield row | about | {"size_known": known}


def _from_coco(
    row: Mapping[str, Any], category: Mapping[str, Any], image: Mapping[str, Any]
) -> Annotation | None:
    values: dict[str, Any] = {"origin": "imported", "t": int(image.get("frame", 0))}
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
    whole = [item.label for item in items if item.kind == "image"]
    return row | {"class": whole[-1]} if whole else row


def _geojson_feature(
    record: ImageRecord,
    plane: tuple[int, int],
    item: Annotation,
    usual: float,
    classes: Mapping[str, str],
) -> dict[str, Any]:
    if item.kind == "image":
        height, width = record.shape
        rings = [box_ring((0, 0, max(height, 1), max(width, 1)))]
    else:
        (x, y, width, height), rings = _shape_of(item, usual)
        rings = rings or [box_ring((y, x, y + height, x + width))]
    return feature(
        rings,
        "annotation",
        f"{record.hash}|{item.id}",
        label=classification(item.label, classes[item.label]),
        plane=plane,
        metadata={"origin": item.origin, "kind": item.kind},
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
