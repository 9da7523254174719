"""The batch of one viewer: which files, how, and where each of them stands.

No Qt here: work is started by `batch_jobs`, shown by `widgets`.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...batch.plan import BatchPlan
from ...batch.run import BatchUpdate, ItemState
from ...process.options import ProcessOptions
from ..core.errors import explain
from ..core.messages import Progress
from ..core.per_viewer import PerViewer
from ..holograms.session import Holograms
from .choices import BatchChoices
from .requests import OpenAnswer, OpenRequest, RunRequest, SearchRequest
from .shown import show_result

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["Batch"]

_log = logging.getLogger(__name__)


class Batch(BatchChoices, PerViewer):
    """Many files at once, in processes of their own. Get it with `Batch.of`.

    The viewer is held weakly, so that closing it frees both.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._colours: tuple[str, ...] = ()
        self._opened: dict[str, weakref.ref[Layer]] = {}

    # -- the run

    def start(self) -> RunRequest | None:
        """Work on all files; those whose results are there and right are skipped."""
        return self._begin(range(len(self.states)))

    def retry_failed(self) -> RunRequest | None:
        """Work once more on what failed."""
        return self._begin([i for i, s in enumerate(self.states) if s.state == "failed"])

    def _begin(self, rows: Sequence[int]) -> RunRequest | None:
        from ...export.formats import check_formats

        if self.running or self.searching:
            return None
        if obstacle := self.obstacle():
            self.say(obstacle, "warning")
            return None
        try:
            check_formats(self.formats)
        except ValueError as error:
            self.say(str(error), "error")
            return None
        model = self.session.model
        assert model is not None
        assert model.bundle.path is not None
        assert self.out is not None
        items = tuple(self.states[row].item for row in rows)
        path = model.bundle.path.absolute()
        plan = BatchPlan(items, path, model.bundle.hash, self.out, self._options())
        request = self._run = RunRequest(plan, tuple(rows), self.workers)
        self._colours = model.bundle.card.colours
        for row in rows:
            self.states[row] = ItemState(self.states[row].item)
        self.items_changed.emit()
        self.changed.emit()
        self.progress_changed.emit(Progress(0, len(rows), what="files"))
        self.say("Starting processes; each loads the model first…")
        self.run_requested.emit(request)
        return request

    def _options(self) -> ProcessOptions:
        model, viewer = self.session.model, self.viewer
        assert model is not None
        options = ProcessOptions(
            self.formats,
            self.task,
            pixel_size=self.pixel_size,
            locations=self.session.locations,
            device=model.device,
        )
        if self.task != "hologram" or viewer is None:
            return options
        holograms = Holograms.of(viewer)
        kind = None if holograms.layer is None else holograms.kind
        return dataclasses.replace(options, settings=holograms.full_settings(), kind=kind)

    def accept_update(self, request: RunRequest, update: BatchUpdate) -> None:
        """Take where an item stands."""
        if request is not self._run:
            return
        row = request.rows[update.index]
        self.states[row] = update.changed
        self.item_changed.emit(row)
        left = update.seconds_left
        self.progress_changed.emit(Progress(update.finished, update.total, left, "files"))
        if update.changed.state == "running":
            self.say(f"Working on {update.changed.item.key}…")

    def finish(self, request: RunRequest) -> None:
        """Sum up a batch that has come to its end."""
        if request is not self._run:
            return
        stopped = request.stop.is_set()
        self._end()
        count = {s: sum(state.state == s for state in self.states) for s in ("done", "skipped")}
        failed = sum(state.state == "failed" for state in self.states)
        said = [f"{count['done']} done"]
        if count["skipped"]:
            said.append(f"{count['skipped']} were done before and are right")
        if failed:
            said.append(f"{failed} failed: see why in the queue")
        if stopped:
            said.append("the others wait for Start")
        text = f"{'Cancelled: ' if stopped else ''}{', '.join(said)}."
        self.say(text, "warning" if failed or stopped else "info")

    def fail(self, request: object, error: BaseException) -> None:
        """Say why work went wrong; failures of outdated searches are only logged."""
        if isinstance(request, SearchRequest):
            if request is not self._search:
                _log.info("an outdated search failed", exc_info=error)
                return
            self._search, self.states = None, []
            self.items_changed.emit()
            self.changed.emit()
        if isinstance(request, RunRequest):
            if request is not self._run:
                _log.info("an outdated batch failed", exc_info=error)
                return
            for row, state in enumerate(self.states):
                if state.state == "running":
                    self.states[row] = ItemState(state.item)
            self._end()
        self.say(explain(error), "error")

    def cancel(self) -> None:
        """Stop at once; what is done is kept."""
        if self._run is not None and not self._run.stop.is_set():
            self._run.stop.set()
            self.say("Stopping…")

    def detach(self) -> None:
        """Stop when the dock closes; items that were running wait again."""
        request = self._run
        if request is None:
            return
        request.stop.set()
        for row, state in enumerate(self.states):
            if state.state == "running":
                self.states[row] = ItemState(state.item)
        self._end()
        self.say("The batch was stopped, as its dock was closed; what was done is kept.", "warning")

    def _end(self) -> None:
        self._run = None
        self.items_changed.emit()
        self.progress_changed.emit(None)
        self.changed.emit()

    # -- results

    def can_open(self, row: int) -> bool:
        """Whether a row has results to look at."""
        return 0 <= row < len(self.states) and self.states[row].state in ("done", "skipped")

    def open_row(self, row: int) -> OpenRequest | None:
        """Ask for an image with what was found in it; one that is open is brought to the front."""
        if not 0 <= row < len(self.states):
            return None
        state = self.states[row]
        if not self.can_open(row) or self.out is None:
            self.say(state.reason or f"{state.item.key} has no results yet.", "warning")
            return None
        viewer, kept = self.viewer, self._opened.get(str(state.item.path))
        layer = None if kept is None else kept()
        if viewer is not None and layer is not None and layer in viewer.layers:
            viewer.layers.selection.active = layer
            self.say(f"{state.item.key} is open: {state.found}.")
            return None
        self.say(f"Opening {state.item.key}…")
        request = OpenRequest(row, state.item, self.out, self._colours)
        self.open_requested.emit(request)
        return request

    def accept_open(self, answer: OpenAnswer) -> None:
        """Show an image, and what was found in it on top."""
        from napari.layers import Layer

        viewer = self.viewer
        if viewer is None:
            return
        layers = [Layer.create(*data) for data in answer.opened.layers]
        for layer in layers:
            viewer.add_layer(layer)
        item = answer.request.item
        self._opened[str(item.path)] = weakref.ref(layers[0])
        where = show_result(self.session, layers[0], answer.result, answer.request.colours)
        found = self.states[answer.request.row].found if self.states else ""
        self.say(" ".join(part for part in (f"{item.key}: {found}.", where) if part))
