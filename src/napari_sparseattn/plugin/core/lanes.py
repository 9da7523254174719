"""Background work: asked for on the main thread, done in another, answered on the main thread."""

from __future__ import annotations

import atexit
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from .per_viewer import PerViewer

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["AtOnce", "Lane", "Lanes", "Runner", "Threads", "close_all"]

R = TypeVar("R")

#: What happens to a request while another of its lane is worked on: only the last of them is
#: answered; the same, and the work at hand is stopped; it is worked on beside the other; in turns.
Busy = Literal["last", "replace", "also", "queue"]

_LAST_MS = 5000


class Runner(Protocol):
    """Where work is done."""

    def start(
        self,
        work: Callable[[], Any],
        *,
        given: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        finished: Callable[[], None],
    ) -> Callable[[], None]:
        """Do the work and hand on each value that it gives; return what stops it.

        Parameters
        ----------
        work : callable
            Returns a value, or is a generator function, which may be stopped
            between the values that it yields.
        given, failed, finished : callable
            Called on the main thread: with each value, with the error, at the end.
        """
        ...

    def later(self, milliseconds: int, call: Callable[[], None]) -> None:
        """Call something on the main thread after a while."""
        ...


class Threads:
    """Does work in Qt's pool of threads."""

    def start(
        self,
        work: Callable[[], Any],
        *,
        given: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        finished: Callable[[], None],
    ) -> Callable[[], None]:
        """Do the work in another thread, see `Runner.start`."""
        # superqt's worker, not napari's: napari's also shows every error in a
        # notification, which this window says in its own line.
        from superqt.utils import create_worker

        _end_before_qt()
        signal = "yielded" if inspect.isgeneratorfunction(work) else "returned"
        worker = create_worker(
            work,
            _connect={signal: given, "errored": failed, "finished": finished},
            _start_thread=True,
            _ignore_errors=True,
        )
        return worker.quit if hasattr(worker, "quit") else lambda: None

    def later(self, milliseconds: int, call: Callable[[], None]) -> None:
        """Call something after a while."""
        from qtpy.QtCore import QTimer

        QTimer.singleShot(milliseconds, call)


class AtOnce:
    """Does work where it is asked for, before that returns: for tests and scripts."""

    #: What may go wrong in work without being a fault of the program.
    errors = (ValueError, OSError, TypeError, MemoryError)

    def start(
        self,
        work: Callable[[], Any],
        *,
        given: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        finished: Callable[[], None],
    ) -> Callable[[], None]:
        """Do the work now, see `Runner.start`."""
        try:
            found = work()
            for value in found if inspect.isgenerator(found) else (found,):
                given(value)
        except self.errors as error:
            failed(error)
        finished()
        return lambda: None

    def later(self, milliseconds: int, call: Callable[[], None]) -> None:
        """Call it now."""
        call()


class Lane(Generic[R]):
    """Work of one kind.

    Parameters
    ----------
    runner : callable
        Returns where the work is to be done.
    work : callable
        Given a request, returns an answer, or is a generator function of parts
        of one. Called in another thread.
    given : callable
        Called with the request and each answer or part.
    failed : callable
        Called with the request and the error.
    ended : callable, optional
        Called with the request when its work has ended without an error, after
        the last part.
    busy : {"last", "replace", "also", "queue"}
        What happens to requests while one is worked on. A request with an
        event ``stop`` is stopped by it.
    """

    def __init__(
        self,
        runner: Callable[[], Runner],
        work: Callable[[R], Any],
        *,
        given: Callable[[R, Any], object],
        failed: Callable[[R, BaseException], object],
        ended: Callable[[R], object] | None = None,
        busy: Busy = "last",
    ) -> None:
        self._runner, self._work = runner, work
        self._given, self._failed, self._ended = given, failed, ended
        self._busy = busy
        self._waiting: deque[R] = deque()
        self._stops: dict[int, tuple[R, Callable[[], None]]] = {}
        self._started = 0
        #: Grows when answers are dropped: those of work from before do not arrive.
        self._era = 0

    @property
    def running(self) -> bool:
        """Whether something is worked on."""
        return bool(self._stops)

    def ask(self, request: R, after_ms: int = 0) -> None:
        """Have a request worked on, at the earliest after some milliseconds."""
        if self._busy in ("last", "replace"):
            self._waiting.clear()
        self._waiting.append(request)
        if self._busy == "replace":
            self._stop()
        if after_ms:
            self._runner().later(after_ms, self._start_next)
        else:
            self._start_next()

    def cancel(self) -> None:
        """Forget what waits and ask what goes on to stop; what it gives until then arrives."""
        self._waiting.clear()
        self._stop()

    def close(self) -> None:
        """Stop, and let no answer of what was asked so far arrive."""
        self.cancel()
        self._era += 1
        self._stops.clear()

    def _stop(self) -> None:
        for request, quit_ in list(self._stops.values()):
            stop = getattr(request, "stop", None)
            if stop is not None:
                stop.set()
            quit_()

    def _start_next(self) -> None:
        while self._waiting and (self._busy == "also" or not self._stops):
            request = self._waiting.popleft()
            stop = getattr(request, "stop", None)
            if stop is None or not stop.is_set():
                self._start(request)

    def _start(self, request: R) -> None:
        self._started += 1
        number, era, ok = self._started, self._era, [True]

        def given(value: Any) -> None:
            if era == self._era:
                self._given(request, value)

        def failed(error: BaseException) -> None:
            ok.clear()
            if era == self._era:
                self._failed(request, error)

        def finished() -> None:
            if era != self._era:
                return
            self._stops.pop(number, None)
            if ok and self._ended is not None:
                self._ended(request)
            self._start_next()

        # Until it has started it can only be stopped by its own event.
        self._stops[number] = (request, lambda: None)
        quit_ = self._runner().start(
            _bound(self._work, request), given=given, failed=failed, finished=finished
        )
        if number in self._stops:
            self._stops[number] = (request, quit_)


class Lanes(PerViewer):
    """The background work of one viewer, and where it is done.

    Attributes
    ----------
    runner : Runner
        Threads, unless a test or a script wants the work done at once.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.runner: Runner = Threads()

    def add(
        self,
        work: Callable[[R], Any],
        *,
        given: Callable[[R, Any], object],
        failed: Callable[[R, BaseException], object],
        ended: Callable[[R], object] | None = None,
        busy: Busy = "last",
    ) -> Lane[R]:
        """Return a new lane, see `Lane`; its owner closes it when the last dock goes."""
        return Lane(lambda: self.runner, work, given=given, failed=failed, ended=ended, busy=busy)


def close_all(lanes: Iterable[Lane[Any]]) -> None:
    """Close several lanes."""
    for lane in lanes:
        lane.close()


def _bound(work: Callable[[R], Any], request: R) -> Callable[[], Any]:
    if inspect.isgeneratorfunction(work):

        def stream() -> Any:
            yield from work(request)

        return stream
    return partial(work, request)


@cache
def _end_before_qt() -> None:
    """Let threads end before Qt's objects go: one that tells of its end later aborts Python."""
    from qtpy.QtCore import QThreadPool

    atexit.register(QThreadPool.globalInstance().waitForDone, _LAST_MS)
