"""The process that trains: started, controlled and listened to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .runs import LOG

__all__ = ["Switch", "training_events"]

_END_SECONDS = 5.0
#: Events after which a process may end.
_LAST = ("done", "validated", "stopped", "failed")


class Switch:
    """Pauses, resumes, cancels and kills from any thread what may not have begun yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self.cancelled = False
        self.killed = False
        self.paused = False

    def pause(self) -> None:
        """Let training wait before its next step."""
        self.paused = True
        self._send("pause")

    def resume(self) -> None:
        """Let training go on."""
        self.paused = False
        self._send("resume")

    def cancel(self) -> None:
        """End training with the best so far."""
        self.cancelled = True
        self._send("cancel")

    def kill(self) -> None:
        """End training now; its checkpoint stays."""
        with self._lock:
            self.killed = True
            if self._process is not None:
                self._process.kill()

    def check(self, *_: object) -> None:
        """End other work where that was asked for; it may report its progress here.

        Raises
        ------
        InterruptedError
            If so.
        """
        if self.cancelled or self.killed:
            raise InterruptedError("Cancelled before anything was learned; the model is as it was.")

    def bind(self, process: subprocess.Popen[str] | None) -> None:
        """Say which process is meant; what was asked before it began is passed on."""
        with self._lock:
            self._process = process
            killed = self.killed
        if process is None:
            return
        if killed:
            process.kill()
        if self.paused:
            self._send("pause")
        if self.cancelled:
            self._send("cancel")

    def _send(self, word: str) -> None:
        with self._lock:
            process = self._process
            if process is None or process.stdin is None:
                return
            # It may be about to end.
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(f"{word}\n")
                process.stdin.flush()


def training_events(
    folder: Path, switch: Switch, module: str = "child"
) -> Iterator[dict[str, Any]]:
    """Train in another process, and yield its reports.

    Closing the iterator kills the process.

    Parameters
    ----------
    folder : pathlib.Path
        Of a run.
    switch : Switch
        What the process obeys.
    module : str
        The module beside this that works on the folder.

    Raises
    ------
    RuntimeError
        If the process ends without having said why.
    """
    command = [sys.executable, "-m", f"{__package__}.{module}", str(folder)]
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    with (folder / LOG).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            creationflags=flags,
        )
    explained = False
    try:
        switch.bind(process)
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                explained = explained or event.get("event") in _LAST
                yield event
        process.wait()
    finally:
        switch.bind(None)
        _end(process)
    if not explained and not switch.killed:
        raise RuntimeError(f"The training process ended by itself ({_last_line(folder)})")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)


def _last_line(folder: Path) -> str:
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "without a log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
