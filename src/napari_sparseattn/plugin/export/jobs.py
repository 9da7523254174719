"""Writes what is asked for in another thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..core.messages import Progress
from ..core.workers import Workers
from .session import Exporting, ExportRequest, stream_export

__all__ = ["ExportJobs"]


class ExportJobs:
    """Does what an `Exporting` asks for, and hands it the answers.

    Parameters
    ----------
    exporting : Exporting
        Its methods are only called on the main thread.
    """

    def __init__(self, exporting: Exporting) -> None:
        self._exporting = exporting
        self._request: ExportRequest | None = None
        self._workers = Workers(lambda error: None)
        exporting.requested.connect(self.export)

    def close(self) -> None:
        """Take no more requests, and stop the work at hand."""
        if self._workers.closed:
            return
        self._workers.close()
        self._exporting.requested.disconnect(self.export)
        if self._request is not None:
            self._request.stop.set()

    def export(self, request: ExportRequest) -> None:
        """Write one result."""
        self._request = request

        def work() -> Iterator[Progress | list[Path]]:
            yield from stream_export(request)

        def part(given: Progress | list[Path]) -> None:
            if isinstance(given, list):
                self._exporting.accept(request, given)
            else:
                self._exporting.accept_progress(request, given)

        self._workers.start(work, yielded=part, errored=partial(self._exporting.fail, request))
