"""Limit the time for the header of an answer: one byte now and then would pass every time-out."""

from __future__ import annotations

import http.client
import io
import math
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

LONGEST_HEADER = 60.0  # seconds, once its first byte is waited for


class _UntilDeadline(io.RawIOBase):
    """The bytes of a connection; a read after `deadline` raises ConnectionAbortedError."""

    def __init__(self, file: io.BufferedIOBase, deadline: float) -> None:
        self._file, self.deadline = file, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if time.monotonic() > self.deadline:
            raise ConnectionAbortedError(f"the header of the answer was not whole after {LONGEST_HEADER:.0f} s")
        return self._file.readinto1(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def begin(self) -> None:
        raw = _UntilDeadline(self.fp, time.monotonic() + LONGEST_HEADER)
        self.fp = io.BufferedReader(raw)
        super().begin()
        raw.deadline = math.inf  # what follows has a least rate: sources/body.py


class _Connection(HTTPConnection):
    response_class = _Answer


class _TlsConnection(HTTPSConnection):
    response_class = _Answer


class DeadlineAdapter(HTTPAdapter):
    """requests' adapter with that limit."""

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        pool.ConnectionCls = _TlsConnection if pool.scheme == "https" else _Connection
        return pool
