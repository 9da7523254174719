"""Classified cells as COCO JSON: boxes, outlines, categories, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .json_stream import Coordinates, encode_json, encode_members, rounded, write_json_list
from .outlines import Ring, area, box_ring, iter_cell_rings
from .request import Export

__all__ = ["annotation_row", "categories_of", "write_coco"]

_TELL_EVERY = 1000


def write_coco(export: Export, path: Path) -> list[Path]:
    """Write one annotation per classified cell, atomically.

    Boxes and outlines are (x, y) in pixels with a pixel's top left corner at
    its index, as COCO has them. Beside COCO's own members each annotation has
    a ``score`` and all ``probabilities``; cells that could not be classified
    are left out. A frame of a stack is an image of its own.

    Parameters
    ----------
    export : Export
        Cells or frames.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    source = export.provenance
    head = {
        "info": {
            "description": f"Cells of {export.name}, classified by {export.card.name}",
            "date_created": source["time"],
            "napari-sparseattn": source,
        },
        "licenses": [],
        "images": [_image(export, number, t) for number, t in enumerate(export.frames, 1)],
        "categories": categories_of(export.first.class_names, export.card.colours),
    }
    write_json_list(path, head, "annotations", _annotations(export))
    return [path]


def categories_of(names: Sequence[str], colours: Sequence[str]) -> list[dict[str, Any]]:
    """Return COCO's categories, numbered from 1 in the order of the classes."""
    return [
        {"id": number, "name": name, "supercategory": "cell", "color": colour}
        for number, (name, colour) in enumerate(zip(names, colours, strict=True), 1)
    ]


def annotation_row(
    number: int, image: int, category: int, box: npt.ArrayLike, rings: Sequence[Ring]
) -> dict[str, Any]:
    """Return one annotation.

    Parameters
    ----------
    number, image, category : int
        Ids of the annotation, its image and its class.
    box : array_like
        Left, top, width and height in pixels.
    rings : sequence of numpy.ndarray
        (n, 2) (x, y) outlines; the box where there are none.
    """
    x, y, width, height = rounded(box, 3)
    outlines = rings or [box_ring((y, x, y + height, x + width))]
    covered = sum(map(area, rings)) if rings else width * height
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": round(float(covered), 3),
        "iscrowd": 0,
        "segmentation": [rounded(ring.ravel(), 3) for ring in outlines],
    }


def _image(export: Export, number: int, t: int) -> dict[str, Any]:
    height, width = export.shape
    path, address = export.image.path, getattr(export.image, "address", None)
    name = export.name if path is None else path.name
    name = name if address is None else address.name
    image = {"id": number, "file_name": name, "height": height, "width": width}
    return image if export.kind == "cells" and export.index == (0, 0) else image | {"frame": t}


def _annotations(export: Export) -> Iterator[str]:
    """Give each cell as the text of what `annotation_row` returns, and more: encoders are slow."""
    number, done, total, texts = 0, 0, export.n_cells, Coordinates()
    for image, found in enumerate(export.frames.values(), 1):
        cells, flags = found.cells, found.flagged
        corners = cells.boxes[:, [1, 0]] + 0.5
        boxes = np.hstack([corners, cells.boxes[:, [3, 2]] + 0.5 - corners])
        names = [f"{encode_json(name)}:" for name in found.class_names]
        more = {"flagged": flags, "none_of_these": found.none_of_these}
        marks = {name: values.tolist() for name, values in more.items() if values is not None}
        for i, (index, box, score, chances, cell, rings) in enumerate(
            zip(
                found.class_index.tolist(),
                boxes,
                rounded(found.confidence),
                rounded(found.probabilities),
                cells.ids.tolist(),
                iter_cell_rings(cells),
                strict=True,
            )
        ):
            done += 1
            if done % _TELL_EVERY == 0 or done == total:
                export.report(done, total)
            if index < 0:
                continue
            number += 1
            x, y, width, height = map(texts.__getitem__, box.tolist())
            covered = box[2] * box[3] if cells.labels is None else sum(map(area, rings))
            outlines = ",".join(map(texts.encode_flat, rings))
            said = "".join(f',"{name}":{"true" if v[i] else "false"}' for name, v in marks.items())
            yield (
                f'{{"id":{number},"image_id":{image},"category_id":{index + 1},'
                f'"bbox":[{x},{y},{width},{height}],"area":{texts[float(covered)]},"iscrowd":0,'
                f'"segmentation":[{outlines}],"score":{score!r},'
                f'"probabilities":{encode_members(names, chances)},"cell":{cell}{said}}}'
            )
