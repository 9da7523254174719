"""Results as GeoJSON for QuPath: objects with classes and measurements.

Positions are (x, y) in pixels of the full resolution with a pixel's top left
corner at its index, as QuPath has them. What QuPath reads is told from its
`PathObjectTypeAdapters`, `ROITypeAdapters` and `GsonTools` (version 0.6).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ..evidence import PixelSelection, PyramidAttention
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .json_stream import (
    Coordinates,
    encode_json,
    encode_members,
    finite,
    rounded,
    write_json_list,
)
from .outlines import box_ring, iter_cell_rings
from .request import Export

__all__ = ["classification", "feature", "write_geojson"]

#: Objects of one result keep their ids, so that QuPath can tell that it has them already.
_NAMESPACE = uuid.UUID("6f8d1c3a-52f4-5b0e-9d0b-2f6a7c1e4d90")
_TELL_EVERY = 1000


def write_geojson(export: Export, path: Path) -> list[Path]:
    """Write a FeatureCollection, object by object, atomically.

    Cells are detections (objects of type ``cell`` where their outline is
    known), patches are tiles, a TNet's crops and the class of a whole image
    are annotations. Probabilities, attention and measures are measurements.
    Where the result came from is in the member ``napari-sparseattn``.

    Parameters
    ----------
    export : Export
        Cells, frames, a field or a slide.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    head = {"type": "FeatureCollection", "napari-sparseattn": export.provenance}
    result = export.result
    features: Iterator[dict[str, Any]] | Iterator[str]
    if isinstance(result, SlidePrediction):
        features = _slide(export, result)
    elif isinstance(result, FieldPrediction):
        features = _field(export, result)
    else:
        features = _cells(export)
    write_json_list(path, head, "features", features)
    return [path]


def feature(
    rings: Sequence[npt.NDArray[np.float64]],
    kind: str,
    key: str,
    *,
    name: str = "",
    label: dict[str, Any] | None = None,
    measurements: dict[str, float] | None = None,
    plane: tuple[int, int] = (0, 0),
    metadata: dict[str, str] | None = None,
    locked: bool = False,
    holes: Sequence[npt.NDArray[np.float64]] = (),
) -> dict[str, Any]:
    """Return one object as QuPath reads it.

    Parameters
    ----------
    rings : sequence of numpy.ndarray
        (n, 2) (x, y), not closed; several are pieces of one object.
    kind : {"cell", "detection", "annotation", "tile"}
        Which of QuPath's objects.
    key : str
        Objects of one key have one id.
    name : str
        Shown in QuPath's lists.
    label : dict, optional
        From `classification`.
    measurements : dict, optional
        Those that are not finite are left out.
    plane : (int, int)
        Frame and slice.
    metadata : dict of str to str, optional
        Of annotations.
    locked : bool
        Whether QuPath keeps it from being moved.
    holes : sequence of numpy.ndarray
        (n, 2) (x, y), not closed, of an object of one piece.
    """
    closed = [_closed(ring) for ring in rings]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": closed + [_closed(hole) for hole in holes]}
        if len(closed) == 1
        else {"type": "MultiPolygon", "coordinates": [[ring] for ring in closed]}
    )
    if plane != (0, 0):
        geometry["plane"] = {"c": -1, "z": plane[1], "t": plane[0]}
    properties: dict[str, Any] = {"objectType": kind}
    if name:
        properties["name"] = name
    if label is not None:
        properties["classification"] = label
    if locked:
        properties["isLocked"] = True
    if measurements:
        properties["measurements"] = finite(measurements)
    if metadata:
        properties["metadata"] = metadata
    made = str(uuid.uuid5(_NAMESPACE, key))
    return {"type": "Feature", "id": made, "geometry": geometry, "properties": properties}


def _closed(ring: npt.NDArray[np.float64]) -> Any:
    return rounded(np.vstack([ring, ring[:1]]), 3)


def classification(name: str, colour: str) -> dict[str, Any]:
    """Return a class as QuPath reads it; `colour` is ``#rrggbb``."""
    # QuPath takes a colon for the border between a class and a class within.
    return {"name": name.replace(":", " "), "color": list(ImageColor.getrgb(colour)[:3])}


def _cells(export: Export) -> Iterator[str]:
    done, total = 0, export.n_cells
    for frame, found in export.frames.items():
        for one in _cells_of(export, found, (frame, export.index[1])):
            yield one
            done += 1
            if done % _TELL_EVERY == 0 or done == total:
                export.report(done, total)


def _cells_of(export: Export, found: Predictions, plane: tuple[int, int]) -> Iterator[str]:
    """Give each cell as the text of what `feature` returns: there are many, and encoders slow."""
    cells = found.cells
    labels = [
        encode_json(classification(*pair))
        for pair in zip(found.class_names, _colours(export), strict=True)
    ]
    measured = _measurements(export, found)
    starts = [f"{encode_json(name)}:" for name in measured]
    kind = "detection" if cells.labels is None else "cell"
    start = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)
    start.update(f"{export.name}|{found.model_hash}|{plane}|".encode())
    texts = Coordinates()
    where = "" if plane == (0, 0) else f',"plane":{{"c":-1,"z":{plane[1]},"t":{plane[0]}}}'
    for number, index, rings, values in zip(
        cells.ids.tolist(),
        found.class_index.tolist(),
        iter_cell_rings(cells),
        zip(*measured.values(), strict=True),
        strict=True,
    ):
        closed = [texts.encode_closed(ring) for ring in rings]
        shape, pieces = "Polygon", closed[0]
        if len(closed) > 1:
            shape, pieces = "MultiPolygon", "],[".join(closed)
            pieces = f"[{pieces}]"
        label = f'"classification":{labels[index]},' if index >= 0 else ""
        made = start.copy()
        made.update(str(number).encode())
        yield (
            f'{{"type":"Feature","id":"{_uuid5(made.hexdigest())}","geometry":{{"type":"{shape}",'
            f'"coordinates":[{pieces}]{where}}},"properties":{{"objectType":"{kind}",'
            f'"name":"{number}",{label}"measurements":{encode_members(starts, values)}}}}}'
        )


def _measurements(export: Export, found: Predictions) -> dict[str, list[Any]]:
    """What is measured of every cell: names, and a number for each."""
    cells = found.cells
    columns: dict[str, list[Any]] = {"Confidence": rounded(found.confidence)}
    for name, chances in zip(found.class_names, rounded(found.probabilities.T), strict=True):
        columns[f"Probability: {name}"] = chances
    sizes = cells.diameters * (export.pixel_size or cells.pixel_size or np.nan)
    columns["Diameter µm"] = rounded(sizes, 4)
    if found.novelty is not None:
        columns["Novelty"] = rounded(found.novelty, 4)
    if found.none_of_these is not None:
        # Of measurements QuPath takes numbers.
        columns["None of these"] = found.none_of_these.astype(int).tolist()
    for name, values in found.measures.items():
        columns[name] = np.asarray(values, dtype=np.float64).tolist()
    chosen = [item if isinstance(item, PixelSelection) else None for item in found.evidence]
    if any(chosen):
        columns["Selected pixels"] = [item.k if item else np.nan for item in chosen]
        columns["Selected share"] = [round(item.share, 6) if item else np.nan for item in chosen]
    return columns


def _uuid5(digest: str) -> str:
    """Return the text of `uuid.uuid5` of a namespace and key, given their SHA-1 in hexadecimals."""
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def _slide(export: Export, found: SlidePrediction) -> Iterator[dict[str, Any]]:
    yield _whole(export, found)
    seen, total = found.attention, len(found.attention)
    names, values = _attention(seen, export.pixel_size)
    corners = np.asarray(seen.origin) + seen.cells * seen.step
    labels = [
        classification(*pair) for pair in zip(found.class_names, _colours(export), strict=True)
    ]
    chances = seen.patch_probabilities
    for i in range(total):
        top, left = corners[i].tolist()
        measured = dict(zip(names, rounded(values[i]), strict=True))
        label = None
        if chances is not None:
            measured[f"Probability: {found.class_names[1]}"] = round(float(chances[i]), 6)
            label = labels[int(chances[i] >= 0.5)]
        if found.patch_novelty is not None:
            measured["Novelty"] = round(float(found.patch_novelty[i]), 4)
        yield feature(
            [box_ring((top, left, top + seen.side, left + seen.side))],
            "tile",
            f"{export.name}|{found.model_hash}|patch|{i}",
            label=label,
            measurements=measured,
        )
        if i % _TELL_EVERY == 0 or i == total - 1:
            export.report(i + 1, total)


def _attention(
    seen: PyramidAttention, pixel_size: float | None
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names and (N, levels) attention per patch, in multiples of uniform."""
    names, columns = [], []
    for number, level in enumerate(seen.levels):
        side = seen.side + (level.factor - 1) * seen.step
        said = f"{side:.0f} px" if pixel_size is None else f"{side * pixel_size:.0f} µm"
        names.append(f"Attention {said} (× uniform)")
        columns.append(seen.patch_weights(number).astype(np.float64) * len(level))
    return names, np.stack(columns, axis=1)


def _field(export: Export, found: FieldPrediction) -> Iterator[dict[str, Any]]:
    yield _whole(export, found)
    way, (height, width) = found.traversal, export.shape
    evidence = way.evidence_for(found.index)
    colours = _colours(export)
    # The first crop is the whole image.
    for i in range(1, len(way)):
        top, left, high, wide = way.boxes[i].tolist()
        # Crops may reach over the edge, where QuPath has no pixels.
        box = (max(top, 0.0), max(left, 0.0), min(top + high, height), min(left + wide, width))
        measured: dict[str, float] = {
            "Level": int(way.level[i]),
            "Rank": int(way.rank[i]),
            "Side px": high,
            "Downsample": round(float(way.downsample[i]), 4),
            f"Evidence for {found.label}": round(float(evidence[i]), 6),
        }
        for name, value in zip(found.class_names, rounded(way.contribution[i]), strict=True):
            measured[f"Logit: {name}"] = value
        best = int(way.crop_class[i])
        yield feature(
            [box_ring(box)],
            "annotation",
            f"{export.name}|{found.model_hash}|crop|{i}",
            name=f"Level {way.level[i]}, rank {way.rank[i] + 1}",
            label=classification(found.class_names[best], colours[best]),
            measurements=measured,
            plane=export.index,
            locked=True,
        )
        export.report(i, len(way) - 1)


def _whole(export: Export, found: FieldPrediction | SlidePrediction) -> dict[str, Any]:
    """The whole image as an annotation that has the class and where it came from."""
    height, width = export.shape
    shares = isinstance(found, SlidePrediction) and found.segments
    named = "Share of patches" if shares else "Probability"
    measured = {
        f"{named}: {n}": p
        for n, p in zip(found.class_names, rounded(found.probabilities), strict=True)
    }
    estimate = found.estimate if isinstance(found, SlidePrediction) else None
    if estimate is not None:
        measured = {estimate.name: round(estimate.score, 6)} | {
            f"No event by {when}": round(p, 6) for when, p in estimate.curve
        }
    if found.novelty is not None:
        measured["Novelty"] = round(found.novelty, 4)
    colour = _colours(export)[found.index]
    unnamed = shares or estimate is not None
    return feature(
        [box_ring((0, 0, height, width))],
        "annotation",
        f"{export.name}|{found.model_hash}|whole",
        name=f"{found.class_names[1]}: share of the patches" if shares else found.label,
        label=None if unnamed else classification(found.label, colour),
        measurements=measured,
        plane=export.index,
        metadata={name: str(value) for name, value in export.provenance.items()},
        locked=True,
    )


def _colours(export: Export) -> tuple[str, ...]:
    return export.card.colours
