"""Maps of what a model looked at as OME-Zarr, with their place and scale."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ..evidence import PixelSelection, PyramidAttention, Traversal
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .json_stream import encode_json
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
    """Maps on one grid, of which a few rows are made at a time.

    Parameters
    ----------
    names : tuple of str
        One per map.
    shape : (int, int)
        Rows and columns.
    read : callable
        From the first row and the one after the last to (maps, rows, columns)
        float32, NaN where a map says nothing.
    scale : float
        Pixels of the full resolution per place of the grid.
    translate : (float, float)
        Centre of place (0, 0) in pixels, with pixel centres at integers.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    read: Callable[[int, int], npt.NDArray[np.float32]]
    scale: float
    translate: tuple[float, float]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        data: npt.NDArray[np.float32],
        scale: float,
        translate: tuple[float, float],
    ) -> HeatMaps:
        """Take maps (maps, rows, columns) that are there already."""
        shape = (data.shape[1], data.shape[2])
        return cls(tuple(names), shape, lambda first, stop: data[:, first:stop], scale, translate)


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
        _write_maps(group, export, maps)
        result = export.result
        if isinstance(result, Predictions) and result.cells.labels is not None:
            _write_labels(group, temporary, export, result)
        export.report(len(maps.names), len(maps.names))
    return [path]


def heat_maps(export: Export) -> HeatMaps:
    """Return the maps that a result holds; `read` makes those of cells anew each time.

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
    return HeatMaps.of(names, np.stack(maps), scale, translate)


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
    return HeatMaps.of(names, np.stack([seen, said]), float(step), (middle, middle))


def _of_cells(result: Predictions, shape: tuple[int, int]) -> HeatMaps:
    if shape[0] * shape[1] > _MOST_PIXELS:
        raise ValueError(
            f"maps of {shape[0]} x {shape[1]} pixels do not fit the memory; export cells of so "
            "large an image as GeoJSON"
        )
    parts: list[tuple[str, Callable[[int, int, int], npt.NDArray[np.float32]]]] = []
    parts.append(("probability of the class", _chances(result)))
    evidence = [item for item in result.evidence if isinstance(item, PixelSelection)]
    if evidence:
        fine = [(item, item.fine_map) for item in evidence]
        score = [(item, functools.partial(getattr, item, "coarse")) for item in evidence]
        parts.append(("selected pixels (x uniform)", _selections(fine, shape)))
        parts.append(("score of all pixels", _selections(score, shape)))
    ways = [item for item in result.evidence if isinstance(item, Traversal)]
    if ways:
        parts.append(("finest level seen", _traversals(ways)))

    def read(first: int, stop: int) -> npt.NDArray[np.float32]:
        made = [make(first, stop, shape[1])[np.newaxis] for _, make in parts]
        return made[0] if len(made) == 1 else np.concatenate(made)

    return HeatMaps(tuple(name for name, _ in parts), shape, read, 1.0, (0.0, 0.0))


def _chances(result: Predictions) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    cells, confidence = result.cells, result.confidence
    boxes = np.rint(cells.boxes + 0.5).astype(int).clip(0)

    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for i in np.flatnonzero((boxes[:, 0] < stop) & (boxes[:, 2] > first)).tolist():
            top, left, bottom, right = boxes[i].tolist()
            rows, columns = slice(max(top, first), min(bottom, stop)), slice(left, right)
            window = band[rows.start - first : rows.stop - first, columns]
            if cells.labels is None:
                window[...] = confidence[i]
            else:
                window[cells.labels[rows, columns] == cells.ids[i]] = confidence[i]
        return band

    return make


def _selections(
    items: Sequence[tuple[PixelSelection, Callable[[], npt.NDArray[np.float32]]]],
    shape: tuple[int, int],
) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    """From crops and what to draw of each."""
    placed = [(selection_window(item, shape), values) for item, values in items]

    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for place, values in placed:
            if place is None:
                continue
            (tall, wide), rows, columns = place
            low, high = max(tall.start, first), min(tall.stop, stop)
            if low >= high:
                continue
            window = band[low - first : high - first, wide]
            drawn = values()[np.ix_(rows[low - tall.start : high - tall.start], columns)]
            # Where crops overlap, the higher counts.
            np.fmax(window, drawn, out=window)
        return band

    return make


def _traversals(
    ways: Sequence[Traversal],
) -> Callable[[int, int, int], npt.NDArray[np.float32]]:
    def make(first: int, stop: int, width: int) -> npt.NDArray[np.float32]:
        band = np.full((stop - first, width), np.nan, np.float32)
        for way in ways:
            for level, box in zip(way.level, way.on_image(way.boxes), strict=True):
                top, left = np.ceil(box[:2] - 0.5).clip(0).astype(int).tolist()
                bottom, right = np.ceil(box[:2] + box[2:] - 0.5).clip(0).astype(int).tolist()
                if top < stop and bottom > first:
                    window = band[max(top - first, 0) : bottom - first, left:right]
                    np.fmax(window, np.float32(level), out=window)
        return band

    return make


def _write_maps(group: zarr.Group, export: Export, maps: HeatMaps) -> None:
    known = [[np.inf, -np.inf] for _ in maps.names]

    def read(first: int, stop: int) -> npt.NDArray[np.float32]:
        band = maps.read(first, stop)
        for limits, values in zip(known, band, strict=True):
            # These pass over NaN without a copy.
            limits[0] = min(limits[0], float(np.fmin.reduce(values, axis=None, initial=np.inf)))
            limits[1] = max(limits[1], float(np.fmax.reduce(values, axis=None, initial=-np.inf)))
        return band

    shape = (len(maps.names), *maps.shape)
    datasets = _write_levels(group, export, shape, np.dtype(np.float32), read, maps)
    channels = []
    for number, (name, (low, high)) in enumerate(zip(maps.names, known, strict=True)):
        low, high = (low, high) if low <= high else (0.0, 1.0)
        window = {"min": low, "max": high, "start": min(low, 0.0), "end": max(high, low + 1e-6)}
        channels.append({"label": name, "color": "FFFFFF", "active": number == 0, "window": window})
    omero = {"name": maps.names[0], "version": "0.4", "channels": channels}
    _write_places(group, export, datasets, "cyx", {"metadata": {"omero": omero}})


def _write_levels(
    group: zarr.Group,
    export: Export,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[int, int], npt.NDArray[Any]],
    maps: HeatMaps,
) -> list[dict[str, Any]]:
    """Write an array (…, y, x) and smaller ones of it, a few rows at a time.

    Returns
    -------
    list of dict
        Where each lies, for `_write_places`.
    """
    ahead = len(shape) - 2
    microns = 1.0 if export.pixel_size is None else export.pixel_size
    datasets: list[dict[str, Any]] = []
    factor, finer = 1, None
    while True:
        chunks = (1,) * ahead + tuple(min(_CHUNK, side) for side in shape[-2:])
        held = group.create_array(
            str(len(datasets)), shape=shape, dtype=dtype, chunks=chunks,
            fill_value=np.nan if dtype.kind == "f" else 0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip
        for first in range(0, shape[-2], _CHUNK):
            stop = min(first + _CHUNK, shape[-2])
            if finer is None:
                held[..., first:stop, :] = read(first, stop)
                continue
            for *index, left in np.ndindex(*shape[:ahead], -(-shape[-1] // _CHUNK)):
                begin, end = _CHUNK * left, min(_CHUNK * (left + 1), shape[-1])
                twice = (slice(2 * first, 2 * stop), slice(2 * begin, 2 * end))
                part = _halve(np.asarray(finer[(*index, *twice)]))
                held[(*index, slice(first, stop), slice(begin, end))] = part
        scale = [1.0] * ahead + [maps.scale * factor * microns] * 2
        # The first place of a coarser level has its centre between those it covers.
        middle = maps.scale * (factor - 1) / 2
        moved = [0.0] * ahead + [(value + middle) * microns for value in maps.translate]
        datasets.append(
            {
                "path": str(len(datasets)),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": moved},
                ],
            }
        )  # fmt: skip
        if max(shape[-2:]) <= _SMALL or min(shape[-2:]) < 2:
            return datasets
        finer, factor = held, 2 * factor
        shape = (*shape[:-2], shape[-2] // 2, shape[-1] // 2)


def _write_places(
    group: zarr.Group,
    export: Export,
    datasets: list[dict[str, Any]],
    axes: str,
    more: dict[str, Any],
) -> None:
    from ome_zarr.format import FormatV04
    from ome_zarr.writer import write_multiscales_metadata

    unit = {} if export.pixel_size is None else {"unit": "micrometer"}
    kinds: dict[str, dict[str, str]] = {"c": {"type": "channel"}}
    told = [{"name": name, **kinds.get(name, {"type": "space", **unit})} for name in axes]
    write_multiscales_metadata(
        group, datasets, FormatV04(), told, name=group.basename or export.name, **more
    )


def _halve(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows and columns by twos: the mean of what is known, or the first of labels."""
    # A last odd row or column would get less than its place.
    height, width = (side // 2 * 2 for side in data.shape[-2:])
    parts = [data[..., y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
    return parts[0] if data.dtype.kind != "f" else _mean(parts)


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


def _write_labels(group: zarr.Group, folder: Path, export: Export, result: Predictions) -> None:
    from ome_zarr.format import FormatV04
    from ome_zarr.writer import write_label_metadata

    labels = result.cells.labels
    assert labels is not None
    held = group.create_group("labels")
    dtype = np.dtype(_small(labels))

    def read(first: int, stop: int) -> npt.NDArray[Any]:
        band = labels[first:stop].astype(dtype)
        band[~np.isin(band, result.cells.ids)] = 0
        return band

    cells = held.create_group("cells")
    # On the grid of the image itself.
    grid = HeatMaps(("cells",), labels.shape, read, 1.0, (0.0, 0.0))
    datasets = _write_levels(cells, export, labels.shape, dtype, read, grid)
    _write_places(cells, export, datasets, "yx", {})
    write_label_metadata(held, "cells", [], [], FormatV04(), source={"image": "../../"})
    _list_labels(folder / "labels" / "cells" / ".zattrs", export, result)


def _list_labels(path: Path, export: Export, result: Predictions) -> None:
    """Put each label's colour and class into its attributes, one by one: there may be many."""
    known = json.loads(path.read_text("utf-8"))
    label = known.pop("image-label")
    colours = [encode_json([*ImageColor.getrgb(name)[:3], 255]) for name in export.card.colours]
    names = [encode_json(name) for name in result.class_names]
    numbers, index = result.cells.ids.tolist(), result.class_index.tolist()
    with path.open("w", encoding="utf-8") as file:
        # In their order: a set's would differ from process to process.
        others = {k: value for k, value in label.items() if k not in ("colors", "properties")}
        file.write(f'{encode_json(known)[:-1]},"image-label":{encode_json(others)[:-1]},')
        file.write('"colors":[')
        between = "\n"
        for number, i in zip(numbers, index, strict=True):
            rgba = colours[i] if i >= 0 else "[127,127,127,255]"
            file.write(f'{between}{{"label-value":{number},"rgba":{rgba}}}')
            between = ",\n"
        file.write('\n],"properties":[')
        between = "\n"
        for number, i, confidence in zip(numbers, index, result.confidence.tolist(), strict=True):
            said = f'{names[i]},"confidence":{confidence!r}' if i >= 0 else '""'
            file.write(f'{between}{{"label-value":{number},"class":{said}}}')
            between = ",\n"
        file.write("\n]}}\n")


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
