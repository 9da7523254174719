"""What a batch is to work on, and how: chosen, looked for, told; no Qt here."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...batch.machines import default_workers
from ...batch.run import ItemState
from ...process.options import Task
from ..core.messages import Level, Message
from ..core.session import Session
from .requests import RunRequest, SearchAnswer, SearchRequest

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["BatchChoices"]

_EMPTY = "Choose folders or files, or drop them here."


class BatchChoices:
    """The files of a batch and how they are worked on, evented.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it; held weakly.
    """

    changed = Signal()
    items_changed = Signal()
    item_changed = Signal(int)
    progress_changed = Signal(object)
    message_changed = Signal(object)
    search_requested = Signal(object)
    run_requested = Signal(object)
    open_requested = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.message = Message(_EMPTY)
        self.inputs: tuple[str, ...] = ()
        self.pattern = ""
        self.out: Path | None = None
        #: Whether the folder of results was chosen, and not proposed.
        self.out_is_chosen = False
        self.formats: tuple[str, ...] = ("csv",)
        self.pixel_size: float | None = None
        self.task: Task = "auto"
        # One core is left to the window.
        self.workers = max(1, default_workers() - 1)
        self.states: list[ItemState] = []
        self._search: SearchRequest | None = None
        self._run: RunRequest | None = None

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

    def say(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.message = Message(text, level)
        self.message_changed.emit(self.message)

    # -- what is chosen

    def add_inputs(self, paths: Sequence[str]) -> None:
        """Take more files and folders, and find what is in them."""
        new = [path for path in paths if path not in self.inputs]
        if self.running:
            self.say("Files can be added when this batch is finished or cancelled.", "warning")
            return
        if not new:
            return
        self.inputs = (*self.inputs, *new)
        if not self.out_is_chosen:
            self.out = _proposed(self.inputs)
        self._look()

    def clear(self) -> None:
        """Forget the files; their results stay."""
        if self.running:
            return
        self.inputs, self._search, self.states = (), None, []
        if not self.out_is_chosen:
            self.out = None
        self.changed.emit()
        self.items_changed.emit()
        self.progress_changed.emit(None)
        self.say(_EMPTY)

    def set_pattern(self, pattern: str) -> None:
        """Take only files of folders that match; empty for all that can be read."""
        if pattern.strip() != self.pattern and not self.running:
            self.pattern = pattern.strip()
            self._look()

    def set_out(self, out: Path) -> None:
        """Choose the folder of results."""
        if not self.running:
            self.out, self.out_is_chosen = out, True
            self._look()

    def set_formats(self, formats: Sequence[str]) -> None:
        """Choose the formats of results."""
        self.formats = tuple(formats)
        self.changed.emit()

    def set_pixel_size(self, value: float | None) -> None:
        """Set µm per pixel of all files; None as the files say."""
        self.pixel_size = value
        self.changed.emit()

    def set_task(self, task: Task) -> None:
        """Choose what is looked for; holograms are reconstructed as in the dock Holograms."""
        self.task = task
        self.changed.emit()

    def set_workers(self, n: int) -> None:
        """Choose how many processes work."""
        self.workers = max(1, n)
        self.changed.emit()

    def _look(self) -> None:
        self.changed.emit()
        if not self.inputs:
            return
        self._search = SearchRequest(self.inputs, self.pattern, self.out)
        self.say("Looking for files…")
        self.search_requested.emit(self._search)

    def accept_search(self, answer: SearchAnswer) -> None:
        """Take what was found, unless something else is looked for by now."""
        if answer.request is not self._search:
            return
        self._search = None
        self.states = [ItemState(item) for item in answer.items]
        self.items_changed.emit()
        self.changed.emit()
        count = "1 file" if len(self.states) == 1 else f"{len(self.states)} files"
        self.say(f"{count} found. {self.obstacle() or 'Start classifies them one by one.'}")

    def obstacle(self) -> str:
        """Say why it cannot start and what to do; nothing if it can."""
        if not self.inputs:
            return _EMPTY
        if not self.states:
            return "No files were found."
        if self.session.model is None or self.session.model.bundle.path is None:
            return "Choose a model in the dock Sparse attention."
        if self.out is None:
            return "Choose a folder for the results."
        if not self.formats:
            return "Choose a format for the results."
        return ""


def _proposed(inputs: Sequence[Any]) -> Path:
    """Return a folder for the results of inputs, below the first."""
    first = Path(inputs[0])
    folder = first if first.is_dir() and not os.fspath(first).endswith(".zarr") else first.parent
    return folder / "results"
