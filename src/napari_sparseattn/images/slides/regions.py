"""Annotated regions of a slide from GeoJSON, as QuPath and others write it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Region", "RegionError", "read_regions"]

_MOST_BYTES = 2**28
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")


class RegionError(ValueError):
    """A file of regions that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """An outline that somebody drew, and the name of the class within it.

    Parameters
    ----------
    name : str
        The class.
    outline : numpy.ndarray
        (n, 2) float64: (y, x) corners in level-0 pixels, n at least 3.
    """

    name: str
    outline: npt.NDArray[np.float64]


def read_regions(path: str | os.PathLike[str]) -> list[Region]:
    """Read the polygons of a GeoJSON file whose features have a class.

    Coordinates are (x, y) in pixels of the full resolution, as QuPath exports
    them. Points and lines are left out, and features without a class; of a
    polygon with holes the outer ring is taken.

    Parameters
    ----------
    path : path-like
        The file, ``.geojson`` or ``.json``.

    Returns
    -------
    list of Region
        In the order of the file, in which later ones lie on top.

    Raises
    ------
    RegionError
        If it is no GeoJSON, or a polygon has no three corners or is not finite.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise RegionError(f"{path.name} is over {_MOST_BYTES >> 20} MiB; export fewer regions.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RegionError(f"{path.name} is no GeoJSON file: {error}") from error
    found = []
    for number, feature in enumerate(_features(path.name, content), 1):
        name = _class_name(feature.get("properties"))
        if not name:
            continue
        rings = _rings(feature.get("geometry"))
        found += [Region(name, _outline(path.name, number, ring)) for ring in rings]
    return found


def _features(name: str, content: Any) -> Iterator[dict[str, Any]]:
    items = content
    if isinstance(content, dict):
        items = content.get("features") if content.get("type") in _COLLECTIONS else [content]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RegionError(f"{name} holds no GeoJSON features. In QuPath export objects as GeoJSON.")
    yield from items


def _class_name(properties: Any) -> str:
    """QuPath's class, or a plain property ``class`` or ``label``."""
    if not isinstance(properties, dict):
        return ""
    kind = properties.get("classification")
    if isinstance(kind, dict):
        names = kind.get("names")
        kind = kind.get("name") or ": ".join(map(str, names if isinstance(names, list) else ()))
    for value in (kind, properties.get("class"), properties.get("label")):
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _rings(geometry: Any) -> Iterator[Any]:
    if not isinstance(geometry, dict):
        return
    parts = geometry.get("coordinates")
    if geometry.get("type") == "Polygon":
        parts = [parts]
    elif geometry.get("type") != "MultiPolygon":
        return
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, list) and part:
            yield part[0]


def _outline(name: str, number: int, ring: Any) -> npt.NDArray[np.float64]:
    try:
        points = np.asarray(ring, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"{name}: region {number} has corners that are no numbers.") from error
    if points.ndim != 2 or points.shape[1] < 2 or len(points) < 3 or not np.isfinite(points).all():
        raise RegionError(f"{name}: region {number} is no polygon of three corners or more.")
    # A ring ends where it began.
    if len(points) > 3 and (points[0] == points[-1]).all():
        points = points[:-1]
    return np.ascontiguousarray(points[:, 1::-1])
