"""What is going on in one viewer: what is asked, answered and shown.

No Qt here: work is started by `jobs`, shown by `widgets`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...evidence import Traversal
from ..cells.requests import ClickAnswer, ClickRequest, RunRequest
from ..slides.requests import LocalRequest, SlideRequest
from ..slides.session import Slides
from ..traversal.requests import FieldRequest
from .errors import explain
from .messages import (
    Message,
    Progress,
    about_answer,
    about_results,
    about_traversal,
    no_cells,
)
from .per_viewer import PerViewer
from .runs import Run
from .sources import (
    CellSource,
    PlaneRef,
    SourceError,
    cell_source,
    data_position,
    displayed_plane,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from napari.layers import Image

    from ...images.fields.cells import Cells
    from ...inference.prediction import Predictions

__all__ = ["Message", "Progress", "Session"]

_log = logging.getLogger(__name__)


class Session(Slides, PerViewer):
    """What is asked in one viewer and what comes back.

    Get it with `Session.of`. The viewer is held weakly, so that closing it
    frees both.
    """

    # -- one cell

    def click(self, world: Any) -> ClickRequest | None:
        """Ask for the class of the cell at a position in the world."""
        if self.image is None or self.model is None or self.no_cells_here():
            self.say(self.no_cells_here() or self.advice(), "warning")
            return None
        row, column = data_position(self.image, world)
        data = self.image.data[0] if self.image.multiscale else self.image.data
        height, width = data.shape[self.image.ndim - 2 : self.image.ndim]
        if not (-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5):
            self.say(f"That is beside '{self.image.name}'. Click on a cell of the image.")
            return None
        return self._ask_cell((row, column))

    def pressed(self, world: Any) -> None:
        """Pick out the crop or patch that was clicked, or else classify the cell there."""
        if self.spanning:
            self.select_patch_at(world)
        elif not self.select_crop_at(world) and self.clicking:
            self.click(world)

    def click_cell(self, index: int) -> ClickRequest | None:
        """Ask for one of the classified cells, and bring it to the middle of the view."""
        if self.image is None or (found := self._book[self.image].results) is None:
            return None
        plane, results, _ = found
        row, column = (float(v) for v in results.cells.centres[index])
        self._centre_view(self.image, plane, (row, column))
        return None if self.model is None or self.spanning else self._ask_cell((row, column))

    def _ask_cell(self, position: tuple[float, float]) -> ClickRequest | None:
        self.generation += 1
        fields = self._request_fields()
        if fields is None:
            return None
        request = ClickRequest(**fields, position=position)
        if request.cells is None:
            self.say("Finding the cells of this image…")
        self._asked = request
        self.click_requested.emit(request)
        return request

    def accept_click(self, answer: ClickAnswer) -> None:
        """Show an answer, unless something newer has been asked meanwhile."""
        request = answer.request
        if request.generation != self.generation or not self._present(request.layer):
            return
        self._keep_cells(request, answer.cells)
        if answer.prediction is None:
            self._no_cell_here(request.layer, answer.cells)
            return
        self._show_answer(request, answer.prediction, answer.thumbnails, answer.index)
        self._select(self._row_of(request, answer))
        traversed = isinstance(answer.prediction.evidence, Traversal)
        self.say((about_traversal if traversed else about_answer)(answer.prediction))

    def _no_cell_here(self, layer: Image, cells: Cells) -> None:
        self._set_answer(None)
        self._select(None)
        if len(cells) == 0:
            self.say(no_cells(layer.name), "warning")
            return
        self.say(
            f"No cell was found here; {len(cells)} were in this image. Click on one, or mark "
            "yours in a Points layer and choose that under Cells."
        )

    # -- all cells

    @property
    def result_colours(self) -> tuple[str, ...]:
        """One colour per class of `results`."""
        found = None if self.image is None else self._book[self.image].results
        return () if found is None else found[2]

    @property
    def result_plane(self) -> PlaneRef | None:
        """The plane that `results` are of."""
        found = None if self.image is None else self._book[self.image].results
        return None if found is None else found[0]

    def add_measures(
        self, layer: Image, results: Predictions, measures: Mapping[str, npt.NDArray[np.float64]]
    ) -> None:
        """Add columns (N,) to classified cells, unless the image has others by now."""
        entry = self._book[layer]
        if entry.results is None or entry.results[1] is not results:
            return
        grown = dataclasses.replace(results, measures={**results.measures, **measures})
        entry.results = (entry.results[0], grown, entry.results[2])
        if layer is self.image:
            self.results_changed.emit(grown)

    def classify_all(self) -> RunRequest | None:
        """Ask for the classes of all cells of the displayed plane."""
        if self.image is None or self.model is None or self.no_cells_here():
            self.say(self.no_cells_here() or self.advice(), "warning")
            return None
        if self.running or (fields := self._request_fields()) is None:
            return None
        request = RunRequest(**fields)
        self._run = Run(request)
        self.say("Finding the cells of this image…" if request.cells is None else "Classifying…")
        self.progress_changed.emit(self._run.progress())
        self.run_requested.emit(request)
        return request

    def accept_cells(self, request: RunRequest, cells: Cells) -> None:
        """Take the cells that a run is about to classify."""
        if self._run is None or self._run.request is not request:
            return
        self._run.start(cells)
        self._keep_cells(request, cells)
        self.say(f"Classifying {len(cells)} cells…")
        self.progress_changed.emit(self._run.progress())

    def accept_part(self, request: RunRequest, part: Predictions) -> None:
        """Take the next few classified cells."""
        if self._run is not None and self._run.request is request:
            self._run.add(part)
            self.progress_changed.emit(self._run.progress())

    def finish_run(self, request: RunRequest) -> None:
        """Show what a run has given."""
        if self._run is not None and self._run.request is request:
            self._end_run("")

    def cancel_run(self, reason: str = "Cancelled") -> None:
        """Stop the run, keeping the cells classified so far."""
        if self._run is not None:
            self.run_cancelled.emit()
            self._end_run(reason)
        self.cancel_field(reason)

    def fail(
        self,
        request: ClickRequest | RunRequest | FieldRequest | SlideRequest | LocalRequest | None,
        error: BaseException,
    ) -> None:
        """Say why work went wrong; failures of outdated requests are only logged."""
        if isinstance(request, SlideRequest | LocalRequest) and not self.end_asked(request):
            _log.info("outdated work on a slide failed", exc_info=error)
            return
        if isinstance(request, FieldRequest) and not self.end_field(request):
            _log.info("an outdated field failed", exc_info=error)
            return
        if isinstance(request, ClickRequest) and request.generation != self.generation:
            _log.info("an outdated click failed", exc_info=error)
            return
        if isinstance(request, RunRequest):
            if self._run is None or self._run.request is not request:
                _log.info("an outdated run failed", exc_info=error)
                return
            self._end_run("Stopped")
        self.say(explain(error), "error")

    def _end_run(self, reason: str) -> None:
        run, self._run = self._run, None
        self.progress_changed.emit(None)
        if run is None:
            return
        request, done = run.request, run.results()
        if done is None:
            self.say(f"{reason}." if reason else no_cells(request.layer.name), "warning")
            return
        if self._present(request.layer):
            colours = request.model.bundle.card.colours
            self._book[request.layer].results = (request.plane, done, colours)
            self.overlays.show_cells(request.layer, request.plane.index, done, colours, self.choice)
            if request.layer is self.image:
                self.results_changed.emit(done)
        self.say(about_results(done, run.total, reason), "warning" if reason else "info")

    # -- within

    def _request_fields(self) -> dict[str, Any] | None:
        assert self.viewer is not None
        assert self.image is not None
        try:
            plane = displayed_plane(self.viewer, self.image)
            key = self._cells_key(plane)
            cells = self._book.cells(self.image, key)
            source = (
                cell_source(self.cell_layer, self.image, plane) if cells is None else CellSource()
            )
        except SourceError as error:
            self.say(str(error), "error")
            return None
        return {
            "generation": self.generation,
            "layer": self.image,
            "plane": plane,
            "settings": self.settings,
            "model": self.model,
            "source": source,
            "cells": cells,
            "cells_key": key,
            "locations": self.locations,
        }

    def _cells_key(self, plane: PlaneRef) -> tuple[Any, ...]:
        return (id(plane.data), plane.index, self.settings, id(self.cell_layer))

    def cells_known(self, request: ClickRequest) -> Cells | None:
        """Return the cells among which the clicked one is, where they are known."""
        if request.cells is not None:
            return request.cells
        return self._book.cells(request.layer, request.cells_key)

    def _keep_cells(self, request: ClickRequest | RunRequest, cells: Cells) -> None:
        if request.cells_key == self._cells_key(request.plane) and request.layer is self.image:
            self._book.keep_cells(request.layer, request.cells_key, cells)

    def _row_of(self, request: ClickRequest, answer: ClickAnswer) -> int | None:
        """Return the row of the table that shows the clicked cell."""
        found = self._book[request.layer].results
        if found is None or found[0].index != request.plane.index or answer.index is None:
            return None
        centres = found[1].cells.centres
        if answer.index >= len(centres):
            return None
        same = (centres[answer.index] == answer.cells.centres[answer.index]).all()
        return answer.index if same else None

    def _select(self, row: int | None) -> None:
        if self.image is not None:
            self.overlays.select_cell(self.image, row)
        self.selected_changed.emit(row)

    def _centre_view(self, image: Image, plane: PlaneRef, position: tuple[float, float]) -> None:
        viewer = self.viewer
        if viewer is None:
            return
        world = image.data_to_world((*plane.index, *position))
        for axis, value in enumerate(world[:-2]):
            viewer.dims.set_point(viewer.dims.ndim - len(world) + axis, value)
        viewer.scene.camera.center = (0.0, *world[-2:])
