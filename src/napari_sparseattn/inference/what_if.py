"""Ask a model *what if*: content removed, alone, or looked at by force.

Every answer holds the model before and after, so that classes, logits and
selection can be shown side by side. Nothing is changed but the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..evidence import CropFrame, PixelSelection, Traversal
from ..evidence.answers import Answer, Evidence, WhatIf
from ..evidence.measures import overlap
from ..images.fields.cells import Cells
from ..images.fields.crops import cut_crops
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from .cells import check_plane, crop_side
from .faithfulness import prepare_crop, read_at_crop_pixels
from .reruns import CellRerun, Mask, crop_coverage, one_thread, softmax

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.span import SpanOutput
    from ..models.tnet.crops import Crops
    from .field_reruns import FieldRerun
    from .slide_reruns import SlideRerun
    from .slides import SlidePrediction

__all__ = [
    "Answer",
    "Question",
    "WhatIf",
    "choose_pixels",
    "what_if_cell",
    "what_if_crop",
    "what_if_field",
    "what_if_slide",
]

Question = Literal["remove", "keep", "look"]
#: Places along the longer side at which two traversals are compared.
_PLACES = 256


def what_if_cell(
    field: Field,
    cells: Cells,
    index: int,
    bundle: Bundle,
    mask: Mask,
    question: Question,
    fill: str = "mean",
    seed: int = 0,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
) -> WhatIf:
    """Ask about one cell of a field, with a mask that was painted on the field.

    Parameters
    ----------
    field, cells, bundle, device, t, z
        As in `classify_cells`.
    index : int
        Which cell.
    mask : numpy.ndarray
        (H, W) bool, of the field.
    question, fill, seed
        As in `what_if_crop`.

    Raises
    ------
    ValueError
        If the mask has another size, or misses the cell's crop.
    """
    plane = check_plane(field, bundle, t, z)
    if mask.shape != plane.shape[:2]:
        raise ValueError(f"the mask must have the field's size {plane.shape[:2]}, not {mask.shape}")
    side, size = float(crop_side(field, cells, bundle)[0][index]), bundle.card.crop.size
    row, column = cells.centres[index].tolist()
    frame = CropFrame(row, column, side, size)
    crop = cut_crops(plane, [(row, column)], side, size)[0]
    within = read_at_crop_pixels(mask, frame)
    return what_if_crop(crop, bundle, within, question, fill, seed, device, frame=frame)


def what_if_crop(
    crop: npt.NDArray[np.float32] | CellRerun,
    bundle: Bundle,
    mask: Mask | None,
    question: Question = "remove",
    fill: str = "mean",
    seed: int = 0,
    device: str = "auto",
    *,
    moves: Mapping[int, tuple[float, float]] | None = None,
    frame: CropFrame | None = None,
) -> WhatIf:
    """Ask about one crop.

    Parameters
    ----------
    crop : numpy.ndarray or CellRerun
        (size, size, C) float32, values as `to_float` gives them; or one asked
        about before, which saves its first answer.
    bundle : Bundle
        A SparseAttnNet or a TNet.
    mask : numpy.ndarray or None
        (size, size) bool; None only with `moves`.
    question : {"remove", "keep", "look"}
        Replace the content inside the mask; replace all but it; or leave the
        content and force the model to look there: the pixels of the mask, at
        most k, are kept first; a TNet's nearest fitting crop is moved there.
    fill, seed
        See `evidence.fills.fill`.
    device : str
        As in `choose_device`.
    moves : mapping of int to (float, float), optional
        Of a TNet: where the middle of crops of its traversal shall be, in
        pixels of the crop with corners at whole numbers.
    frame : CropFrame, optional
        Where the crop lies on its image.

    Raises
    ------
    ValueError
        If mask or question do not fit.
    """
    rerun = crop if isinstance(crop, CellRerun) else prepare_crop(crop, bundle, device)
    rerun = rerun if frame is None else rerun.with_frame(frame)
    (first,) = rerun.seen.evidence
    part = None if moves is not None else _check_mask(mask, (rerun.size, rerun.size), question)
    if part is None:
        asked, used, share = "move", "", 0.0
        logits, evidence = _steer_crop(rerun, moves or {})
    elif question == "look":
        asked, used, share = "look", "", float(part.mean())
        logits, evidence = _force_crop(rerun, part)
    else:
        gone = part if question == "remove" else ~part
        asked, used, share = question, fill, float(gone.mean())
        logits, evidence = _fill_crop(rerun, gone, fill, seed)
    before = _answer(bundle, rerun.temperature, rerun.seen.logits[0].numpy(), first)
    after = _answer(bundle, rerun.temperature, logits, evidence)
    return WhatIf(asked, used, share, before, after, _overlap(first, evidence))


def _fill_crop(
    rerun: CellRerun, gone: Mask, fill: str, seed: int
) -> tuple[npt.NDArray[np.floating], Evidence]:
    seen = rerun.run(rerun.replace_pixels(gone[None], fill, seed), evidence=True)
    return seen.logits[0].numpy(), seen.evidence[0]


def _check_mask(mask: Mask | None, shape: tuple[int, ...], question: str) -> Mask:
    if question not in get_args(Question):
        raise ValueError(f"question must be remove, keep or look, got '{question}'")
    if mask is None or mask.dtype != bool or mask.shape != shape:
        found = "none" if mask is None else f"{mask.dtype} of {mask.shape}"
        raise ValueError(f"a mask of bool of shape {shape} is needed, got {found}")
    if not mask.any():
        raise ValueError("the region is empty here: draw it inside of what the model sees")
    return mask


def _answer(
    bundle: Bundle,
    temperature: float,
    logits: npt.NDArray[np.floating],
    evidence: Evidence | None,
) -> Answer:
    values = np.asarray(logits, np.float64)
    return Answer(bundle.card.shown_names, values, softmax(values, temperature), evidence)


def _overlap(first: Evidence, second: Evidence | None) -> float:
    """Overlap of two selections of the same kind."""
    if isinstance(first, PixelSelection) and isinstance(second, PixelSelection):
        return overlap(first.mask(), second.mask())
    if isinstance(first, Traversal) and isinstance(second, Traversal):
        longest = max(first.shape)
        height, width = (max(1, round(_PLACES * length / longest)) for length in first.shape)
        return overlap(*(crop_coverage(way, (height, width)) for way in (first, second)))
    return float("nan")


def choose_pixels(scores: npt.NDArray[np.floating], mask: Mask, k: int) -> npt.NDArray[np.int64]:
    """Choose k pixels: those of a mask, best first, and then the best of the others.

    Parameters
    ----------
    scores : numpy.ndarray
        (H, W), e.g. the coarse map.
    mask : numpy.ndarray
        (H, W) bool.
    k : int
        How many.

    Returns
    -------
    numpy.ndarray
        (k,) int64, ``row * W + column``, ascending.
    """
    order = np.lexsort((-scores.ravel().astype(np.float64), ~mask.ravel()))
    return np.sort(order[:k]).astype(np.int64)


def _force_crop(rerun: CellRerun, mask: Mask) -> tuple[npt.NDArray[np.float32], Evidence]:
    import torch

    from ..models.sparse.network import SparseAttnNet
    from ..models.sparse.stipple import thresholds
    from .run_crops import to_selections

    (first,) = rerun.seen.evidence
    model = rerun.model
    if isinstance(first, Traversal):
        return _steer_crop(rerun, nearest_crop(first, _middle(mask)))
    assert isinstance(model, SparseAttnNet)
    scores = first.coarse
    if model.config.selector == "map":
        # As the model scatters its own choice over the map.
        height, width = scores.shape
        even = thresholds(height, width, torch.device("cpu")).numpy().reshape(height, width)
        scores = (scores / even).astype(np.float32)
    indices = torch.from_numpy(choose_pixels(scores, mask, first.k))[None]
    batch = torch.from_numpy(rerun.ready[None]).to(rerun.device)
    with torch.inference_mode(), one_thread(rerun.device):
        output = model(batch, indices=indices.to(rerun.device))
    (evidence,) = to_selections(output, [rerun.frame], model.receptive_field)
    return output.logits[0].cpu().numpy(), evidence


def nearest_crop(way: Traversal, middle: tuple[float, float]) -> dict[int, tuple[float, float]]:
    """Move the crop of the first closer level that is nearest to a place, as `moves`."""
    if way.n_levels < 2:
        raise ValueError("this model looked at the whole only; it has no crop that can be moved")
    rows = np.flatnonzero(way.level == 1)
    centres = way.boxes[rows, :2] + way.boxes[rows, 2:] / 2
    nearest = int(rows[np.hypot(*(centres - middle).T).argmin()])
    return {nearest: middle}


def _middle(mask: Mask) -> tuple[float, float]:
    row, column = (np.argwhere(mask) + 0.5).mean(axis=0)
    return float(row), float(column)


def make_steering(
    way: Traversal, moves: Mapping[int, tuple[float, float]]
) -> Callable[[int, Crops], Crops]:
    """Return what `TNet.forward` takes to put crops of a traversal elsewhere.

    Raises
    ------
    ValueError
        If a crop is not there, is the first, or would lie off the image.
    """
    import torch

    from ..models.tnet.crops import move_crops

    for crop, (row, column) in moves.items():
        if not 0 < crop < len(way):
            raise ValueError(f"there is no crop {crop} that can be moved; 1 to {len(way) - 1} can")
        if not (0 <= row <= way.shape[0] and 0 <= column <= way.shape[1]):
            raise ValueError(f"crop {crop} would lie off the image, at {row:.0f}, {column:.0f}")

    def steer(level: int, crops: Crops) -> Crops:
        first = int(np.flatnonzero(way.level == level)[0])
        here = {i - first: place for i, place in moves.items() if way.level[i] == level}
        if not here:
            return crops
        rows = torch.tensor(list(here))
        middles = torch.tensor(list(here.values()), dtype=torch.float64)
        corners = (middles - crops.boxes[rows, 2:].double() / 2).round().long()
        return move_crops(crops, rows, corners, way.shape)

    return steer


def _steer_crop(
    rerun: CellRerun, moves: Mapping[int, tuple[float, float]]
) -> tuple[npt.NDArray[np.float32], Evidence]:
    import torch

    from ..models.tnet.network import TNet
    from .fields import to_cpu, to_traversals

    (way,), model = rerun.seen.evidence, rerun.model
    if not isinstance(way, Traversal) or not isinstance(model, TNet):
        raise ValueError("only a TNet has crops that can be moved")
    batch = torch.from_numpy(rerun.ready[None]).to(rerun.device)
    with torch.inference_mode(), one_thread(rerun.device):
        output = to_cpu(model(batch, steer=make_steering(way, moves)))
    (after,) = to_traversals(output, way.shape, way.base)
    return output.logits[0].numpy(), dataclasses.replace(after, frame=way.frame)


def what_if_field(
    image: Field | Pyramid | FieldRerun,
    bundle: Bundle,
    mask: Mask | None = None,
    question: Question = "remove",
    fill: str = "mean",
    seed: int = 0,
    *,
    moves: Mapping[int, tuple[float, float]] | None = None,
) -> WhatIf:
    """Ask a TNet about a field or slide.

    Only crops that show something new are read and put through the backbone:
    `FieldRerun.computed` counts them.

    Parameters
    ----------
    image : Field, Pyramid or FieldRerun
        The image; or a `FieldRerun` of it and the model, which is kept from
        question to question.
    bundle : Bundle
        The model.
    mask : numpy.ndarray, optional
        (rows, columns) bool at any resolution, over the whole image.
    question, fill, seed
        As in `what_if_crop`.
    moves : mapping of int to (float, float), optional
        Crops of the traversal, and where their middle shall be, in pixels of
        the full resolution.

    Raises
    ------
    ValueError
        If neither or both are given, or they do not fit.
    """
    from .field_reruns import FieldRerun

    if (mask is None) == (moves is None):
        raise ValueError("give either a mask, or crops to be moved")
    rerun = FieldRerun(image, bundle) if isinstance(image, Field | Pyramid) else image
    first = rerun.seen
    before = _answer(bundle, rerun.temperature, first.logits, first)
    nothing = np.zeros((1, *rerun.shape), bool)
    share, used = 0.0, ""
    if mask is None:
        assert moves is not None
        output, asked = rerun.run(nothing, steer=make_steering(first, moves)), "move"
    else:
        _check_mask(mask, mask.shape, question)
        share, asked = float(mask.mean()), question
        if question == "look":
            scale = np.array(first.shape) / mask.shape
            row, column = _middle(mask) * scale
            wanted = nearest_crop(first, (float(row), float(column)))
            output = rerun.run(nothing, steer=make_steering(first, wanted))
        else:
            gone, used = (mask if question == "remove" else ~mask), fill
            share = float(gone.mean())
            output = rerun.run(gone[None], fill, seed)
    second = rerun.traversal(output)
    after = _answer(bundle, rerun.temperature, output.logits[0].numpy(), second)
    return WhatIf(asked, used, share, before, after, _overlap(first, second))


def what_if_slide(
    slide: SlidePrediction | SlideRerun,
    bundle: Bundle,
    mask: Mask | None = None,
    question: Literal["remove", "keep"] = "remove",
    fill: str = "drop",
    seed: int = 0,
    *,
    levels: Sequence[int] = (),
) -> WhatIf:
    """Ask a SPAN about a slide: patches dropped or replaced, levels left out.

    The features of all patches are used again; none is encoded anew.

    Parameters
    ----------
    slide : SlidePrediction or SlideRerun
        Of `classify_slide`, with its features; or what `prepare_slide` made of
        it, which is kept from question to question.
    bundle : Bundle
        The model.
    mask : numpy.ndarray, optional
        (N,) bool, patches.
    question : {"remove", "keep"}
        Whether these go, or all others.
    fill : {"drop", "ordinary", "mean"}
        What stands in for patches that go.
    seed : int
        Of the ordinary patches drawn by lot.
    levels : sequence of int
        Levels that the classifier does not hear of, 0 the finest.

    Raises
    ------
    ValueError
        If nothing is asked, or all patches or levels would go.
    """
    from .slide_reruns import SlideRerun, prepare_slide, top_patches

    rerun = slide if isinstance(slide, SlideRerun) else prepare_slide(slide, bundle)
    n = len(rerun.cells)
    gone = np.zeros(n, bool)
    if mask is not None:
        chosen = _check_mask(mask, (n,), question)
        if question not in ("remove", "keep"):
            raise ValueError("patches can be removed or kept; a SPAN looks at all of them anyway")
        gone = chosen if question == "remove" else ~chosen
    elif not levels:
        raise ValueError("name patches or levels")
    whole = rerun.whole
    before = _answer(bundle, rerun.temperature, _leave_out_levels(rerun, whole, ()), rerun.seen)
    output = rerun.run(gone, fill, seed) if gone.any() else whole
    logits = _leave_out_levels(rerun, output, levels)
    evidence = None if fill == "drop" and gone.any() else rerun.attention(output)
    after = _answer(bundle, rerun.temperature, logits, evidence)
    shared = float("nan")
    if evidence is not None:
        shared = overlap(*(top_patches(e.patch_weights()) for e in (rerun.seen, evidence)))
    asked = question if mask is not None else "levels"
    return WhatIf(asked, fill if gone.any() else "", float(gone.mean()), before, after, shared)


def _leave_out_levels(
    rerun: SlideRerun, output: SpanOutput, without: Sequence[int]
) -> npt.NDArray[np.floating]:
    """Logits of a run with some levels left out of the sum that is classified."""
    import torch

    from ..models.span import SpanMil

    count = len(output.levels)
    if any(not 0 <= level < count for level in without):
        raise ValueError(f"levels are 0 to {count - 1}, got {', '.join(map(str, without))}")
    if not without:
        return output.logits[0].float().cpu().numpy()
    model = rerun.model
    if not isinstance(model, SpanMil):
        raise ValueError("levels can be left out of models that classify slides alone")
    kept = [level.tokens[0] for i, level in enumerate(output.levels) if i not in without]
    if not kept:
        raise ValueError("at least one level must stay")
    with torch.inference_mode():
        summed: Tensor = model.norm(torch.stack(kept).sum(0, keepdim=True))
        logits: Tensor = model.head(summed)
    found: npt.NDArray[np.floating] = logits[0].float().cpu().numpy()
    return found
