"""A Hugging Face hub on the loopback interface: its HTTP API, and its bad days on request.

It speaks the part of the API that downloading uses: the listing of a revision with sizes and
hashes, and HEAD and GET of single files with ranges. Large files live, as on the real hub, behind a
redirect to a second host (here a second port), which must never see the user's token.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "tiny/moe"
LARGE_BYTES = 100_000  # the hub keeps what is larger outside git
_PIECE_BYTES = 1 << 16


@dataclass
class Fault:
    """What goes wrong when one file is requested, and how many times (for ever by default)."""

    cut_after_bytes: int | None = None  # the connection dies after so many bytes of a body
    stall_after_bytes: int | None = None  # the body stops there until the server is closed
    pause_s: float = 0.0  # before each piece of a body
    corrupt: bool = False  # one byte is another
    missing: bool = False  # 404, although the listing has it
    served_bytes: int | None = None  # a shorter file is served, with consistent headers
    body_bytes: int | None = None  # the body (and its length) is shorter than HEAD states
    status: int | None = None  # answered with this status
    times: int = 1 << 30


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    name: str  # the file's name; "" for the listing
    range: str | None
    authorization: str | None
    on_cdn: bool


@dataclass
class Hub:
    """The state of the server; tests change it while it runs."""

    files: dict[str, bytes]
    faults: dict[str, Fault] = field(default_factory=dict)
    refuse: tuple[int, str, str] | None = None  # status, X-Error-Code, message for every request
    listing: dict[str, dict[str, Any]] = field(default_factory=dict)  # overrides per file
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    listing_status: list[int] = field(default_factory=list)  # answered first, one per request
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    cdn_url: str = ""

    def requested(self, method: str = "GET") -> list[str]:
        """Return the names of the files asked for with `method`, in order."""
        return [r.name for r in self.requests if r.method == method and r.name]

    def ranges(self, name: str) -> list[str | None]:
        """Return the Range header of each GET of a file."""
        return [r.range for r in self.requests if r.method == "GET" and r.name == name]

    def take_fault(self, name: str) -> Fault:
        """Return the fault of this request and count it."""
        fault = self.faults.get(name)
        if fault is None or fault.times <= 0:
            return Fault()
        fault.times -= 1
        return fault

    def sibling(self, name: str) -> dict[str, Any]:
        """Return a file's entry in the listing of a revision."""
        content = self.files[name]
        entry: dict[str, Any] = {
            "rfilename": name,
            "size": len(content),
            "blobId": blob_id(content),
        }
        if len(content) > LARGE_BYTES:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return {**entry, **self.listing.get(name, {})}

    def etag(self, name: str) -> str:
        """Return what identifies the content: SHA-256 of large files, git's blob id of others."""
        content = self.files[name]
        large = len(content) > LARGE_BYTES
        return hashlib.sha256(content).hexdigest() if large else blob_id(content)


def blob_id(content: bytes) -> str:
    """Return git's blob id."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub with `files` in repository REPO at commit COMMIT, and its second host."""
    hub = Hub(dict(files))
    servers = [_server(hub, on_cdn) for on_cdn in (False, True)]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.closing.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def _server(hub: Hub, on_cdn: bool) -> ThreadingHTTPServer:
    handler = type("BoundHandler", (_Handler,), {"hub": hub, "on_cdn": on_cdn})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    on_cdn: bool

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        resolve = f"/{REPO}/resolve/{COMMIT}/"
        if self.on_cdn:
            name = path.lstrip("/")
        else:
            name = path[len(resolve) :] if path.startswith(resolve) else ""
        headers = self.headers
        self.hub.requests.append(
            Request(self.command, name, headers["Range"], headers["Authorization"], self.on_cdn)
        )
        if self.hub.refuse is not None:
            self._refuse(*self.hub.refuse)
        elif name:
            self._file(name)
        elif path.startswith(f"/api/models/{REPO}/revision/"):
            self._listing(path.rsplit("/", 1)[1])
        else:
            self._refuse(404, "RepoNotFound", "Repository not found")

    def _listing(self, ref: str) -> None:
        hub = self.hub
        if hub.listing_status:
            return self._refuse(hub.listing_status.pop(0), "", "busy")
        if ref not in hub.refs:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = [hub.sibling(name) for name in hub.files]
        if "blobs=True" not in self.path:
            siblings = [{"rfilename": entry["rfilename"]} for entry in siblings]
        body = {"_id": "1", "id": REPO, "modelId": REPO, "sha": hub.refs[ref], "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        # A fault that shows in a body waits for a request that has one.
        fault = self.hub.faults.get(name, Fault())
        if fault.missing or name not in self.hub.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if self.command == "HEAD":
            return self._head(name, fault)
        fault = self.hub.take_fault(name)
        if fault.status is not None:
            return self._refuse(fault.status, "", "busy")
        self._body(name, fault)

    def _head(self, name: str, fault: Fault) -> None:
        size = len(self.hub.files[name][: fault.served_bytes])
        etag = f'"{self.hub.etag(name)}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": etag, "Accept-Ranges": "bytes"}
        if len(self.hub.files[name]) <= LARGE_BYTES:
            return self._start(200, {**headers, "Content-Length": str(size)})
        headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": etag}
        location = f"{self.hub.cdn_url}/{name}"
        self._start(302, {**headers, "Location": location, "Content-Length": "0"})

    def _body(self, name: str, fault: Fault) -> None:
        content = self.hub.files[name][: fault.served_bytes]
        if fault.corrupt:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        content = content[: fault.body_bytes]
        start, total = 0, len(content)
        if self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= total:
                return self._send(416, b"", {"Content-Range": f"bytes */{total}"})
        status = 206 if start else 200
        headers = {"Content-Length": str(total - start), "ETag": f'"{self.hub.etag(name)}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._start(status, headers)
        self._stream(content[start:], fault)

    def _stream(self, body: bytes, fault: Fault) -> None:
        limits = (fault.cut_after_bytes, fault.stall_after_bytes, len(body))
        stop = min(limit for limit in limits if limit is not None)
        try:
            for start in range(0, stop, _PIECE_BYTES):
                self.hub.closing.wait(fault.pause_s)
                self.wfile.write(body[start : min(start + _PIECE_BYTES, stop)])
            self.wfile.flush()
            if fault.stall_after_bytes is not None:
                self.hub.closing.wait()
        except OSError:
            pass  # the client went away, as some tests want
        if stop < len(body):
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._start(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
