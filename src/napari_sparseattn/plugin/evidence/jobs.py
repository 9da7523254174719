"""Background work on evidence: one measurement at a time, the last that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from qtpy.QtCore import QTimer

from ..core.workers import Workers
from .requests import EvidenceRequest, stream_evidence
from .session import Evidence

__all__ = ["EvidenceJobs"]

#: Milliseconds that a click's own overlay gets to be drawn before its evidence is measured.
_PATIENCE = 40


class EvidenceJobs:
    """Measures what one viewer's evidence asks for in another thread.

    Parameters
    ----------
    evidence : Evidence
        Follows its session for as long as this is open. Its requests are taken
        from its signal; its methods are only called on the main thread.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._now: EvidenceRequest | None = None
        self._next: EvidenceRequest | None = None
        self._workers = Workers(partial(evidence.session.fail, None))
        evidence.requested.connect(self.measure)
        evidence.attach()

    def close(self) -> None:
        """Take no more requests, stop what is being measured, drop its answer."""
        if self._workers.closed:
            return
        self._workers.close()
        self._next = None
        self._evidence.requested.disconnect(self.measure)
        self._evidence.detach()
        if self._now is not None:
            self._now.stop.set()

    def measure(self, request: EvidenceRequest) -> None:
        """Measure; of what is asked for meanwhile only the last is measured."""
        self._next = request
        if self._now is None:
            QTimer.singleShot(_PATIENCE if request.by_itself else 0, self._start_next)

    def _start_next(self) -> None:
        if self._now is not None or self._workers.closed:
            return
        request, self._next = self._next, None
        if request is None or request.stop.is_set():
            return
        self._now = request
        evidence = self._evidence

        def work() -> Iterator[Any]:
            yield from stream_evidence(request)

        def part(given: Any) -> None:
            if isinstance(given, tuple):
                evidence.accept_progress(request, *given)
            else:
                evidence.accept(request, given)

        self._workers.start(
            work,
            yielded=part,
            errored=partial(evidence.fail, request),
            finished=self._finished,
        )

    def _finished(self) -> None:
        self._now = None
        self._start_next()
