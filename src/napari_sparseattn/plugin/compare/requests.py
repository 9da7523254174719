"""Comparison of two models: what a worker is asked, and how it is answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...evidence import Traversal
from ..cells.requests import ClickRequest
from ..core.models import Model, prepare_model
from ..core.sources import ImageSettings, PlaneRef, cells_of, field_of
from ..evidence.requests import EvidenceRequest, Report, image_of, stream_progress
from ..traversal.requests import FieldRequest

if TYPE_CHECKING:
    from napari.layers import Image

    from ...bundle import Bundle
    from ...inference.compare import Comparison
    from ...inference.prediction import Prediction, Predictions

__all__ = [
    "CompareAnswer",
    "CompareRequest",
    "SecondModel",
    "locations_with",
    "stream_comparison",
]


@dataclasses.dataclass(frozen=True)
class SecondModel:
    """The model that is compared with the one in use.

    Parameters
    ----------
    name : str
        What it is found by.
    model : Model or None
        Where it is loaded already.
    k : int
        Pixels that a SparseAttnNet keeps; 0 as trained.
    crops : int
        Crops of a TNet's first level; 0 as trained.
    """

    name: str
    model: Model | None = None
    k: int = 0
    crops: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class CompareRequest:
    """Let a second model answer too.

    Parameters
    ----------
    model : Model
        The one in use.
    locations : tuple of int or None
        Of a TNet in use.
    second : SecondModel
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
    second: SecondModel
    layer: Image
    source: EvidenceRequest | None = None
    plane: PlaneRef | None = None
    settings: ImageSettings | None = None
    results: Predictions | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class CompareAnswer:
    """A comparison; the second model's own answer is None where all cells were compared."""

    model: Model
    found: Comparison
    prediction: Prediction | None = None


def locations_with(bundle: Bundle, crops: int, side: int = 0) -> tuple[int, ...] | None:
    """Return a TNet's crops per level with another number on the first; None as trained.

    Parameters
    ----------
    bundle : Bundle
        Of a TNet, or of another kind, which has no crops.
    crops : int
        On the first level; 0 as trained.
    side : int
        The image's longer side in pixels; 0 for the trained size.
    """
    if bundle.card.kind != "tnet" or not crops:
        return None
    from ..traversal.requests import levels_below

    architecture = bundle.card.architecture
    usual = levels_below(architecture, side) if side else tuple(architecture["locations"])
    return (crops, *usual[1:])


def stream_comparison(request: CompareRequest) -> Iterator[tuple[int, int] | CompareAnswer]:
    """Compare in another thread, and report how far it is.

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
    yield from stream_progress(lambda report: _compare(request, report), request.stop)


def _compare(request: CompareRequest, report: Report) -> CompareAnswer:
    from ...inference.compare import change_setting

    wanted, mine = request.second, request.model
    model = wanted.model or prepare_model(wanted.name, mine.device)
    report("cells", 0, 0)
    second = change_setting(model.bundle, k=wanted.k or None)
    if request.source is None:
        return _compare_all(request, model, second, report)
    return _compare_one(request, request.source, model, second, report)


def _compare_all(
    request: CompareRequest, model: Model, second: Bundle, report: Report
) -> CompareAnswer:
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
            locations_b=locations_with(second, request.second.crops),
            classes_a=request.settings.classes_of(request.model.bundle.card),
            classes_b=request.settings.classes_of(second.card),
            device=model.device,
            progress=report,
        )
    return CompareAnswer(model, found)


def _compare_one(
    request: CompareRequest, source: EvidenceRequest, model: Model, second: Bundle, report: Report
) -> CompareAnswer:
    from ...device import computing
    from ...inference.cells import classify_cells
    from ...inference.compare import change_setting, compare_answers
    from ...inference.fields import classify_field

    asked, crops, answer = source.asked, request.second.crops, source.answer
    with computing(model.device, model.precision):
        if isinstance(asked, FieldRequest):
            image = image_of(asked)
            assert isinstance(answer.evidence, Traversal)
            side = max(answer.evidence.shape)
            prediction: Any = classify_field(
                image, second, locations_with(second, crops, side), model.device,
                progress=report,
            )  # fmt: skip
        else:
            assert isinstance(asked, ClickRequest)
            field = field_of(asked.plane, asked.settings)
            cells = cells_of(field, asked.source) if source.cells is None else source.cells
            index = cells.nearest(asked.position)
            if index is None:
                raise ValueError("The cell is no longer there. Click it again.")
            set_up = change_setting(second, locations=locations_with(second, crops))
            prediction = classify_cells(
                field, cells, set_up, model.device, only=[index],
                classes=asked.settings.classes_of(second.card),
            )[0]  # fmt: skip
    return CompareAnswer(model, compare_answers(answer, prediction), prediction)
