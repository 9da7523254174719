"""Background work on the evidence of all cells: one measurement at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..core.workers import Workers
from .agreement_requests import AgreementRequest, MeasuredCell, stream_agreement
from .agreement_session import Agreement

__all__ = ["AgreementJobs"]


class AgreementJobs:
    """Measures what one viewer's agreement asks for in another thread.

    Parameters
    ----------
    agreement : Agreement
        Follows its session for as long as this is open.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._workers = Workers(partial(agreement.session.fail, None))
        agreement.requested.connect(self.measure)
        agreement.attach()

    def close(self) -> None:
        """Take no more requests, stop what is being measured."""
        if self._workers.closed:
            return
        self._workers.close()
        self._agreement.requested.disconnect(self.measure)
        self._agreement.detach()

    def measure(self, request: AgreementRequest) -> None:
        """Measure cell by cell; the request's own event stops it."""

        def work() -> Iterator[MeasuredCell]:
            yield from stream_agreement(request)

        def end(_: object) -> None:
            self._agreement.finish(request)

        self._workers.start(
            work,
            yielded=partial(self._agreement.accept, request),
            returned=end,
            errored=partial(self._agreement.fail, request),
        )
