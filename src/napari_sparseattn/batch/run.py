"""Run a batch: items given out, outcomes taken in, states reported."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Literal

from ..export.summary import describe
from ..process.inputs import InputFile
from .machines import Cluster, LocalProcesses, Machines, default_workers, was_killed
from .plan import BatchPlan
from .records import Failure, Records, current_time, write_table
from .work import BatchTask, Outcome

__all__ = ["BatchStoppedError", "BatchUpdate", "ItemState", "run_batch"]

State = Literal["waiting", "running", "done", "skipped", "failed"]

_TICK_SECONDS = 0.1
#: How long an item that another process is at is left alone.
_BUSY_SECONDS = 1.0
_BUSY = "another process is working on it"
#: An item whose process dies this often is to blame itself.
_MOST_TRIES = 2
_MOST_RECENT = 50


class BatchStoppedError(OSError):
    """A batch that cannot go on, e.g. as the disk is full; what was done is kept."""


@dataclasses.dataclass(frozen=True)
class ItemState:
    """Where one item stands.

    Parameters
    ----------
    item : InputFile
        Which.
    state : {"waiting", "running", "done", "skipped", "failed"}
        Skipped: its results are there, and were found to be right.
    reason : str
        Why it failed or waits, or what was redone.
    found : str
        What was found, in words.
    seconds : float
        How long it took.
    outputs : tuple of pathlib.Path
        What was written.
    """

    item: InputFile
    state: State = "waiting"
    reason: str = ""
    found: str = ""
    seconds: float = 0.0
    outputs: tuple[Path, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("done", "skipped", "failed")


@dataclasses.dataclass(frozen=True)
class BatchUpdate:
    """A change of one item, and how far all are.

    Parameters
    ----------
    changed : ItemState
        The item as it is now.
    index : int
        Its place in the plan.
    finished, total : int
        Items that are done, skipped or failed, and all.
    seconds_left : float or None
        Estimated from the items worked on so far.
    """

    changed: ItemState
    index: int
    finished: int
    total: int
    seconds_left: float | None


def run_batch(
    plan: BatchPlan,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[BatchUpdate]:
    """Work on all items, in processes of this machine or on a dask cluster.

    What is there already and right by its size and sha256 is skipped; what is
    missing, changed or damaged is done again. Several runs may share one
    folder, also from several machines. A file that fails is named and does not
    stop the others; an item whose process is killed is given out once more.

    Parameters
    ----------
    plan : BatchPlan
        From `plan_batch`.
    workers : int, optional
        Processes, one core each; by default the cores, at most 4.
    scheduler : str, optional
        Address of a dask scheduler, instead of processes of this machine.
    stop : callable, optional
        Asked ten times a second; when it returns True, all work ends at once.
        Items that were running wait again.

    Yields
    ------
    BatchUpdate
        Whenever an item changes. Closing the iterator ends all work.

    Raises
    ------
    BatchStoppedError
        If no more can be written; what was done is kept.
    OSError
        If the folder of results cannot be written, or no scheduler answers.
    """
    records = Records(plan.out)
    records.prepare()
    machines: Machines
    machines = Cluster(scheduler) if scheduler else LocalProcesses(workers or default_workers())
    run = _Run(plan, machines, records)
    try:
        while not run.over:
            if stop is not None and stop():
                yield from run.put_back()
                break
            yield from run.step()
    finally:
        machines.close()
    if run.stopped:
        raise BatchStoppedError(run.explain_stop())
    write_table(records)


class _Run:
    """The items of a plan on their way."""

    def __init__(self, plan: BatchPlan, machines: Machines, records: Records) -> None:
        self._plan, self._machines, self._records = plan, machines, records
        self._waiting = deque(range(len(plan.items)))
        #: Items that another process is at, with the time to look at them again.
        self._busy: deque[tuple[float, int]] = deque()
        self._out: dict[Future[Outcome], int] = {}
        self._tries: Counter[int] = Counter()
        self._finished = self._worked = 0
        #: Seconds of the items that were worked on last.
        self._recent: deque[float] = deque(maxlen=_MOST_RECENT)
        self.stopped = ""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        left = self._out if self.stopped else (self._waiting or self._busy or self._out)
        return not left

    def explain_stop(self) -> str:
        """Say why, and what to do."""
        total = len(self._plan.items)
        return (
            f"{self.stopped} {self._worked} of {total} were worked on; give the same command "
            "again for the others."
        )

    def step(self) -> Iterator[BatchUpdate]:
        """Give out items, wait a little, and take in what came back."""
        while self._busy and self._busy[0][0] <= time.monotonic():
            self._waiting.append(self._busy.popleft()[1])
        while self._waiting and not self.stopped and len(self._out) < self._machines.capacity:
            index = self._waiting.popleft()
            yield self._update(index, ItemState(self._item(index), "running"))
            task = BatchTask.of(self._plan, self._item(index))
            self._out[self._machines.submit(task)] = index
        if not self._out:
            time.sleep(_TICK_SECONDS)
            return
        done = wait(self._out, _TICK_SECONDS, FIRST_COMPLETED).done
        for work in sorted(done, key=lambda work: self._out[work]):
            yield self._take(self._out.pop(work), work)

    def put_back(self) -> Iterator[BatchUpdate]:
        """Let what is running wait again."""
        for index in self._out.values():
            yield self._update(index, ItemState(self._item(index)))

    def _item(self, index: int) -> InputFile:
        return self._plan.items[index]

    def _take(self, index: int, work: Future[Outcome]) -> BatchUpdate:
        if work.cancelled():
            self.stopped = "The dask scheduler is gone, and its work with it."
            return self._update(index, ItemState(self._item(index)))
        # Whatever it is, a bug in a decoder or a killed process: the others go on.
        error = work.exception()
        return (
            self._settle(index, work.result()) if error is None else self._take_broken(index, error)
        )

    def _take_broken(self, index: int, error: BaseException) -> BatchUpdate:
        """Take work that did not end by itself."""
        self._tries[index] += 1
        if was_killed(error) and self._tries[index] < _MOST_TRIES and not _by_dask(error):
            self._waiting.append(index)
            reason = "its process died; it is tried once more"
            return self._update(index, ItemState(self._item(index), "waiting", reason))
        item = self._item(index)
        if was_killed(error):
            reason = (
                "The processes that worked on it died each time, most likely as memory ran out. "
                "Use fewer processes, or a machine with more memory."
            )
        else:
            reason = f"Something unexpected: {type(error).__name__}: {error}. Please report it."
        self._records.fail(
            Failure(key=item.key, input=str(item.path), reason=reason, finished=current_time())
        )
        return self._settle(index, Outcome(item.key, "failed", reason))

    def _settle(self, index: int, outcome: Outcome) -> BatchUpdate:
        item = self._item(index)
        if outcome.state == "busy":
            self._busy.append((time.monotonic() + _BUSY_SECONDS, index))
            return self._update(index, ItemState(item, "waiting", _BUSY))
        self._finished += 1
        if outcome.state != "skipped":
            self._worked += 1
            self._remember(outcome.seconds)
        if outcome.stop:
            self.stopped = outcome.reason
        outputs = tuple(self._plan.out / name for name in outcome.outputs)
        found = describe(outcome.summary)
        state = ItemState(item, outcome.state, outcome.reason, found, outcome.seconds, outputs)
        return self._update(index, state)

    def _update(self, index: int, state: ItemState) -> BatchUpdate:
        return BatchUpdate(
            state, index, self._finished, len(self._plan.items), self._seconds_left()
        )

    def _seconds_left(self) -> float | None:
        if not self._recent:
            return None
        left = len(self._plan.items) - self._finished
        return sum(self._recent) / len(self._recent) * left / self._machines.capacity

    def _remember(self, seconds: float) -> None:
        # The first item of each process took the loading of the model too.
        if self._worked == self._machines.capacity + 1:
            self._recent.clear()
        self._recent.append(seconds)


def _by_dask(error: BaseException) -> bool:
    """Whether a scheduler has tried often enough already."""
    return type(error).__name__ == "KilledWorker"
