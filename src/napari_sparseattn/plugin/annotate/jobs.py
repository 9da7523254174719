"""Work of annotating in other threads: once per viewer, as long as a widget holds it."""

from __future__ import annotations

import dataclasses
import weakref
from collections import deque
from collections.abc import Callable

from ..core.workers import Workers
from .images import Identified
from .session import Annotating, Work

__all__ = ["hold"]


@dataclasses.dataclass(eq=False)
class _Jobs:
    """Does what one viewer's annotating asks for, one after the other."""

    workers: Workers
    users: int = 0
    waiting: deque[Work] = dataclasses.field(default_factory=deque)
    busy: bool = False

    def start(self, work: Work) -> None:
        # In turns: what changes the list of classes must not meet another change.
        self.waiting.append(work)
        if not self.busy:
            self.go_on()

    def go_on(self) -> None:
        self.busy = bool(self.waiting)
        if not self.waiting:
            return
        work = self.waiting.popleft()

        def run() -> object:
            found = work.run()
            if self.workers.closed and isinstance(found, Identified) and found.book is not None:
                # Nobody will: the answer is dropped, and others wait for the file.
                found.book.close()
            return found

        self.workers.start(run, returned=work.done, errored=work.failed, finished=self.go_on)


_jobs: weakref.WeakKeyDictionary[Annotating, _Jobs] = weakref.WeakKeyDictionary()


def hold(annotating: Annotating) -> Callable[[], None]:
    """Let a viewer's annotating follow its viewer, and its work be done.

    Returns
    -------
    callable
        Lets go of it; to be called once, when the widget goes.
    """
    jobs = _jobs.get(annotating)
    if jobs is None:
        jobs = _jobs[annotating] = _Jobs(Workers(annotating.session.status.fail))
        annotating.work_requested.connect(jobs.start)
    jobs.users += 1
    annotating.attach()

    def release() -> None:
        jobs.users -= 1
        if not jobs.users:
            jobs.workers.close()
            annotating.work_requested.disconnect(jobs.start)
            _jobs.pop(annotating, None)
        annotating.detach()

    return release
