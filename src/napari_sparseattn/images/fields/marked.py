"""Cells that somebody has marked, as files: label images, and tables of places."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...files import replacing
from .._decode import decode
from ..errors import ImageError
from .cells import Cells, cells_from_labels, check_labels
from .field import Field
from .scale import measure_scale

__all__ = ["MARKED_SUFFIXES", "read_cells", "write_cells"]

#: What `read_cells` takes; `write_cells` makes the first of labels, the last of places.
MARKED_SUFFIXES = (".tif", ".tiff", ".png", ".npy", ".csv")
_PLACES = ("id", "row", "column")
_BOX = ("top", "left", "bottom", "right")
#: Other names of columns: of our own tables, and of napari's points.
_ALSO = {"diameter_px": "diameter", "y": "row", "x": "column"}


def read_cells(path: str | os.PathLike[str], field: Field, t: int = 0, z: int = 0) -> Cells:
    """Read the cells of one plane of a field from a file.

    Parameters
    ----------
    path : path-like
        A label image as large as the field (TIFF, PNG, NPY; 0 is background),
        or a CSV with a row per cell: ``row`` and ``column`` of its middle in
        pixels, or napari's ``axis-0``, ``axis-1``, …, of which the last two
        are these, and those before them the frame and slice: cells of others
        are left out, and noted. An ``id``, and a ``diameter`` or ``diameter_px`` in pixels, are
        taken where they are there.
    field : Field
        The image that they lie on.
    t, z : int
        Its frame and slice.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read, or does not fit the field; the message says why.
    """
    file = Path(path)
    if file.suffix.lower() not in MARKED_SUFFIXES:
        raise ImageError(
            f"{file.name}: cells are read from {', '.join(MARKED_SUFFIXES)}: a label image, or a "
            "table with the columns row and column"
        )
    try:
        scale = measure_scale(field, t, z)
        if file.suffix.lower() == ".csv":
            return dataclasses.replace(_read_table(file, field, t, z), scale=scale)
        labels = decode(file).data
        cells = cells_from_labels(labels, field.pixel_size)
        check_labels(cells, field.shape)
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"{file.name}: {error}") from error
    return dataclasses.replace(cells, scale=scale)


def write_cells(cells: Cells, path: str | os.PathLike[str]) -> None:
    """Write cells so that `read_cells` gives the same again, atomically.

    Labels become a TIFF, places without labels a CSV, whatever the path ends with.
    """
    if cells.labels is not None:
        import tifffile

        # The smallest type that other programs read too.
        kind = np.min_scalar_type(int(cells.labels.max(initial=0)))
        with replacing(path) as temporary:
            tifffile.imwrite(temporary, cells.labels.astype(kind), compression="zlib")
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*_PLACES, *_BOX))
        for number, place, box in zip(cells.ids, cells.centres, cells.boxes, strict=True):
            writer.writerow((int(number), *place.tolist(), *box.tolist()))


def _read_table(path: Path, field: Field, t: int, z: int) -> Cells:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            # What stands beyond the last column has no name.
            rows = list(csv.DictReader(file, restkey=""))
        except csv.Error as error:
            raise ValueError(f"it is no table: {error}") from error
    names = [name for name in (rows[0] if rows else ()) if name]
    columns = {_ALSO.get(name.strip().lower(), name.strip().lower()): name for name in names}
    axes = sorted(name for name in columns if name.startswith("axis-"))
    planes: list[str] = []
    if "row" not in columns and len(axes) > 1:
        planes = [columns[name] for name in axes[:-2]]
        columns |= {"row": columns[axes[-2]], "column": columns[axes[-1]]}
    if not rows or "row" not in columns or "column" not in columns:
        raise ValueError("a table of cells needs the columns row and column, and a row per cell")
    every = len(rows)
    rows = _on_plane(rows, planes, field, t, z)
    centres = np.stack([_numbers(rows, columns[name]) for name in ("row", "column")], axis=1)
    edge = np.asarray(field.shape, np.float64) - 0.5
    outside = ~np.all((centres >= -0.5) & (centres <= edge), axis=1)
    if outside.any():
        raise ValueError(f"{np.count_nonzero(outside)} of {len(rows)} cells lie outside the image")
    if all(name in columns for name in _BOX):
        boxes = np.stack([_numbers(rows, columns[name]) for name in _BOX], axis=1)
    else:
        half = _diameters(rows, columns, field)[:, None] / 2
        boxes = np.hstack([np.maximum(centres - half, -0.5), np.minimum(centres + half, edge)])
    border = np.any(boxes[:, :2] <= -0.5, axis=1) | np.any(boxes[:, 2:] >= edge, axis=1)
    ids = np.arange(1, len(rows) + 1)
    if "id" in columns:
        ids = _numbers(rows, columns["id"]).astype(np.int64)
    cells = Cells(centres, boxes, border, ids, None, field.pixel_size)
    if len(rows) == every:
        return cells
    note = f"{every - len(rows)} of {every} cells of {path.name} lie on other frames or slices"
    return dataclasses.replace(cells, notes=(note,))


def _on_plane(
    rows: list[dict[str, str]], planes: list[str], field: Field, t: int, z: int
) -> list[dict[str, str]]:
    """Return the rows on a frame and slice, by the columns that say it, if any do."""
    if not planes:
        return rows
    where = [index for letter, index in (("T", t), ("Z", z)) if letter in field.axes]
    places = np.stack([_numbers(rows, name) for name in planes], axis=1).round().astype(np.int64)
    if len(where) != len(planes):
        # The planes of another image, perhaps the one that this was taken out of.
        if len(np.unique(places, axis=0)) > 1:
            raise ValueError(
                f"its cells lie on several planes ({', '.join(planes)}), and {field.name} has "
                f"{len(where) or 'no'} such axes: keep the rows of this image"
            )
        return rows
    kept = [row for row, place in zip(rows, places.tolist(), strict=True) if place == where]
    if not kept:
        raise ValueError(f"none of its {len(rows)} cells lies on frame {t}, slice {z}")
    return kept


def _diameters(
    rows: list[dict[str, str]], columns: Mapping[str, str], field: Field
) -> npt.NDArray[np.float64]:
    if "diameter" in columns:
        return _numbers(rows, columns["diameter"])
    if field.pixel_size is None:
        raise ValueError(
            "nothing says how large the cells are: give the pixel size, or a column diameter_px"
        )
    return np.ones(len(rows))


def _numbers(rows: list[dict[str, str]], column: str) -> npt.NDArray[np.float64]:
    try:
        found = np.array([float(row[column]) for row in rows])
    except (TypeError, ValueError) as error:
        raise ValueError(f"not every cell has a number in the column {column}") from error
    if not np.isfinite(found).all():
        raise ValueError(f"not every number in the column {column} is finite")
    return found
