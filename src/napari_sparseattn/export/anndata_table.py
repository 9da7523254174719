"""Results as AnnData (.h5ad), for scanpy, squidpy and SpatialData."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..files import replacing, writing_hdf5
from ..inference.slides import SlidePrediction
from .request import Export
from .tables import as_classes, iter_tables

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData

    from ..features.extract import FeatureSet

__all__ = ["make_table", "text_index", "write_anndata"]

#: Under this key of ``uns``.
KEY = "napari_sparseattn"
_NOT_OBS = ["model", "scale_known"]
_BLOCK_BYTES = 2**24


def write_anndata(export: Export, path: Path) -> list[Path]:
    """Write one observation per cell or patch, atomically.

    Of cells, ``X`` is the probabilities (N, C); of a slide the encoder's
    features (N, F), copied block by block, or the attention per level where
    the features are not at hand. ``obs`` has the other columns of the CSV,
    ``obsm["spatial"]`` the centres (x, y) in pixels of the full resolution
    with a pixel's top left corner at its index, ``uns["class_colors"]`` the
    colours as scanpy has them, and ``uns["napari_sparseattn"]`` the model's
    card and where the result came from.

    Parameters
    ----------
    export : Export
        Cells, frames, or a slide's patches.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    features = _features(export)
    table = make_table(export)
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, check):
        _write_table(table, file)
        if features is not None:
            _copy_features(features, file, check, export)
        export.report(table.n_obs, table.n_obs)
    return [path]


def make_table(export: Export) -> AnnData:
    """Return the table that `write_anndata` writes; its ``X`` is None where that is features.

    Parameters
    ----------
    export : Export
        Cells, frames, or a slide's patches.
    """
    import anndata
    import pandas as pd

    obs = pd.concat(list(iter_tables(export.result, export.card.name)), ignore_index=True).drop(
        columns=_NOT_OBS
    )
    x: npt.NDArray[np.float32] | None
    if isinstance(export.result, SlidePrediction):
        x, names = _of_patches(obs, _features(export))
        half = obs["side"].to_numpy() / 2
        spatial = np.stack([obs["left"] + half, obs["top"] + half], axis=1)
        obs.index = text_index([f"patch-{i}" for i in range(len(obs))])
    else:
        names = list(export.first.class_names)
        columns = [f"p_{name}" for name in names]
        x, obs = obs[columns].to_numpy(np.float32), obs.drop(columns=columns)
        spatial = obs[["column", "row"]].to_numpy(np.float64) + 0.5
        frames = [f"{frame}-" for frame in obs["frame"]] if "frame" in obs else [""] * len(obs)
        named = [f"{frame}{number}" for frame, number in zip(frames, obs["id"], strict=True)]
        obs["class"] = as_classes(obs["class"], names)
        obs.index = text_index(named)
    return anndata.AnnData(
        X=x,
        obs=obs,
        var=pd.DataFrame(index=text_index(names)),
        obsm={"spatial": spatial},
        uns={KEY: _source(export), "class_colors": np.array(export.card.colours, dtype=object)},
    )


def _features(export: Export) -> FeatureSet | None:
    return export.result.features if isinstance(export.result, SlidePrediction) else None


def text_index(names: Sequence[str]) -> pd.Index:
    """Return text as Python objects: anndata cannot write pandas 3's own kind of text."""
    import pandas as pd

    made: pd.Index = pd.Index(np.array(names, dtype=object), dtype=object)
    return made


def _of_patches(
    obs: pd.DataFrame, features: FeatureSet | None
) -> tuple[npt.NDArray[np.float32] | None, list[str]]:
    """The attention and its names; nothing for features, which are copied from their file."""
    if features is not None:
        return None, [f"feature_{i}" for i in range(features.width)]
    names = [name for name in obs if str(name).startswith("attention_")]
    return obs[names].to_numpy(np.float32), list(map(str, names))


def _write_table(table: AnnData, file: h5py.File) -> None:
    """Write a table as `AnnData.write_h5ad` does, which takes no file that is open."""
    from anndata.io import write_elem

    table.strings_to_categoricals()
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    if table.X is not None:
        write_elem(file, "X", table.X)
    for name in ("obs", "var"):
        write_elem(file, name, getattr(table, name))
    for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        write_elem(file, name, dict(getattr(table, name)))


def _copy_features(
    features: FeatureSet, file: h5py.File, check: Callable[[], None], export: Export
) -> None:
    """Write ``X`` as anndata does, without all of it in memory."""
    n, width = len(features), features.width
    rows = max(1, _BLOCK_BYTES // (4 * width))
    made = file.create_dataset("X", (n, width), np.float32)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start in range(0, n, rows):
        made[start : start + rows] = features.read(slice(start, start + rows))
        check()
        export.report(start, n)


def _source(export: Export) -> dict[str, Any]:
    """Where it came from, in what HDF5 holds: no None, and lists of text as arrays."""
    plain = {name: value for name, value in export.provenance.items() if value is not None}
    plain["notes"] = np.array(plain["notes"], dtype=object)
    plain["card"] = export.card.model_dump_json()
    plain["spatial"] = "pixels of the full resolution, a pixel's top left corner at its index"
    result = export.result
    if isinstance(result, SlidePrediction):
        plain["class_names"] = np.array(result.class_names, dtype=object)
        plain["probabilities"] = result.probabilities
    return plain
