"""Bounds the bytes in flight to a bucket by what the line carries: on a slow line, too many would time out."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

INITIAL_WINDOW_BYTES = 4 << 20  # bytes in flight before anything has arrived
WINDOW_SECONDS = 10.0  # seconds in which the bytes in flight should arrive
MEASUREMENT_SECONDS = 10.0  # seconds of a measurement before it may lower the speed of the line
MIN_MEASUREMENT_SECONDS = 1.0  # seconds of a measurement, at least: buffers accept the first bytes faster than the line
MAX_WINDOW_BYTES = 1 << 30  # bytes in flight; memory is bounded elsewhere
MAX_PUT_SECONDS = 30.0  # seconds that a put should take at most; its time limit is two minutes
UNSENT_BYTES = 128 << 10  # unsent bytes that the system buffers for each connection


class Line:
    """Admits as many bytes as arrive in WINDOW_SECONDS, and at least one object.

    The objects that were both sent and answered within a measurement are a lower bound of the line's speed: answers
    that come together, as on a busy machine, do not raise it. All that was answered is an upper bound.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = INITIAL_WINDOW_BYTES
        self._clock, self._in_flight, self._count, self._lock = clock, 0, 0, threading.Lock()
        self._changed, self._turns = threading.Condition(self._lock), deque[object]()  # of those that wait
        self._begin_measurement()

    def _begin_measurement(self) -> None:
        self._begin, self._arrived, self._carried = self._clock(), 0, 0

    def is_slow_for(self, size: int) -> bool:
        """Whether `size` bytes would take longer than MAX_PUT_SECONDS, as all connections share the line."""
        return size * max(self._count, 1) > self.window / WINDOW_SECONDS * MAX_PUT_SECONDS

    def sending(self, size: int) -> Sending:
        """Wait until `size` bytes may be sent; they are in flight until the context ends."""
        return Sending(self, size)

    def _admit(self, size: int) -> float:
        with self._lock:
            if self._turns or not self._fits(size):
                self._wait_for_turn(size)
            if not self._in_flight:  # an idle line says nothing of its speed
                self._begin_measurement()
            self._in_flight, self._count = self._in_flight + size, self._count + 1
            return self._begin

    def _answered(self, size: int, begin: float, has_arrived: bool) -> None:
        with self._lock:
            self._in_flight, self._count = self._in_flight - size, self._count - 1
            self._measure(size * has_arrived, begin == self._begin)
            if self._turns:
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._in_flight or self._in_flight + size <= self.window

    def _wait_for_turn(self, size: int) -> None:
        """Wait in the order of arrival: otherwise small objects would overtake a large one for as long as they come."""
        turn = object()
        self._turns.append(turn)
        self._changed.wait_for(lambda: self._turns[0] is turn and self._fits(size))
        self._turns.popleft()
        self._changed.notify_all()  # the next one may fit, too

    def _measure(self, size: int, is_within: bool) -> None:
        self._arrived, self._carried = self._arrived + size, self._carried + size * is_within
        seconds = max(self._clock() - self._begin, MIN_MEASUREMENT_SECONDS)
        self.window = max(self.window, min(int(self._carried / seconds * WINDOW_SECONDS), MAX_WINDOW_BYTES))
        if seconds >= MEASUREMENT_SECONDS:
            self.window = max(min(self.window, int(self._arrived / seconds * WINDOW_SECONDS)), 1)
            self._begin_measurement()


class Sending:
    """The context of bytes in flight; a generator would take as much time as all the rest of the line."""

    def __init__(self, line: Line, size: int) -> None:
        self._line, self._size = line, size

    def __enter__(self) -> None:
        self._begin = self._line._admit(self._size)

    def __exit__(self, error: object, *_: object) -> None:
        self._line._answered(self._size, self._begin, has_arrived=error is None)


class LineAdapter(HTTPAdapter):
    """Sends uploads when the line admits them, with a time-out of progress instead of one for the whole body.

    requests sends bytes by one call, whose time-out is for all of them (socket.sendall), and a file in small blocks.
    Bytes that the system has buffered have no time-out, so it buffers little (TCP_NOTSENT_LOWAT, tcp(7)).
    """

    def __init__(self, line: Line, connections: int) -> None:
        self._line = line
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        options = [*HTTPConnection.default_socket_options]
        unsent = socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES
        with suppress(OSError), socket.socket() as probe:  # some sandboxes do not have this option
            probe.setsockopt(*unsent)
            options.append(unsent)
        super().init_poolmanager(*arguments, socket_options=options, **named)

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:
        if request.method != "PUT" or not isinstance(request.body, bytes):
            return super().send(request, *arguments, **named)
        with self._line.sending(len(request.body)):
            request.prepare_body(io.BytesIO(request.body), None)
            return super().send(request, *arguments, **named)
