"""What a window says to its user: a line, how far work is, what went wrong."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal, Protocol

from psygnal import Signal

__all__ = ["Level", "Message", "Progress", "StageDone", "Status", "StoppedError", "Work", "explain"]

_log = logging.getLogger(__name__)
_WINDOWS_DLL_FAILED = 1114

Level = Literal["info", "warning", "error"]


class StoppedError(Exception):
    """Work that was asked to stop, and did."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One line for the user."""

    text: str
    level: Level = "info"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    done, total : int
        Cells or crops; total 0 while it is not known.
    seconds_left : float or None
        Estimated from those done so far.
    what : str
        What is counted.
    """

    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    what: str = "cells"


@dataclasses.dataclass(frozen=True)
class StageDone:
    """How far one part of the work is.

    Parameters
    ----------
    name : str
        One of `slides.requests.STAGES`.
    done, total : int
        In the part's own steps; a total of 0 where it is not known.
    first : int
        What was there when the part began, from an earlier run.
    seconds : float
        Since the part began.
    """

    name: str
    done: int
    total: int
    first: int = 0
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left."""
        return self.total > 0 and self.done >= self.total

    @property
    def seconds_left(self) -> float | None:
        """Estimated from what this run has done so far."""
        made = self.done - self.first
        if self.finished or made <= 0 or self.total <= 0:
            return None
        return self.seconds / made * (self.total - self.done)


class Work(Protocol):
    """Work that takes a while: all cells, a field or a slide."""

    @property
    def request(self) -> Any:
        """What was asked."""
        ...

    def progress(self) -> Progress:
        """Return how far it is."""
        ...

    def cancel(self, reason: str) -> None:
        """Stop, keep what there is, and say so."""
        ...


class Status:
    """The message line of one viewer, and the work that its user waits for: one at a time."""

    message_changed = Signal(object)
    progress_changed = Signal(object)

    def __init__(self) -> None:
        self.message = Message("")
        self.work: Work | None = None

    def notify(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.message = Message(text, level)
        self.message_changed.emit(self.message)

    def fail(self, error: BaseException) -> None:
        """Say what went wrong, and what to do."""
        self.notify(explain(error), "error")

    @property
    def running(self) -> bool:
        """Whether all cells, a field or a slide are being classified."""
        return self.work is not None

    def begin(self, work: Work) -> None:
        """Show the progress of work from now on."""
        self.work = work
        self.show_progress()

    def show_progress(self) -> None:
        """Say how far the work is."""
        self.progress_changed.emit(None if self.work is None else self.work.progress())

    def of(self, request: object) -> Any:
        """Return the work that a request is for; None if that is not waited for any more."""
        return self.work if self.work is not None and self.work.request is request else None

    def end(self, request: object) -> Any:
        """Note that work has ended; return it, or None if it was not waited for any more."""
        work = self.of(request)
        if work is not None:
            self.work = None
            self.show_progress()
        return work

    def fail_work(self, request: object, error: BaseException) -> None:
        """Say why work went wrong; of work that nobody waits for, only log it."""
        if self.end(request) is None:
            _log.info("outdated work failed", exc_info=error)
        else:
            self.fail(error)

    def cancel(self, reason: str = "Cancelled") -> None:
        """Stop the work, keeping what there is."""
        if self.work is not None:
            self.work.cancel(reason)


def explain(error: BaseException) -> str:
    """Return what went wrong and what to do, in one or two sentences.

    Errors this project raises already say so; others are named, and said to
    be bugs. All are logged with their traceback.
    """
    if getattr(error, "winerror", None) == _WINDOWS_DLL_FAILED:
        return (
            "PyTorch cannot be loaded after Qt on this Windows. Start napari with: "
            'python -c "import torch, napari; napari.Viewer(); napari.run()"'
        )
    if isinstance(error, ImportError):
        return f"A part of the installation is missing ({error}). Install the plugin again."
    if isinstance(error, ValueError | TypeError | OSError | MemoryError) and str(error):
        _log.info("work failed", exc_info=error)
        return str(error)
    _log.error("unexpected error in background work", exc_info=error)
    return (
        f"Something unexpected went wrong ({type(error).__name__}: {error}). Please report it; "
        "the log has the details."
    )
