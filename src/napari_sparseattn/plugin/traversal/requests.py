"""A whole field or slide for a TNet: what a worker is asked, and how it is answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from ...images.fields.field import Field
from ...images.slides.pyramid import ArrayPyramid, Pyramid
from ..core.models import Model
from ..core.pictures import Thumbnails, draw_thumbnails
from ..core.sources import ImageSettings, PlaneRef, field_of
from ..core.status import StoppedError

if TYPE_CHECKING:
    from napari.layers import Image

    from ...inference.fields import FieldPrediction

__all__ = [
    "MOST_CROPS",
    "FieldAnswer",
    "FieldRequest",
    "crops_at_most",
    "levels_below",
    "stream_field",
]

#: A traversal of more crops is refused: it would take minutes, and tell nothing more.
MOST_CROPS = 3000
_TICK_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class FieldRequest:
    """Classify a whole field or slide.

    Parameters
    ----------
    generation : int
        An answer to an older one than the session's is stale.
    layer : napari.layers.Image
        The image.
    plane : PlaneRef
        Its displayed plane.
    settings : ImageSettings
        Its modality and pixel size.
    model : Model
        With a TNet.
    pyramid : Pyramid or None
        The slide that the layer shows; None for an image in memory.
    locations : tuple of int or None
        Crops looked at inside each crop, per level; None as trained.
    crops : int
        How many crops it will look at, at most.
    halt : bool
        Whether a model that knows when it is sure enough stops by itself.
    stop : threading.Event
        Set to end the work at its next crop.
    """

    generation: int
    layer: Image
    plane: PlaneRef
    settings: ImageSettings
    model: Model
    pyramid: Pyramid | None
    locations: tuple[int, ...] | None
    crops: int
    halt: bool = True
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class FieldAnswer:
    """A field's class, the way to it, and pictures of its crops."""

    request: FieldRequest
    prediction: FieldPrediction
    thumbnails: Thumbnails


def levels_below(architecture: dict[str, Any], side: int) -> tuple[int, ...]:
    """Return the locations per level that a TNet takes of an image by default.

    Parameters
    ----------
    architecture : dict
        As in the card.
    side : int
        The image's longer side in pixels.
    """
    from ...models.tnet.network import TNetConfig

    return TNetConfig(**architecture).locations_for(side)


def crops_at_most(locations: Sequence[int]) -> int:
    """Return how many crops are looked at, the whole image among them."""
    total = level = 1
    for taken in locations:
        level *= taken
        total += level
    return total


def stream_field(request: FieldRequest) -> Iterator[int | FieldAnswer]:
    """Classify a field in another thread, and tell how far it is.

    Yields
    ------
    int, then FieldAnswer
        Crops read so far, some times a second; the answer at the end, or
        nothing more when it was stopped.

    Raises
    ------
    ValueError, ImageError, MemoryError
        As `classify_field`.
    """
    read = 0

    def count(stage: str, done: int, total: int) -> None:
        nonlocal read
        read = done
        if request.stop.is_set():
            raise StoppedError

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_answer_field, request, count)
        try:
            while not wait([work], _TICK_SECONDS).done:
                yield read
            yield work.result()
        except StoppedError:
            return
        finally:
            # Whoever closes this iterator waits for one crop, not for all.
            request.stop.set()


def _answer_field(request: FieldRequest, count: Any) -> FieldAnswer:
    from ...device import computing
    from ...inference.fields import classify_field

    image: Field | Pyramid
    if request.pyramid is not None:
        image = pyramid = request.pyramid
    else:
        image = field_of(request.plane, request.settings)
        pyramid = ArrayPyramid(image.plane(0, 0))
    model = request.model
    with computing(model.device, model.precision):
        prediction = classify_field(
            image,
            model.bundle,
            request.locations,
            model.device,
            halt=request.halt,
            progress=count,
        )
    # The user may know what the slide's file does not say.
    known = request.settings.pixel_size is not None
    prediction = dataclasses.replace(prediction, scale_known=known)
    return FieldAnswer(request, prediction, draw_thumbnails(pyramid, prediction.traversal))
