"""Predictions as CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..files import replacing
from ..inference.prediction import Predictions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_csv"]


def write_csv(
    predictions: Predictions | Mapping[int, Predictions], path: str | os.PathLike[str]
) -> None:
    """Write one row per cell, atomically; columns as `Predictions.to_frame`.

    Two more columns, ``model`` and ``calibrated``, say which weights gave the
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


def _rows(predictions: Predictions) -> pd.DataFrame:
    frame = predictions.to_frame()
    frame["model"] = f"{predictions.model_name}@{predictions.model_hash[:12]}"
    frame["calibrated"] = predictions.calibrated
    return frame


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
