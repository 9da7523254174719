"""Background work on comparisons: one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..core.workers import Workers
from .requests import CompareRequest, stream_comparison
from .session import Compare

__all__ = ["CompareJobs"]


class CompareJobs:
    """Lets a second model answer in another thread.

    Parameters
    ----------
    compare : Compare
        Follows its session for as long as this is open.
    """

    def __init__(self, compare: Compare) -> None:
        self._compare = compare
        self._workers = Workers(partial(compare.session.fail, None))
        compare.requested.connect(self.answer)
        compare.attach()

    def close(self) -> None:
        """Take no more requests, stop what is on its way."""
        if self._workers.closed:
            return
        self._workers.close()
        self._compare.requested.disconnect(self.answer)
        self._compare.detach()

    def answer(self, request: CompareRequest) -> None:
        """Compare; the request's own event stops it."""
        compare = self._compare

        def work() -> Iterator[Any]:
            yield from stream_comparison(request)

        def part(given: Any) -> None:
            if isinstance(given, tuple):
                compare.accept_progress(request, *given)
            else:
                compare.accept(request, given)

        self._workers.start(work, yielded=part, errored=partial(compare.fail, request))
