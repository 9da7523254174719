"""JSON with one long list, written item by item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import replacing

__all__ = ["finite", "rounded", "write_json_list"]


def write_json_list(
    path: Path, head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]
) -> None:
    """Write an object whose last member is a list, one item per line, atomically.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    head : mapping
        The other members.
    name : str
        Of the list.
    items : iterable of mapping
        Taken one by one; only one is in memory.

    Raises
    ------
    ValueError
        If there is a number that JSON has no name for, such as NaN.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    dump = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(dump(dict(head))[:-1] + ("," if head else "") + f"{dump(name)}:[")
        for number, item in enumerate(items):
            file.write(("," if number else "") + "\n" + dump(item))
        file.write("\n]}\n")


def rounded(values: npt.ArrayLike, digits: int = 6) -> Any:
    """Return nested lists of floats, rounded."""
    return np.asarray(values, dtype=np.float64).round(digits).tolist()


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is NaN or infinite: JSON has no name for it."""
    return {name: value for name, value in values.items() if np.isfinite(value)}
