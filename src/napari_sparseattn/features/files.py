"""HDF5 files of features: ours written and read, those of CLAM, TRIDENT and STAMP imported."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..files import replacing, writing_hdf5
from ..images.errors import ImageError
from ..images.holograms._hdf5 import contents, images, number, reading, text
from ..images.slides.patches import PatchGrid
from .feature_set import FeatureError, FeatureSet, H5Rows, failed_notes
from .imports import Layout, import_features, layout_of

if TYPE_CHECKING:
    import h5py

__all__ = ["kept_features", "read_features", "write_features"]

_FORMAT = "napari-sparseattn features 1"
_CHUNK_BYTES = 2**20
_MOST_PATCHES = 2**23
_COMPARED = {
    "encoder": "encoder",
    "encoder_hash": "version of the encoder",
    "slide_hash": "slide",
    "grid_hash": "grid of patches",
}


def read_features(
    path: str | os.PathLike[str],
    *,
    snap: bool = False,
    step: float | None = None,
    slide_pixel_size: float | None = None,
) -> FeatureSet:
    """Open a file of features; they are read from it when they are asked for.

    Ours, and the HDF5 files of CLAM, TRIDENT and STAMP, whose coordinates must
    pass `audit_grid`.

    Parameters
    ----------
    path : path-like
        The file.
    snap : bool
        Move coordinates that are off the grid to it, and leave out duplicates
        and those out of range; `FeatureSet.notes` report on it. The grids that
        CLAM begins in each piece of tissue are put onto one without it.
    step : float, optional
        From patch to patch, in level-0 pixels (µm for STAMP); by default as the
        file states, or as its coordinates show.
    slide_pixel_size : float, optional
        µm per pixel of the slide, to place STAMP's coordinates, which are in
        µm; see `FeatureSet.to_pixels`.

    Raises
    ------
    FeatureError
        If it is no such file, or damaged.
    GridError
        If coordinates do not make a grid; the message shows the first of them.
    """
    file = Path(path)
    if not file.is_file():
        raise FeatureError(f"there is no file {file}")
    try:
        with reading(file) as opened:
            if text(opened.attrs, "format").startswith("napari-sparseattn features"):
                return _ours(file, opened)
            layout = layout_of(file, opened)
            coords, block = _tables(file, opened, layout)
    except ImageError as error:
        raise FeatureError(str(error)) from error
    found = import_features(file, layout, coords, block, snap=snap, step=step)
    return found.to_pixels(slide_pixel_size) if slide_pixel_size else found


def write_features(
    path: Path,
    grid: PatchGrid,
    valid: npt.NDArray[np.bool_],
    rows: Iterator[npt.NDArray[np.float32]],
    parameters: dict[str, Any],
) -> None:
    """Write features atomically, with a checksum of every chunk.

    Datasets: ``features`` (N, F) float32; ``coords`` (N, 2) int64, level-0
    pixels (x, y) of the corners as CLAM and TRIDENT keep them; ``cells`` (N, 2)
    int32; ``failed`` (n,) uint8; ``sums`` sha256 of the chunks.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    grid : PatchGrid
        All patches that were asked for.
    valid : numpy.ndarray, bool
        Which of them could be read.
    rows : iterator of numpy.ndarray, (m, F) float32
        Features of these, in order, in pieces.
    parameters : dict
        encoder, encoder_hash, slide_hash, grid_hash, width.
    """
    n, width = int(valid.sum()), int(parameters["width"])
    block = max(1, min(n, _CHUNK_BYTES // (4 * width)))
    corners = np.rint(grid.corners[valid][:, ::-1]).astype(np.int64)
    cells = grid.cells[valid].astype("<i4")
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, check):
        features = file.create_dataset("features", (n, width), "<f4", chunks=(block, width))
        sums = []
        for start, chunk in _chunks(rows, block):
            features[start : start + len(chunk)] = chunk
            check()
            sums.append(np.frombuffer(hashlib.sha256(chunk.tobytes()).digest(), np.uint8))
        file["sums"] = np.stack(sums)
        file["cells"] = cells
        file["failed"] = (~valid).astype(np.uint8)
        coords = file.create_dataset("coords", data=corners)
        # What CLAM and TRIDENT look for.
        coords.attrs["patch_size"] = grid.size
        coords.attrs["patch_level"] = 0
        coords.attrs["patch_size_level0"] = round(grid.side)
        attributes = {key: parameters[key] for key in _COMPARED}
        attributes |= {"step": grid.step, "side": grid.side, "size": grid.size}
        attributes |= {"origin_y": grid.origin[0], "origin_x": grid.origin[1]}
        attributes |= {"mpp": grid.pixel_size if grid.pixel_size is not None else 0.0}
        file.attrs["format"] = _FORMAT
        for key, value in attributes.items():
            file.attrs[key] = value
        file.attrs["sha256"] = _digest(file)


def kept_features(path: Path, parameters: dict[str, Any]) -> FeatureSet | None:
    """Return a finished file of these parameters; None where there is none, or it is damaged.

    Raises
    ------
    FeatureError
        If the file is of other parameters, or none of ours.
    """
    if not path.exists():
        return None
    try:
        with reading(path) as file:
            ours = text(file.attrs, "format") == _FORMAT
            stored = {key: text(file.attrs, key) for key in _COMPARED}
    except ImageError as error:
        raise FeatureError(f"{error}; or choose another file to make") from error
    if not ours:
        raise FeatureError(
            f"{path.name} is there and was not made here; it is not written over. Choose another "
            "file to make"
        )
    differs = [words for key, words in _COMPARED.items() if stored[key] != parameters[key]]
    if differs:
        raise FeatureError(
            f"{path.name} was made with another {', '.join(differs)}; it is not written over. "
            "Choose another file to make, or remove it"
        )
    try:
        found = read_features(path)
        if isinstance(found.features, H5Rows):
            found.features.verify()
    except FeatureError:
        return None
    return found


def _chunks(
    rows: Iterator[npt.NDArray[np.float32]], block: int
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield pieces again in blocks of one size, with where they begin."""
    start, held = 0, []
    for piece in rows:
        held.append(piece)
        while sum(map(len, held)) >= block:
            joined = np.concatenate(held)
            yield start, np.ascontiguousarray(joined[:block], "<f4")
            start, held = start + block, [joined[block:]]
    left = np.concatenate(held) if held else np.empty((0, 0), np.float32)
    if len(left):
        yield start, np.ascontiguousarray(left, "<f4")


def _digest(file: h5py.File) -> str:
    """Return a checksum of all but the features, whose chunks have their own."""
    stated = {key: file.attrs[key] for key in sorted(file.attrs) if key != "sha256"}
    plain = {key: v if isinstance(v, str) else float(v) for key, v in stated.items()}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in ("sums", "cells", "failed"):
        digest.update(np.asarray(file[name][()]).tobytes())
    return digest.hexdigest()


def _ours(path: Path, file: h5py.File) -> FeatureSet:
    features = images(file, "features", ndim=2)
    sums, cells = images(file, "sums", ndim=2), images(file, "cells", ndim=2)
    failed = images(file, "failed", ndim=1)
    n = 0 if features is None else features.shape[0]
    if (
        text(file.attrs, "format") != _FORMAT
        or features is None
        or features.dtype != np.dtype("<f4")
        or features.chunks is None
        or cells is None
        or (cells.shape, cells.dtype) != ((n, 2), np.dtype("<i4"))
        or sums is None
        or sums.shape != (math.ceil(n / features.chunks[0]), 32)
        or failed is None
        or len(failed) > _MOST_PATCHES
    ):
        raise FeatureError(
            f"{path.name} is damaged, or made by a newer version; make the features again"
        )
    names = ("step", "side", "origin_y", "origin_x", "mpp")
    values = {name: number(file.attrs, name) for name in names}
    size = number(file.attrs, "size")
    patch_um = values["mpp"] * size if values["mpp"] and size else None
    if any(value is None for value in values.values()) or _digest(file) != text(
        file.attrs, "sha256"
    ):
        raise FeatureError(f"{path.name} is damaged; make the features again")
    missing = failed[()].astype(np.bool_)
    return FeatureSet(
        H5Rows(
            path,
            "features",
            features.shape,
            n,
            block=features.chunks[0],
            sums=tuple(row.tobytes() for row in np.asarray(sums[()], np.uint8)),
        ),
        cells[()].astype(np.int32),
        float(values["step"] or 0),
        float(values["side"] or 0),
        (float(values["origin_y"] or 0), float(values["origin_x"] or 0)),
        values["mpp"] or None,
        text(file.attrs, "encoder"),
        text(file.attrs, "encoder_hash"),
        text(file.attrs, "slide_hash"),
        path,
        missing,
        notes=failed_notes(missing),
        patch_um=patch_um,
    )


def _tables(
    path: Path, file: h5py.File, layout: Layout
) -> tuple[npt.NDArray[np.float64], tuple[int, int, int]]:
    """Return checked coordinates (N, 2), and N, F and the rows to read at a time."""
    features = images(file, layout.features, ndim=2)
    coords = images(file, layout.coords, ndim=2)
    if features is None or coords is None:
        raise FeatureError(
            f"{path.name} holds {contents(file)}, where tables '{layout.features}' and "
            f"'{layout.coords}' were expected"
        )
    if features.dtype.kind != "f" or coords.dtype.kind not in "iuf" or coords.shape[1] != 2:
        raise FeatureError(
            f"{path.name}: features are {features.dtype} {features.shape}, coordinates "
            f"{coords.dtype} {coords.shape}; expected floats (N, F) and numbers (N, 2)"
        )
    n, width = features.shape
    if len(coords) != n or n > _MOST_PATCHES:
        raise FeatureError(
            f"{path.name} holds {n} features and {len(coords)} coordinates; expected one for each, "
            f"and at most {_MOST_PATCHES}. Make the file again"
        )
    for dataset in (features, coords):
        if dataset.chunks is not None:
            expected = math.prod(
                math.ceil(a / b) for a, b in zip(dataset.shape, dataset.chunks, strict=True)
            )
            # A chunk that is missing would be read as zeros.
            if dataset.id.get_num_chunks() != expected:
                raise FeatureError(
                    f"{path.name} is incomplete: {dataset.name} holds "
                    f"{dataset.id.get_num_chunks()} of {expected} blocks. Make it again"
                )
    # Tools that write row by row make chunks of one row: read several at a time.
    block = max(1, _CHUNK_BYTES // (4 * width))
    return np.asarray(coords[()], np.float64), (n, width, block)
