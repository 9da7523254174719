"""Results as one SpatialData store: the image, maps, labels, shapes and a table, in one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..files import replacing_folder
from ..images.fields.field import Field
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .anndata_table import KEY, make_table, text_index
from .heat_maps import HeatMaps, heat_maps
from .outlines import box_ring, iter_cell_rings
from .pictures import Pictures
from .request import Export
from .tables import crops_table

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from xarray import DataArray

__all__ = ["write_spatialdata"]

#: Of slides a picture of so many pixels along the longer side is kept, not the slide.
_OVERVIEW = 2048
_CHUNK = 512
_FEATURE_BYTES = 2**24
#: What a table annotates, and which one: SpatialData's own examples have these names.
_REGION, _INSTANCE = "region", "instance_id"


def write_spatialdata(export: Export, path: Path) -> list[Path]:
    """Write one Zarr store as SpatialData lays it out, put in place whole.

    - ``images/image``: the pixels that were classified; of a slide a picture
      of it, at most 2048 pixels along its longer side.
    - ``images/maps``: what was looked at, a named channel per map.
    - ``labels/cell_labels``: the label image of the cells, where there is one.
    - ``shapes/cells``, ``shapes/patches`` or ``shapes/crops``: outlines.
    - ``tables/table``: a row per shape, as in AnnData; of crops what each adds
      to the logits.

    All lie in the coordinate system ``global``, pixels of the full resolution
    with a pixel's top left corner at its index, as SpatialData has them; and
    in ``micrometers`` where the pixel size is known. ``attrs`` say where the
    result came from.

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
    import dask
    from spatialdata import SpatialData

    maps = heat_maps(export)
    shapes = _shapes(export)
    elements: dict[str, Any] = {
        "images": {"image": _image(export), "maps": _maps(export, maps)},
        "attrs": {"napari-sparseattn": export.provenance},
    }
    result = export.result
    if isinstance(result, Predictions) and result.cells.labels is not None:
        elements["labels"] = {"cell_labels": _labels(export, result)}
    if shapes is not None:
        name, frame = shapes
        table = _annotate(_table(export), name, frame.index.to_numpy())
        elements |= {"shapes": {name: frame}, "tables": {"table": table}}
    store = SpatialData(**elements)
    # One part after the other: what is made of rows takes the memory of a few of them.
    with replacing_folder(path) as temporary, dask.config.set(scheduler="synchronous"):
        store.write(temporary)
        export.report(maps.shape[0], maps.shape[0])
    return [path]


def _places(export: Export, *own: Any) -> dict[str, Any]:
    """Return how an element lies in pixels of the full resolution, and in µm."""
    from spatialdata.transformations import Identity, Scale, Sequence

    steps = list(own) or [Identity()]
    found: dict[str, Any] = {"global": Sequence(steps) if len(steps) > 1 else steps[0]}
    if export.pixel_size is not None:
        to_micrometers = Scale([export.pixel_size] * 2, ("x", "y"))
        found["micrometers"] = Sequence([*own, to_micrometers])
    return found


def _image(export: Export) -> DataArray:
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    own: tuple[Any, ...] = ()
    if isinstance(export.image, Field):
        pixels = export.image.plane(*export.index)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
    else:
        pixels = np.asarray(Pictures(export.image).overview(_OVERVIEW)[0])
        height, width = (a / b for a, b in zip(export.shape, pixels.shape[:2], strict=True))
        own = (Scale([width, height], ("x", "y")),)
    names = ["r", "g", "b"] if pixels.shape[-1] == 3 else list(map(str, range(pixels.shape[-1])))
    made: DataArray = Image2DModel.parse(
        np.moveaxis(pixels, -1, 0),
        dims=("c", "y", "x"),
        c_coords=names,
        chunks=(pixels.shape[-1], _CHUNK, _CHUNK),
        transformations=_places(export, *own),
    )
    return made


def _maps(export: Export, maps: HeatMaps) -> DataArray:
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Translation

    # From centres of places to corners of pixels.
    row, column = (value + 0.5 - maps.scale / 2 for value in maps.translate)
    own = (Scale([maps.scale] * 2, ("x", "y")), Translation([column, row], ("x", "y")))

    def read(first: int, stop: int) -> npt.NDArray[np.float32]:
        export.report(first, maps.shape[0])
        return maps.read(first, stop)

    made: DataArray = Image2DModel.parse(
        _in_bands(read, (len(maps.names),), maps.shape, np.dtype(np.float32)),
        dims=("c", "y", "x"),
        c_coords=list(maps.names),
        transformations=_places(export, *own),
    )
    return made


def _labels(export: Export, found: Predictions) -> DataArray:
    from spatialdata.models import Labels2DModel

    labels = found.cells.labels
    assert labels is not None

    def read(first: int, stop: int) -> npt.NDArray[np.int32]:
        band = labels[first:stop]
        return np.where(np.isin(band, found.cells.ids), band, 0).astype(np.int32)

    made: DataArray = Labels2DModel.parse(
        _in_bands(read, (), labels.shape, np.dtype(np.int32)),
        dims=("y", "x"),
        transformations=_places(export),
    )
    return made


def _in_bands(
    read: Any, ahead: tuple[int, ...], shape: tuple[int, int], dtype: np.dtype[Any]
) -> Array:
    """Return an array (…, y, x) that is made a few rows at a time, when it is written."""
    import dask.array as da
    from dask.delayed import delayed

    bands = []
    for first in range(0, shape[0], _CHUNK):
        stop = min(first + _CHUNK, shape[0])
        made = delayed(read, pure=False)(first, stop)
        bands.append(da.from_delayed(made, (*ahead, stop - first, shape[1]), dtype))
    chunks = (*((1,) * len(ahead)), _CHUNK, _CHUNK)
    whole: Array = da.concatenate(bands, axis=len(ahead)).rechunk(chunks)
    return whole


def _shapes(export: Export) -> tuple[str, GeoDataFrame] | None:
    """Return the outlines with their name; None where there are none, which no store holds."""
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel

    result = export.result
    numbers: npt.NDArray[Any]
    if isinstance(result, Predictions):
        name, numbers = "cells", result.cells.ids
        rings = [list(map(shapely.Polygon, each)) for each in iter_cell_rings(result.cells)]
        outlines = [each[0] if len(each) == 1 else shapely.MultiPolygon(each) for each in rings]
    else:
        if isinstance(result, SlidePrediction):
            seen = result.attention
            corners = np.asarray(seen.origin) + seen.cells * seen.step
            name, boxes = "patches", np.hstack([corners, corners + seen.side])
        else:
            assert isinstance(result, FieldPrediction)
            way = result.traversal.boxes
            name, boxes = "crops", np.hstack([way[:, :2], way[:, :2] + way[:, 2:]])
        numbers = np.arange(len(boxes))
        outlines = [shapely.Polygon(box_ring(box)) for box in boxes]
    if not len(numbers):
        return None
    frame = geopandas.GeoDataFrame({"geometry": outlines}, index=numbers.astype(np.int64))
    return name, ShapesModel.parse(frame, transformations=_places(export))


def _table(export: Export) -> AnnData:
    """Return a row per shape, in their order."""
    import anndata
    import pandas as pd

    result = export.result
    if not isinstance(result, FieldPrediction):
        table = make_table(export)
        if isinstance(result, SlidePrediction) and result.features is not None:
            table.X = _features(result)
        return table
    obs = crops_table(result)
    logits = [f"logit_{name}" for name in result.class_names]
    x = obs[logits].to_numpy(np.float32)
    obs = obs.drop(columns=logits)
    obs.index = text_index([f"crop-{i}" for i in range(len(obs))])
    return anndata.AnnData(
        X=x, obs=obs, var=pd.DataFrame(index=text_index(list(result.class_names)))
    )


def _annotate(table: AnnData, region: str, numbers: npt.NDArray[Any]) -> AnnData:
    """Say which shapes a table's rows are of."""
    import pandas as pd
    from spatialdata.models import TableModel

    # SpatialData takes letters, digits and _-. only; classes may have any name.
    table.obs.columns = text_index([re.sub(r"[^\w.-]", "_", str(n)) for n in table.obs.columns])
    table.obs[_REGION] = pd.Categorical([region] * table.n_obs, text_index([region]))
    table.obs[_INSTANCE] = numbers
    if KEY in table.uns:
        # It is in the attributes of the store.
        table.uns[KEY] = {"card": table.uns[KEY]["card"]}
    return TableModel.parse(table, region=region, region_key=_REGION, instance_key=_INSTANCE)


def _features(found: SlidePrediction) -> Array:
    """Return the encoder's features (N, F), which are read from their file as they are written."""
    import dask.array as da
    from dask.delayed import delayed

    features = found.features
    assert features is not None
    n, width = len(features), features.width
    rows = max(1, _FEATURE_BYTES // (4 * width))
    parts = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        read = delayed(features.read, pure=False)(slice(start, stop))
        parts.append(da.from_delayed(read, (stop - start, width), np.float32))
    whole: Array = da.concatenate(parts)
    return whole
