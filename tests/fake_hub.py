"""A server that speaks the few words of a Hugging Face hub that are needed, on this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories by name, each a dict of commits, each a dict of files."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        #: What was asked for, and with which authorisation.
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        #: Said of files instead of what is true: size or checksum.
        self.lies: dict[str, Any] = {}
        self.readers: set[str] | None = None
        self.lfs = True
        self.url = ""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        content = json.dumps({name: hashlib.sha256(x).hexdigest() for name, x in files.items()})
        commits = self.repos.setdefault(repo, {})
        commit = hashlib.sha1(f"{len(commits)}{content}".encode()).hexdigest()
        commits[commit] = dict(files)
        return commit

    def listing(self, commit: str, files: dict[str, bytes]) -> dict[str, Any]:
        siblings = []
        for name, content in files.items():
            row: dict[str, Any] = {"rfilename": name, "size": len(content)}
            row["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if self.lfs and name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            if name in self.lies:
                row |= self.lies[name]
            siblings.append(row)
        return {"id": "owner/name", "modelId": "owner/name", "sha": commit, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self._note()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if not (self.headers.get("Authorization") or "").startswith("Bearer "):
            self._json({"error": "no"}, 401)
        elif path == "/api/repos/create":
            told = json.loads(content)
            repo = f"{told['organization']}/{told['name']}"
            self.hub.repos.setdefault(repo, {})
            self._json({"url": f"{self.hub.url}/{repo}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            told = json.loads(content)
            rows = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in told["files"]
            ]
            self._json({"files": rows})
        elif "/commit/" in path:
            repo = "/".join(path.split("/")[3:5])
            lines = [json.loads(line) for line in content.splitlines() if line]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.add(repo, files)
            url = f"{self.hub.url}/{repo}/commit/{commit}"
            self._json({"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._json({"error": "no such thing"}, 404)

    def _note(self) -> None:
        self.hub.asked.append((self.command, urlsplit(self.path).path))
        self.hub.tokens.append(self.headers.get("Authorization"))

    def _answer(self, body: bool) -> None:
        self._note()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        listing = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if listing else parts[:2])
        rest = parts[5:] if listing else parts[3:]
        commits = self.hub.repos.get(repo)
        if commits is None:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = commits.get(rest[0]) if rest else None
        if files is None:
            told = {"X-Error-Code": "RevisionNotFound"}
            self._json({"error": "Invalid rev id"}, 404, told)
            return
        if listing:
            self._json(self.hub.listing(rest[0], files))
            return
        content = files["/".join(rest[1:])]
        self.send_response(200)
        self.send_header("X-Repo-Commit", rest[0])
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _json(self, told: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(told).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve an empty hub."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
