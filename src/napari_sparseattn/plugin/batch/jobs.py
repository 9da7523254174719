"""Background work of the batch dock: one search, one batch, images one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..core.workers import Workers
from .requests import (
    OpenRequest,
    RunRequest,
    SearchRequest,
    answer_open,
    answer_search,
    stream_batch,
)

if TYPE_CHECKING:
    from ...batch.run import BatchUpdate
    from .session import Batch

__all__ = ["BatchJobs"]


class BatchJobs:
    """Does what a batch asks for off the main thread, and hands it the answers.

    The files are worked on in processes; the thread only waits for them.

    Parameters
    ----------
    batch : Batch
        Its methods are only called on the main thread.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._workers = Workers(partial(batch.fail, None))
        batch.search_requested.connect(self.search)
        batch.run_requested.connect(self.run)
        batch.open_requested.connect(self.open)

    def close(self) -> None:
        """Take no more requests, drop all answers."""
        if self._workers.closed:
            return
        self._workers.close()
        self._batch.search_requested.disconnect(self.search)
        self._batch.run_requested.disconnect(self.run)
        self._batch.open_requested.disconnect(self.open)

    def search(self, request: SearchRequest) -> None:
        """Find files; the batch drops the answer if it asks anew meanwhile."""
        self._workers.start(
            partial(answer_search, request),
            returned=self._batch.accept_search,
            errored=partial(self._batch.fail, request),
        )

    def run(self, request: RunRequest) -> None:
        """Work on files, which tells of each; ends within a second once it is to stop."""

        def work() -> Iterator[BatchUpdate]:
            yield from stream_batch(request)

        def end(_: object) -> None:
            self._batch.finish(request)

        self._workers.start(
            work,
            yielded=partial(self._batch.accept_update, request),
            returned=end,
            errored=partial(self._batch.fail, request),
        )

    def open(self, request: OpenRequest) -> None:
        """Read an image and its results."""
        self._workers.start(
            partial(answer_open, request),
            returned=self._batch.accept_open,
            errored=partial(self._batch.fail, request),
        )
