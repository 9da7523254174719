"""Predictions as CSV."""

from __future__ import annotations

import os

from ..files import replacing
from ..inference.prediction import Predictions

__all__ = ["write_csv"]


def write_csv(predictions: Predictions, path: str | os.PathLike[str]) -> None:
    """Write one row per cell, atomically; columns as `Predictions.to_frame`.

    Two more columns, ``model`` and ``calibrated``, say which weights gave the
    row (name and first 12 digits of the sha256) and whether the scale of the
    image was known.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then intact.
    """
    frame = predictions.to_frame()
    frame["model"] = f"{predictions.model_name}@{predictions.model_hash[:12]}"
    frame["calibrated"] = predictions.calibrated
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
