"""A real HTTP server on loopback that serves bytes as well, or as badly, as each path's plan says."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import sys
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

PIECE = 4 << 10  # bytes sent at a time by a server that drips


class Request(NamedTuple):
    """One request as it was seen."""

    path: str  # with its query
    range: str | None
    headers: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """How a path is answered; as it stands, with the file, whole or by ranges, as RFC 9110 demands."""

    body: bytes | None = None  # instead of the file's bytes
    ranges: bool = True  # False: status 200 and the whole file, regardless of Range
    etag: str | None = '"1"'
    last_modified: str | None = None
    status: int | None = None  # instead of the file
    headers: Mapping[str, str | None] = field(default_factory=dict)  # instead of the right ones; None: left out
    cut: int | None = None  # bytes of the body after which the connection is closed
    hang: int | None = None  # bytes of the body after which no more come, and the connection stays open
    noise: bytes | None = None  # instead of any answer
    stall: float = 0  # seconds before the first byte of the answer
    drip: float = 0  # seconds before each piece of the body
    piece: int = PIECE  # bytes of such a piece


class SourceServer(ThreadingHTTPServer):
    """Serves `files` by path; each request is kept in `requests`."""

    daemon_threads = False

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        self.socket = tls.wrap_socket(self.socket, server_side=True) if tls else self.socket
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.struck = 0  # requests that were answered by a plan
        self._acts: dict[int, Callable[[], object]] = {}
        self.connections: list[socket.socket] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._lasting: dict[str, Plan] = {}
        self._next: dict[str, deque[Plan]] = defaultdict(deque)
        self._at: dict[str, tuple[int, list[Plan]]] = {}
        self._shares: dict[str, tuple[bytes, int, int]] = {}
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def plan(self, path: str, plan: Plan, times: int | None = None) -> None:
        """Answer `path` so from now on; with `times`, only the next so many requests not yet planned."""
        with self._lock:
            if times is None:
                self._lasting[path] = plan
            else:
                self._next[path].extend([plan] * times)

    def plan_at(self, path: str, byte: int, plan: Plan, times: int = sys.maxsize) -> None:
        """Answer so the next requests for a range of `path` that has this byte."""
        self._at[path] = byte, [plan] * min(times, 1000)

    def heal(self) -> None:
        """Forget all plans."""
        with self._lock:
            self._at.clear()
            self._lasting.clear()
            self._next.clear()
            self.struck = 0
            self._acts.clear()

    def when(self, number: int, act: Callable[[], object]) -> None:
        """Call `act` when `requests` is so long, before the last of them is answered."""
        self._acts[number] = act

    def redirect(self, path: str, location: str) -> None:
        """Lead from `path` to `location`."""
        self.plan(path, Plan(status=302, headers={"Location": location}))

    def share(self, token: str, data: bytes, uses: int, expired: int = 403) -> str:
        """A Seafile share link, which leads to a place that answers `uses` requests and then status `expired`."""
        path = f"/f/{token}/?dl=1"
        self._shares[path] = data, uses, expired
        return self.url + path

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of the requests for `path`."""
        return [request.range for request in self.requests if request.path == path]

    def act(self) -> None:
        """Do what is to be done at the request that has just come."""
        with self._lock:
            act = self._acts.pop(len(self.requests), None)
        if act:
            act()

    def take_plan(self, path: str) -> Plan:
        """The plan for the request that has just come."""
        with self._lock:
            if path in self._shares:
                self.struck += 1
                return self._open_share(path)
            plan = self._next[path].popleft() if self._next[path] else self._lasting.get(path, Plan())
            self.struck += plan != Plan()
            return plan

    def take_plan_at(self, path: str, asked: str | None) -> Plan | None:
        """The plan for the byte in this Range header, if there is one."""
        ends = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        with self._lock:
            byte, plans = self._at.get(path, (0, []))
            return plans.pop() if ends and plans and int(ends[1]) <= byte <= int(ends[2]) else None

    def _open_share(self, path: str) -> Plan:
        data, uses, expired = self._shares[path]
        place = f"/files/{uuid.uuid4()}/data.bin"
        self.files[place] = data
        self._next[place].extend([Plan()] * uses)
        self._lasting[place] = Plan(status=expired)
        return Plan(status=302, headers={"Location": place})

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error; the tests look at what the client got."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        for connection in self.connections:  # a kept-alive one would wait for its next request for ever
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets: 40 ms for each answer otherwise
    server: SourceServer

    def do_GET(self) -> None:
        self.server.requests.append(Request(self.path, self.headers["Range"], dict(self.headers.items())))
        self.server.act()
        plan = self.server.take_plan_at(self.path, self.headers["Range"]) or self.server.take_plan(self.path)
        self.server.closing.wait(plan.stall)
        if plan.noise is not None:
            self.close_connection = True
            self.wfile.write(plan.noise)
            return
        status, headers, body = self._answer(plan)
        headers = {"Content-Length": str(len(body))} | headers | dict(plan.headers)
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.close_connection = plan.cut is not None or headers["Content-Length"] != str(len(body))
        self.end_headers()
        self._send(body[: plan.cut if plan.hang is None else plan.hang], plan.drip, plan.piece)
        if plan.hang is not None:
            self.server.closing.wait()

    def _answer(self, plan: Plan) -> tuple[int, dict[str, str | None], bytes]:
        body = self.server.files.get(unquote(self.path)) if plan.body is None else plan.body
        if plan.status or body is None:
            return plan.status or 404, {}, b"no file here\n"
        version = {"ETag": plan.etag, "Last-Modified": plan.last_modified}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if not plan.ranges or not asked or self.headers["If-Range"] not in (None, plan.etag, plan.last_modified):
            return 200, version, body
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(body))
        if start >= stop:
            return 416, version | {"Content-Range": f"bytes */{len(body)}"}, b""
        return 206, version | {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}, body[start:stop]

    def _send(self, body: bytes, drip: float, piece: int) -> None:
        piece = piece if drip else len(body) or 1
        for start in range(0, len(body), piece):
            self.server.closing.wait(drip)
            self.wfile.write(body[start : start + piece])

    def log_message(self, *_: object) -> None:
        """Say nothing."""
