"""Starts work in other threads; its answers reach the main thread until closed."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from typing import Any

from qtpy.QtCore import QThreadPool
from superqt.utils import create_worker

__all__ = ["Workers"]

_LAST_MS = 5000


@cache
def _end_before_qt() -> None:
    """Let threads end before Qt's objects go: one that tells of its end later aborts Python."""
    pool = QThreadPool.globalInstance()
    atexit.register(pool.waitForDone, _LAST_MS)


class Workers:
    """Starts workers and drops what they send after `close`.

    Parameters
    ----------
    failed : callable
        Called with the error of work that was given no slot for errors.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self.closed = False

    def close(self) -> None:
        """Let no more answers through."""
        self.closed = True

    def start(self, work: Callable[[], Any], **slots: Callable[..., None]) -> Any:
        """Start a worker whose signals reach the slots until `close`.

        Parameters
        ----------
        work : callable
            Called in another thread; a generator function may be stopped
            between what it yields, by ``quit()`` of the worker returned.
        **slots : callable
            By the name of the worker's signal: yielded, returned, errored, finished.
        """

        def guarded(slot: Callable[..., None]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                if not self.closed:
                    slot(*args)

            return call

        if "errored" not in slots:
            slots["errored"] = self._failed
        _end_before_qt()
        # superqt's worker, not napari's: napari's also shows every error in a
        # notification, which this window says in its own line.
        return create_worker(
            work,
            _connect={name: guarded(slot) for name, slot in slots.items()},
            _start_thread=True,
            _ignore_errors=True,
        )
