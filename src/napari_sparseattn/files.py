"""Writing files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

__all__ = ["NoRoomError", "replacing", "replacing_folder", "writing_hdf5"]

#: What the system says where it lacks room: on the disk, in the user's share, for so large a file.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: How safetensors and HDF5, which are not Python, say that the system refused to write.
_ERRNO = re.compile(r"\bos error (\d+)|\berrno = (\d+)")


class NoRoomError(OSError):
    """A file that cannot be written for lack of room; made of errno, its words, and the file."""

    def __str__(self) -> str:
        """Say which file, why, and what to do."""
        return (
            f"{self.filename} cannot be written ({self.strerror}). Free some space, or choose a "
            "folder on another disk. What was there before is as it was."
        )


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; put it in place on success.

    The content is flushed to disk before it is renamed over `path`, so that a
    crash leaves the old file or the new one, never half of it.

    Parameters
    ----------
    path : path-like
        The file to write; its folder is made if need be.

    Yields
    ------
    pathlib.Path
        Where to write; its suffix is that of `path`.

    Raises
    ------
    OSError
        If the folder cannot be written; `path` is then as it was. A disk that
        is full is a `NoRoomError`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem[:40]}-", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; give this one the mode a plain open would.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except OSError as error:
        _raise_no_room(error, temporary, target)
        raise
    except Exception as error:
        if (number := _ERRNO.search(str(error))) is None:
            raise
        code = int(number[1] or number[2])
        kind = NoRoomError if code in _NO_ROOM else OSError
        raise kind(code, os.strerror(code), str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside `path` where a folder can be made; put it in place on success.

    A folder cannot be renamed over another: between the two moves that this
    takes, a crash leaves the old one under a hidden name.

    Parameters
    ----------
    path : path-like
        The folder to write; the one that it lies in is made if need be.

    Yields
    ------
    pathlib.Path
        Where to make it; there is nothing yet, and its name is that of `path`.

    Raises
    ------
    OSError
        If it cannot be written; `path` is then as it was. A disk that is full
        is a `NoRoomError`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.stem[:40]}-", dir=target.parent))
    try:
        made = work / target.name
        yield made
        if target.exists():
            target.replace(work / "old")
        made.replace(target)
    except OSError as error:
        _raise_no_room(error, work, target)
        raise
    finally:
        if (work / "old").exists() and not target.exists():
            (work / "old").replace(target)
        shutil.rmtree(work, ignore_errors=True)


def _raise_no_room(error: OSError, temporary: Path, target: Path) -> None:
    """Raise a `NoRoomError` of the file that was meant, where there was no room for another."""
    if error.errno not in _NO_ROOM or isinstance(error, NoRoomError):
        return
    # Of a write that fails the system names no file, of one that is not opened the hidden one,
    # and of a copy where it comes from first.
    named = error.filename2 or error.filename
    if named is None or str(named).startswith(str(temporary)):
        raise NoRoomError(error.errno, os.strerror(error.errno), str(target)) from error


@contextlib.contextmanager
def writing_hdf5(
    path: str | os.PathLike[str], mode: str = "w", **options: Any
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Open an HDF5 file to write to, so that a full disk is an error and nothing worse.

    libhdf5 cannot close a file that it could not write to, and tries once more
    as the process ends: that is a segmentation fault. So it is given a file
    that takes everything. What the disk refused is kept in memory until the
    file is closed, and said then; who writes much asks before.

    Parameters
    ----------
    path : path-like
        The file, which is there, as that of `replacing` is.
    mode : {"w", "r+"}
        Whether to begin anew.
    options
        Of `h5py.File`.

    Yields
    ------
    file : h5py.File
        To write to.
    check : callable
        Raises the OSError if something was refused so far; to be called now
        and then by who writes more than may be kept in memory.

    Raises
    ------
    OSError
        What the system said when it refused.
    """
    import h5py

    with Path(path).open("rb+", buffering=0) as held:
        if mode == "w":
            # h5py does so only with files that it opens itself.
            held.truncate(0)
        patient = _PatientFile(held)
        try:
            with h5py.File(patient, mode, **options) as file:
                yield file, patient.check
        finally:
            # Before what came of it: nothing is right in a file that was not written.
            patient.check()


class _PatientFile:
    """A file that can always be written to; what is refused is kept in memory, and read from there.

    Parameters
    ----------
    file : io.FileIO
        Without a buffer of its own.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._at = 0
        self._end = os.fstat(file.fileno()).st_size
        self._refused: OSError | None = None
        #: Where, and what, in the order in which it was written.
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise what the system said when it refused, if it did."""
        if self._refused is not None:
            raise self._refused

    # -- what h5py asks of a file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return what is at the place."""
        left = max(0, self._end - self._at)
        found = bytearray(left if size < 0 else min(size, left))
        self.readinto(found)
        return bytes(found)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read what is at the place; nothing that was not written, but zeros."""
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self._end - self._at))
        self._file.seek(self._at)
        done = 0
        while done < size and (n := self._file.readinto(view[done:size])):
            done += n
        view[done:size] = bytes(size - done)
        for start, piece in self._kept:
            first = max(start, self._at)
            last = min(start + len(piece), self._at + size)
            if first < last:
                view[first - self._at : last - self._at] = piece[first - start : last - start]
        self._at += size
        return size

    def write(self, data: bytes | memoryview) -> int:
        """Write at the place."""
        view = memoryview(data).cast("B")
        if self._refused is None:
            self._try(lambda: self._write_all(view))
        if self._refused is not None:
            self._kept.append((self._at, bytes(view)))
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def truncate(self, size: int) -> int:
        """Cut the file, or make it longer."""
        self._try(lambda: self._file.truncate(size))
        self._end = size
        return size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def _write_all(self, view: memoryview) -> None:
        self._file.seek(self._at)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:]) or 0

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            # Without the frames, which see memory of HDF5's.
            self._refused = self._refused or error.with_traceback(None)
