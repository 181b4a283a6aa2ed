"""Check where connections of requests lead, and limit the time for the header of an answer.

One byte now and then would pass every time-out.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import time
from functools import partial
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from sources.session import Border

MAX_HEADER_SECONDS = 60.0  # seconds, once its first byte is waited for


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
        raw.deadline = math.inf  # what follows has a least rate: sources/body.py


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


class CheckedAdapter(HTTPAdapter):
    """requests' adapter with such connections."""

    def __init__(self, border: Border, connections: int) -> None:
        self._border = border
        super().__init__(pool_connections=connections, pool_maxsize=connections)

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        kind = _TlsConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = partial(kind, border=self._border)
        return pool
