"""The rows of a result, and the one CSV they are written as."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..files import replacing

if TYPE_CHECKING:
    import pandas as pd

    from ..inference.fields import FieldPrediction
    from ..inference.prediction import Predictions
    from ..inference.slides import SlidePrediction
    from .request import Export, Result

__all__ = [
    "CSV_ENCODING",
    "as_classes",
    "as_text",
    "crops_table",
    "iter_tables",
    "with_model",
    "write_csv",
    "write_table",
]

#: UTF-8 with the mark by which spreadsheets recognise it.
CSV_ENCODING = "utf-8-sig"

#: Of the W3C's "CSV on the Web", by the kinds of numpy's dtypes.
_CSVW = {"i": "integer", "u": "integer", "f": "double", "b": "boolean"}


def iter_tables(
    result: Result, model_name: str = "", image_name: str = ""
) -> Iterator[pd.DataFrame]:
    """Give the rows of a result, of a recording frame by frame.

    One row per cell, per crop that a TNet looked at, or per patch of a slide;
    see `Predictions.to_frame`, `crops_table` and `SlidePrediction.to_frame`.
    Of frames, the first column is ``frame``. The last two, ``model`` and
    ``scale_known``, say which weights gave the row (name and first 12 digits
    of the sha256) and whether the scale of the image was known. With an
    `image_name` the last is ``image``, so that tables of many images can be
    joined.

    Raises
    ------
    ValueError
        If there are no frames.
    """
    from ..inference.fields import FieldPrediction

    if isinstance(result, Mapping):
        if not result:
            raise ValueError("there are no frames to write")
        for index, part in result.items():
            table = with_model(part.to_frame(), part, model_name, image_name)
            table.insert(0, "frame", index)
            yield table
    elif isinstance(result, FieldPrediction):
        yield with_model(crops_table(result), result, model_name, image_name)
    else:
        yield with_model(result.to_frame(), result, model_name, image_name)


def write_csv(result: Result, path: str | os.PathLike[str], model_name: str = "") -> None:
    """Write the rows of a result as CSV, atomically; columns as `iter_tables`.

    Parameters
    ----------
    result : Predictions, FieldPrediction, SlidePrediction, or mapping of int to Predictions
        Of one image, or of the frames of a stack by their index.
    path : path-like
        The file.
    model_name : str
        For the column ``model``; by default as the result says.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then intact.
    ValueError
        If there are no frames.
    """
    with replacing(path) as temporary:
        for _ in _write_rows(iter_tables(result, model_name), temporary):
            pass


def write_table(export: Export, path: Path) -> list[Path]:
    """Write rows as CSV, and beside it where they came from.

    Frames are written one after the other. The second file is named as the
    W3C's "CSV on the Web" has it, ``NAME.csv-metadata.json``.

    Parameters
    ----------
    export : Export
        Cells, frames, a field's crops, or a slide's patches.
    path : pathlib.Path
        The table.

    Returns
    -------
    list of pathlib.Path
        Both files.
    """
    columns: dict[str, str] = {}
    total = len(export.frames) if export.kind == "frames" else 1
    with replacing(path) as temporary:
        for number, table in enumerate(
            _write_rows(iter_tables(export.result, export.card.name, export.image.name), temporary)
        ):
            columns = columns or {
                str(name): _CSVW.get(kind.kind, "string") for name, kind in table.dtypes.items()
            }
            export.report(number + 1, total)
    described = {
        "@context": "http://www.w3.org/ns/csvw",
        "url": path.name,
        "tableSchema": {
            "columns": [{"name": name, "datatype": kind} for name, kind in columns.items()]
        },
        "napari-sparseattn": export.provenance,
    }
    beside = path.with_name(f"{path.name}-metadata.json")
    with replacing(beside) as temporary:
        temporary.write_text(json.dumps(described, indent=1), encoding="utf-8")
    return [path, beside]


def crops_table(found: FieldPrediction) -> pd.DataFrame:
    """Return one row per crop that a TNet looked at.

    ``top``, ``left``, ``height`` and ``width`` are pixels of the full
    resolution; ``logit_CLASS`` what the crop added to the logit of a class.
    """
    import pandas as pd

    way = found.traversal
    columns: dict[str, npt.NDArray[Any]] = {
        "crop": np.arange(len(way)),
        "level": way.level,
        "rank": way.rank,
        "parent": way.parent,
        "top": way.top,
        "left": way.left,
        "height": way.height,
        "width": way.width,
    }
    for i, name in enumerate(found.class_names):
        columns[f"logit_{name}"] = way.contribution[:, i]
    return pd.DataFrame(columns)


def as_text(value: object) -> object:
    """Return a cell of a table so that no spreadsheet takes text for a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break
    gets an apostrophe before it; all else is returned as it is.
    """
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else value


def as_classes(column: pd.Series, names: Sequence[str]) -> pd.Categorical:
    """Return a column of class names as categories; missing where a cell has no class."""
    import pandas as pd

    # Python's own text: anndata cannot write pandas 3's.
    categories = pd.Index(np.array(names, dtype=object), dtype=object)
    return pd.Categorical(column.mask(column == ""), categories)


def with_model(
    table: pd.DataFrame,
    found: Predictions | FieldPrediction | SlidePrediction,
    model_name: str = "",
    image_name: str = "",
) -> pd.DataFrame:
    """Add the columns ``model``, ``scale_known`` and ``image`` to a table, and return it."""
    name = model_name or getattr(found, "model_name", "")
    table["model"] = "@".join(filter(None, (name, found.model_hash[:12])))
    table["scale_known"] = found.scale_known
    if image_name:
        table["image"] = image_name
    return table


def _write_rows(tables: Iterable[pd.DataFrame], path: Path) -> Iterator[pd.DataFrame]:
    """Write tables one below the other, and give back each that is written."""
    with path.open("w", encoding=CSV_ENCODING, newline="") as file:
        for number, table in enumerate(tables):
            text = {
                str(name): column.map(as_text)
                for name, column in table.items()
                if column.dtype.kind not in _CSVW
            }
            safe = table.assign(**text).rename(columns=as_text)
            safe.to_csv(file, index=False, header=number == 0, float_format="%.6g")
            yield table
