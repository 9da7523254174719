"""Maps of what a model looked at as OME-Zarr, with their place and scale."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ..evidence import PixelSelection, PyramidAttention, Traversal
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .overlay import selection_window
from .request import Export

if TYPE_CHECKING:
    import zarr

__all__ = ["HeatMaps", "heat_maps", "write_ome_zarr"]

#: Levels are halved until both sides are at most this.
_SMALL = 256
_CHUNK = 512
#: A TNet's map has no more places along its longer side.
_MOST_PLACES = 2048
_MOST_PIXELS = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMaps:
    """Maps on one grid.

    Parameters
    ----------
    names : tuple of str
        One per map.
    data : numpy.ndarray
        (maps, rows, columns) float32, NaN where a map says nothing.
    scale : float
        Pixels of the full resolution per place of the grid.
    translate : (float, float)
        Centre of place (0, 0) in pixels, with pixel centres at integers.
    """

    names: tuple[str, ...]
    data: npt.NDArray[np.float32]
    scale: float
    translate: tuple[float, float]


def write_ome_zarr(export: Export, path: Path) -> list[Path]:
    """Write maps as one multiscale image (c, y, x), a map per channel.

    OME-Zarr 0.4, which more programs read than 0.5 by now. Scale and
    translation are in µm, or pixels where the pixel size is not known; the
    translation is that of the centre of pixel (0, 0), with the centre of the
    image's own first pixel at 0, as napari and ome-zarr-py have it. Cells with
    a label image are there too, as ``labels/cells``. The folder is put in
    place whole.

    Parameters
    ----------
    export : Export
        Cells, a field or a slide.
    path : pathlib.Path
        The folder.

    Returns
    -------
    list of pathlib.Path
        The folder.
    """
    import zarr

    maps = heat_maps(export)
    with _replacing_folder(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=2)
        group.attrs["napari-sparseattn"] = export.provenance
        _write_levels(group, export, maps.data, maps, _omero(maps))
        result = export.result
        if isinstance(result, Predictions) and result.cells.labels is not None:
            _write_labels(group, export, result)
        export.report(len(maps.names), len(maps.names))
    return [path]


def heat_maps(export: Export) -> HeatMaps:
    """Return the maps that a result holds.

    Of a slide, attention per level in multiples of uniform, coarser levels
    repeated onto the finest's grid, and the probability per patch. Of a TNet's
    field, the finest level at which a place was seen, and what the finest crop
    there says for the class. Of cells the probability of their class, and,
    where the evidence was kept, the attention of the selected pixels in
    multiples of uniform, and the score of all pixels.
    """
    result = export.result
    if isinstance(result, SlidePrediction):
        return _of_slide(result.attention, result.class_names)
    if isinstance(result, FieldPrediction):
        return _of_field(result)
    assert isinstance(result, Predictions)
    return _of_cells(result, export.shape)


def _of_slide(seen: PyramidAttention, class_names: Sequence[str]) -> HeatMaps:
    rows, columns = (seen.cells.max(axis=0) + 1).tolist()
    names, maps = [], []
    places = tuple(seen.cells.T)
    for number, level in enumerate(seen.levels):
        grid = np.full((rows, columns), np.nan, np.float32)
        grid[places] = seen.patch_weights(number) * np.float32(len(level))
        names.append(f"attention, cells of {level.factor} patches (x uniform)")
        maps.append(grid)
    if seen.patch_probabilities is not None:
        names.append(f"probability of {class_names[1]}")
        maps.append(seen.probability_grid())
    (scale, _), translate = seen.probability_placement()
    return HeatMaps(tuple(names), np.stack(maps), scale, translate)


def _of_field(result: FieldPrediction) -> HeatMaps:
    way = result.traversal
    step = max(1, -(-max(way.shape) // _MOST_PLACES))
    seen = way.finest_level(step).astype(np.float32)
    said = np.full(seen.shape, np.nan, np.float32)
    evidence = way.evidence_for(result.index)
    for (top, left, height, width), value in zip(way.boxes, evidence, strict=True):
        # As in `finest_level`: centres of places count, finer crops overwrite.
        first = np.ceil(np.array([top, left]) / step - 0.5).clip(0).astype(int)
        last = np.ceil(np.array([top + height, left + width]) / step - 0.5).clip(0).astype(int)
        said[first[0] : last[0], first[1] : last[1]] = value
    names = ("finest level seen", f"evidence for {result.label} (logit)")
    middle = (step - 1) / 2
    return HeatMaps(names, np.stack([seen, said]), float(step), (middle, middle))


def _of_cells(result: Predictions, shape: tuple[int, int]) -> HeatMaps:
    if shape[0] * shape[1] > _MOST_PIXELS:
        raise ValueError(
            f"maps of {shape[0]} x {shape[1]} pixels do not fit the memory; export cells of so "
            "large an image as GeoJSON"
        )
    chance = np.full(shape, np.nan, np.float32)
    cells = result.cells
    for i, confidence in enumerate(result.confidence):
        top, left, bottom, right = np.rint(cells.boxes[i] + 0.5).astype(int).clip(0)
        window = chance[top:bottom, left:right]
        inside = (
            np.True_
            if cells.labels is None
            else cells.labels[top:bottom, left:right] == cells.ids[i]
        )
        window[...] = np.where(inside, confidence, window)
    names, maps = ["probability of the class"], [chance]
    evidence = [item for item in result.evidence if isinstance(item, PixelSelection)]
    if evidence:
        names += ["selected pixels (x uniform)", "score of all pixels"]
        maps += _of_selections(evidence, shape)
    ways = [item for item in result.evidence if isinstance(item, Traversal)]
    if ways:
        names.append("finest level seen")
        maps.append(_of_traversals(ways, shape))
    return HeatMaps(tuple(names), np.stack(maps), 1.0, (0.0, 0.0))


def _of_selections(
    evidence: Sequence[PixelSelection], shape: tuple[int, int]
) -> list[npt.NDArray[np.float32]]:
    selected, score = np.full((2, *shape), np.nan, np.float32)
    for item in evidence:
        place = selection_window(item, shape)
        if place is None:
            continue
        window, rows, columns = place
        for target, values in ((selected, item.fine_map()), (score, item.coarse)):
            # Where crops overlap, the higher counts.
            target[window] = np.fmax(target[window], values[np.ix_(rows, columns)])
    return [selected, score]


def _of_traversals(ways: Sequence[Traversal], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    seen = np.full(shape, np.nan, np.float32)
    for way in ways:
        for level, box in zip(way.level, way.on_image(way.boxes), strict=True):
            top, left = np.ceil(box[:2] - 0.5).clip(0).astype(int)
            bottom, right = np.ceil(box[:2] + box[2:] - 0.5).clip(0).astype(int)
            window = seen[top:bottom, left:right]
            window[...] = np.fmax(window, np.float32(level))
    return seen


def _omero(maps: HeatMaps) -> dict[str, Any]:
    channels = []
    for number, (name, values) in enumerate(zip(maps.names, maps.data, strict=True)):
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        window = {"min": low, "max": high, "start": min(low, 0.0), "end": max(high, low + 1e-6)}
        channels.append({"label": name, "color": "FFFFFF", "active": number == 0, "window": window})
    return {"name": maps.names[0], "version": "0.4", "channels": channels}


def _write_levels(
    group: zarr.Group,
    export: Export,
    data: npt.NDArray[Any],
    maps: HeatMaps,
    omero: dict[str, Any] | None,
) -> None:
    """Write an array (…, y, x) and smaller ones of it, with their places."""
    from ome_zarr.format import FormatV04
    from ome_zarr.writer import write_multiscales_metadata

    size = export.pixel_size
    unit = {} if size is None else {"unit": "micrometer"}
    ahead = data.ndim - 2
    axes = [{"name": "c", "type": "channel"}] * ahead
    axes += [{"name": name, "type": "space", **unit} for name in "yx"]
    datasets = []
    for number, (level, factor) in enumerate(_smaller(data)):
        chunks = (1,) * ahead + tuple(min(_CHUNK, side) for side in level.shape[-2:])
        empty = np.nan if data.dtype.kind == "f" else 0
        held = group.create_array(
            str(number), shape=level.shape, dtype=level.dtype, chunks=chunks, fill_value=empty,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip
        held[...] = level
        microns = 1.0 if size is None else size
        scale = [1.0] * ahead + [maps.scale * factor * microns] * 2
        # The first place of a coarser level has its centre between those it covers.
        middle = maps.scale * (factor - 1) / 2
        moved = [0.0] * ahead + [(value + middle) * microns for value in maps.translate]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": moved},
                ],
            }
        )  # fmt: skip
    more = {} if omero is None else {"metadata": {"omero": omero}}
    write_multiscales_metadata(
        group, datasets, FormatV04(), axes, name=group.basename or export.name, **more
    )


def _smaller(data: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Give the array, and halves of it, with their factor."""
    factor = 1
    yield data, factor
    while max(data.shape[-2:]) > _SMALL:
        # A last odd row or column would get less than its place.
        height, width = (side // 2 * 2 for side in data.shape[-2:])
        if min(height, width) < 2:
            return
        parts = [data[..., y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
        data = parts[0] if data.dtype.kind != "f" else _mean(parts)
        factor *= 2
        yield data, factor


def _mean(parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Mean of several arrays where they are known; NaN where none is."""
    total = np.zeros(parts[0].shape, np.float32)
    count = np.zeros(parts[0].shape, np.uint8)
    for part in parts:
        known = np.isfinite(part)
        total += np.where(known, part, np.float32(0))
        count += known
    total /= np.maximum(count, 1)
    total[count == 0] = np.nan
    return total


def _write_labels(group: zarr.Group, export: Export, result: Predictions) -> None:
    from ome_zarr.format import FormatV04
    from ome_zarr.writer import write_label_metadata

    labels = result.cells.labels
    assert labels is not None
    held = group.create_group("labels")
    kept = np.where(np.isin(labels, result.cells.ids), labels, 0).astype(_small(labels), copy=False)
    named = HeatMaps(("cells",), np.empty((0, 0, 0), np.float32), 1.0, (0.0, 0.0))
    _write_levels(held.create_group("cells"), export, kept, named, None)
    colours = [[*ImageColor.getrgb(colour)[:3], 255] for colour in export.card.colours]
    index, confidence = result.class_index, result.confidence
    colour_rows, rows = [], []
    for i, number in enumerate(result.cells.ids.tolist()):
        rgba = colours[index[i]] if index[i] >= 0 else [127, 127, 127, 255]
        colour_rows.append({"label-value": number, "rgba": rgba})
        row: dict[str, Any] = {"label-value": number, "class": ""}
        if index[i] >= 0:
            row |= {"class": result.class_names[index[i]], "confidence": float(confidence[i])}
        rows.append(row)
    write_label_metadata(held, "cells", colour_rows, rows, FormatV04(), source={"image": "../../"})


def _small(labels: npt.NDArray[Any]) -> npt.DTypeLike:
    return np.int32 if int(labels.max(initial=0)) < 2**31 else np.int64


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; put it in place on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.stem[:40]}-", dir=path.parent))
    try:
        made = work / path.name
        yield made
        if path.exists():
            # A folder cannot be renamed over another; the old one is gone only
            # when the new one is in its place.
            path.replace(work / "old")
        made.replace(path)
    finally:
        if (work / "old").exists() and not path.exists():
            (work / "old").replace(path)
        shutil.rmtree(work, ignore_errors=True)
