"""requests' connections, with a deadline for the header of an answer: a byte now and then would pass every time-out."""

from __future__ import annotations

import http.client
import io
import math
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection

LONGEST_HEADER = 60.0  # seconds, once its first byte is waited for


class _UntilDeadline(io.RawIOBase):
    """The bytes of a connection; raises ConnectionAbortedError for a read after `deadline`."""

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


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _Pool, "https": _TlsPool}


class DeadlineAdapter(HTTPAdapter):
    """requests' adapter, with these connections."""

    poolmanager: PoolManager

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *arguments: Any, **named: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*arguments, **named)
        manager.pool_classes_by_scheme = POOLS
        return manager
