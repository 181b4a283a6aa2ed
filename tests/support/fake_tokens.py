"""Google's servers of tokens, played on this machine: OAuth 2.0, the Security Token Service, and IAM Credentials."""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

HOSTS = ("oauth2.googleapis.com", "sts.googleapis.com", "iamcredentials.googleapis.com",
         "cloudresourcemanager.googleapis.com")  # fmt: skip
AUDIENCE = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/pool/providers/cluster"
REFRESH, SUBJECT = "refresh-token", "token-of-the-cluster"
TARGET = "writer@example.iam.gserviceaccount.com"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693


class TokenServer:
    """Hands out tokens: those for a login or for another provider's token, and with these those of TARGET.

    `token` makes one that the bucket takes. Where `is_intermediate`, only those of TARGET are such.
    """

    def __init__(self, token: Callable[[], str]) -> None:
        self.token, self.is_intermediate = token, False
        self.intermediate = set[str]()
        self.may_impersonate = True
        self.asked: list[str] = []  # host and path of each request

    @contextmanager
    def running(self, context: ssl.SSLContext) -> Iterator[None]:
        """Serve over TLS at `port`."""
        server = _Server(self)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def first(self) -> str:
        """A token for a login, or for another provider's token."""
        if not self.is_intermediate:
            return self.token()
        name = f"intermediate-{len(self.intermediate)}"
        self.intermediate.add(name)
        return name


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tokens: TokenServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(403, {"error": {"code": 403, "message": "Cloud Resource Manager API has not been used"}})

    def do_POST(self) -> None:
        tokens, host = self.server.tokens, self.headers["Host"].partition(":")[0]
        tokens.asked.append(host + self.path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        if (host, self.path) == ("oauth2.googleapis.com", "/token") and form.get("grant_type") == "refresh_token":
            is_good, error = (
                form.get("refresh_token") == REFRESH,
                {"error": "invalid_grant", "error_description": "Bad"},
            )
            self._answer(200 if is_good else 400, self._token() if is_good else error)
        elif (host, self.path) == ("sts.googleapis.com", "/v1/token") and form.get("grant_type") == EXCHANGE:
            is_good = (form.get("audience"), form.get("subject_token")) == (AUDIENCE, SUBJECT)
            error = {"error": "invalid_grant", "error_description": "The subject token is not of this provider"}
            kind = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
            self._answer(200 if is_good else 400, self._token() | kind if is_good else error)
        elif self.path == f"/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken":
            self._impersonate(json.loads(body))
        else:
            self._answer(404, {"error": {"code": 404, "message": f"no {host}{self.path}"}})

    def _token(self) -> dict[str, object]:
        return {"access_token": self.server.tokens.first(), "expires_in": 3600, "token_type": "Bearer"}

    def _impersonate(self, asked: dict[str, object]) -> None:
        """https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken"""
        tokens, bearer = self.server.tokens, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer not in tokens.intermediate or not asked.get("scope"):
            self._answer(401, {"error": {"code": 401, "message": "Request had invalid authentication credentials."}})
        elif not tokens.may_impersonate:
            message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
            self._answer(403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}})
        else:
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
            self._answer(200, {"accessToken": tokens.token(), "expireTime": f"{end:%Y-%m-%dT%H:%M:%SZ}"})

    def _answer(self, status: int, fields: Mapping[str, object]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
