"""A requests session that sends credentials only to their host, and does not lead into a private network.

The time for the header of an answer is limited too: one byte now and then would pass every time-out.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import netrc
import os
import socket
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3.connection import HTTPConnection, HTTPSConnection

from errors import SourceError

MAX_HEADER_SECONDS = 60.0  # seconds, once its first byte is waited for
POOL_CONNECTIONS = 128  # connections kept per host; requests' own 10 would close the others after each answer

# ── credentials ──────────────────────────────────────────────────────────────────────────────────


def _authenticate(request: requests.PreparedRequest) -> requests.PreparedRequest:
    user, password = _credentials(request.url or "")
    return HTTPBasicAuth(user, password)(request) if user or password else request


def _credentials(url: str) -> tuple[str, str]:
    """User and password of the URL, or of .netrc's entry for exactly its host; `default` is not used."""
    user, password = get_auth_from_url(url)
    if user or password:
        return user, password
    found = _netrc().get(urlsplit(url).hostname or "")
    return (found[0] or found[1] or "", found[2] or "") if found else ("", "")


def _netrc() -> dict[str, tuple[str, str | None, str | None]]:
    """The entries of .netrc by host; none if it is missing or damaged, as in requests."""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            return {host: entry for host, entry in netrc.netrc(str(path)).hosts.items() if host != "default"}
        except (OSError, netrc.NetrcParseError):
            continue
    return {}


# ── private addresses ────────────────────────────────────────────────────────────────────────────


class Border:
    """Prevents public sources from leading to addresses of this machine or its network."""

    def __init__(self, is_open: bool = False) -> None:
        """`is_open` allows everything."""
        self.is_open, self._is_inside = is_open, lru_cache(maxsize=1024)(_is_inside)
        self._outside = set[str]()  # public hosts, and hosts that a public source has led to

    def check(self, here: str, there: str) -> None:
        """Raise SourceError if the URL or table `here` must not lead to `there`."""
        before, after = urlsplit(here).hostname, urlsplit(there).hostname
        if self.is_open or not before or not after or before == after:
            return
        if before in self._outside or not self._is_inside(before):
            if self._is_inside(after):
                raise _refused(here, after)
            self._outside.add(after)

    def check_peer(self, host: str, address: str) -> None:
        """Raise SourceError if a public host was connected at a private address: its name has changed meanwhile."""
        if _is_global(address):
            self._outside.add(host)
        elif host in self._outside and not self.is_open:
            raise _refused(host, address)


def _is_inside(host: str) -> bool:
    """Whether a name has a private address; False if it cannot be resolved here."""
    try:
        return not all(_is_global(str(each[4][0])) for each in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def _refused(here: str, there: str) -> SourceError:
    why = (
        f"{here}: leads to {there}, an address inside this network or machine, which a source outside must not name; if"
        " that is meant, use --allow-private-addresses"
    )
    return SourceError(why)


def _is_global(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


# ── connections ──────────────────────────────────────────────────────────────────────────────────


class _UntilDeadline(io.RawIOBase):
    """The bytes of a connection; a read after `deadline` raises ConnectionAbortedError."""

    def __init__(self, file: io.BufferedIOBase, deadline: float) -> None:
        self._file, self.deadline = file, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if time.monotonic() > self.deadline:
            raise ConnectionAbortedError(f"the header of the answer was not whole after {MAX_HEADER_SECONDS:.0f} s")
        return self._file.readinto1(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def begin(self) -> None:
        raw = _UntilDeadline(self.fp, time.monotonic() + MAX_HEADER_SECONDS)
        self.fp = io.BufferedReader(raw)
        super().begin()
        while 101 < self.status < 200:  # others than 100, which http.client passes over (RFC 9110, 15.2)
            self.headers = None  # type: ignore[assignment]  # or begin() would do nothing
            super().begin()
        raw.deadline = math.inf  # what follows has a least rate: sources/http_answers.py


class _Connection(HTTPConnection):
    response_class = _Answer

    def __init__(self, *arguments: Any, border: Border, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._border = border

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        try:
            if not self.proxy:  # which resolves names itself
                self._border.check_peer(self.host, made.getpeername()[0])
        except BaseException:
            made.close()
            raise
        return made


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Adapter(HTTPAdapter):
    def __init__(self, border: Border) -> None:
        self._border = border
        super().__init__(pool_connections=POOL_CONNECTIONS, pool_maxsize=POOL_CONNECTIONS)

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        kind = _TlsConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = partial(kind, border=self._border)
        return pool


class OwnSession(requests.Session):
    """A session with these rules."""

    def __init__(self, border: Border) -> None:
        super().__init__()
        self.auth, self._border = _authenticate, border
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(border))

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        headers, before, after = prepared_request.headers, response.request.url or "", prepared_request.url or ""
        if "Authorization" in headers and self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            del headers["Authorization"]
        prepared_request.prepare_auth(_authenticate)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if resp.status_code == 300:  # with the server's choice (RFC 9110, 15.4.1), which requests leaves to the user
            target = resp.headers.get("Location")
        self._border.check(resp.request.url or "", target or "")
        return target
