"""Background work on what-ifs: one question at a time."""

from __future__ import annotations

from functools import partial

from ..core.workers import Workers
from .what_if_requests import WhatIfRequest, answer_what_if
from .what_if_session import WhatIfs

__all__ = ["WhatIfJobs"]


class WhatIfJobs:
    """Answers one viewer's what-ifs in another thread.

    Parameters
    ----------
    what_ifs : WhatIfs
        Follows its session for as long as this is open.
    """

    def __init__(self, what_ifs: WhatIfs) -> None:
        self._what_ifs = what_ifs
        self._workers = Workers(partial(what_ifs.session.fail, None))
        what_ifs.requested.connect(self.answer)
        what_ifs.attach()

    def close(self) -> None:
        """Take no more requests, drop what is on its way."""
        if self._workers.closed:
            return
        self._workers.close()
        self._what_ifs.requested.disconnect(self.answer)
        self._what_ifs.detach()

    def answer(self, request: WhatIfRequest) -> None:
        """Put one question to the model."""
        self._workers.start(
            partial(answer_what_if, request),
            returned=partial(self._what_ifs.accept, request),
            errored=partial(self._what_ifs.fail, request),
        )
