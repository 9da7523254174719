"""Cells by learned segmenters that a user may have: Cellpose, InstanSeg and StarDist.

None of them is a dependency: each is imported when it is asked for, and finds its own
weights, which it fetches when it is used for the first time.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SEGMENTERS", "Segmenter", "SegmenterMissingError", "label_learned"]

#: Longer images than this are cut into tiles by the segmenters that leave that to their user.
_TILE = 1500


class SegmenterMissingError(ValueError):
    """A segmenter that is not installed; the message names what to install."""


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """One of other people's segmenters.

    Parameters
    ----------
    title : str
        What it is called.
    module : str
        What Python imports.
    extra : str
        Under which name this package lists what it needs.
    load : callable
        Gives a model for images in colour or not.
    label : callable
        (model, image, µm per pixel) to labels; the image is (H, W, 3) uint8 in colour, or
        (H, W) float32.
    """

    title: str
    module: str
    extra: str
    load: Callable[[bool], Any]
    label: Callable[[Any, npt.NDArray[Any], float | None], Any]

    @property
    def installed(self) -> bool:
        """Whether it can be imported; nothing is imported to tell."""
        return importlib.util.find_spec(self.module) is not None


def _load_cellpose(colour: bool) -> Any:
    core = importlib.import_module("cellpose.core")
    models = importlib.import_module("cellpose.models")
    return models.CellposeModel(gpu=core.use_gpu())


def _label_cellpose(model: Any, image: npt.NDArray[Any], pixel_size: float | None) -> Any:
    # Cellpose-SAM takes cells of any size, and has no use for the scale.
    axis = {"channel_axis": -1} if image.ndim == 3 else {}
    return model.eval(image, **axis)[0]


def _load_instanseg(colour: bool) -> Any:
    name = "brightfield_nuclei" if colour else "fluorescence_nuclei_and_cells"
    return importlib.import_module("instanseg").InstanSeg(name, verbosity=0)


def _label_instanseg(model: Any, image: npt.NDArray[Any], pixel_size: float | None) -> Any:
    if pixel_size is None:
        raise ValueError(
            "InstanSeg needs to know how large a pixel is. Give the µm per pixel, or find the "
            "cells in another way."
        )
    small = max(image.shape[:2]) <= _TILE
    look = model.eval_small_image if small else model.eval_medium_image
    found = np.asarray(look(image, pixel_size, return_image_tensor=False))
    # (1, n, H, W): of nuclei and cells, the cells come last.
    return found.reshape(-1, *found.shape[-2:])[-1]


def _load_stardist(colour: bool) -> Any:
    models = importlib.import_module("stardist.models")
    name = "2D_versatile_he" if colour else "2D_versatile_fluo"
    return models.StarDist2D.from_pretrained(name)


def _label_stardist(model: Any, image: npt.NDArray[Any], pixel_size: float | None) -> Any:
    normalize = importlib.import_module("csbdeep.utils").normalize
    tiles = [math.ceil(side / _TILE) for side in image.shape[:2]] + [1] * (image.ndim - 2)
    return model.predict_instances(
        normalize(image, 1, 99.8), n_tiles=tuple(tiles), show_tile_progress=False
    )[0]


#: By the name that `find_cells` knows them under.
SEGMENTERS: dict[str, Segmenter] = {
    "cellpose": Segmenter("Cellpose", "cellpose", "cellpose", _load_cellpose, _label_cellpose),
    "instanseg": Segmenter(
        "InstanSeg", "instanseg", "instanseg", _load_instanseg, _label_instanseg
    ),
    "stardist": Segmenter("StarDist", "stardist", "stardist", _load_stardist, _label_stardist),
}


def label_learned(
    name: str, plane: npt.NDArray[Any], pixel_size: float | None = None
) -> npt.NDArray[np.int32]:
    """Label the cells of a plane with a segmenter that the user has.

    Parameters
    ----------
    name : {"cellpose", "instanseg", "stardist"}
        Which one.
    plane : numpy.ndarray, shape (H, W, 1) or (H, W, 3)
        Pixels of any real type.
    pixel_size : float, optional
        µm per pixel; InstanSeg needs it.

    Returns
    -------
    numpy.ndarray, shape (H, W), int32
        0 for background, 1 to N for the cells.

    Raises
    ------
    SegmenterMissingError
        If it is not installed.
    ValueError
        If the image has another number of channels, or the scale is needed and not known, or
        what the segmenter gives is no label image of this shape.
    """
    segmenter = SEGMENTERS[name]
    if not segmenter.installed:
        raise SegmenterMissingError(
            f"{segmenter.title} is not installed: pip install 'napari-sparseattn["
            f"{segmenter.extra}]' installs it."
        )
    if plane.shape[2] not in (1, 3):
        raise ValueError(
            f"{segmenter.title} is given images in colour or of one channel here, and this one "
            f"has {plane.shape[2]} channels; choose one channel."
        )
    colour = plane.shape[2] == 3
    image = _to_bytes(plane) if colour else _finite(plane[..., 0])
    found = np.asarray(segmenter.label(_load(name, colour), image, pixel_size))
    if found.shape != plane.shape[:2]:
        raise ValueError(
            f"{segmenter.title} gave labels of shape {found.shape} for an image of "
            f"{plane.shape[:2]}; is its version one that this package knows?"
        )
    values, numbers = np.unique(found.astype(np.int64), return_inverse=True)
    # Whatever the numbers are: 0 stays background, the rest count from 1.
    renumbered = np.cumsum(values > 0) * (values > 0)
    return renumbered[numbers].reshape(found.shape).astype(np.int32)


@functools.lru_cache(maxsize=1)
def _load(name: str, colour: bool) -> Any:
    """Load a model; the last one is kept, as each click may ask for it."""
    return SEGMENTERS[name].load(colour)


def _to_bytes(plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    from ..normalise import to_float

    if plane.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    values = np.nan_to_num(to_float(plane), nan=1.0)
    whole: npt.NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return whole


def _finite(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    values = plane.astype(np.float32)
    good = np.isfinite(values)
    return values if good.all() else np.where(good, values, values[good].min(initial=0))
