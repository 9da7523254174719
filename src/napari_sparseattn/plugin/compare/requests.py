"""Two models compared: what a worker is asked, and how it is answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...evidence import Traversal
from ..cells.requests import ClickRequest, Model, prepare_model
from ..core.sources import ImageSettings, PlaneRef, cells_of, field_of
from ..evidence.requests import EvidenceRequest, image_of, ticking
from ..traversal.requests import FieldRequest

if TYPE_CHECKING:
    from napari.layers import Image

    from ...bundle import Bundle
    from ...inference.compare import Comparison
    from ...inference.prediction import Prediction, Predictions

__all__ = [
    "CompareAnswer",
    "CompareRequest",
    "Second",
    "dialled_locations",
    "stream_comparison",
]

Told = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Second:
    """The model that is compared with the one in use.

    Parameters
    ----------
    name : str
        What it is found by.
    model : Model or None
        Where it is loaded already.
    k : int
        Pixels that a SparseAttnNet keeps; 0 as trained.
    looks : int
        Crops that a TNet looks at inside the whole; 0 as trained.
    """

    name: str
    model: Model | None = None
    k: int = 0
    looks: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class CompareRequest:
    """Let a second model answer too.

    Parameters
    ----------
    model : Model
        The one in use.
    locations : tuple of int or None
        Of a TNet in use.
    second : Second
        The other one.
    source : EvidenceRequest or None
        The answer that is shown; None to compare all classified cells.
    layer, plane, settings, results
        The image, what it shows, and its classified cells.
    stop : threading.Event
        Set to end the work at its next step.
    """

    model: Model
    locations: tuple[int, ...] | None
    second: Second
    layer: Image
    source: EvidenceRequest | None = None
    plane: PlaneRef | None = None
    settings: ImageSettings | None = None
    results: Predictions | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class CompareAnswer:
    """What both say; the second's own answer is None where all cells were compared."""

    model: Model
    found: Comparison
    prediction: Prediction | None = None


def dialled_locations(bundle: Bundle, looks: int, side: int = 0) -> tuple[int, ...] | None:
    """Return a TNet's locations per level with another number of the first; None as trained.

    Parameters
    ----------
    bundle : Bundle
        Of a TNet, or of another kind, which has no locations.
    looks : int
        Crops looked at inside the whole; 0 as trained.
    side : int
        The image's longer side in pixels; 0 for the trained size.
    """
    if bundle.card.kind != "tnet" or not looks:
        return None
    from ..traversal.requests import levels_below

    architecture = bundle.card.architecture
    usual = levels_below(architecture, side) if side else tuple(architecture["locations"])
    return (looks, *usual[1:])


def stream_comparison(request: CompareRequest) -> Iterator[tuple[int, int] | CompareAnswer]:
    """Compare in another thread, and tell how far it is.

    Yields
    ------
    (int, int), then CompareAnswer
        Cells or crops done and their number, 0 where it is not known; nothing
        more when it was stopped.

    Raises
    ------
    ValueError, ImageError, OSError, MemoryError
        If a model cannot be loaded, or does not fit the image.
    """
    yield from ticking(lambda told: _compared(request, told), request.stop)


def _compared(request: CompareRequest, told: Told) -> CompareAnswer:
    from ...inference.compare import change_setting

    wanted, mine = request.second, request.model
    model = wanted.model or prepare_model(wanted.name, mine.device)
    told(0, 0)
    second = change_setting(model.bundle, k=wanted.k or None)
    if request.source is None:
        return _all(request, model, second, told)
    return _one(request, request.source, model, second, told)


def _all(request: CompareRequest, model: Model, second: Bundle, told: Told) -> CompareAnswer:
    from ...device import computing
    from ...inference.compare import compare_cells

    assert request.plane is not None
    assert request.settings is not None
    assert request.results is not None
    field = field_of(request.plane, request.settings)
    with computing(model.device, model.precision):
        found = compare_cells(
            field,
            request.results.cells,
            request.model.with_locations(request.locations),
            second,
            locations_b=dialled_locations(second, request.second.looks),
            device=model.device,
            progress=told,
        )
    return CompareAnswer(model, found)


def _one(
    request: CompareRequest, source: EvidenceRequest, model: Model, second: Bundle, told: Told
) -> CompareAnswer:
    from ...device import computing
    from ...inference.cells import classify_cells
    from ...inference.compare import change_setting, compare_answers
    from ...inference.fields import classify_field

    asked, looks, answer = source.asked, request.second.looks, source.answer
    with computing(model.device, model.precision):
        if isinstance(asked, FieldRequest):
            image = image_of(asked)
            assert isinstance(answer.evidence, Traversal)
            side = max(answer.evidence.shape)
            prediction: Any = classify_field(
                image, second, dialled_locations(second, looks, side), model.device,
                progress=lambda done: told(done, 0),
            )  # fmt: skip
        else:
            assert isinstance(asked, ClickRequest)
            field = field_of(asked.plane, asked.settings)
            cells = cells_of(field, asked.source) if source.cells is None else source.cells
            index = cells.nearest(asked.position)
            if index is None:
                raise ValueError("The cell is no longer there. Click it again.")
            dialled = change_setting(second, locations=dialled_locations(second, looks))
            prediction = classify_cells(field, cells, dialled, model.device, only=[index])[0]
    return CompareAnswer(model, compare_answers(answer, prediction), prediction)
