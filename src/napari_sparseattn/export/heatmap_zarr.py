"""Maps of what a model looked at as OME-Zarr, with their place and scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ..files import replacing_folder
from ..inference.prediction import Predictions
from .heat_maps import HeatMaps, heat_maps
from .json_stream import encode_json
from .request import Export

if TYPE_CHECKING:
    import zarr

__all__ = ["Version", "write_ome_zarr"]

#: Of OME-Zarr.
Version = Literal["0.4", "0.5"]
#: Levels are halved until both sides are at most this.
_SMALL = 256
_CHUNK = 512
#: Chunks side by side that lie in one file of OME-Zarr 0.5. A row of them and no more: maps are
#: made a row at a time, and a file is written at once.
_CHUNKS_OF_SHARD = 16
#: Stands in metadata where the labels come.
_HERE = "labels come here"
_ZARR_FORMATS: dict[Version, Literal[2, 3]] = {"0.4": 2, "0.5": 3}


def write_ome_zarr(export: Export, path: Path, version: Version = "0.5") -> list[Path]:
    """Write maps as one multiscale image (c, y, x), a map per channel.

    Scale and translation are in µm, or pixels where the pixel size is not
    known; the translation is that of the centre of pixel (0, 0), with the
    centre of the image's own first pixel at 0, as napari and ome-zarr-py have
    it. Cells with a label image are there too, as ``labels/cells``. In 0.5,
    which lies in Zarr 3, up to 16 chunks of a row share a file. The folder is
    put in place whole.

    Parameters
    ----------
    export : Export
        Cells, a field or a slide.
    path : pathlib.Path
        The folder.
    version : {"0.5", "0.4"}
        Of OME-Zarr; the older is read by programs that do not know Zarr 3.

    Returns
    -------
    list of pathlib.Path
        The folder.
    """
    import zarr

    maps = heat_maps(export)
    with replacing_folder(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=_ZARR_FORMATS[version])
        group.attrs["napari-sparseattn"] = export.provenance
        _write_maps(group, export, maps, version)
        result = export.result
        if isinstance(result, Predictions) and result.cells.labels is not None:
            _write_labels(group, temporary, export, result, version)
        export.report(len(maps.names), len(maps.names))
    return [path]


def _write_maps(group: zarr.Group, export: Export, maps: HeatMaps, version: Version) -> None:
    known = [[np.inf, -np.inf] for _ in maps.names]

    def read(first: int, stop: int) -> npt.NDArray[np.float32]:
        band = maps.read(first, stop)
        for limits, values in zip(known, band, strict=True):
            # These pass over NaN without a copy.
            limits[0] = min(limits[0], float(np.fmin.reduce(values, axis=None, initial=np.inf)))
            limits[1] = max(limits[1], float(np.fmax.reduce(values, axis=None, initial=-np.inf)))
        return band

    shape = (len(maps.names), *maps.shape)
    datasets = _write_levels(group, export, "cyx", shape, np.dtype(np.float32), read, maps)
    channels = []
    for number, (name, (low, high)) in enumerate(zip(maps.names, known, strict=True)):
        low, high = (low, high) if low <= high else (0.0, 1.0)
        window = {"min": low, "max": high, "start": min(low, 0.0), "end": max(high, low + 1e-6)}
        channels.append({"label": name, "color": "FFFFFF", "active": number == 0, "window": window})
    omero = {"name": maps.names[0], "version": version, "channels": channels}
    _write_places(group, export, datasets, "cyx", {"metadata": {"omero": omero}}, version)


def _write_levels(
    group: zarr.Group,
    export: Export,
    axes: str,
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
        held = _create_array(group, str(len(datasets)), axes, shape, dtype)
        wide = (held.shards or held.chunks)[-1]
        for first in range(0, shape[-2], _CHUNK):
            stop = min(first + _CHUNK, shape[-2])
            if finer is None:
                held[..., first:stop, :] = read(first, stop)
                continue
            # A file at a time, and of the finer level as little as a chunk is made of.
            for *index, number in np.ndindex(*shape[:ahead], -(-shape[-1] // wide)):
                left, right = wide * number, min(wide * (number + 1), shape[-1])
                part = np.empty((stop - first, right - left), dtype)
                for begin in range(left, right, _CHUNK):
                    end = min(begin + _CHUNK, right)
                    twice = (slice(2 * first, 2 * stop), slice(2 * begin, 2 * end))
                    part[:, begin - left : end - left] = _halve(np.asarray(finer[(*index, *twice)]))
                held[(*index, slice(first, stop), slice(left, right))] = part
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


def _create_array(
    group: zarr.Group, name: str, axes: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Make an array of chunks; in Zarr 3 with its axes' names, and with several chunks a file."""
    chunks = (1,) * (len(shape) - 2) + tuple(min(_CHUNK, side) for side in shape[-2:])
    side_by_side = min(_CHUNKS_OF_SHARD, -(-shape[-1] // chunks[-1]))
    more: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    if group.metadata.zarr_format == 3:
        more = {
            "chunk_key_encoding": {"name": "default", "separator": "/"},
            "dimension_names": list(axes),
        }
        if side_by_side > 1:
            more["shards"] = (*chunks[:-1], chunks[-1] * side_by_side)
    return group.create_array(
        name, shape=shape, dtype=dtype, chunks=chunks,
        fill_value=np.nan if dtype.kind == "f" else 0, **more,
    )  # fmt: skip


def _write_places(
    group: zarr.Group,
    export: Export,
    datasets: list[dict[str, Any]],
    axes: str,
    more: dict[str, Any],
    version: Version,
) -> None:
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_multiscales_metadata

    unit = {} if export.pixel_size is None else {"unit": "micrometer"}
    kinds: dict[str, dict[str, str]] = {"c": {"type": "channel"}}
    told = [{"name": name, **kinds.get(name, {"type": "space", **unit})} for name in axes]
    name = group.basename or export.name
    write_multiscales_metadata(
        group, datasets, format_from_version(version), told, name=name, **more
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


def _write_labels(
    group: zarr.Group, folder: Path, export: Export, result: Predictions, version: Version
) -> None:
    from ome_zarr.format import format_from_version
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
    datasets = _write_levels(cells, export, "yx", labels.shape, dtype, read, grid)
    _write_places(cells, export, datasets, "yx", {}, version)
    form = format_from_version(version)
    write_label_metadata(held, "cells", [], [], form, source={"image": "../../"})
    file = ".zattrs"
    if version != "0.4":
        file = "zarr.json"
        # ome-zarr leaves the version out here, which the standard wants.
        told: Any = held.attrs["ome"]
        held.attrs["ome"] = {**told, "version": version}
    _list_labels(folder / "labels" / "cells" / file, export, result)


def _list_labels(path: Path, export: Export, result: Predictions) -> None:
    """Put each label's colour and class into its attributes, one by one: there may be many."""
    known = json.loads(path.read_text("utf-8"))
    attributes = known["attributes"]["ome"] if path.name == "zarr.json" else known
    label = attributes.pop("image-label")
    attributes["image-label"] = _HERE
    before, after = encode_json(known).split(encode_json(_HERE))
    colours = [encode_json([*ImageColor.getrgb(name)[:3], 255]) for name in export.card.colours]
    names = [encode_json(name) for name in result.class_names]
    numbers, index = result.cells.ids.tolist(), result.class_index.tolist()
    with path.open("w", encoding="utf-8") as file:
        # In their order: a set's would differ from process to process.
        others = {k: value for k, value in label.items() if k not in ("colors", "properties")}
        file.write(f'{before}{encode_json(others)[:-1]},"colors":[')
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
        file.write(f"\n]}}{after}\n")


def _small(labels: npt.NDArray[Any]) -> npt.DTypeLike:
    return np.int32 if int(labels.max(initial=0)) < 2**31 else np.int64
