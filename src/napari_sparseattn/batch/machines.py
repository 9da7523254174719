"""Where items are worked on: processes of this machine, or workers of a dask cluster.

Both run `work.process_item` and give futures of `concurrent.futures`. On this
machine each process has a `ProcessPoolExecutor` of its own: one pool for all
would be broken, and every item in it lost, when one process is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Protocol

from .work import BatchTask, Outcome, process_item

__all__ = ["Cluster", "LocalProcesses", "Machines", "default_workers", "was_killed"]

_MOST_WORKERS = 4
#: Tasks that each worker of a cluster is sent ahead, so that it never waits for the next.
_AHEAD = 2
_CONNECT_SECONDS = 20
_LOOK_SECONDS = 1.0
#: Held while it is hidden, as several batches may begin processes at once.
_MAIN_MODULE = threading.Lock()
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Machines(Protocol):
    """Works on several items at once."""

    @property
    def capacity(self) -> int:
        """How many items can be given out at once."""
        ...

    def submit(self, task: BatchTask) -> Future[Outcome]:
        """Give out an item; call only while fewer than `capacity` are out."""
        ...

    def close(self) -> None:
        """End all work at once; what was not finished can be given out again later."""
        ...


def default_workers() -> int:
    """Return how many processes are used where nobody says: the cores, at most 4."""
    with contextlib.suppress(AttributeError):  # only on Linux
        return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def was_killed(error: BaseException) -> bool:
    """Tell whether work failed as its process died, and not by itself."""
    return isinstance(error, BrokenProcessPool) or type(error).__name__ == "KilledWorker"


class LocalProcesses:
    """Processes of this machine, each with the model loaded and one item at a time.

    Parameters
    ----------
    n : int
        How many; each takes one core, and the memory of torch and the model.

    Raises
    ------
    ValueError
        If there are none.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"at least 1 process is needed, not {n}")
        self._lanes = [_Lane() for _ in range(n)]

    @property
    def capacity(self) -> int:
        """Number of processes."""
        return len(self._lanes)

    def submit(self, task: BatchTask) -> Future[Outcome]:
        """Give an item to a process that is free."""
        lane = next(lane for lane in self._lanes if lane.free)
        return lane.submit(task)

    def close(self) -> None:
        """End the processes."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One process, begun anew when it dies."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._line: Connection | None = None
        self._work: Future[Outcome] | None = None

    @property
    def free(self) -> bool:
        return self._work is None or self._work.done()

    def submit(self, task: BatchTask) -> Future[Outcome]:
        if self._executor is None or (self._work is not None and _broke(self._work)):
            return self._begin(task)
        try:
            self._work = self._executor.submit(process_item, task)
        except BrokenProcessPool:  # it died while it had nothing to do
            return self._begin(task)
        return self._work

    def _begin(self, task: BatchTask) -> Future[Outcome]:
        self.close()
        # Spawned: neither torch nor Qt survives a fork with threads.
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._executor = ProcessPoolExecutor(
            1, mp_context=context, initializer=_watch, initargs=(theirs,)
        )
        with _hide_main_module():
            self._work = self._executor.submit(process_item, task)
        theirs.close()
        return self._work

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._line is not None:
            self._line.close()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._line = self._work = None


@contextlib.contextmanager
def _hide_main_module() -> Iterator[None]:
    """Start a process that does not import the script again, which it has no use for.

    A script that begins a batch, or opens a window, without asking whether it
    is ``__main__`` would otherwise do so in each process.
    """
    names = vars(sys.modules["__main__"])
    with _MAIN_MODULE:
        kept: dict[str, Any] = {n: names[n] for n in ("__file__", "__spec__") if n in names}
        try:
            names.update(dict.fromkeys(kept))
            yield
        finally:
            names.update(kept)


def _broke(work: Future[Outcome]) -> bool:
    return work.done() and not work.cancelled() and isinstance(work.exception(), BrokenProcessPool)


def _watch(line: Connection) -> None:
    """In a process: leave at once when whoever began it closes the line, or dies."""
    # Ctrl+C is for the process that the user began.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # For libraries that are loaded later.
    os.environ.update(dict.fromkeys(_THREADS, "1"))

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            line.recv_bytes()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="batch-line").start()


class Cluster:
    """Workers of a dask cluster; the scheduler gives an item of one that dies to another.

    Parameters
    ----------
    address : str
        Of the scheduler, e.g. ``"tcp://node1:8786"``.

    Raises
    ------
    ImportError
        If dask.distributed is not installed.
    OSError
        If no scheduler answers there.
    """

    def __init__(self, address: str) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise ImportError(
                '--scheduler needs dask.distributed: pip install "napari-sparseattn[cluster]"'
            ) from error
        try:
            self._client = distributed.Client(
                address, timeout=_CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise OSError(
                f"No dask scheduler answers at '{address}' ({error}). Start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS --nthreads 1`."
            ) from error
        self._executor = self._client.get_executor(pure=False)
        self._looked, self._threads = -_LOOK_SECONDS, 0

    @property
    def capacity(self) -> int:
        """A few items for each worker there is now; workers may come and go."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            # Without a scheduler the work that is out is cancelled, which says so.
            with contextlib.suppress(OSError):
                self._threads = sum(self._client.nthreads().values())
        return max(1, _AHEAD * self._threads)

    def submit(self, task: BatchTask) -> Future[Outcome]:
        """Give an item to the scheduler."""
        work: Future[Outcome] = self._executor.submit(process_item, task)
        return work

    def close(self) -> None:
        """Take back what is not finished; the cluster is left running."""
        with contextlib.suppress(CancelledError, OSError):
            self._executor.shutdown(wait=False)
        self._client.close()
