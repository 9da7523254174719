"""Predictions as CSV and Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..files import replacing
from ..inference.prediction import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from ..inference.fields import FieldPrediction
    from ..inference.slides import SlidePrediction
    from .request import Export

__all__ = ["as_classes", "crops_table", "with_model", "write_csv", "write_table"]

#: Of the W3C's "CSV on the Web", by the kinds of numpy's dtypes.
_CSVW = {"i": "integer", "u": "integer", "f": "double", "b": "boolean"}


def write_csv(
    predictions: Predictions | Mapping[int, Predictions], path: str | os.PathLike[str]
) -> None:
    """Write one row per cell, atomically; columns as `Predictions.to_frame`.

    Two more columns, ``model`` and ``scale_known``, say which weights gave the
    row (name and first 12 digits of the sha256) and whether the scale of the
    image was known.

    Parameters
    ----------
    predictions : Predictions, or mapping of int to Predictions
        Of one image, or of the frames of a stack by their index, which then
        is the first column, ``frame``.
    path : path-like
        The file.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then intact.
    ValueError
        If there are no frames.
    """
    frames = predictions
    table = _rows(frames) if isinstance(frames, Predictions) else _stacked(frames)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


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
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(export.tables()):
            table.to_csv(file, index=False, header=number == 0, float_format="%.6g")
            columns = columns or {
                str(name): _CSVW.get(kind.kind, "string") for name, kind in table.dtypes.items()
            }
            export.tell(number + 1, total)
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
) -> pd.DataFrame:
    """Add the columns ``model`` and ``scale_known`` to a table, and return it."""
    name = model_name or getattr(found, "model_name", "")
    table["model"] = f"{name}@{found.model_hash[:12]}"
    table["scale_known"] = found.scale_known
    return table


def _rows(predictions: Predictions) -> pd.DataFrame:
    return with_model(predictions.to_frame(), predictions)


def _stacked(frames: Mapping[int, Predictions]) -> pd.DataFrame:
    import pandas as pd

    if not frames:
        raise ValueError("there are no frames to write")
    tables = {index: _rows(found) for index, found in frames.items()}
    for index, table in tables.items():
        table.insert(0, "frame", index)
    # Tables without rows would change the columns' types.
    filled = [table for table in tables.values() if len(table)]
    return pd.concat(filled or list(tables.values())[:1], ignore_index=True)
