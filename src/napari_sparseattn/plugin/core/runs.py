"""Runs over all cells, a field or a slide: what they have given so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..cells.requests import RunRequest
from ..slides.requests import SlideRequest, StageDone
from ..traversal.requests import FieldRequest
from .messages import Progress

if TYPE_CHECKING:
    from ...images.fields.cells import Cells
    from ...inference.prediction import Predictions

__all__ = ["FieldRun", "Run", "SlideRun"]


class Run:
    """Collects the parts of a run.

    Parameters
    ----------
    request : RunRequest
        What was asked.
    """

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.cells: Cells | None = None
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

    def results(self) -> Predictions | None:
        """Return what has been classified so far, or None."""
        from ...inference.cells import join

        return join(self._parts) if self._parts else None


class FieldRun:
    """How far the traversal of one field is.

    Parameters
    ----------
    request : FieldRequest
        What was asked.
    """

    def __init__(self, request: FieldRequest) -> None:
        self.request = request
        self.read = 0
        self._began = time.monotonic()

    def progress(self) -> Progress:
        """Return how far it is; fewer crops may be read than could be."""
        total = self.request.crops
        if not self.read:
            return Progress(0, 0, what="crops")
        each = (time.monotonic() - self._began) / self.read
        return Progress(self.read, total, each * max(total - self.read, 0), "crops")


class SlideRun:
    """How far the work on one slide is.

    Parameters
    ----------
    request : SlideRequest
        What was asked.
    """

    def __init__(self, request: SlideRequest) -> None:
        self.request = request
        self.stages: tuple[StageDone, ...] = ()

    def progress(self) -> Progress:
        """Return that something is going on; the stages tell how far it is."""
        return Progress(0, 0, what="stages")
