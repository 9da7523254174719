"""Pausing and cancelling a training run from another thread."""

from __future__ import annotations

import threading

__all__ = ["TrainingControl"]


class TrainingControl:
    """A switch between who trains and who watches; safe to use from any thread.

    The run asks `proceed` before each step, some tens of milliseconds apart.
    """

    def __init__(self) -> None:
        self._running = threading.Event()
        self._running.set()
        self._cancelled = threading.Event()

    @property
    def paused(self) -> bool:
        """Whether the run waits."""
        return not self._running.is_set() and not self.cancelled

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end, with the best so far."""
        return self._cancelled.is_set()

    def pause(self) -> None:
        """Let the run wait before its next step."""
        self._running.clear()

    def resume(self) -> None:
        """Let a run that waits go on."""
        self._running.set()

    def cancel(self) -> None:
        """End the run before its next step; it keeps the best so far."""
        self._cancelled.set()
        self._running.set()

    def proceed(self) -> bool:
        """Wait while paused; return False once cancelled."""
        self._running.wait()
        return not self.cancelled
