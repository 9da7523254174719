"""Measure how far evidence can be believed: content goes, the whole model runs anew.

Nothing here trusts a map. Units of content are removed in the order of the
model's own maps and of baselines, each time with plausible content in their
place, and the model, selector included, sees the result as it would any image.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..device import choose_device
from ..evidence import CropFrame
from ..evidence.baselines import tiled_mean
from ..evidence.faithfulness import Faithfulness, FaithfulnessOfSet
from ..images.fields.cells import Cells
from ..images.fields.crops import cut_crops
from ..images.fields.field import Field
from ..progress import Progress
from .cells import check_plane, crop_side
from .measuring import CARD, THOROUGH, FaithfulnessSettings, measure
from .prediction import Predictions
from .reruns import CellRerun, Mask, Rerun

if TYPE_CHECKING:
    from ..images.slides.pyramid import Pyramid
    from .fields import FieldPrediction
    from .slides import SlidePrediction

__all__ = [
    "CARD",
    "THOROUGH",
    "FaithfulnessSettings",
    "faithfulness_of_cell",
    "faithfulness_of_crop",
    "faithfulness_of_crops",
    "faithfulness_of_field",
    "faithfulness_of_set",
    "faithfulness_of_slide",
    "iter_faithfulness",
    "measure",
    "measure_faithfulness",
    "prepare_crop",
    "read_at_crop_pixels",
]


@overload
def measure_faithfulness(
    prediction: Predictions,
    bundle: Bundle,
    image: Field,
    settings: FaithfulnessSettings | None = ...,
    device: str = ...,
    *,
    only: Sequence[int] | None = ...,
    t: int = ...,
    z: int = ...,
    progress: Progress | None = ...,
) -> FaithfulnessOfSet: ...
@overload
def measure_faithfulness(
    prediction: FieldPrediction | SlidePrediction,
    bundle: Bundle,
    image: Field | Pyramid | None = ...,
    settings: FaithfulnessSettings | None = ...,
    device: str = ...,
    *,
    t: int = ...,
    z: int = ...,
    progress: Progress | None = ...,
) -> Faithfulness: ...
def measure_faithfulness(
    prediction: Predictions | FieldPrediction | SlidePrediction,
    bundle: Bundle,
    image: Field | Pyramid | None = None,
    settings: FaithfulnessSettings | None = None,
    device: str = "auto",
    *,
    only: Sequence[int] | None = None,
    t: int = 0,
    z: int = 0,
    progress: Progress | None = None,
) -> Faithfulness | FaithfulnessOfSet:
    """Measure how faithful the evidence of a prediction is.

    Parameters
    ----------
    prediction : Predictions, FieldPrediction or SlidePrediction
        Of `classify_cells`, `classify_field` or `classify_slide`.
    bundle : Bundle
        The model it was made with.
    image : Field or Pyramid
        What it was made from; not needed of a `SlidePrediction`, which holds
        its features.
    settings : FaithfulnessSettings, optional
        How thoroughly; by default thoroughly for cells, and as fits a click else.
    device : str
        As in `classify_cells`.
    only : sequence of int, optional
        Which cells; by default all.
    t, z : int
        Frame and slice of a stack.
    progress : callable, optional
        Called with the stage, what is done, and how much there is; it may raise to stop.

    Returns
    -------
    Faithfulness or FaithfulnessOfSet
        The latter of cells, one per cell.

    Raises
    ------
    ValueError
        If the prediction is of another model, the image is missing or does not
        fit the model, or there are no cells.
    """
    from .slides import SlidePrediction

    if prediction.model_hash != bundle.hash:
        raise ValueError(f"the prediction is not of '{bundle.card.name}'; load its own model")
    if isinstance(prediction, SlidePrediction):
        return faithfulness_of_slide(
            prediction, bundle, settings or CARD, device, progress=progress
        )
    if image is None:
        raise ValueError("give the image that the prediction was made from")
    if isinstance(prediction, Predictions):
        if not isinstance(image, Field):
            raise ValueError("cells are measured on a field; cut it out of the slide")
        return faithfulness_of_set(
            image, prediction.cells, bundle, only, settings or THOROUGH, device, t=t, z=z,
            progress=progress,
        )  # fmt: skip
    counts = np.bincount(prediction.traversal.level)
    locations = [round(b / a) for a, b in itertools.pairwise(counts.tolist())]
    return faithfulness_of_field(
        image, bundle, locations, settings or CARD, device, t=t, z=z, progress=progress
    )


def faithfulness_of_cell(
    field: Field,
    cells: Cells,
    index: int,
    bundle: Bundle,
    settings: FaithfulnessSettings = CARD,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure the evidence for the class of one cell of a field.

    Parameters
    ----------
    field, cells, bundle, device, t, z
        As in `classify_cells`.
    index : int
        Which cell.
    settings : FaithfulnessSettings
        How thoroughly; by default as fits a click.
    progress : callable, optional
        Called with "runs", those of the model done and their number; may raise to stop.

    Returns
    -------
    Faithfulness

    Raises
    ------
    ValueError
        If the image does not fit the model; the message says how.
    """
    (item,) = iter_faithfulness(
        field, cells, bundle, [index], settings, device, t=t, z=z, progress=progress
    )
    return item


def iter_faithfulness(
    field: Field,
    cells: Cells,
    bundle: Bundle,
    only: Sequence[int] | None = None,
    settings: FaithfulnessSettings = CARD,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
    progress: Progress | None = None,
) -> Iterator[Faithfulness]:
    """Measure cell by cell; closing the iterator stops the work.

    Parameters are those of `faithfulness_of_cell`; `only` says which cells, by
    default all. The mask of a cell is taken from the label image, if there is one.

    Yields
    ------
    Faithfulness
    """
    plane = check_plane(field, bundle, t, z)
    sides, _ = crop_side(field, cells, bundle)
    chosen, size = choose_device(device), bundle.card.crop.size
    for i in range(len(cells)) if only is None else only:
        centre = cells.centres[i]
        crop = cut_crops(plane, [centre], float(sides[i]), size)[0]
        frame = CropFrame(float(centre[0]), float(centre[1]), float(sides[i]), size)
        mask = None
        if cells.labels is not None:
            mask = read_at_crop_pixels(cells.labels == cells.ids[i], frame)
        yield faithfulness_of_crop(crop, bundle, settings, chosen, mask=mask, progress=progress)


def read_at_crop_pixels(mask: Mask, frame: CropFrame) -> Mask:
    """Read a mask (H, W) of an image at the centres of a crop's pixels, (size, size)."""
    line = np.stack([np.arange(frame.size)] * 2, axis=1)
    rows, columns = np.floor(frame.to_image(line) + 0.5).astype(int).T
    inside = np.outer(
        (rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1])
    )
    found = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
    at: Mask = found & inside
    return at


def faithfulness_of_crop(
    crop: npt.NDArray[np.float32],
    bundle: Bundle,
    settings: FaithfulnessSettings = CARD,
    device: str = "auto",
    *,
    mask: Mask | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure the evidence for one crop that is already cut.

    Parameters
    ----------
    crop : numpy.ndarray
        (size, size, C) float32, values as `to_float` gives them.
    mask : numpy.ndarray, optional
        (size, size) bool, where the cell is.
    bundle, settings, device, progress
        As in `faithfulness_of_cell`.
    """
    rerun = prepare_crop(crop, bundle, device)
    within = None
    if mask is not None:
        within = tiled_mean(mask, rerun.side).ravel()
    return measure(rerun, bundle.card.shown_names, settings, within, progress)


def prepare_crop(crop: npt.NDArray[np.float32], bundle: Bundle, device: str) -> CellRerun:
    """Prepare a crop (size, size, C) for running it again and again."""
    chosen = choose_device(device)
    planes = np.ascontiguousarray(crop.transpose(2, 0, 1)[None])
    ready = bundle.card.normalisation(planes)[0]
    rerun = CellRerun(
        ready, bundle.cell_model(chosen), bundle.card.temperature, chosen,
        absorbs=bundle.card.modality == "brightfield",
    )  # fmt: skip
    # That of the untouched crop for all: a hole is unlike anything known, and what it takes
    # from the class would be lost in that.
    rerun.temperature = float(bundle.temperatures(rerun.seen.states)[0])
    return rerun


def faithfulness_of_crops(
    crops: npt.NDArray[np.float32],
    bundle: Bundle,
    settings: FaithfulnessSettings = THOROUGH,
    device: str = "auto",
    *,
    ids: Sequence[int | str] | None = None,
    masks: npt.NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
) -> FaithfulnessOfSet:
    """Measure the evidence for crops (N, size, size, C) that are already cut.

    `masks` are (N, size, size); `progress` counts crops. Further parameters
    are those of `faithfulness_of_crop`.
    """
    items = []
    for i, crop in enumerate(crops):
        mask = None if masks is None else masks[i]
        items.append(faithfulness_of_crop(crop, bundle, settings, device, mask=mask))
        if progress is not None:
            progress("crops", i + 1, len(crops))
    names = tuple(range(len(crops)) if ids is None else ids)
    return FaithfulnessOfSet(names, tuple(items), settings.seed)


def faithfulness_of_set(
    field: Field,
    cells: Cells,
    bundle: Bundle,
    only: Sequence[int] | None = None,
    settings: FaithfulnessSettings = THOROUGH,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
    progress: Progress | None = None,
) -> FaithfulnessOfSet:
    """Measure the evidence for all cells of a field, or for some; `progress` counts cells.

    Raises
    ------
    ValueError
        If there are no cells, or the image does not fit the model.
    """
    rows = list(range(len(cells)) if only is None else only)
    if not rows:
        raise ValueError("there are no cells whose evidence could be measured")
    items = []
    for item in iter_faithfulness(field, cells, bundle, rows, settings, device, t=t, z=z):
        items.append(item)
        if progress is not None:
            progress("cells", len(items), len(rows))
    ids = tuple(int(cells.ids[i]) for i in rows)
    return FaithfulnessOfSet(ids, tuple(items), settings.seed)


def faithfulness_of_field(
    image: Field | Pyramid,
    bundle: Bundle,
    locations: Sequence[int] | None = None,
    settings: FaithfulnessSettings = CARD,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
    mask: Mask | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure the evidence for the class that a TNet gave a field or slide.

    The image is divided into tiles, 16 along its longer side; what the model
    reads from a tile that is removed is replaced at every scale. `mask` says,
    (rows, columns) bool, which tiles are known to decide. Other parameters are
    those of `classify_field` and `faithfulness_of_cell`.
    """
    from .field_reruns import FieldRerun

    rerun = FieldRerun(image, bundle, locations, device, t=t, z=z)
    if mask is not None and mask.shape != rerun.shape:
        raise ValueError(f"the mask of tiles must be {rerun.shape}, got {mask.shape}")
    fitting, known = _with_fills(settings, rerun), None if mask is None else mask.ravel()
    return measure(rerun, bundle.card.shown_names, fitting, known, progress)


def faithfulness_of_slide(
    prediction: SlidePrediction,
    bundle: Bundle,
    settings: FaithfulnessSettings = CARD,
    device: str = "auto",
    *,
    mask: Mask | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure the evidence for the class that a SPAN gave a slide.

    Patches are dropped, or their features replaced by those of the slide's
    ordinary patches. The features themselves are not computed again.

    Parameters
    ----------
    prediction : SlidePrediction
        Of `classify_slide`, with its features.
    bundle : Bundle
        The model it was made with.
    settings, device, progress
        As in `faithfulness_of_cell`; where fills are named that slides do not
        have, all that they have are used.
    mask : numpy.ndarray, optional
        (N,) bool, patches that are known to decide.

    Raises
    ------
    ValueError
        If the model segments, or the prediction is of another model.
    """
    from .slide_reruns import prepare_slide

    rerun = prepare_slide(prediction, bundle, device)
    if mask is not None and mask.shape != rerun.cells.shape:
        raise ValueError(f"the mask needs one value per patch, {len(rerun.cells)} in all")
    fitting = _with_fills(settings, rerun)
    return measure(rerun, bundle.card.shown_names, fitting, mask, progress)


def _with_fills(settings: FaithfulnessSettings, rerun: Rerun) -> FaithfulnessSettings:
    """The settings with all fills of this kind of image, unless they name such fills only."""
    fit = set(settings.fills) <= set(rerun.fills)
    return settings if fit else dataclasses.replace(settings, fills=rerun.fills)
