"""Faithfulness of an answer: what a worker is asked, and how it is answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Literal

from ...progress import Progress
from ..cells.requests import ClickRequest
from ..core.models import Model
from ..core.sources import cells_of, field_of
from ..core.status import StoppedError
from ..slides.requests import SlideAnswer
from ..traversal.requests import FieldRequest

if TYPE_CHECKING:
    from ...evidence.faithfulness import Faithfulness
    from ...images.fields.cells import Cells
    from ...images.fields.field import Field
    from ...images.slides.pyramid import Pyramid
    from ...inference.prediction import Prediction

__all__ = ["EvidenceRequest", "Subject", "image_of", "stream_faithfulness", "stream_progress"]

#: Each report is painted, and Python is kept from the work meanwhile.
_TICK_SECONDS = 0.4

Subject = Literal["cell", "field", "slide"]
Report = Progress


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceRequest:
    """Measure how faithful the evidence of the answer that is shown is.

    Parameters
    ----------
    answer : Prediction
        The answer.
    asked : ClickRequest, FieldRequest or SlideAnswer
        What it is the answer to; of a SPAN, with its patches.
    model : Model
        That gave it.
    cells : Cells or None
        Those of the image, where they are known.
    by_itself : bool
        Whether nobody pressed a button for it.
    stop : threading.Event
        Set to end the work at the model's next step.
    """

    answer: Prediction
    asked: ClickRequest | FieldRequest | SlideAnswer
    model: Model
    cells: Cells | None = None
    by_itself: bool = False
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def subject(self) -> Subject:
        """The kind of thing that was classified; ``"slide"`` is one of a SPAN."""
        if isinstance(self.asked, ClickRequest):
            return "cell"
        return "field" if isinstance(self.asked, FieldRequest) else "slide"


def stream_faithfulness(request: EvidenceRequest) -> Iterator[tuple[int, int] | Faithfulness]:
    """Measure in another thread, and report how far it is.

    Yields
    ------
    (int, int), then Faithfulness
        Runs of the model done and their number, some times a second; at the
        end what was measured, or nothing more when it was stopped.

    Raises
    ------
    ValueError, ImageError, OSError, MemoryError
        As the functions of `inference.faithfulness`.
    """
    yield from stream_progress(lambda progress: _measure(request, progress), request.stop)


def stream_progress(work: Callable[[Report], Any], stop: threading.Event) -> Iterator[Any]:
    """Do work in another thread, and report some times a second how far it is.

    Parameters
    ----------
    work : callable
        Given a function to call with the stage, what is done and the total.
    stop : threading.Event
        Set to end the work when it next reports how far it is.

    Yields
    ------
    (int, int), then what `work` returns
        Nothing at the end when it was stopped.
    """
    so_far = (0, 0)

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal so_far
        so_far = (done, total)
        if stop.is_set():
            raise StoppedError

    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work, progress)
        try:
            while not wait([doing], _TICK_SECONDS).done:
                yield so_far
            yield doing.result()
        except StoppedError:
            return
        finally:
            # Whoever closes this iterator waits for one step, not for all.
            stop.set()


def _measure(request: EvidenceRequest, progress: Report) -> Faithfulness:
    from ...inference.faithfulness import (
        faithfulness_of_cell,
        faithfulness_of_field,
        faithfulness_of_slide,
    )

    asked, model = request.asked, request.model
    if isinstance(asked, SlideAnswer):
        assert asked.prediction is not None
        return faithfulness_of_slide(
            asked.prediction, model.bundle, device=model.device, progress=progress
        )
    if isinstance(asked, FieldRequest):
        return faithfulness_of_field(
            image_of(asked), model.bundle, asked.locations, device=model.device, progress=progress
        )
    field = field_of(asked.plane, asked.settings)
    cells = cells_of(field, asked.source) if request.cells is None else request.cells
    index = cells.nearest(asked.position)
    if index is None:
        raise ValueError("The cell is no longer there. Click it again.")
    bundle = model.with_locations(asked.locations)
    return faithfulness_of_cell(field, cells, index, bundle, device=model.device, progress=progress)


def image_of(asked: FieldRequest) -> Field | Pyramid:
    """Return the field or slide that was classified; what is read anew is in no ledger."""
    if asked.pyramid is not None:
        return asked.pyramid.with_own_ledger()
    return field_of(asked.plane, asked.settings)
