"""Talks to the process in which vendors' libraries run; kills it when it hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from ..errors import ImageError

__all__ = ["MissingLibraryError", "ProcessDied", "SlideProcess"]

_OPEN_SECONDS = 30.0
_READ_SECONDS = 10.0
_MOST_ANSWER = 2**28
_HEAD_BYTES = 2**20


class ProcessDied(Exception):  # noqa: N818 - it is not an error of the caller
    """The process crashed, or was killed because it took too long; a new one will be started."""


class MissingLibraryError(ImageError):
    """A library that this kind of slide needs is not installed."""


class SlideProcess:
    """A slide open in a process of its own, restarted when that is lost.

    Parameters
    ----------
    kind : {"openslide", "dicom"}
        The library.
    path : pathlib.Path
        The slide.
    open_seconds, read_seconds : float
        Time to open it and to answer a request; after that it is killed.

    Raises
    ------
    ImageError
        If the slide cannot be opened.
    MissingLibraryError
        If the library is not installed.
    """

    def __init__(
        self,
        kind: str,
        path: Path,
        open_seconds: float = _OPEN_SECONDS,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self._kind, self._path = kind, path
        self._open_seconds, self._read_seconds = open_seconds, read_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finaliser: weakref.finalize[Any, Any] | None = None
        self._closed = False
        self.n_started = 0
        with self._lock:
            try:
                self.about = self._start()
            except ProcessDied as error:
                raise ImageError(
                    f"{path.name} cannot be opened: {kind} {error}; it is damaged, or not a slide"
                ) from error

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a request; its ``"error"`` is the library's own.

        Raises
        ------
        ProcessDied
            If the library crashed or took too long.
        ImageError
            If the slide was closed, or cannot be opened any more.
        """
        with self._lock:
            if self._closed:
                raise ImageError(f"{self._path.name} has been closed; open it again")
            if self._process is not None and self._process.poll() is not None:
                self._end()  # it died while nothing was asked of it
            if self._process is None:
                self._start()
            return self._ask(request, self._read_seconds)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closed = True
            self._end()

    @property
    def pid(self) -> int | None:
        """Identifier of the process, or None where none runs."""
        return None if self._process is None else self._process.pid

    def _start(self) -> dict[str, Any]:
        # -P: a module in the current folder must not stand in for a library.
        command = [sys.executable, "-P", "-m", "napari_sparseattn.images.slides._child"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, TypeError) as error:
            raise ImageError(
                f"{self._path.name} is read in a process of its own, which cannot be started "
                f"({error}); export it as pyramidal TIFF"
            ) from error
        self._finaliser = weakref.finalize(self, _end, self._process)
        self.n_started += 1
        request = {"do": "open", "kind": self._kind, "path": str(self._path)}
        about, _ = self._ask(request, self._open_seconds)
        if "error" in about:
            self._end()
            if about.get("missing"):
                raise MissingLibraryError(about["error"])
            raise ImageError(
                f"{self._path.name} cannot be opened as a slide ({about['error']}); if other "
                "software opens it, export it from there as pyramidal TIFF"
            )
        return about

    def _ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bytes]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            head = json.loads(process.stdout.readline(_HEAD_BYTES) or b"null")
            if not isinstance(head, dict) or not 0 <= head.get("n_bytes", -1) <= _MOST_ANSWER:
                raise EOFError
            body = process.stdout.read(head["n_bytes"])
            if len(body) < head["n_bytes"]:
                raise EOFError
        except (OSError, EOFError, ValueError) as error:
            self._end()
            raise ProcessDied(
                f"took longer than {seconds:g} s" if late.is_set() else "crashed on it"
            ) from error
        finally:
            timer.cancel()
        return head, body

    def _end(self) -> None:
        if self._finaliser is not None:
            self._finaliser()
        self._process = self._finaliser = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # what it still held cannot reach the process any more
    process.wait()
