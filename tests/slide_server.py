"""A server of files on this machine, with parts of files, waiting, and faults of choice.

Python's own has no ranges. It also speaks the few words of S3 that reading a
file takes: HEAD and GET of ``/bucket/key``.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class SlideServer:
    """The files below a folder.

    Attributes
    ----------
    latency : float
        Seconds that each answer waits.
    asked : list of (str, str, str)
        Method, path with its query, and range of each request.
    n_bytes : int
        Bytes of bodies sent.
    status : int
        Answered in place of the file, where it is not 0; from `fault_after` requests on.
    ranges, etags, stalls, cut, compressed : bool
        Whether parts are sent; versions told; nothing is answered at all; bodies end
        early; a compression is claimed.
    token : str
        Where set, an ``Authorization`` that has to come with each request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latency, self.status, self.fault_after = 0.0, 0, 0
        self.ranges, self.etags = True, True
        self.stalls = self.cut = self.compressed = False
        self.token = self.redirect = ""
        self.asked: list[tuple[str, str, str]] = []
        self.n_bytes = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.url = ""

    def address(self, name: str) -> str:
        """Return the address of a file below the folder."""
        return f"{self.url}/{name}"

    def clear(self) -> None:
        """Forget what was asked for."""
        with self.lock:
            self.asked, self.n_bytes = [], 0


class _Handler(BaseHTTPRequestHandler):
    server_of: SlideServer
    protocol_version = "HTTP/1.1"
    # Headers and body in one piece, or each answer waits for the other side's delayed ACK.
    wbufsize = 2**16
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server = self.server_of
        with server.lock:
            number = len(server.asked)
            server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        faulty = number >= server.fault_after
        if server.stalls and faulty:
            server.ended.wait(30)
            self.close_connection = True
            return
        if server.latency:
            time.sleep(server.latency)
        if server.redirect:
            self._end(302, {"Location": server.redirect})
            return
        if server.token and self.headers.get("Authorization") != server.token:
            self._end(401)
            return
        if server.status and faulty:
            self._end(server.status)
            return
        path = server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self._end(404)
            return
        self._send(path, body, faulty)

    def _send(self, path: Path, body: bool, faulty: bool) -> None:
        server, state = self.server_of, path.stat()
        head = {"Content-Type": "application/octet-stream"}
        head["Last-Modified"] = formatdate(state.st_mtime, usegmt=True)
        if server.etags:
            told = f"{state.st_size} {state.st_mtime_ns}"
            head["ETag"] = f'"{hashlib.md5(told.encode(), usedforsecurity=False).hexdigest()}"'
        if server.compressed:
            head["Content-Encoding"] = "gzip"
        found = _RANGE.match(self.headers.get("Range", "")) if server.ranges else None
        start, stop, status = 0, state.st_size, 200
        if found is not None:
            start = int(found[1]) if found[1] else max(0, state.st_size - int(found[2]))
            stop = min(int(found[2]) + 1, stop) if found[1] and found[2] else stop
            if start >= state.st_size:
                self._end(416, head | {"Content-Range": f"bytes */{state.st_size}"})
                return
            status = 206
            head["Content-Range"] = f"bytes {start}-{stop - 1}/{state.st_size}"
        head["Content-Length"] = str(stop - start)
        if server.ranges:
            head["Accept-Ranges"] = "bytes"
        self._begin(status, head)
        if not body:
            return
        if server.cut and faulty:
            stop = start + (stop - start) // 2
            self.close_connection = True
        with path.open("rb") as file:
            file.seek(start)
            left = stop - start
            while left > 0 and (part := file.read(min(left, 2**18))):
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(part)
                left -= len(part)
                with server.lock:
                    server.n_bytes += len(part)

    def _end(self, status: int, head: dict[str, str] | None = None) -> None:
        self._begin(status, {"Content-Length": "0", **(head or {})})

    def _begin(self, status: int, head: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serving(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[SlideServer]:
    """Serve a folder until the end of the ``with``, by HTTPS where there is a certificate."""
    server = SlideServer(folder)
    handler = type("Handler", (_Handler,), {"server_of": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
            server.url = server.url.replace("http:", "https:")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()
