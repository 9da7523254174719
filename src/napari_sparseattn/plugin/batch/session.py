"""The batch of one viewer: its queue, the run, and results shown on their images."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...batch.plan import BatchPlan
from ...batch.run import BatchUpdate, ItemState
from ...evidence import PyramidAttention, Traversal
from ...export.formats import check_formats
from ...inference.prediction import Predictions
from ...process.options import ProcessOptions
from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.status import Progress, Status
from ..holograms.session import Holograms
from ..session import Session
from .choices import BatchChoices
from .requests import (
    OpenAnswer,
    OpenRequest,
    RunRequest,
    SearchAnswer,
    SearchRequest,
    answer_open,
    answer_search,
    stream_batch,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from ...export.request import Result

__all__ = ["Batch"]

_log = logging.getLogger(__name__)

_EMPTY = "Choose folders or files, or drop them here."


class Batch(PerViewer):
    """Many files at once, in processes of their own; get it with `Batch.of`.

    The viewer is held weakly, so that closing it frees both.

    Attributes
    ----------
    choices : BatchChoices
        The files, and how they are worked on.
    states : list of ItemState
        The queue: where each file stands.
    """

    #: Whether it searches or runs, or the model.
    changed = Signal()
    items_changed = Signal()
    item_changed = Signal(int)
    progress_changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.choices = BatchChoices()
        self.states: list[ItemState] = []
        self.status = Status()
        self.status.notify(_EMPTY)
        self._search: SearchRequest | None = None
        self._run: RunRequest | None = None
        self._colours: tuple[str, ...] = ()
        self._opened: dict[str, weakref.ref[Layer]] = {}
        lanes = Lanes.of(viewer)
        self._searches = lanes.add(
            answer_search, given=self._take_search, failed=self._fail_search, busy="also"
        )
        self._runs = lanes.add(
            stream_batch,
            given=self._take_update,
            failed=self._fail_run,
            ended=self._finish,
            busy="also",
        )
        self._opening = lanes.add(
            answer_open,
            given=self._show_opened,
            failed=lambda _, error: self.status.fail(error),
            busy="also",
        )
        self.choices.search_changed.connect(self._look_for_files)
        Activity.of(viewer).follow("Batch", (self.progress_changed,), self.cancel)

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

    @property
    def running(self) -> bool:
        """Whether files are being worked on."""
        return self._run is not None

    @property
    def searching(self) -> bool:
        """Whether files are being looked for."""
        return self._search is not None

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Callable[..., Any]]]:
        return []

    def _last_closed(self) -> None:
        if self._run is not None:
            self._run.stop.set()
            self._put_back()
            self._end()
            self.status.notify(
                "The batch was stopped, as its dock was closed; what was done is kept.", "warning"
            )
        for lane in (self._searches, self._runs, self._opening):
            lane.close()

    # -- the files

    def add_inputs(self, paths: Sequence[str]) -> None:
        """Add files and folders to the queue, unless it is worked on."""
        if self.running:
            text = "Files can be added when this batch is finished or cancelled."
            self.status.notify(text, "warning")
        self.choices.add_inputs(paths)

    def _look_for_files(self) -> None:
        choices = self.choices
        if not choices.inputs:
            self._search = None
            self._set_states([])
            self.progress_changed.emit(None)
            self.status.notify(_EMPTY)
            return
        self._search = SearchRequest(choices.inputs, choices.pattern, choices.out)
        self.status.notify("Looking for files…")
        self._searches.ask(self._search)

    def _take_search(self, request: SearchRequest, answer: SearchAnswer) -> None:
        if request is not self._search:
            return
        self._search = None
        self._set_states([ItemState(item) for item in answer.items])
        next_step = self.obstacle() or "Start classifies them one by one."
        self.status.notify(f"{counted(len(self.states), 'file')} found. {next_step}")

    def _fail_search(self, request: SearchRequest, error: BaseException) -> None:
        if request is not self._search:
            _log.info("an outdated search failed", exc_info=error)
            return
        self._search = None
        self._set_states([])
        self.status.fail(error)

    def _set_states(self, states: list[ItemState]) -> None:
        self.states = states
        self.items_changed.emit()
        self.changed.emit()

    def obstacle(self) -> str:
        """Return why it cannot start and what to do; nothing if it can."""
        if not self.choices.inputs:
            return _EMPTY
        if not self.states:
            return "No files were found."
        if self.session.selection.model is None or self.session.selection.model.bundle.path is None:
            return "Choose a model in the dock Sparse attention."
        if self.choices.out is None:
            return "Choose a folder for the results."
        if not self.choices.formats:
            return "Choose a format for the results."
        return ""

    # -- the run

    def start(self) -> RunRequest | None:
        """Work on all files; those whose results are up to date are skipped."""
        return self._begin(range(len(self.states)))

    def retry_failed(self) -> RunRequest | None:
        """Work once more on the files that failed."""
        return self._begin([i for i, s in enumerate(self.states) if s.state == "failed"])

    def _begin(self, rows: Sequence[int]) -> RunRequest | None:

        if self.running or self.searching:
            return None
        if obstacle := self.obstacle():
            self.status.notify(obstacle, "warning")
            return None
        try:
            check_formats(self.choices.formats)
        except ValueError as error:
            self.status.notify(str(error), "error")
            return None
        model = self.session.selection.model
        assert model is not None
        assert model.bundle.path is not None
        assert self.choices.out is not None
        items = tuple(self.states[row].item for row in rows)
        path = model.bundle.path.absolute()
        plan = BatchPlan(items, path, model.bundle.hash, self.choices.out, self._options())
        request = self._run = RunRequest(plan, tuple(rows), self.choices.workers)
        self.choices.locked = True
        self._colours = model.bundle.card.colours
        for row in rows:
            self.states[row] = ItemState(self.states[row].item)
        self.items_changed.emit()
        self.changed.emit()
        self.progress_changed.emit(Progress(0, len(rows), what="files"))
        self.status.notify("Starting processes; each loads the model first…")
        self._runs.ask(request)
        return request

    def _options(self) -> ProcessOptions:
        model, viewer = self.session.selection.model, self.viewer
        assert model is not None
        options = ProcessOptions(
            self.choices.formats,
            self.choices.task,
            pixel_size=self.choices.pixel_size,
            locations=self.session.crops.locations,
            device=model.device,
        )
        if self.choices.task != "hologram" or viewer is None:
            return options
        holograms = Holograms.of(viewer)
        source = holograms.source
        kind = None if source.layer is None else source.kind
        return dataclasses.replace(options, settings=holograms.full_settings(), kind=kind)

    def _take_update(self, request: RunRequest, update: BatchUpdate) -> None:
        if request is not self._run:
            return
        row = request.rows[update.index]
        self.states[row] = update.changed
        self.item_changed.emit(row)
        left = update.seconds_left
        self.progress_changed.emit(Progress(update.finished, update.total, left, "files"))
        if update.changed.state == "running":
            self.status.notify(f"Working on {update.changed.item.key}…")

    def _finish(self, request: RunRequest) -> None:
        if request is not self._run:
            return
        stopped = request.stop.is_set()
        self._end()
        done, skipped, failed = (
            sum(state.state == name for state in self.states)
            for name in ("done", "skipped", "failed")
        )
        parts = [f"{done} done"]
        if skipped:
            parts.append(f"{skipped} skipped: up to date (verified)")
        if failed:
            parts.append(f"{failed} failed: see why in the queue")
        if stopped:
            parts.append("the others wait for Start")
        text = f"{'Cancelled: ' if stopped else ''}{', '.join(parts)}."
        self.status.notify(text, "warning" if failed or stopped else "info")

    def _fail_run(self, request: RunRequest, error: BaseException) -> None:
        if request is not self._run:
            _log.info("an outdated batch failed", exc_info=error)
            return
        self._put_back()
        self._end()
        self.status.fail(error)

    def cancel(self) -> None:
        """Stop at once; what is done is kept."""
        if self._run is not None and not self._run.stop.is_set():
            self._run.stop.set()
            self.status.notify("Stopping…")

    def _put_back(self) -> None:
        """Let the items that were running wait again."""
        self.states = [
            ItemState(state.item) if state.state == "running" else state for state in self.states
        ]

    def _end(self) -> None:
        self._run = None
        self.choices.locked = False
        self.items_changed.emit()
        self.progress_changed.emit(None)
        self.changed.emit()

    # -- results

    def can_open(self, row: int) -> bool:
        """Whether a row has results to look at."""
        return 0 <= row < len(self.states) and self.states[row].state in ("done", "skipped")

    def open_row(self, row: int) -> None:
        """Open an image with its results; one that is open is brought to the front."""
        if not 0 <= row < len(self.states):
            return
        state, out = self.states[row], self.choices.out
        if not self.can_open(row) or out is None:
            self.status.notify(state.reason or f"{state.item.key} has no results yet.", "warning")
            return
        viewer, kept = self.viewer, self._opened.get(str(state.item.path))
        layer = None if kept is None else kept()
        if viewer is not None and layer is not None and layer in viewer.layers:
            viewer.layers.selection.active = layer
            self.status.notify(f"{state.item.key} is open: {state.found}.")
            return
        self.status.notify(f"Opening {state.item.key}…")
        self._opening.ask(OpenRequest(row, state.item, out, self._colours))

    def _show_opened(self, request: OpenRequest, answer: OpenAnswer) -> None:
        from napari.layers import Layer

        viewer = self.viewer
        if viewer is None:
            return
        layers = [Layer.create(*data) for data in answer.opened.layers]
        for layer in layers:
            viewer.add_layer(layer)
        item = request.item
        self._opened[str(item.path)] = weakref.ref(layers[0])
        where = _show_result(self.session, layers[0], answer.result, request.colours)
        found = self.states[request.row].found if self.states else ""
        self.status.notify(" ".join(part for part in (f"{item.key}: {found}.", where) if part))


def _show_result(session: Session, layer: Layer, result: Result, colours: tuple[str, ...]) -> str:
    """Put the overlays of a result on its image; return what the user should know of them.

    Of several frames the first with cells is shown.
    """
    image: Any = layer
    index = (0,) * (image.ndim - 2)
    if isinstance(result, Predictions):
        session.cells.take_results(image, index, result, colours)
        return ""
    if isinstance(result, Mapping):
        frame, found = _find_first_with_cells(result)
        index = (*index[:-1], frame) if index else ()
        session.cells.take_results(image, index, found, colours)
        viewer = session.viewer
        if viewer is not None and index:
            viewer.dims.set_point(viewer.dims.ndim - 3, frame)
        return f"The cells of frame {frame + 1} of {len(result)} are marked."
    if isinstance(result.evidence, PyramidAttention):
        session.slides.show_attention(image, index, result.evidence)
        return ""
    if isinstance(result.evidence, Traversal):
        session.crops.layers.show(image, index, result, session.selection.choice)
    return ""


def _find_first_with_cells(frames: Mapping[int, Predictions]) -> tuple[int, Predictions]:
    filled = [(index, found) for index, found in frames.items() if len(found)]
    return filled[0] if filled else next(iter(frames.items()))
