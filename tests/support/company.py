"""A company's network on this machine: a proxy is the only way out, and its own CA signs for what is outside."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from sources import sample
from support.certificates import signed
from support.fake_gcs import GcsFront
from support.fake_google import HOST, pass_on
from support.source_server import SourceServer

MIRROR, TOKENS = "mirror.example", "oauth2.googleapis.com"


class Company:
    """The proxy, and beyond it a mirror of the sample, Google's tokens, and `front` as Google Cloud Storage."""

    def __init__(self, front: GcsFront, folder: Path) -> None:
        self.front, self.folder = front, folder
        self.asked: list[str] = []  # hosts that the proxy was asked for
        self.tokens: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.ca, tls = signed(self.folder, MIRROR, TOKENS, HOST)
        source = self._stack.enter_context(SourceServer(tls))
        source.files.update({f"/{path}": data for path, data in sample.sources().items()})
        proxy, tokens = _Server(_Proxy, self), _Server(_Tokens, self)
        tokens.socket = tls.wrap_socket(tokens.socket, server_side=True)
        self.routes = {MIRROR: source.server_port, TOKENS: tokens.server_port, HOST: self.front.serve_tls(tls)}
        self.front.accepts = self.tokens.__contains__
        self.proxy = f"http://127.0.0.1:{proxy.server_port}"
        for server in (proxy, tokens):
            self._stack.enter_context(server)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self._stack.callback(server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def login(self) -> Path:
        """The file of a login, as `gcloud auth application-default login` leaves it."""
        file = self.folder / "login.json"
        secret = {"client_id": "id", "client_secret": "s", "refresh_token": "r", "type": "authorized_user"}
        file.write_text(json.dumps(secret))
        return file


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a tunnel that is open when all ends

    def __init__(self, handler: type[BaseHTTPRequestHandler], company: Company) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.company = company

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses a certificate is no error."""


class _Quiet(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Tokens(_Quiet):
    """https://datatracker.ietf.org/doc/html/rfc6749#section-6"""

    def do_POST(self) -> None:
        token = uuid.uuid4().hex
        self.server.company.tokens.add(token)
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": token, "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Proxy(_Quiet):
    """RFC 9110, 9.3.6."""

    def do_CONNECT(self) -> None:
        company, host = self.server.company, self.path.partition(":")[0]
        company.asked.append(host)
        if host not in company.routes:
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", company.routes[host])) as there:
            back = threading.Thread(target=pass_on, args=(there, self.connection), daemon=True)
            back.start()
            pass_on(self.connection, there)
            back.join()
        self.close_connection = True
