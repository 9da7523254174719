"""JSON with one long list, written item by item."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import replacing

__all__ = ["Coordinates", "encode_json", "encode_members", "finite", "rounded", "write_json_list"]

#: One value as JSON, on one line.
encode_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def write_json_list(
    path: Path, head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any] | str]
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
    items : iterable of mapping or str
        Taken one by one; only one is in memory. A text is JSON already.

    Raises
    ------
    ValueError
        If there is a number that JSON has no name for, such as NaN.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        start = encode_json(dict(head))[:-1] + ("," if head else "")
        file.write(f"{start}{encode_json(name)}:[")
        between = "\n"
        for item in items:
            file.write(between + (item if isinstance(item, str) else encode_json(item)))
            between = ",\n"
        file.write("\n]}\n")


def rounded(values: npt.ArrayLike, digits: int = 6) -> Any:
    """Return nested lists of floats, rounded."""
    return np.asarray(values, dtype=np.float64).round(digits).tolist()


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is NaN or infinite: JSON has no name for it."""
    return {name: value for name, value in values.items() if np.isfinite(value)}


def encode_members(starts: Sequence[str], values: Iterable[float]) -> str:
    """Encode an object of numbers many times as fast as `encode_json`.

    Parameters
    ----------
    starts : sequence of str
        Each member's encoded name and a colon.
    values : iterable of float or int
        Those that are not finite are left out.
    """
    members = [
        start + repr(value)
        for start, value in zip(starts, values, strict=True)
        if math.isfinite(value)
    ]
    return "{" + ",".join(members) + "}"


class Coordinates(dict[float, str]):
    """Texts of coordinates, rounded to three digits.

    Those of outlines are whole numbers and halves, which come again and again
    and are kept.
    """

    def __missing__(self, value: float) -> str:
        if not math.isfinite(value):
            raise ValueError(f"a coordinate is {value}, for which JSON has no number")
        text = repr(round(value, 3))
        if (2 * value).is_integer():
            self[value] = text
        return text

    def encode_flat(self, ring: npt.NDArray[np.float64]) -> str:
        """Encode a ring (n, 2) as one list of n x 2 numbers."""
        return "[" + ",".join(map(self.__getitem__, ring.ravel().tolist())) + "]"

    def encode_closed(self, ring: npt.NDArray[np.float64]) -> str:
        """Encode a ring (n, 2) as a list of n + 1 pairs, the first one again at the end."""
        x, y = ring.T.tolist()
        pairs = [f"[{self[a]},{self[b]}]" for a, b in zip(x, y, strict=True)]
        pairs.append(pairs[0])
        return "[" + ",".join(pairs) + "]"
