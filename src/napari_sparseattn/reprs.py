"""A short text for objects that hold arrays: what a person wants to see when one is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["short_repr"]

_MOST_TEXT = 40
_MOST_FIELDS = 200


def short_repr(thing: Any) -> str:
    """Return a dataclass in one or two lines: arrays by their type and shape, many by their number.

    For a class that says ``__repr__ = short_repr``.
    """
    said, left = [], _MOST_FIELDS
    for each in dataclasses.fields(thing):
        if not each.repr:
            continue
        text = f"{each.name}={_short(getattr(thing, each.name))}"
        left -= len(text)
        if left < 0:
            said.append("…")
            break
        said.append(text)
    return f"{type(thing).__name__}({', '.join(said)})"


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        kind = getattr(value, "dtype", type(value).__name__)
        return f"<{kind} {'x'.join(map(str, shape)) or 'scalar'}>"
    if isinstance(value, str):
        return repr(value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}…")
    if isinstance(value, Mapping):
        return f"<{len(value)} by name>" if value else "{}"
    if isinstance(value, tuple | list):
        text = f"({', '.join(map(_short, value[:4]))}{', …' if len(value) > 4 else ''})"
        return text if len(text) <= _MOST_TEXT else f"<{len(value)} items>"
    if dataclasses.is_dataclass(value) or hasattr(value, "model_fields"):
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= _MOST_TEXT else f"<{type(value).__name__}>"
