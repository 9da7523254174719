"""Writing files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing", "replacing_folder"]

#: How safetensors and HDF5, which are not Python, say that the system refused to write.
_ERRNO = re.compile(r"\bos error (\d+)|\berrno = (\d+)")


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
        If the folder cannot be written, or the disk is full; `path` is then
        as it was.
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
    except OSError:
        raise
    except Exception as error:
        if (number := _ERRNO.search(str(error))) is None:
            raise
        code = int(number[1] or number[2])
        raise OSError(code, os.strerror(code), str(target)) from error
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
        If it cannot be written; `path` is then as it was.
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
    finally:
        if (work / "old").exists() and not target.exists():
            (work / "old").replace(target)
        shutil.rmtree(work, ignore_errors=True)
