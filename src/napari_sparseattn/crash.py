"""What is left of a process that died of a fault in C code: where it was, and nothing it held.

Python's faulthandler writes the functions and lines that were being run, of all threads: no value
of a variable, so no pixel, no label, and no name of an image. Paths of sources are cut to what lies
within packages, as those of a home folder name its owner.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime as dt
import faulthandler
import os
import re
from pathlib import Path
from typing import TextIO

__all__ = ["Crash", "crash_folder", "find_crashes", "watch_for_crashes"]

_MOST_KEPT, _MOST_BYTES = 5, 2**16
_PREFIX, _SUFFIX = "crash-", ".txt"
_FILE = re.compile(r'File "([^"\n]*)"')
_watching: list[tuple[TextIO, Path]] = []


@dataclasses.dataclass(frozen=True)
class Crash:
    """One crash.

    Parameters
    ----------
    when : str
        Day and time, as ISO 8601.
    text : str
        What faulthandler wrote, with paths cut.
    """

    when: str
    text: str


def crash_folder() -> Path:
    """Folder of the traces: ``NAPARI_SPARSEATTN_LOGS`` if set, else the platform's."""
    import platformdirs

    chosen = os.environ.get("NAPARI_SPARSEATTN_LOGS")
    return Path(chosen) if chosen else platformdirs.user_log_path("napari-sparseattn")


def watch_for_crashes() -> None:
    """From now on, leave a trace if this process dies of a fault in C code.

    Nothing is done where somebody else watches already, or no file can be written.
    The file of a process that ends well is removed.
    """
    if faulthandler.is_enabled() or _watching:
        return
    path = crash_folder() / f"{_PREFIX}{os.getpid()}{_SUFFIX}"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_old(path.parent)
        file = path.open("w", encoding="utf-8")
        faulthandler.enable(file)
        _watching.append((file, path))
        atexit.register(_stop)


def find_crashes() -> list[Crash]:
    """Return what is left of processes that died, the last first."""
    found = []
    for path in crash_folder().glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            told = path.stat()
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_MOST_BYTES)
            if text.strip():
                when = dt.datetime.fromtimestamp(told.st_mtime, dt.UTC)
                cut = _FILE.sub(lambda match: f'File "{_within_packages(match[1])}"', text)
                found.append((told.st_mtime, Crash(when.isoformat(timespec="seconds"), cut)))
    return [crash for _, crash in sorted(found, key=lambda each: each[0], reverse=True)]


def _within_packages(path: str) -> str:
    """Cut a path to what lies within packages, or to the file's name."""
    parts = re.split(r"[\\/]", path)
    for folder in ("site-packages", "dist-packages", "src"):
        if folder in parts:
            return "/".join(parts[parts.index(folder) + 1 :])
    return parts[-1]


def _stop() -> None:
    while _watching:
        file, path = _watching.pop()
        faulthandler.disable()
        file.close()
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _forget_old(folder: Path) -> None:
    """Keep the last few crashes; empty files are of processes that still run, or were killed."""
    told = sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for path in told[:-_MOST_KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()
