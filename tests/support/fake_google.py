"""storage.googleapis.com and the metadata server of a Google VM, played on this machine: the way without an emulator.

The program comes here by GCE_METADATA_HOST, and by HTTPS_PROXY, whose tunnel ends at GcsFront: this speaks TLS with a
certificate that the program is given to trust, and demands a token that the metadata server has handed out. What is
for another host than HOST goes to the servers of tokens that support/fake_tokens.py plays.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from support.certificates import CERTIFICATE, self_signed
from support.fake_gcs import GcsFront
from support.fake_tokens import HOSTS, TokenServer

HOST = "storage.googleapis.com"
EMAIL = "test@example.com"
ACCOUNTS = "/computeMetadata/v1/instance/service-accounts"
CHUNK = 1 << 16  # bytes passed on at a time


class Google:
    """A metadata server, and a tunnel to `front`, from __enter__ to __exit__."""

    def __init__(self, front: GcsFront, folder: Path) -> None:
        self.front, self.folder = front, folder
        self.claimed, self.life = 3600.0, 3600.0  # seconds that a token is said to live, and that it does
        self.issued: dict[str, float] = {}  # token → when
        self.tokens = TokenServer(self.token)
        self.project: str | None = "test-project"  # that the metadata server names
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        context = self_signed(self.folder, HOST, *HOSTS)
        self.port = self.front.serve_tls(context)
        self._stack.enter_context(self.tokens.running(context))
        self._metadata, self._tunnel = _Server(_Metadata, self), _Server(_Tunnel, self)
        for server in (self._metadata, self._tunnel):
            self._stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            self._stack.callback(thread.join)
            self._stack.callback(server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What sends the program here."""
        metadata, trusted = f"127.0.0.1:{self._metadata.server_port}", str(self.folder / CERTIFICATE)
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._tunnel.server_port}",
            "SSL_CERT_FILE": trusted,  # for obstore
            "REQUESTS_CA_BUNDLE": trusted,  # for google-cloud-storage
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_IP": metadata,
        }

    def token(self) -> str:
        """A new token."""
        name = f"token-{len(self.issued)}"
        self.issued[name] = time.monotonic()
        return name

    def accepts(self, token: str) -> bool:
        """Whether a token was handed out here, and is not too old."""
        return time.monotonic() < self.issued.get(token, float("-inf")) + self.life

    def revoke(self) -> None:
        """Take back every token handed out by now."""
        self.issued = dict.fromkeys(self.issued, float("-inf"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a tunnel that is open when all ends

    def __init__(self, handler: type[BaseHTTPRequestHandler], google: Google) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.google = google


class _Quiet(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Metadata(_Quiet):
    """https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys"""

    def do_GET(self) -> None:
        google = self.server.google
        match self.path.partition("?")[0].rstrip("/"):
            case "":
                body = "computeMetadata/"
            case "/computeMetadata/v1/project/project-id" if google.project:
                body = google.project
            case path if path in (f"{ACCOUNTS}/default", f"{ACCOUNTS}/{EMAIL}"):
                body = json.dumps({"email": EMAIL, "aliases": ["default"], "scopes": []})
            case path if path in (f"{ACCOUNTS}/default/token", f"{ACCOUNTS}/{EMAIL}/token"):
                body = json.dumps(
                    {"access_token": google.token(), "expires_in": google.claimed, "token_type": "Bearer"}
                )
            case _:
                self.send_error(404)
                return
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


class _Tunnel(_Quiet):
    """RFC 9110, 9.3.6."""

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        google = self.server.google
        port = google.port if self.path.startswith(HOST) else google.tokens.port
        with socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=pass_on, args=(there, self.connection), daemon=True)
            back.start()
            pass_on(self.connection, there)
            back.join()
        self.close_connection = True


def pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):  # either may reset its connection
        while data := one.recv(CHUNK):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
