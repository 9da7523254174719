"""The work on one item, wherever it is done: claimed, checked, classified, written, recorded.

`process_item` is what local processes and dask workers run. It holds the
item's lock meanwhile, so that several machines can work on one folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import Timeout

from ..process.inputs import NOTES_FOLDER, InputFile
from ..process.options import ProcessOptions
from ..process.process import choose_task, process_file
from ..process.result import ResultsExistError, check_free, identity_of
from .plan import BatchPlan
from .records import Failure, Output, Record, Records, current_time, explain_unwritable

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..process.result import Result

__all__ = ["SHOWN", "BatchTask", "Outcome", "process_item"]

#: Not a format of its own: what the window shows when a result is opened there.
SHOWN = "shown"
#: Nothing more can be written when these are raised.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_FULL_SAID = ("no space left", "disk quota", "read-only file system")


@dataclasses.dataclass(frozen=True)
class BatchTask:
    """One item, and how to work on it; plain data that other machines can be sent."""

    item: InputFile
    model: Path
    model_hash: str
    out: Path
    options: ProcessOptions
    overwrite: bool = False

    @classmethod
    def of(cls, plan: BatchPlan, item: InputFile) -> BatchTask:
        """Return the task of an item of a plan."""
        return cls(item, plan.model, plan.model_hash, plan.out, plan.options, plan.overwrite)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Parameters
    ----------
    key : str
        Of the item.
    state : {"done", "skipped", "failed", "busy"}
        Skipped: up to date (verified). Busy: another process is working on it.
    reason : str
        Why it failed, or what was redone.
    seconds : float
        Wall time.
    summary : dict
        What was found; see `summarise`.
    outputs : tuple of str
        Files below the folder of results.
    stop : bool
        Whether no other item can succeed either, as the disk is full.
    """

    key: str
    state: Literal["done", "skipped", "failed", "busy"]
    reason: str = ""
    seconds: float = 0.0
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    stop: bool = False


class _UnwritableError(Exception):
    """Results cannot be written.

    Parameters
    ----------
    error : OSError
        Why.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def process_item(task: BatchTask) -> Outcome:
    """Work on one item, unless it is up to date or another process is working on it.

    Errors that a file or the disk can cause are part of the outcome; others,
    which are bugs, are raised.
    """
    began, key = time.perf_counter(), task.item.key
    records = Records(task.out)
    try:
        with records.lock(key).acquire(blocking=False):
            return _Work(task, records, began).run()
    except Timeout:
        return Outcome(key, "busy")
    except OSError as error:  # of the lock's file
        return Outcome(key, "failed", explain_unwritable(task.out, error), stop=True)


class _Work:
    """One item whose lock is held."""

    def __init__(self, task: BatchTask, records: Records, began: float) -> None:
        self.task, self.records, self.began = task, records, began
        self.key, self.path = task.item.key, task.item.path

    def run(self) -> Outcome:
        """Check, work if need be, and say what became of it."""
        try:
            return self._process()
        except _UnwritableError as error:
            return self._fail(explain_unwritable(self.task.out, error.error), stop=True)
        except OSError as error:
            if _is_full(error):
                return self._fail(explain_unwritable(self.task.out, error), stop=True)
            return self._fail(_reason_of(error))
        except (ValueError, TypeError, MemoryError, ImportError, RuntimeError) as error:
            return self._fail(_reason_of(error))

    def _process(self) -> Outcome:
        from ..features.hashes import path_hash

        if not self.path.exists():
            why = "is a link to nothing" if self.path.is_symlink() else "is gone"
            raise FileNotFoundError(f"{self.path.name} {why}")
        before = _stamp(self.path)
        content = path_hash(self.path)
        record = self.records.read(self.key)
        why = self._why(record, content)
        sound = self.records.intact_formats(record) if record is not None and not why else set()
        wanted = {*self.task.options.formats, SHOWN}
        if record is not None and not why and wanted <= sound:
            return self._outcome("skipped", "up to date (verified)", record)
        self._refuse_others(record)
        if record is not None:
            # Those of another model beside new ones would be taken for results of this one.
            wanted |= set(record.outputs)
        missing = sorted(wanted - sound)
        if record is not None and not why:
            why = f"missing or damaged: {', '.join(missing)}"
        outputs, summary = self._work(missing)
        if _stamp(self.path) != before:
            raise ValueError(f"{self.path.name} changed while it was read; run the batch once more")
        if record is not None:
            outputs |= {name: record.outputs[name] for name in sound}
        made = self._record(content, outputs, summary, record)
        with _writing():
            self.records.write(made)
            self.records.clear_staging(self.key)
        return self._outcome("done", f"redone, {why}" if why else "", made)

    def _why(self, record: Record | None, content: str) -> str:
        """Say in what a record is of something else; empty if it is of this."""
        if record is None:
            return ""
        task = self.task
        checks = {
            "the file has changed": record.content == content,
            "another model": record.model_hash == task.model_hash,
            "other options": record.options == task.options.hash,
        }
        return next((why for why, same in checks.items() if not same), "")

    def _refuse_others(self, record: Record | None) -> None:
        """Keep results of another model, command, or file of the same name that is still there."""
        task = self.task
        if task.overwrite:
            return
        if record is None:
            if not self.records.knows(self.key):
                bundle = _load(task.model, task.model_hash)
                chosen = choose_task(self.path, bundle, task.options)
                check_free(task.out / self.key, identity_of(chosen, bundle, self.path))
            return
        if record.model_hash != task.model_hash:
            raise ResultsExistError(
                f"'{task.out}' holds the results of another model ({record.model}); choose another "
                "folder for the results, or ask for them to be replaced (--overwrite)"
            )
        other = Path(record.input)
        if other != self.path and other.exists() and not other.samefile(self.path):
            raise ValueError(
                f"'{self.task.out}' holds the results of another file of this name ({other}); "
                "choose another folder for the results"
            )

    def _work(self, formats: Sequence[str]) -> tuple[dict[str, tuple[Output, ...]], Any]:
        """Classify, and write what is missing."""
        task = self.task
        bundle = _load(task.model, task.model_hash)
        options = dataclasses.replace(task.options, formats=tuple(formats))
        with process_file(self.path, bundle, options, store=task.out / "features") as result:
            with _writing():
                outputs = self._write(result, formats)
            return outputs, result.summary()

    def _write(self, result: Result, formats: Sequence[str]) -> dict[str, tuple[Output, ...]]:
        """Write beside the place, then move: who is killed leaves nothing half done there."""
        from .result_files import write_result

        folder = self.task.out / Path(self.key).parent
        stem = Path(self.key).name
        outputs: dict[str, tuple[Output, ...]] = {}
        staging = self.records.staging(self.key)
        shown = self.task.out / NOTES_FOLDER / "shown" / f"{staging.name}.npz"
        for name in formats:
            if name == SHOWN:
                write_result(result.prediction, shown)
                outputs[name] = (self.records.output(shown),)
                continue
            written = result.write_formats(staging, stem, [name])[name]
            places = [_move(path, folder) for path in written]
            outputs[name] = tuple(self.records.output(place) for place in places)
        return outputs

    def _record(
        self,
        content: str,
        outputs: dict[str, tuple[Output, ...]],
        summary: dict[str, Any],
        before: Record | None,
    ) -> Record:
        from .. import __version__

        task = self.task
        return Record(
            key=self.key,
            input=str(self.path),
            content=content,
            model=_load(task.model, task.model_hash).card.name,
            model_hash=task.model_hash,
            options=task.options.hash,
            outputs=outputs,
            summary=summary,
            runs=1 if before is None else before.runs + 1,
            seconds=round(time.perf_counter() - self.began, 3),
            finished=current_time(),
            host=platform.node(),
            software=f"napari-sparseattn {__version__}",
        )

    def _outcome(self, state: Literal["done", "skipped"], reason: str, record: Record) -> Outcome:
        wanted = self.task.options.formats
        files = tuple(output.path for name in wanted for output in record.outputs.get(name, ()))
        seconds = time.perf_counter() - self.began
        return Outcome(self.key, state, reason, seconds, record.summary, files)

    def _fail(self, reason: str, *, stop: bool = False) -> Outcome:
        failure = Failure(
            key=self.key, input=str(self.path), reason=reason, finished=current_time()
        )
        # Where nothing can be written, the outcome still says why.
        with contextlib.suppress(OSError):
            self.records.fail(failure)
        seconds = time.perf_counter() - self.began
        return Outcome(self.key, "failed", reason, seconds, stop=stop)


@functools.lru_cache(maxsize=2)
def _load(path: Path, expected: str) -> Bundle:
    """Load a model once per process."""
    from ..bundle import load_bundle

    _one_thread()
    bundle = load_bundle(path)
    if bundle.hash != expected:
        raise ValueError(
            f"The model {path.name} is another one than when the batch began; start it again."
        )
    return bundle


def _one_thread() -> None:
    """Compute on one thread, so that processes do not crowd each other, and results agree."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _move(path: Path, folder: Path) -> Path:
    """Move a file or folder into its place; what was there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / path.name
    if place.is_dir():
        shutil.rmtree(place)
    return path.replace(place)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError) or _is_full(error):
            raise _UnwritableError(error) from error
        raise


def _is_full(error: OSError) -> bool:
    # HDF5 says so in words only.
    said = str(error).lower()
    return error.errno in _FULL or any(words in said for words in _FULL_SAID)


def _reason_of(error: BaseException) -> str:
    if isinstance(error, MemoryError) and not str(error):
        return "Memory ran out. Use fewer processes, or a machine with more memory."
    if isinstance(error, ImportError) and not isinstance(error, ValueError):
        return f"A part of the installation is missing ({error}). Install the package again."
    return str(error) or type(error).__name__
