"""Faithfulness of all classified cells: what a worker is asked, and what it gives per cell."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..core.models import Model
from ..core.pictures import to_picture
from ..core.sources import ImageSettings, PlaneRef, field_of
from ..core.status import StoppedError

if TYPE_CHECKING:
    from napari.layers import Image

    from ...evidence.faithfulness import Faithfulness
    from ...inference.prediction import Predictions

__all__ = ["CellsRequest", "MeasuredCell", "stream_cells"]


@dataclasses.dataclass(frozen=True, eq=False)
class CellsRequest:
    """Measure how faithful the evidence of classified cells is.

    Parameters
    ----------
    layer : napari.layers.Image
        The image.
    plane : PlaneRef
        The plane that the cells are of.
    settings : ImageSettings
        What it shows.
    model : Model
        That classified them.
    locations : tuple of int or None
        Of a TNet.
    results : Predictions
        The cells and their classes.
    rows : tuple of int
        Which cells, in this order.
    stop : threading.Event
        Set to end the work at the model's next step.
    """

    layer: Image
    plane: PlaneRef
    settings: ImageSettings
    model: Model
    locations: tuple[int, ...] | None
    results: Predictions
    rows: tuple[int, ...]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredCell:
    """One measured cell.

    Parameters
    ----------
    row : int
        Of the results.
    found : Faithfulness
        What was measured.
    picture : numpy.ndarray
        (size, size, 3) uint8, its crop.
    selected : numpy.ndarray
        (k,) int64, ``row * size + column`` of what the model selected.
    """

    row: int
    found: Faithfulness
    picture: npt.NDArray[np.uint8]
    selected: npt.NDArray[np.int64]


def stream_cells(request: CellsRequest) -> Iterator[MeasuredCell]:
    """Measure cell by cell, in another thread, until it is stopped.

    Raises
    ------
    ValueError
        If the image does not fit the model.
    """
    from ...evidence import CropFrame
    from ...evidence.baselines import tiled_mean
    from ...images.fields.crops import cut_crops
    from ...inference.cells import check_plane, crop_side
    from ...inference.faithfulness import CARD, measure, prepare_crop, read_at_crop_pixels

    model, cells = request.model, request.results.cells
    bundle = model.with_locations(request.locations)
    field = field_of(request.plane, request.settings)
    plane, size = check_plane(field, bundle, 0, 0), bundle.card.crop.size
    sides, _ = crop_side(field, cells, bundle)
    # What does not rank the cells is left out; a clicked cell has it.
    settings = dataclasses.replace(CARD, extras=False)

    def stop_if_asked(*_: object) -> None:
        if request.stop.is_set():
            raise StoppedError

    for row in request.rows:
        if request.stop.is_set():
            return
        centre, side = cells.centres[row], float(sides[row])
        frame = CropFrame(float(centre[0]), float(centre[1]), side, size)
        crop = cut_crops(plane, [centre], side, size)[0]
        rerun = prepare_crop(crop, bundle, model.device)
        within = None
        if cells.labels is not None:
            mask = read_at_crop_pixels(cells.labels == cells.ids[row], frame)
            within = tiled_mean(mask, rerun.side).ravel()
        try:
            found = measure(rerun, bundle.card.shown_names, settings, within, stop_if_asked)
        except StoppedError:
            return
        selected = np.flatnonzero(rerun.selected_pixels(rerun.seen)).astype(np.int64)
        yield MeasuredCell(row, found, _to_rgb(crop), selected)


def _to_rgb(crop: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a crop (size, size, C) as (size, size, 3)."""
    limits = (0.0, 1.0)
    if crop.shape[2] == 1:
        low, high = np.nanpercentile(crop, (0.5, 99.5))
        limits = (float(low), max(float(high), float(low) + 1e-12))
    return to_picture(crop[..., :3], np.ones(crop.shape[:2], bool), limits)
