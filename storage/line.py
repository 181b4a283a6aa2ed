"""Bytes on their way into a bucket are bounded by what the line carries: on a slow one, all at once would time out."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

FIRST = 4 << 20  # bytes in flight before anything has arrived
AHEAD = 10.0  # seconds that what is in flight takes to arrive
SPAN = 10.0  # seconds of a measurement, at least, before it may say that the line is slower than it was
SHORTEST = 1.0  # seconds that a measurement counts for at least: what buffers take in is no speed
MOST = 1 << 30  # bytes in flight: the memory of what waits is bounded elsewhere
UNSENT = 128 << 10  # bytes that the system takes in and has not sent, of each connection
LONG = 30.0  # seconds that an object may be expected to take, of the two minutes that a put has


class Line:
    """Admits as many bytes as arrive in AHEAD seconds, and at least one object.

    Objects that were sent within a measurement and have arrived show what the line carries at least: answers that come
    together, as on a busy machine, do not make it faster. What has arrived in all shows what it carries at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = FIRST
        self._clock, self._in_flight, self._count, self._changed = clock, 0, 0, threading.Condition()
        self._begin_measurement()

    def _begin_measurement(self) -> None:
        self._begin, self._arrived, self._carried = self._clock(), 0, 0

    def share(self) -> int:
        """Bytes that arrive in AHEAD seconds on one connection of those that share the line."""
        return self.window // max(self._count, 1)

    def is_slow_for(self, size: int) -> bool:
        """Whether so many bytes would take LONG, since all connections share the line."""
        return size * max(self._count, 1) > self.window / AHEAD * LONG

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Wait until so many bytes may be sent, and hold their place until they have arrived or failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._in_flight + size <= self.window)
            if not self._in_flight:  # an idle line says nothing of its speed
                self._begin_measurement()
            self._in_flight, self._count, sent = self._in_flight + size, self._count + 1, self._begin
        arrived = 0
        try:
            yield
            arrived = size
        finally:
            with self._changed:
                self._in_flight, self._count = self._in_flight - size, self._count - 1
                self._measure(arrived, sent == self._begin)
                self._changed.notify_all()

    def _measure(self, size: int, is_within: bool) -> None:
        self._arrived, self._carried = self._arrived + size, self._carried + size * is_within
        seconds = max(self._clock() - self._begin, SHORTEST)
        self.window = max(self.window, min(int(self._carried / seconds * AHEAD), MOST))
        if seconds >= SPAN:
            self.window = max(min(self.window, int(self._arrived / seconds * AHEAD)), 1)
            self._begin_measurement()


class LineAdapter(HTTPAdapter):
    """requests' adapter for uploads: chunks ask the line, and a time-out is one of progress.

    A body of bytes is sent in one call, whose time-out is for the whole (socket.sendall); a file goes in small blocks.
    What the system has taken in but not sent has no time-out: it takes in little (tcp(7), TCP_NOTSENT_LOWAT).
    """

    def __init__(self, line: Line, connections: int) -> None:
        self._line = line
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        options = [*HTTPConnection.default_socket_options, (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)]
        super().init_poolmanager(*arguments, socket_options=options, **named)

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:
        if request.method != "PUT" or not isinstance(request.body, bytes):
            return super().send(request, *arguments, **named)
        with self._line.sending(len(request.body)):
            request.prepare_body(io.BytesIO(request.body), None)
            return super().send(request, *arguments, **named)
