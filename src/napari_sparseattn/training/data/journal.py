"""A file to which lines are added, and from which a crash can take the last one at most."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...files import replacing

__all__ = ["Journal", "JournalError", "encode_line", "read_journal"]

_DIGITS = 16
#: Longest line that is read: a polygon of ten thousand corners takes half a megabyte.
_LONGEST = 16 * 2**20


class JournalError(OSError):
    """A change that could not be written; the message says why and what to do."""


class Journal:
    """Checked lines of JSON on disk.

    A line is in the operating system's hands when `append` returns, so that
    the end of this process loses nothing; it is on the disk well within a
    second, so that the end of the machine loses no more than that.

    Parameters
    ----------
    path : pathlib.Path
        Made with its first line. Beside it lies a ``.lock`` file, which is locked by the
        operating system and thus free when its process has ended, however that came; and
        what was found damaged (``.damaged-...``).
    name : str, optional
        What messages call it; by default the file's name.

    Attributes
    ----------
    entries : list of dict
        The lines that were whole when the file was opened.
    writable : bool
        False where another program, or another window, writes this file.
    damaged : pathlib.Path or None
        Where the lines went that were not whole.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or path.name
        self.damaged: Path | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        self.writable = _acquire(self._lock)
        self._file: int | None = None
        self._failed: OSError | None = None
        self._wake, self._closing = threading.Event(), False
        self._syncer: threading.Thread | None = None
        self.entries, bad = read_journal(path)
        if self.writable and bad:
            self._set_aside(bad)

    def append(self, *entries: dict[str, Any]) -> None:
        """Add lines: all of them or none.

        Raises
        ------
        JournalError
            If they cannot be written; the file is then as it was.
        """
        self.append_lines([encode_line(entry) for entry in entries])

    def append_lines(self, lines: Sequence[bytes]) -> None:
        """Add lines of `encode_line`: all of them or none; raises as `append` does."""
        if not self.writable:
            raise JournalError(
                f"The annotations of {self.name} are open in another program, which writes them. "
                "Close them there, then open the image here again."
            )
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise JournalError(f"Annotations cannot be written to the disk: {failed}.") from failed
        file = self._open()
        size = os.fstat(file).st_size
        if max(map(len, lines), default=0) > _LONGEST:
            raise JournalError(
                f"A change of the annotations of {self.name} is too large to be kept: it takes "
                f"over {_LONGEST >> 20} MiB. Use outlines with fewer corners."
            )
        data = b"".join(lines)
        try:
            written = os.write(file, data)
        except OSError as error:
            self._take_back(file, size)
            raise JournalError(self._describe(error)) from error
        if written < len(data):
            self._take_back(file, size)
            raise JournalError(self._describe(OSError("the disk is full")))
        self._wake.set()

    def rewrite(self, entries: Iterable[dict[str, Any]]) -> None:
        """Put other lines in place of all, atomically."""
        self._shut()
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(map(encode_line, entries)))

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Write everything to the disk, and let others write."""
        self._shut()
        if self.writable:
            self._lock.release()
            self.writable = False

    def _describe(self, error: OSError) -> str:
        return (
            f"The last change to the annotations of {self.name} could not be saved to "
            f"{self.path.parent} ({error.strerror or error}) and was not made. Free some space, or "
            "choose another project folder."
        )

    def _open(self) -> int:
        if self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(self.path, flags, 0o666)
            self._closing = False
            self._syncer = threading.Thread(
                target=self._sync, name="annotations to disk", daemon=True
            )
            self._syncer.start()
        return self._file

    def _sync(self) -> None:
        """Bring lines to the disk, several at once where they come quickly."""
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            if self._file is None or self._closing:
                return
            try:
                os.fsync(self._file)
            except OSError as error:
                self._failed = error
            time.sleep(0.05)

    def _shut(self) -> None:
        if self._file is None:
            return
        self._closing = True
        self._wake.set()
        if self._syncer is not None:
            self._syncer.join()
        file, self._file, self._syncer = self._file, None, None
        try:
            os.fsync(file)
        finally:
            os.close(file)
        self._wake.clear()

    def _take_back(self, file: int, size: int) -> None:
        # If even that fails, the line is not whole and will be set aside when read.
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)

    def _set_aside(self, bad: list[bytes]) -> None:
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        # A clock that was put back must not write over what was put aside before.
        numbered = (f"{stamp}-{number}" for number in itertools.count(1))
        self.damaged = next(
            path
            for name in itertools.chain([stamp], numbered)
            if not (path := self.path.with_name(f"{self.path.name}.damaged-{name}")).exists()
        )
        with replacing(self.damaged) as temporary:
            temporary.write_bytes(b"\n".join(bad))
        self._shut()
        # As they were: what a later version wrote need not be what this one would write.
        kept = [line for line in self.path.read_bytes().split(b"\n") if _entry(line) is not None]
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))


def read_journal(path: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the lines that are whole, and those that are not.

    A missing file has none of either.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    entries, bad = [], []
    for line in data.split(b"\n"):
        if not line:
            continue
        entry = _entry(line)
        if entry is None:
            bad.append(line)
        else:
            entries.append(entry)
    if data and not data.endswith(b"\n") and not bad:
        # Whole but for its end: the next line would be added to it.
        bad.append(b"")
    return entries, bad


def encode_line(entry: dict[str, Any]) -> bytes:
    """Return the line that keeps an entry."""
    body = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode()
    return _checksum(body) + b" " + body + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    checksum, _, body = line.partition(b" ")
    if len(line) > _LONGEST or checksum != _checksum(body):
        return None
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_DIGITS].encode()


def _acquire(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True
