"""Work of the batch dock: frozen requests, and how they are answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.plan import BatchPlan
from ...batch.records import Records
from ...batch.run import BatchUpdate, run_batch
from ...batch.work import SHOWN
from ...process.inputs import InputFile, find_inputs

if TYPE_CHECKING:
    from ...export.request import Result
    from ..opening import Opened

__all__ = [
    "OpenAnswer",
    "OpenRequest",
    "RunRequest",
    "SearchAnswer",
    "SearchRequest",
    "answer_open",
    "answer_search",
    "stream_batch",
]


@dataclasses.dataclass(frozen=True, eq=False)
class SearchRequest:
    """Find the files of a batch.

    Parameters
    ----------
    inputs : tuple of str
        Files and folders.
    pattern : str
        Which files of folders to take; empty for all that can be read.
    out : pathlib.Path or None
        Folder for the results.
    """

    inputs: tuple[str, ...]
    pattern: str
    out: Path | None


@dataclasses.dataclass(frozen=True, eq=False)
class SearchAnswer:
    """The files that were found."""

    request: SearchRequest
    items: tuple[InputFile, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class RunRequest:
    """Work on some items.

    Parameters
    ----------
    plan : BatchPlan
        The items, the model, the options.
    rows : tuple of int
        The row of the queue that each item has.
    workers : int
        Processes.
    stop : threading.Event
        Set to end the work at once.
    """

    plan: BatchPlan
    rows: tuple[int, ...]
    workers: int
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenRequest:
    """Open an image of the queue, with its results."""

    row: int
    item: InputFile
    out: Path
    #: Of the classes.
    colours: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class OpenAnswer:
    """An image as layers, and its results."""

    request: OpenRequest
    opened: Opened
    result: Result


def answer_search(request: SearchRequest) -> SearchAnswer:
    """Find the files.

    Raises
    ------
    OSError, ValueError
        If there are none; the message says what was looked for.
    """
    found = find_inputs(request.inputs, pattern=request.pattern or None, out=request.out)
    return SearchAnswer(request, found)


def stream_batch(request: RunRequest) -> Iterator[BatchUpdate]:
    """Work on the items in processes of this machine.

    Raises
    ------
    OSError
        If results cannot be written.
    """
    yield from run_batch(request.plan, workers=request.workers, stop=request.stop.is_set)


def answer_open(request: OpenRequest) -> OpenAnswer:
    """Open the image, and read its results.

    Raises
    ------
    ValueError, OSError
        If image or results are gone or damaged.
    """
    from ...batch.result_files import read_result
    from ..opening import read_file

    records = Records(request.out)
    record = records.read(request.item.key)
    if record is None or SHOWN not in records.intact_formats(record):
        raise ValueError(
            f"The results of {request.item.key} are gone or damaged; start the batch once more."
        )
    (kept,) = record.outputs[SHOWN]
    return OpenAnswer(
        request, read_file(str(request.item.path)), read_result(request.out / kept.path)
    )
