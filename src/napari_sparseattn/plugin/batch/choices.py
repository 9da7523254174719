"""Choices for a batch: files, folder of results, formats, options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from psygnal import Signal

from ...batch.machines import default_workers
from ...process.options import Task

__all__ = ["BatchChoices"]


class BatchChoices:
    """The files of a batch and how they are worked on, evented."""

    changed = Signal()
    #: Other files are to be looked for.
    search_changed = Signal()

    def __init__(self) -> None:
        self.inputs: tuple[str, ...] = ()
        self.pattern = ""
        self.out: Path | None = None
        #: Whether the folder of results was chosen, and not proposed.
        self.out_is_chosen = False
        #: Whether files, pattern and folder stay, as the batch is running.
        self.locked = False
        self.formats: tuple[str, ...] = ("csv",)
        self.pixel_size: float | None = None
        self.task: Task = "auto"
        # One core is left to the window.
        self.workers = max(1, default_workers() - 1)

    def add_inputs(self, paths: Sequence[str]) -> None:
        """Add files and folders."""
        new = [path for path in paths if path not in self.inputs]
        if not new or self.locked:
            return
        self.inputs = (*self.inputs, *new)
        if not self.out_is_chosen:
            self.out = _propose_folder(self.inputs)
        self._search()

    def clear(self) -> None:
        """Forget the files."""
        if self.locked:
            return
        self.inputs = ()
        if not self.out_is_chosen:
            self.out = None
        self._search()

    def set_pattern(self, pattern: str) -> None:
        """Take only files of folders that match; empty for all that can be read."""
        if pattern.strip() != self.pattern and not self.locked:
            self.pattern = pattern.strip()
            self._search()

    def set_out(self, out: Path) -> None:
        """Choose the folder of results."""
        if not self.locked:
            self.out, self.out_is_chosen = out, True
            self._search()

    def set_formats(self, formats: Sequence[str]) -> None:
        """Choose the formats of results."""
        self._set(formats=tuple(formats))

    def set_pixel_size(self, value: float | None) -> None:
        """Set µm per pixel of all files; None as the files say."""
        self._set(pixel_size=value)

    def set_task(self, task: Task) -> None:
        """Choose the task; holograms are reconstructed as in the dock Holograms."""
        self._set(task=task)

    def set_workers(self, n: int) -> None:
        """Choose the number of processes."""
        self._set(workers=max(1, n))

    def _set(self, **choices: object) -> None:
        for name, value in choices.items():
            setattr(self, name, value)
        self.changed.emit()

    def _search(self) -> None:
        self.changed.emit()
        self.search_changed.emit()


def _propose_folder(inputs: Sequence[str]) -> Path:
    """Return a folder for the results of inputs, below the first."""
    first = Path(inputs[0])
    folder = first if first.is_dir() and not os.fspath(first).endswith(".zarr") else first.parent
    return folder / "results"
