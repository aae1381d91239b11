"""Servers on the loopback interface that stand in for a package index and a model hub, and misbehave on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Page:
    """What one path answers. `cut` ends the connection after so many bytes of the body, once per number in the list."""

    body: bytes
    kind: str = "application/octet-stream"
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    fail: list[int] = field(default_factory=list)
    """Status codes to answer first."""
    gate: threading.Event | None = None
    """Send the second half of the body only when this is set."""
    sized: bool = True
    """Announce the length of the body."""


class Server:
    """Use as a context. `seen` lists (path, Range header or "", headers)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for page in self.pages.values():
            if page.gate:
                page.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def count(self, part: str) -> int:
        return sum(part in path for path, _, _ in self.seen)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        asked = request.headers.get("Range", "")
        self.seen.append((path, asked, dict(request.headers)))
        page = self.pages.get(path) or Page(b"nothing here", "text/plain", 404)
        code, body, headers = page.code, page.body, dict(page.headers)
        if page.fail:
            code, body = page.fail.pop(0), b"not now"
        elif code == 200 and page.ranges and asked.startswith("bytes="):
            start = int(asked[6:].partition("-")[0])
            if start >= len(body):
                code, body = 416, b""
            else:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                code, body = 206, body[start:]
        try:
            request.send_response(code)
            request.send_header("Content-Type", page.kind)
            if page.sized:
                request.send_header("Content-Length", str(len(body)))
            else:
                request.send_header("Connection", "close")
                request.close_connection = True
            for name, value in headers.items():
                request.send_header(name, value)
            request.end_headers()
            if page.cut and code in (200, 206):
                body = body[: page.cut.pop(0)]
                request.close_connection = True
            half = len(body) // 2 if page.gate else len(body)
            request.wfile.write(body[:half])
            request.wfile.flush()
            if page.gate:
                page.gate.wait(30)
                request.wfile.write(body[half:])
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True  # the client went away, as some tests want


def put_hub_model(
    server: Server, repo: str, files: dict[str, bytes], *, commit: str = "c" * 40, large: Callable[[str], bool] | None = None
) -> None:
    """A repository as the hub's API describes it: large files with their SHA-256, small ones with git's hash."""
    large = large or (lambda name: name.endswith((".safetensors", ".gguf", ".bin")))
    siblings = []
    for name, body in files.items():
        entry: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
        if large(name):
            entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        siblings.append(entry)
        server.pages[f"/{repo}/resolve/{commit}/{name}"] = Page(body)
    info = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "cardData": {"license": "mit"}, "tags": [], "private": False}
    for path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main", f"/api/models/{repo}/revision/v1"):
        server.pages[path] = Page(json.dumps(info).encode(), "application/json")
