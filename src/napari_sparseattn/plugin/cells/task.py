"""Cells in one viewer: one that is clicked, all that are classified, the one picked out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ...evidence import PixelSelection
from ..core.advice import Advice, ImageFacts
from ..core.lanes import close_all
from ..core.messages import about_answer, about_results, counted, no_cells
from ..core.models import Model
from ..core.parts import SETTINGS_CHANGED, Ask, Parts
from ..core.selection import Results
from ..core.sources import CellSource, PlaneRef, SourceError, data_position, shape_of
from ..core.status import Progress
from ..core.view import centre_on, show_image
from .layers import SELECTION_ROLES, CellLayers
from .requests import CellsFound, ClickAnswer, ClickRequest, RunRequest, answer_click, stream_run
from .shown import ShownCells

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.layers import Image

    from ...card import Card
    from ...images.fields.cells import Cells
    from ...inference.prediction import Prediction, Predictions

__all__ = ["CellTask", "Run"]

_log = logging.getLogger(__name__)
_KIND = "sparse-attn-net"


class Run:
    """Collects the parts of a run over all cells.

    Parameters
    ----------
    request : RunRequest
        What was asked.
    cancel : callable
        Called with the run and a reason.
    """

    def __init__(self, request: RunRequest, cancel: Callable[[Run, str], None]) -> None:
        self.request = request
        self.cells: Cells | None = None
        self._cancel = cancel
        self._began = time.monotonic()
        self._parts: list[Predictions] = []
        self._done = 0

    @property
    def total(self) -> int:
        """Number of cells to classify; 0 while they are being found."""
        return 0 if self.cells is None else len(self.cells)

    def start(self, cells: Cells) -> None:
        """Take the cells; the time left is counted from here."""
        self.cells = cells
        self._began = time.monotonic()

    def add(self, part: Predictions) -> None:
        """Take the next few classified cells."""
        self._parts.append(part)
        self._done += len(part)

    def progress(self) -> Progress:
        """Return how far the run is."""
        if not self._done:
            return Progress(0, self.total)
        per_cell = (time.monotonic() - self._began) / self._done
        return Progress(self._done, self.total, per_cell * (self.total - self._done))

    def cancel(self, reason: str) -> None:
        """Stop, and keep the cells classified so far."""
        self._cancel(self, reason)

    def results(self) -> Predictions | None:
        """Return what has been classified so far, or None."""
        from ...inference.cells import join

        return join(self._parts) if self._parts else None


class CellTask:
    """Classifies cells, one by one or all of an image.

    Parameters
    ----------
    parts : Parts
        What the tasks of the viewer share.

    Attributes
    ----------
    locations : tuple of int or None
        Crops per level that a TNet looks at; None as trained.
    shown : ShownCells
        Which of the classified cells are shown and picked in table, gallery and map.
    """

    results_changed = Signal(object)
    selected_changed = Signal(object)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.layers = CellLayers(parts.overlays, self._call_later)
        self.locations: tuple[int, ...] | None = None
        #: The cell of `results` that is picked out, by its number.
        self.selected: int | None = None
        self.shown = ShownCells()
        # Before all who follow what is shown.
        self.results_changed.connect(self._show_results)
        self.selected_changed.connect(self.shown.follow)
        lanes = parts.lanes
        self._click = lanes.add(answer_click, given=self.accept, failed=self.fail)
        self._run = lanes.add(
            stream_run, given=self.accept, failed=self.fail, ended=self.finish, busy="replace"
        )
        parts.answers.draw[_KIND] = self.draw
        parts.selection.outdated.connect(self._leave)
        parts.selection.image_changed.connect(self._change_image)

    # -- what can be done

    @staticmethod
    def suits(image: ImageFacts | None, card: Card) -> int:
        """Return 1 for all images but slides."""
        return int(image is None or not image.on_slide)

    @staticmethod
    def next_step(image: ImageFacts, card: Card) -> Advice:
        """Return what can be done with cells."""
        refused = image.refuse_cells()
        no_whole = (
            f"'{card.name}' classifies cells. Choose a TNet model to classify a whole "
            f"{image.whole}."
        )
        text = refused or "Click a cell in the image, or classify all of them."
        return Advice(text, refused, no_whole)

    def close(self) -> None:
        """Let nothing that was asked for arrive."""
        close_all((self._click, self._run))

    # -- asking

    def press(self, world: Any) -> None:
        """Classify the cell at a position in the world, if clicks do that."""
        if self.parts.selection.clicking:
            self.click(world)

    def press_here(self, world: Any) -> None:
        """Classify what is at a position in the world, found or not, if clicks do that."""
        if self.parts.selection.clicking:
            self.click(world, found=False)

    def ask(self, what: Ask, world: Any = None) -> ClickRequest | RunRequest | None:
        """Ask for a cell or all of them."""
        if what == "whole":
            self.parts.status.notify(self.parts.advice.no_whole, "warning")
            return None
        return self.classify_all() if what == "all" else self.click(world)

    def click(self, world: Any, found: bool = True) -> ClickRequest | None:
        """Ask for the class of the cell at a position in the world.

        Unless it must be `found`, the position itself is taken for the cell's middle.
        """
        image = self._image_with_cells()
        if image is None:
            return None
        row, column = data_position(image, world)
        height, width = shape_of(image)
        if not (-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5):
            self._leave_answer(image)
            self.parts.status.notify(f"Outside image '{image.name}'. Click on a cell of the image.")
            return None
        return self.ask_cell((row, column), found)

    def click_cell(self, index: int) -> ClickRequest | None:
        """Ask for one of the classified cells, and bring it to the middle of the view."""
        selection, found = self.parts.selection, self._found
        if selection.image is None or found is None:
            return None
        row, column = (float(v) for v in found.predictions.cells.centres[index])
        viewer = selection.viewer
        if viewer is not None:
            show_image(viewer, selection.image)
            centre_on(viewer, selection.image, found.plane.index, (row, column))
        if selection.card is None or not self.parts.advice.cells:
            return None
        return self.ask_cell((row, column))

    def ask_cell(self, position: tuple[float, float], found: bool = True) -> ClickRequest | None:
        """Ask for the class of the cell at a place in the chosen image's pixels; see `click`."""
        self.parts.selection.generation += 1
        fields = self._ask_fields()
        if fields is None:
            image = self.parts.selection.image
            if image is not None:
                self._leave_answer(image)
            return None
        if not found:
            fields |= self._only_here(position, fields["cells"])
        request = ClickRequest(**fields, position=position)
        if request.cells is None and found:
            self.parts.status.notify("Finding the cells of this image…")
        self.parts.answers.asked.emit(request)
        self._click.ask(request)
        return request

    @staticmethod
    def _only_here(position: tuple[float, float], cells: Cells | None) -> dict[str, Any]:
        """Return what says that there is one cell, at this place, whatever was found."""
        known = cells is not None and len(cells) > 0
        # Without a scale, the other cells say how large this one may be.
        diameter = float(np.median(cells.diameters)) if cells is not None and known else 1.0
        place = np.array([position], np.float64)
        source = CellSource("points", place, diameter, (1,), unset=not known)
        # Under a key of its own: these are not the cells of the image.
        return {"cells": None, "source": source, "cells_key": ("here", position), "given": "here"}

    def classify_all(self) -> RunRequest | None:
        """Ask for the classes of all cells of the displayed plane."""
        status = self.parts.status
        if self._image_with_cells() is None or status.running:
            return None
        fields = self._ask_fields()
        if fields is None:
            return None
        request = RunRequest(**fields)
        status.notify(
            "Finding the cells of this image…" if request.cells is None else "Classifying…"
        )
        status.begin(Run(request, self._cancel))
        self.parts.answers.asked.emit(request)
        self._run.ask(request)
        return request

    def _image_with_cells(self) -> Image | None:
        """Return the chosen image, or say why its cells cannot be classified."""
        refused = self.parts.advice.no_cells
        if refused:
            self.parts.status.notify(refused, "warning")
            return None
        return self.parts.selection.image

    def _ask_fields(self) -> dict[str, Any] | None:
        selection = self.parts.selection
        assert selection.image is not None
        try:
            fields = selection.ask_fields(selection.image)
        except SourceError as error:
            self.parts.status.notify(str(error), "error")
            return None
        return {**fields, "locations": self.locations}

    # -- answering

    def accept(self, request: ClickRequest | RunRequest, part: Any) -> None:
        """Take an answer or a part of one, unless it is outdated."""
        if isinstance(request, ClickRequest):
            self._accept_click(request, part)
            return
        run = self.parts.status.of(request)
        if run is None:
            return
        if isinstance(part, CellsFound):
            run.start(part.cells)
            self._keep_cells(request, part.cells)
            self.parts.status.notify(f"Classifying {counted(len(part.cells), 'cell')}…")
        else:
            run.add(part)
        self.parts.status.show_progress()

    def fail(self, request: ClickRequest | RunRequest, error: BaseException) -> None:
        """Say why work went wrong; failures of outdated requests are only logged."""
        outdated = request.generation != self.parts.selection.generation
        if isinstance(request, ClickRequest):
            if outdated:
                _log.info("an outdated click failed", exc_info=error)
            else:
                self.parts.status.fail(error)
        elif (run := self.parts.status.end(request)) is not None:
            self._keep_results(run, "Stopped")
            self.parts.status.fail(error)

    def finish(self, request: RunRequest) -> None:
        """Show what a run has given."""
        run = self.parts.status.end(request)
        if run is not None:
            self._keep_results(run, "")

    def _accept_click(self, request: ClickRequest, answer: ClickAnswer) -> None:
        selection, answers = self.parts.selection, self.parts.answers
        if request.generation != selection.generation or not selection.is_open(request.layer):
            return
        self._keep_cells(request, answer.cells)
        if answer.prediction is None:
            self._say_no_cell(request.layer, answer.cells)
            return
        text = answers.draw[request.model.bundle.card.kind](
            request, answer.prediction, answer.thumbnails, answer.index
        )
        self._select(self._row_of(request, answer))
        all_done = self.results is not None
        self.parts.status.notify(text or about_answer(answer.prediction, all_done))

    def _leave_answer(self, image: Image) -> None:
        """Show no answer, and none of its layers."""
        self.parts.answers.show(None)
        self.parts.overlays.blank(image, keep=("cells",))
        self._select(None)

    def _say_no_cell(self, layer: Image, cells: Cells) -> None:
        self._leave_answer(layer)
        if len(cells) == 0:
            self.parts.status.notify(no_cells(layer.name), "warning")
            return
        there = "1 was" if len(cells) == 1 else f"{len(cells)} were"
        self.parts.status.notify(
            f"No cell was found here; {there} in this image. Click on one, or mark yours in a "
            "Points layer and choose that under Cells."
        )

    def draw(
        self, request: ClickRequest, prediction: Prediction, thumbnails: object, cell: int | None
    ) -> str:
        """Show a cell that a SparseAttnNet has classified; return what to say of it."""
        evidence, choice = prediction.evidence, self.parts.selection.choice
        if isinstance(evidence, PixelSelection):
            self.layers.show_selection(request.layer, request.plane.index, evidence, choice)
        self.show_class(request, prediction)
        if request.layer is self.parts.selection.image:
            self.parts.answers.show(prediction, request)
        return ""

    def show_class(self, request: Any, prediction: Prediction) -> None:
        """Show the class of an answer on its frame."""
        colours, choice = request.model.bundle.card.colours, self.parts.selection.choice
        self.layers.show_class(request.layer, request.plane.index, prediction, colours, choice)

    def _cancel(self, run: Run, reason: str) -> None:
        self._run.cancel()
        if self.parts.status.end(run.request) is not None:
            self._keep_results(run, reason)

    def _keep_results(self, run: Run, reason: str) -> None:
        request, done, parts = run.request, run.results(), self.parts
        if done is None:
            if not reason:
                # Those of an earlier run are not of what was asked now.
                self.forget(request.layer)
                parts.overlays.blank(request.layer)
            said = f"{reason}." if reason else no_cells(request.layer.name)
            parts.status.notify(said, "warning")
            return
        if request.settings != parts.selection.settings_of(request.layer):
            parts.status.notify(SETTINGS_CHANGED.format(request.layer.name), "warning")
            return
        if parts.selection.is_open(request.layer):
            colours = request.model.bundle.card.colours
            record = parts.selection.record_of(request.layer)
            record.results = Results(request.plane, done, colours, request)
            self.show_all(request.layer, request.plane.index, done, colours)
            if request.layer is parts.selection.image:
                self.results_changed.emit(done)
        note = request.source.note
        said = f"{about_results(done, run.total, reason)} {note}".rstrip()
        parts.status.notify(said, "warning" if reason or note else "info")

    def show_all(
        self, image: Image, index: Any, predictions: Predictions, colours: tuple[str, ...]
    ) -> None:
        """Draw classified cells on an image."""
        choice = self.parts.selection.choice
        self.layers.show_cells(image, index, predictions, colours, choice)

    def take_results(
        self, image: Image, index: tuple[int, ...], found: Predictions, colours: tuple[str, ...]
    ) -> None:
        """Take cells that were classified elsewhere for those of a plane of an image."""
        data = image.data[0] if image.multiscale else image.data
        plane = PlaneRef(data, index, bool(image.rgb), image.name)
        self.parts.selection.record_of(image).results = Results(plane, found, colours)
        self.show_all(image, index, found, colours)
        if image is self.parts.selection.image:
            self.results_changed.emit(found)

    # -- what has been classified

    @property
    def _found(self) -> Results | None:
        return self.parts.selection.record.results

    @property
    def results(self) -> Predictions | None:
        """All classified cells of the chosen image."""
        return None if self._found is None else self._found.predictions

    @property
    def result_colours(self) -> tuple[str, ...]:
        """One colour per class of `results`."""
        return () if self._found is None else self._found.colours

    @property
    def result_plane(self) -> PlaneRef | None:
        """The plane that `results` are of."""
        return None if self._found is None else self._found.plane

    def add_measures(
        self, layer: Image, results: Predictions, measures: Mapping[str, npt.NDArray[np.float64]]
    ) -> None:
        """Add columns (N,) to classified cells, unless the image has others by now."""
        record = self.parts.selection.record_of(layer)
        found = record.results
        if found is None or found.predictions is not results:
            return
        grown = dataclasses.replace(results, measures={**results.measures, **measures})
        record.results = dataclasses.replace(found, predictions=grown)
        if layer is self.parts.selection.image:
            self.results_changed.emit(grown)

    def cells_known(self, request: ClickRequest) -> Cells | None:
        """Return the cells among which the clicked one is, where they are known."""
        if request.cells is not None:
            return request.cells
        return self.parts.selection.cells_at(request.layer, request.cells_key)

    def forget(self, image: Image | None = None) -> None:
        """Drop the results of an image, or of the chosen one."""
        image = self.parts.selection.image if image is None else image
        if image is not None:
            self.parts.selection.record_of(image).results = None
            if image is self.parts.selection.image:
                self.results_changed.emit(None)

    def _keep_cells(self, request: ClickRequest | RunRequest, cells: Cells) -> None:
        self.parts.selection.keep_cells(request.layer, request.plane, request.cells_key, cells)

    def _row_of(self, request: ClickRequest, answer: ClickAnswer) -> int | None:
        """Return the row of the table that shows the clicked cell."""
        found = self.parts.selection.record_of(request.layer).results
        if found is None or found.plane.index != request.plane.index or answer.index is None:
            return None
        centres = found.predictions.cells.centres
        if answer.index >= len(centres):
            return None
        same = (centres[answer.index] == answer.cells.centres[answer.index]).all()
        return answer.index if same else None

    def _select(self, row: int | None) -> None:
        results = self.results
        self.selected = None if row is None or results is None else int(results.cells.ids[row])
        if self.parts.selection.image is not None:
            self.layers.select_cell(self.parts.selection.image, row)
        self.selected_changed.emit(row)

    def _call_later(self, milliseconds: int, call: Callable[[], None]) -> None:
        self.parts.lanes.runner.later(milliseconds, call)

    def _show_results(self, results: Predictions | None) -> None:
        self.shown.set_results(results, self.result_colours)

    # -- what the selection tells

    def _leave(self) -> None:
        self._click.cancel()
        card = self.parts.selection.card
        if card is not None and card.kind != _KIND:
            self.parts.overlays.remove_everywhere(SELECTION_ROLES)

    def _change_image(self, _: Model | None = None) -> None:
        self.results_changed.emit(self.results)
