"""Questions about cells and their answers, computed in another thread; both are frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from ...evidence import Traversal
from ...images.slides.pyramid import ArrayPyramid
from ..core.models import Model
from ..core.pictures import Thumbnails, draw_thumbnails
from ..core.sources import CellSource, ImageSettings, PlaneRef, cells_of, field_of

if TYPE_CHECKING:
    from napari.layers import Image

    from ...images.fields.cells import Cells, Method
    from ...inference.prediction import Prediction, Predictions

__all__ = [
    "CellsFound",
    "ClickAnswer",
    "ClickRequest",
    "RunRequest",
    "answer_click",
    "stream_run",
]


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    generation: int
    layer: Image
    plane: PlaneRef
    settings: ImageSettings
    model: Model
    source: CellSource
    cells: Cells | None
    cells_key: Hashable
    locations: tuple[int, ...] | None
    #: The layer that says where the cells are; empty where they were found, by the method.
    given: str = ""
    method: Method = "auto"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes that can occur here; None for all of the model's."""
        return self.settings.classes_of(self.model.bundle.card)


@dataclasses.dataclass(frozen=True, eq=False)
class ClickRequest(_Request):
    """Classify the cell at a position.

    Parameters
    ----------
    position : (float, float)
        Row and column in image pixels.
    """

    position: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class RunRequest(_Request):
    """Classify all cells of a plane."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClickAnswer:
    """The cell at the position and its class; None for both where there is no cell.

    `thumbnails` are pictures of the crops that a TNet looked at.
    """

    request: ClickRequest
    cells: Cells
    index: int | None
    prediction: Prediction | None
    thumbnails: Thumbnails = ()


@dataclasses.dataclass(frozen=True, eq=False)
class CellsFound:
    """The first thing a run gives: the cells, before any is classified."""

    cells: Cells


def answer_click(request: ClickRequest) -> ClickAnswer:
    """Find the cell at the position and classify it.

    Raises
    ------
    ValueError
        If image, cells and model do not fit; the message says how.
    """
    from ...device import computing
    from ...inference.cells import classify_cells

    field = field_of(request.plane, request.settings)
    cells = request.cells if request.cells is not None else cells_of(field, request.source)
    index = cells.nearest(request.position)
    if index is None:
        return ClickAnswer(request, cells, None, None)
    model = request.model
    bundle = model.with_locations(request.locations)
    with computing(model.device, model.precision):
        one = classify_cells(
            field, cells, bundle, model.device, only=[index], classes=request.classes
        )[0]
    pictures: Thumbnails = ()
    if isinstance(one.evidence, Traversal):
        pictures = draw_thumbnails(ArrayPyramid(field.plane(0, 0)), one.evidence)
    return ClickAnswer(request, cells, index, one, pictures)


def stream_run(request: RunRequest) -> Iterator[CellsFound | Predictions]:
    """Find the cells, then classify them batch by batch.

    Yields
    ------
    CellsFound, then Predictions
        Closing the iterator stops the work.
    """
    from ...device import computing
    from ...inference.cells import iter_cells

    field = field_of(request.plane, request.settings)
    cells = request.cells if request.cells is not None else cells_of(field, request.source)
    yield CellsFound(cells)
    if len(cells):
        model = request.model
        bundle = model.with_locations(request.locations)
        parts = iter_cells(field, cells, bundle, model.device, classes=request.classes)
        while True:
            # Entered anew for each part: torch keeps it per thread, and whoever
            # drops this iterator may do so in another.
            with computing(model.device, model.precision):
                part = next(parts, None)
            if part is None:
                return
            yield part
