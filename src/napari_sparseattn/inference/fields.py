"""Classify a whole field of view or slide by traversing it with a TNet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..device import choose_device, computing, is_out_of_memory
from ..evidence import Stop, Traversal
from ..images.fields.field import Field
from ..images.normalise import Normalisation, to_float
from ..images.slides.pyramid import ArrayPyramid, Pyramid, Reading, level_for, read_window
from ..images.tissue.mask import check_bright, check_slide
from ..progress import Progress, heard
from .prediction import Prediction, ReadingLedger
from .units import check_unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.tnet.crops import Crops, TNetOutput
    from ..models.tnet.halting import Halt
    from ..models.tnet.network import TNet, TNetConfig

__all__ = [
    "FieldPrediction",
    "PyramidSource",
    "as_pyramid",
    "classify_field",
    "field_network",
    "to_cpu",
    "to_traversals",
    "traverse",
]

#: Full-resolution pixels of one crop that are held at once; larger ones are reduced in parts.
_MOST_PIXELS = 2**24
#: By what factor the closest look may differ from what was trained with before it is said.
_SCALE_OFF = 1.6
#: Means along the longer side in which a field is looked at for whether anything is there, the
#: least pixels along one, and the range of grey, 0 to 1, up to which nothing is.
_LOOK, _GRAIN, _EVEN = 256, 4, 0.04


@dataclasses.dataclass(frozen=True)
class FieldPrediction(Prediction):
    """A field's or slide's class, the way to it, and what was read for it.

    Its `evidence` is a `Traversal`, whose shares are of the logits before the
    card's temperature.

    Parameters
    ----------
    reading : Reading or None
        Which tiles were decoded, at which level, with bytes and seconds.
    """

    # A dataclass would make its own.
    __repr__ = Prediction.__repr__

    reading: Reading | None = None

    @property
    def traversal(self) -> Traversal:
        """The crops that were looked at."""
        if not isinstance(self.evidence, Traversal):
            raise TypeError("this prediction was made without a traversal")
        return self.evidence


class PyramidSource:
    """Slides of one size as the source of a TNet's crops.

    Only what a crop shows is decoded, from the coarsest level that still has
    the resolution asked for. Pixels off the image, and those that cannot be
    decoded, are zero after normalisation, as padding is.

    Parameters
    ----------
    pyramids : sequence of Pyramid
        One per image of the batch, all of one size and number of channels.
    normalisation : Normalisation
        Of kind ``"fixed"``: others need to see the whole image at once.
    progress : callable, optional
        Called with "crops", those read so far and 0; it may raise to stop.

    Raises
    ------
    ValueError
        If sizes differ, or the normalisation is of another kind.
    """

    def __init__(
        self,
        pyramids: Sequence[Pyramid],
        normalisation: Normalisation,
        progress: Progress | None = None,
    ) -> None:
        if len({(pyramid.shape, pyramid.channels) for pyramid in pyramids}) != 1:
            raise ValueError("images that are classified together must be of one size")
        if normalisation.kind != "fixed":
            raise ValueError(
                f"normalisation '{normalisation.kind}' needs the whole image at once and cannot "
                "be used on a slide; choose a model with normalisation 'fixed'"
            )
        self.pyramids, self.normalisation, self.progress = pyramids, normalisation, progress
        self.count, (self.height, self.width) = len(pyramids), pyramids[0].shape
        self.n_read = 0

    def read(self, crops: Crops, base: int) -> Tensor:
        """Return crops (M, C, base, base) float32; see `CropSource`."""
        import torch

        for number, pyramid in enumerate(self.pyramids):
            here = crops.boxes[crops.image == number].tolist()
            pyramid.fetch_ahead([(top, left, side, side, base, base) for top, left, side in here])
        parts = []
        for image, (top, left, side), seen in zip(
            crops.image.tolist(), crops.boxes.tolist(), crops.seen.tolist(), strict=True
        ):
            parts.append(self._crop(self.pyramids[image], top, left, side, seen, base))
            self.n_read += 1
            if self.progress is not None:
                self.progress("crops", self.n_read, 0)
        return torch.stack(parts)

    def _crop(
        self, pyramid: Pyramid, top: int, left: int, side: int, seen: Sequence[int], base: int
    ) -> Tensor:
        import torch

        from ..models.tnet.crops import reduce_crop

        y0, x0, y1, x1 = seen
        if level_for(pyramid, side / base) > 0 or side**2 > _MOST_PIXELS:
            pixels, valid = read_window(pyramid, top, left, side, side, base, base)
            centres = (np.arange(base) + 0.5) * side / base
            rows, columns = centres + top, centres + left
            shown = np.outer((rows > y0) & (rows < y1), (columns > x0) & (columns < x1))
            return torch.from_numpy(self._ready(pixels, valid & shown))
        # Of the full resolution, exactly as images in memory are cut and reduced.
        cut = torch.zeros(pyramid.channels, side, side)
        region = pyramid.read_region(y0, x0, 0, y1 - y0, x1 - x0)
        ready = self._ready(to_float(region.pixels), region.valid)
        cut[:, y0 - top : y1 - top, x0 - left : x1 - left] = torch.from_numpy(ready)
        return reduce_crop(cut[None], base)[0]

    def _ready(
        self, pixels: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Normalised (C, h, w); zero where not valid or not a number."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        ready: npt.NDArray[np.float32] = self.normalisation(planes)[0]
        ready[:, ~valid] = 0
        ready[~np.isfinite(ready)] = 0
        return ready


def classify_field(
    image: Field | Pyramid,
    bundle: Bundle,
    locations: Sequence[int] | None = None,
    device: str = "auto",
    *,
    t: int = 0,
    z: int = 0,
    halt: bool = True,
    progress: Progress | None = None,
) -> FieldPrediction:
    """Classify an image by looking closely only where the model decides to.

    Parameters
    ----------
    image : Field or Pyramid
        Of a slide only what is looked at is decoded.
    bundle : Bundle
        A TNet.
    locations : sequence of int, optional
        Crops looked at inside each crop, per level but the last: a dial
        between cost and detail. By default as trained, the last repeated.
    device : str
        See `choose_device`.
    t, z : int
        Frame and slice of a stack.
    halt : bool
        Let a model whose card says what is sure enough stop by itself, before
        it has looked at as many crops as `locations` allow.
    progress : callable, optional
        Called with "crops", those read so far and 0, as their number is not
        known before; it may raise to stop.

    Returns
    -------
    FieldPrediction

    Raises
    ------
    ValueError
        If the image, the model or the locations do not fit; the message says how.
    ImageError
        If the slide's file is gone or has changed.
    """
    with heard(progress, "crops") as report:
        return _classify(image, bundle, locations, choose_device(device), t, z, halt, report)


def _classify(
    image: Field | Pyramid,
    bundle: Bundle,
    locations: Sequence[int] | None,
    chosen: str,
    t: int,
    z: int,
    halt: bool,
    progress: Progress,
) -> FieldPrediction:
    card = bundle.card
    model = field_network(bundle, chosen)
    pyramid, normalisation = as_pyramid(image, bundle, t, z)
    _check_content(image, bundle, t, z)
    own = image.notes if isinstance(image, Field) else ()
    limits = [card.limits] if card.limits else []
    notes = [*limits, *own, *pyramid.notes, *pyramid.colour_notes]
    began = time.perf_counter()
    try:
        output = traverse(pyramid, model, normalisation, locations, progress, halt=halt)
    except (RuntimeError, MemoryError) as error:
        if chosen == "cpu" or not is_out_of_memory(error):
            raise
        notes.append(f"Memory ran out on {chosen}: continued on the CPU.")
        chosen, model = "cpu", field_network(bundle, "cpu")
        output = traverse(pyramid, model, normalisation, locations, progress, halt=halt)
    seconds = time.perf_counter() - began
    (traversal,) = to_traversals(
        output,
        pyramid.shape,
        model.config.base,
        model.halt if halt else None,
        model.config.crops_at_most(max(pyramid.shape), locations),
    )
    notes += _about_scale(pyramid, traversal, card, model.config)
    notes += network_notes(pyramid)
    reading = pyramid.ledger.snapshot()
    ledger = _ledger(pyramid, reading, traversal, seconds, chosen, notes)
    chances = (output.logits[0] / card.temperature).softmax(0).numpy()
    found = (chances, traversal, ledger, bundle.hash, pyramid.pixel_size is not None)
    novelty = None
    side = max(pyramid.shape)
    stops = halt and model.halt is not None and card.halting is not None
    if bundle.known is not None and (
        card.halting.known_halted
        if stops and card.halting
        else _as_trained(output, model, side, card)
    ):
        novelty = float(bundle.known.novelty(output.state)[0])
    return FieldPrediction(card.shown_names, *found, novelty=novelty, reading=reading)


def _as_trained(output: TNetOutput, model: TNet, side: int, card: Card) -> bool:
    """Whether it was looked at as in training, to whose mean states those of now compare."""
    sides = None if card.novelty is None else card.novelty.sides
    trained = model.config.locations
    # Measured at several sizes: one beyond them is compared too, and may be flagged for that.
    if sides is not None:
        trained = model.config.locations_for(side)
    crops = taken = 1
    for k in trained:
        taken *= k
        crops += taken
    return int(output.counts[0]) == crops


def _about_scale(pyramid: Pyramid, way: Traversal, card: Card, config: TNetConfig) -> list[str]:
    """Say where the image's own µm per pixel is not what a TNet looked at it with."""
    if pyramid.pixel_size is None:
        return []
    finest = float(min(way.boxes[:, 2])) / way.base * pyramid.pixel_size
    # The last level of training may have been coarser than the image, and is then as it should be.
    last = config.image_size * config.overlap ** len(config.locations)
    trained = card.crop.pixel_size * last / config.base
    if 1 / _SCALE_OFF <= finest / trained <= _SCALE_OFF:
        return []
    said = (
        f"{pyramid.pixel_size:g} µm per pixel is known, but a TNet divides the whole image, "
        f"whatever its size: the closest look was at {finest:.3g} µm per pixel, and "
        f"'{card.name}' was trained with {trained:.3g}."
    )
    return [said]


def _check_content(image: Field | Pyramid, bundle: Bundle, t: int, z: int) -> None:
    """Refuse an image with nothing on the glass, or without glass: it has no class."""
    bright = bundle.card.modality == "brightfield"
    if isinstance(image, Pyramid):
        check_slide(image, brightfield=bright, tissue=image.is_stored)
        return
    if not bright:
        return
    plane = to_float(image.plane(t, z))
    # Means, or the grain of an empty field would look like something.
    step = min(*plane.shape[:2], max(_GRAIN, max(plane.shape[:2]) // _LOOK))
    seen = plane[: plane.shape[0] // step * step, : plane.shape[1] // step * step]
    rows, columns = seen.shape[0] // step, seen.shape[1] // step
    seen = seen.reshape(rows, step, columns, step, -1).mean(axis=(1, 3))
    valid = np.isfinite(seen).all(axis=2)
    if not valid.any():
        raise ValueError(
            f"{image.name or 'The image'} holds no number anywhere: there is nothing to classify."
        )
    check_bright(seen, valid, image.name)
    low, high = np.quantile(seen[valid], (0.005, 0.995), axis=0)
    if float((high - low).max()) < _EVEN:
        raise ValueError(
            f"{image.name or 'The image'} is even all over: there is nothing to classify. Look at "
            "it; it may be empty."
        )


def network_notes(pyramid: Pyramid) -> list[str]:
    """Say what was loaded of a slide on another machine; nothing of any other."""
    traffic = pyramid.traffic
    return [] if traffic is None else [f"from another machine: {traffic.summary()}"]


def _ledger(
    pyramid: Pyramid,
    reading: Reading,
    traversal: Traversal,
    seconds: float,
    device: str,
    notes: list[str],
) -> ReadingLedger:
    if reading.n_failed:
        notes.append(
            f"{reading.n_failed} tiles could not be decoded: "
            f"{100 * reading.fraction_failed:.2g} % of what was asked for was left out."
        )
    return ReadingLedger(
        pixels=reading.bytes_decoded // (pyramid.channels * pyramid.dtype.itemsize),
        classified=len(traversal) * traversal.base**2,
        crop_pixels=pyramid.shape[0] * pyramid.shape[1],
        seconds=seconds,
        device=device,
        notes=tuple(notes),
    )


def field_network(bundle: Bundle, device: str) -> TNet:
    """Return a bundle's TNet, or raise a ValueError if it is of another kind."""
    if bundle.card.takes_slides:
        raise ValueError(
            f"'{bundle.card.name}' classifies slides by their patches, not images as a whole. Use "
            "`napari-sparseattn slide` or classify_slide, or choose a TNet."
        )
    if "fields" not in bundle.card.model_kind.takes:
        raise ValueError(
            f"'{bundle.card.name}' classifies cells, not whole fields. Choose a TNet, or find "
            "cells and use classify_cells."
        )
    return cast("TNet", bundle.model(device))


def traverse(
    pyramid: Pyramid,
    model: TNet,
    normalisation: Normalisation,
    locations: Sequence[int] | None = None,
    progress: Progress | None = None,
    *,
    halt: bool = True,
) -> TNetOutput:
    """Run a TNet on one slide, without gradients; the output is on the CPU.

    It stops by itself where its card says what is sure enough, unless `halt` is False.
    """
    import torch

    source = PyramidSource([pyramid], normalisation, progress)
    with torch.inference_mode(), computing(model.head.weight.device.type):
        output: TNetOutput = model(source, locations, halt=model.halt if halt else None)
    return to_cpu(output)


def to_cpu(output: TNetOutput) -> TNetOutput:
    """Bring all tensors of a TNet's output to the CPU."""
    levels = tuple(
        level._replace(
            crops=type(level.crops)(*(tensor.cpu() for tensor in level.crops)),
            logits=level.logits.cpu(),
            states=level.states.cpu(),
            probabilities=None if level.probabilities is None else level.probabilities.cpu(),
        )
        for level in output.levels
    )
    return output._replace(logits=output.logits.cpu(), levels=levels)


def to_traversals(
    output: TNetOutput,
    shape: tuple[int, int],
    base: int,
    halt: Halt | None = None,
    most: int = 0,
) -> tuple[Traversal, ...]:
    """Turn what a TNet returned on the CPU for B images of one shape into plain data.

    Parameters
    ----------
    output : TNetOutput
        Of the network.
    shape : (int, int)
        Height and width of the images in pixels of the full resolution.
    base : int
        Side at which crops were read.
    halt : Halt, optional
        What let it stop, if it might.
    most : int
        How many crops it could then have looked at.

    Returns
    -------
    tuple of Traversal
        One per image.
    """
    crops = [level.crops for level in output.levels]
    sizes = [len(each.image) for each in crops]
    # Crops of all levels are numbered on; those that were searched come first.
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    parent = np.concatenate(
        [np.full(sizes[0], -1)]
        + [each.parent.numpy() + offsets[i] for i, each in enumerate(crops[1:])]
    )
    image, rank, candidate, boxes = (
        np.concatenate([getattr(each, name).numpy() for each in crops])
        for name in ("image", "rank", "candidate", "boxes")
    )
    level = np.repeat(np.arange(len(crops)), sizes)
    share = np.concatenate([each.detach().float().numpy() for each in output.contributions()])
    places, relative = _list_candidates(output)
    chosen = np.zeros(relative.shape, dtype=bool)
    chosen[parent[sizes[0] :], candidate[sizes[0] :]] = True
    found = []
    for i in range(sizes[0]):
        rows = np.flatnonzero(image == i)
        number = np.full(len(image) + 1, -1)  # the root's parent, -1, stays -1
        number[rows] = np.arange(len(rows))
        searched = rows[rows < len(relative)]
        top, left, side = boxes[rows].astype(np.float64).T
        found.append(
            Traversal(
                shape=shape,
                base=base,
                level=level[rows],
                rank=rank[rows],
                parent=number[parent[rows]],
                top=top,
                left=left,
                height=side,
                width=side.copy(),
                contribution=share[rows],
                searched=number[searched],
                candidates=places[searched],
                relative_probability=relative[searched],
                chosen=chosen[searched],
                stop=None if halt is None else _stop_of(output, i, len(rows), halt, most),
            )
        )
    return tuple(found)


def _stop_of(output: TNetOutput, image: int, crops: int, halt: Halt, most: int) -> Stop:
    sure = (output.logits[image].float() / halt.temperature).softmax(0).max()
    return Stop(crops, most, float(sure), halt.threshold)


def _list_candidates(output: TNetOutput) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Boxes (P, n * n, 4) of all candidates, and their probabilities times n * n."""
    from ..models.tnet.crops import candidates

    boxes, relative = [np.empty((0, 0, 3), np.int64)], [np.empty((0, 0), np.float32)]
    for level, grid in zip(output.levels, output.grids, strict=False):
        assert level.probabilities is not None
        boxes.append(candidates(level.crops, grid)[0].numpy())
        relative.append(level.probabilities.detach().float().numpy() * np.float32(grid.n**2))
    first = 1 if len(boxes) > 1 else 0
    joined = np.concatenate(boxes[first:]).astype(np.float64)
    return np.concatenate([joined, joined[..., 2:]], axis=2), np.concatenate(relative[first:])


def as_pyramid(
    image: Field | Pyramid, bundle: Bundle, t: int, z: int
) -> tuple[Pyramid, Normalisation]:
    """Return the image with a ledger of its own, and the normalisation its crops need."""
    card = bundle.card
    channels = image.n_channels if isinstance(image, Field) else image.channels
    if channels != len(card.channels):
        raise ValueError(
            f"'{card.name}' needs {card.channels_text}, "
            f"the image has {channels}. Choose another model, or an image of that kind."
        )
    if isinstance(image, Pyramid):
        return image.with_own_ledger(), card.normalisation
    if "unknown" not in (image.modality, card.modality) and image.modality != card.modality:
        raise ValueError(
            f"'{card.name}' was trained on {card.modality} images, this one is marked as "
            f"{image.modality}. Choose another model, or correct the image's modality."
        )
    check_unit(image, card)
    plane, normalisation = image.plane(t, z), card.normalisation
    if normalisation.kind != "fixed":
        # It needs the whole image; in memory that is at hand.
        whole, finite = _without_gaps(to_float(plane))
        ready = normalisation(whole.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)
        plane = np.ascontiguousarray(ready)
        plane[~finite] = 0  # as what is off the image is
        normalisation = Normalisation("fixed", 0.0, 1.0)
    pyramid = ArrayPyramid(plane, pixel_size=image.pixel_size, name=image.name, path=image.path)
    return pyramid, normalisation


def _without_gaps(
    values: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return pixels with their channel's median where they are no numbers, and where they are.

    A white reference, which is a quantile, would be no number either.
    """
    finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=2))
    if finite.all() or not finite.any():
        return np.nan_to_num(values, posinf=0.0, neginf=0.0), finite
    filled = values.copy()
    filled[~finite] = np.median(values[finite], axis=0)
    return filled, finite
