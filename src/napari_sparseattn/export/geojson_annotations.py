"""Annotations and cells from GeoJSON, as QuPath writes it, or this program.

What QuPath writes is told from its `PathObjectTypeAdapters`, `ROITypeAdapters` and `GsonTools`
(versions 0.2 to 0.6).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..training.data.annotations import Annotation, ImageRecord, new_annotation, tidy_rater
from ..training.data.rings import join_rings
from .feature_stream import FeatureError, iter_features

__all__ = ["ReadAnnotations", "about_of", "read_features", "stated_image"]

#: More objects than these are no annotations that anybody made or looks at.
_MOST = 1_000_000
_OWN = "napari-sparseattn"
_CELLS = ("cell", "detection", "PathCellObject", "PathDetectionObject")
_NEITHER = {
    "tile": "tiles", "PathTileObject": "tiles", "root": "images", "PathRootObject": "images",
    "tmaCore": "tissue cores", "tma_core": "tissue cores", "TMACoreObject": "tissue cores",
}  # fmt: skip
_OLD_TYPES = ("PathCellObject", "PathDetectionObject", "PathAnnotationObject", *_NEITHER)
_NO_AREA = ("LineString", "MultiLineString")
#: A region's outline; corners, beyond which it cannot be kept.
_MOST_CORNERS = 100_000
_MOST_LETTERS = 200
#: Of classes within each other.
_MOST_NAMES = 20

Ring = npt.NDArray[np.float64]


@dataclasses.dataclass(eq=False)
class ReadAnnotations:
    """What a file of annotations says of one image.

    Attributes
    ----------
    name : str
        What the image is called: as the file says, else the file's own name.
    items : list of Annotation
        `origin` is ``"imported"``.
    colours : dict of str to str
        ``#rrggbb`` of each class that has one.
    left_out : Counter
        How many objects were left out, by the reason.
    of : (int, int, str)
        Height and width in pixels, and hash of the pixels, of the image that they were made
        on; 0 and empty where the file does not say.
    """

    name: str
    items: list[Annotation] = dataclasses.field(default_factory=list)
    colours: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    of: tuple[int, int, str] = (0, 0, "")

    @property
    def notes(self) -> list[str]:
        """What was left out and why, in plain sentences."""
        return [f"{n} left out: {why}." for why, n in self.left_out.most_common()]

    def check_image(self, record: ImageRecord) -> list[str]:
        """Return a note where they were made on other pixels than those of an image.

        Raises
        ------
        ValueError
            If they were made on an image of another size, where places mean others.
        """
        height, width, pixels = self.of
        name = Path(record.path).name or record.name
        if height and width and (height, width) != tuple(record.shape):
            raise ValueError(
                f"they were made on an image of {width} x {height} pixels, and {name} has "
                f"{record.shape[1]} x {record.shape[0]}: give the image that they are of"
            )
        if pixels and pixels != record.hash:
            return [f"They were exported of other pixels than those of {name}: see where they lie."]
        return []


def stated_image(about: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return height, width and hash of the image that a file of annotations states, see `of`."""
    sizes = [about.get(name) for name in ("height", "width")]
    whole = [int(n) if isinstance(n, int | float) and 0 < n < 2**31 else 0 for n in sizes]
    own = about.get(_OWN)
    beside: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    pixels = about.get("image_hash") or beside.get("hash") or ""
    return whole[0], whole[1], str(pixels)


def read_features(file: IO[str], name: str, label: str = "") -> ReadAnnotations:
    """Read the objects of one image.

    Annotations with an area become regions, one for each piece, with their holes; points,
    cells and detections become cells, at the middle of their outline. Lines, tiles and cores,
    and what has no class, are left out.

    Parameters
    ----------
    file : text file
        A ``FeatureCollection``, a list of features, or one feature.
    name : str
        Of the file.
    label : str, optional
        The class of objects that have none.

    Raises
    ------
    FeatureError
        If it is no GeoJSON; what is wrong with a single object leaves that one out.
    """
    found = ReadAnnotations(name)
    anything = False
    for member, value in iter_features(file):
        if member == _OWN and isinstance(value, Mapping):
            found.name = str(value.get("image_file") or value.get("image") or name)
            found.of = stated_image(value)
        elif member == "type" and value not in ("FeatureCollection", "Feature"):
            raise FeatureError(f"its type is {value!r}, not FeatureCollection")
        elif member == "features":
            anything = True
            for one in _with_children(value):
                _read_object(one, found, label)
    if not anything and not found.items:
        raise FeatureError("there are no features in it: it is no GeoJSON, or an empty one")
    return found


def _with_children(value: Any) -> Iterator[Any]:
    """Give an object, and those that QuPath has put below it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        properties = one.get("properties") if isinstance(one, Mapping) else None
        children = properties.get("childObjects") if isinstance(properties, Mapping) else None
        waiting += reversed(children if isinstance(children, list) else [])


def _read_object(value: Any, found: ReadAnnotations, label: str) -> None:
    if len(found.items) >= _MOST:
        raise FeatureError(f"there are over {_MOST} objects in it; export fewer, or split it")
    try:
        properties = value.get("properties") or {}
        kind = _kind_of(value, properties)
        if kind in _NEITHER:
            found.left_out[f"they are {_NEITHER[kind]}, which carry no class of a cell"] += 1
            return
        name, colour = _class_of(properties.get("classification"))
        beside = properties.get("metadata")
        known: dict[str, Any] = beside if isinstance(beside, dict) else {}
        exact = known.get("class")
        # QuPath has no colons in names.
        if isinstance(exact, str) and exact.replace(":", " ") == name:
            name = exact
        name = " ".join((name or label).split())[:_MOST_LETTERS]
        if not name:
            found.left_out["they have no class; give them one in QuPath, or in the import"] += 1
            return
        made = list(_shapes(value, kind, name, known, found.left_out))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError):
        found.left_out["they are damaged, or no GeoJSON"] += 1
        return
    if made and colour:
        found.colours.setdefault(name, colour)
    found.items += made


def _kind_of(value: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    for key in ("objectType", "object_type", "type"):
        if properties.get(key):
            return str(properties[key])
    # QuPath 0.2 told it by the id.
    return str(value["id"]) if value.get("id") in _OLD_TYPES else "annotation"


def _class_of(value: Any) -> tuple[str, str]:
    """Return the name of a class and its colour ``#rrggbb``; empty where there is none."""
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, Mapping):
        return "", ""
    names = value.get("names")
    if isinstance(names, list):
        parts = [str(each) for each in names]
    else:
        parts = []
        one: Any = value
        # Before QuPath 0.4 a class within another held that one.
        while isinstance(one, Mapping) and one and len(parts) < _MOST_NAMES:
            parts.insert(0, str(one.get("name") or ""))
            one = one.get("parentClass")
    name = ": ".join(part for part in parts if part)
    return name, _colour(value.get("color", value.get("colorRGB")))


def _colour(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        # Java's colours are negative: opaque.
        return f"#{value & 0xFFFFFF:06X}"
    if isinstance(value, list) and len(value) >= 3:
        rgb = value[:3]
        if all(isinstance(v, int | float) and 0 <= v <= 255 for v in rgb):
            return "#" + "".join(f"{round(v):02X}" for v in rgb)
    return ""


def _shapes(
    value: Mapping[str, Any], kind: str, label: str, known: Mapping[str, Any], left: Counter[str]
) -> Iterator[Annotation]:
    geometry = value.get("geometry")
    if not isinstance(geometry, Mapping) or not (
        geometry.get("coordinates") or geometry.get("geometries")
    ):
        geometry = value.get("nucleusGeometry") or value["properties"]["nucleusGeometry"]
    plane = geometry.get("plane") or {}
    about = about_of(known)
    values = {"t": int(plane.get("t", 0)), "z": int(plane.get("z", 0)), **about}
    if min(values["t"], values["z"]) < 0:
        raise ValueError("planes count from 0")
    was = known.get("kind")
    if was == "image":
        yield _made("image", label, values, 0)
        return
    number = 0
    for points, polygons in _parts(geometry):
        for point in points:
            place = _pixel_centres([point])[0]
            yield _made("cell", label, {**values, "position": tuple(place.tolist())}, number)
            number += 1
        for rings in polygons:
            if kind in _CELLS or was == "cell":
                values |= _cell_of(rings[0], sized=known.get("size_known") != "false")
                yield _made("cell", label, values, number)
            elif sum(map(len, rings)) + 2 * len(rings) > _MOST_CORNERS:
                left[f"their outline has over {_MOST_CORNERS} corners; simplify it in QuPath"] += 1
            else:
                ring = join_rings(rings[0], rings[1:])
                corners = tuple(map(tuple, ring.tolist()))
                yield _made("region", label, {**values, "polygon": corners}, number)
            number += 1
    if number == 0:
        left["they are lines, which enclose nothing, or empty"] += 1


def _made(kind: Any, label: str, values: Mapping[str, Any], number: int) -> Annotation:
    """Return an annotation; of several pieces of one object only the first has its id."""
    kept = dict(values)
    if number:
        kept.pop("id", None)
    return new_annotation(kind, label, origin="imported", **kept)


def about_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this program has written beside an object; nothing of other programs' own."""
    about: dict[str, Any] = {}
    if known.get("kind") not in ("cell", "region", "image"):
        return about
    if known.get("annotation"):
        about["id"] = str(known["annotation"])[:_MOST_LETTERS]
    if known.get("rater"):
        about["rater"] = tidy_rater(str(known["rater"]))
    if known.get("settles"):
        about["settles"] = tuple(str(known["settles"]).split())
    for key in ("model", "predicted"):
        if known.get(key):
            about[key] = str(known[key])[:_MOST_LETTERS]
    given = _number(known.get("time"))
    if given is not None:
        about["time"] = given
    return about


def _number(text: Any) -> float | None:
    """Return seconds since 1970 from a time as it is written, or None."""
    if not isinstance(text, str):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return dt.datetime.fromisoformat(text).timestamp()
    return None


def _parts(geometry: Mapping[str, Any]) -> Iterator[tuple[list[Any], list[list[Ring]]]]:
    """Give the points and the polygons, each with its holes, of a geometry."""
    form = geometry["type"]
    places: Any = geometry.get("coordinates")
    if form == "GeometryCollection":
        for one in geometry["geometries"]:
            if one["type"] != "GeometryCollection":
                yield from _parts(one)
    elif form == "Point":
        yield [places], []
    elif form == "MultiPoint":
        yield list(places), []
    elif form == "Polygon":
        yield [], [_rings(places)]
    elif form == "MultiPolygon":
        yield [], [_rings(one) for one in places]
    elif form not in _NO_AREA:
        raise ValueError(f"a geometry of type {form!r}")


def _rings(places: Sequence[Sequence[Sequence[float]]]) -> list[Ring]:
    rings = [_open_ring(_pixel_centres(ring)) for ring in places]
    if len(rings[0]) < 3:
        raise ValueError("an outline needs three corners")
    return [rings[0], *(ring for ring in rings[1:] if len(ring) >= 3)]


def _open_ring(ring: Ring) -> Ring:
    return ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring


def _pixel_centres(points: Sequence[Sequence[float]]) -> Ring:
    """Return (y, x) with a pixel's centre at its index, of (x, y) with its corner there."""
    found = np.array([[point[1], point[0]] for point in points], dtype=np.float64) - 0.5
    if not np.isfinite(found).all():
        raise ValueError("places must be finite")
    return found


def _cell_of(ring: Ring, *, sized: bool) -> dict[str, Any]:
    """Return the middle of an outline, by its area, and the size of the box around it."""
    y, x = ring.T
    y_next, x_next = np.roll(y, -1), np.roll(x, -1)
    # Beside the first corner, where numbers are small.
    parts = (x - x[0]) * (y_next - y[0]) - (x_next - x[0]) * (y - y[0])
    area = float(parts.sum())
    if abs(area) > 1e-9:
        places = ring + np.roll(ring, -1, axis=0) - 2 * ring[0]
        middle = ring[0] + (places * parts[:, None]).sum(axis=0) / (3 * area)
    else:
        middle = ring.mean(axis=0)
    high, wide = (ring.max(axis=0) - ring.min(axis=0)).tolist()
    side = math.sqrt(high * wide)
    place = (float(middle[0]), float(middle[1]))
    return {"position": place, "diameter_px": side if sized and side > 0 else None}
