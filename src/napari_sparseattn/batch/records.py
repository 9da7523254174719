"""Records of a folder of results: per input one that can be checked, and a table of all."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from ..export.summary import describe
from ..export.tables import CSV_ENCODING, as_text
from ..files import replacing
from ..process.inputs import NOTES_FOLDER

__all__ = ["TABLE", "Failure", "Output", "Record", "Records", "write_table"]

#: Beside the results, one row per input.
TABLE = "batch.csv"
_COLUMNS = ("item", "state", "found", "reason", "file", "model", "scale_known", "seconds", "host")

_NAME = 60

T = TypeVar("T", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Output(_Frozen):
    """One file of results, or folder such as an OME-Zarr.

    Parameters
    ----------
    path : str
        Below the folder of results, with ``/``.
    size : int
        In bytes; of a folder that of all its files.
    sha256 : str
        Of a folder that of the names, sizes and contents of its files.
    """

    path: str
    size: int
    sha256: str


class Record(_Frozen):
    """What one input became.

    Parameters
    ----------
    key : str
        Of the input.
    input : str
        Its path when it was read.
    content : str
        `path_hash` of it.
    model, model_hash, options : str
        The model's name, and what else decided about the results.
    outputs : dict of str to tuple of Output
        By format.
    summary : dict
        What was found, in a few numbers.
    runs : int
        How often it has been worked on to the end.
    seconds : float
        Wall time of the last time.
    finished, host, software : str
        When, where and by what.
    """

    key: str
    input: str
    content: str
    model: str
    model_hash: str
    options: str
    outputs: dict[str, tuple[Output, ...]]
    summary: dict[str, Any] = {}
    runs: int = 1
    seconds: float = 0.0
    finished: str = ""
    host: str = ""
    software: str = ""


class Failure(_Frozen):
    """Why one input could not be worked on."""

    key: str
    input: str
    reason: str
    finished: str = ""


class Records:
    """The records of one folder of results, and the locks by which several processes share it.

    Parameters
    ----------
    out : pathlib.Path
        The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._notes = out / NOTES_FOLDER

    def prepare(self) -> None:
        """Make the folders, and see whether files can be written.

        Raises
        ------
        OSError
            If not; the message says why and what to do.
        """
        try:
            for name in ("records", "failures", "locks", "staging"):
                (self._notes / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._notes) as file:
                file.write(b"\0" * 512)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(explain_unwritable(self.out, error)) from error

    def lock(self, key: str) -> FileLock:
        """Return the lock of an input; who holds it works on it. Freed when its process dies."""
        return FileLock(self._notes / "locks" / f"{_safe(key)}.lock")

    def clear_staging(self, key: str) -> None:
        """Remove the folder for what is being written: all of it is in its place."""
        shutil.rmtree(self._notes / "staging" / _safe(key), ignore_errors=True)

    def staging(self, key: str) -> Path:
        """Return an empty folder for what is being written; call with the lock held."""
        self.clear_staging(key)  # left by a process that was killed
        folder = self._notes / "staging" / _safe(key)
        folder.mkdir(parents=True)
        return folder

    def knows(self, key: str) -> bool:
        """Whether results of an input were written here, to the end or not."""
        name = _safe(key)
        return (self._notes / "records" / f"{name}.json").exists() or (
            self._notes / "staging" / name
        ).exists()

    def read(self, key: str) -> Record | None:
        """Return the record of an input; None where there is none, or it is damaged."""
        return _read(Record, self._notes / "records" / f"{_safe(key)}.json")

    def write(self, record: Record) -> None:
        """Keep a record, and forget that the input failed before."""
        name = f"{_safe(record.key)}.json"
        with replacing(self._notes / "records" / name) as temporary:
            temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        (self._notes / "failures" / name).unlink(missing_ok=True)

    def fail(self, failure: Failure) -> None:
        """Keep why an input failed; a record of earlier results stays as it is."""
        with replacing(self._notes / "failures" / f"{_safe(failure.key)}.json") as temporary:
            temporary.write_text(failure.model_dump_json(indent=1), encoding="utf-8")

    def read_all(self) -> Iterator[Record]:
        """Give the records that can be read, in the order of their names."""
        yield from _all(Record, self._notes / "records")

    def read_failures(self) -> Iterator[Failure]:
        """Give what failed the last time."""
        yield from _all(Failure, self._notes / "failures")

    def intact_formats(self, record: Record) -> set[str]:
        """Return the formats whose files are all there, with their size and sha256."""
        return {
            name
            for name, outputs in record.outputs.items()
            if outputs and all(self._is_intact(output) for output in outputs)
        }

    def output(self, path: Path) -> Output:
        """Describe a file or folder below the folder of results."""
        size, digest = _measure(path)
        return Output(path=path.relative_to(self.out).as_posix(), size=size, sha256=digest)

    def _is_intact(self, output: Output) -> bool:
        path = self.out / output.path
        try:
            return _size(path) == output.size and _measure(path)[1] == output.sha256
        except OSError:
            return False


def write_table(records: Records) -> None:
    """Write ``batch.csv``: each input, what was found, and why it failed.

    An input that failed the last time and has earlier results has two rows.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    rows = [
        {
            "item": record.key,
            "state": "done",
            "found": describe(record.summary),
            "file": record.input,
            "model": f"{record.model}@{record.model_hash[:12]}",
            "scale_known": record.summary.get("scale_known", ""),
            "seconds": record.seconds,
            "host": record.host,
        }
        for record in records.read_all()
    ]
    rows += [
        {"item": failed.key, "state": "failed", "reason": failed.reason, "file": failed.input}
        for failed in records.read_failures()
    ]
    rows.sort(key=lambda row: (row["item"], row["state"]))
    with (
        replacing(records.out / TABLE) as temporary,
        temporary.open("w", newline="", encoding=CSV_ENCODING) as file,
    ):
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)


def explain_unwritable(folder: Path, error: OSError) -> str:
    """Return why results cannot be written, and what to do."""
    why = error.strerror or str(error) or type(error).__name__
    return (
        f"The results cannot be written to '{folder}' ({why}). Free space there, or choose another "
        "folder. What was written before is as it was."
    )


def current_time() -> str:
    """Return the time, as records have it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _safe(key: str) -> str:
    """Return a file name for a key, which may hold ``/`` and be long."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in key)[-_NAME:].lstrip(".")
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _all(kind: type[T], folder: Path) -> Iterator[T]:
    try:
        names: Iterable[Path] = sorted(folder.glob("*.json"))
    except OSError:
        return
    for path in names:
        if not path.name.startswith(".") and (found := _read(kind, path)) is not None:
            yield found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in _files(path))
    return path.stat().st_size


def _measure(path: Path) -> tuple[int, str]:
    """Return the size and sha256 of a file, or of all there is in a folder."""
    if not path.is_dir():
        with path.open("rb") as opened:
            return path.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()
    whole, total = hashlib.sha256(), 0
    for file in _files(path):
        size, digest = _measure(file)
        total += size
        whole.update(f"{file.relative_to(path).as_posix()}\0{size}\0{digest}\n".encode())
    return total, whole.hexdigest()
