"""Bytes on their way into a bucket are bounded by what the line carries: on a slow one, all at once would time out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST = 4 << 20  # bytes in flight before anything has arrived
AHEAD = 10.0  # seconds that what is in flight takes to arrive
SPAN = 10.0  # seconds of a measurement, at least, before it may say that the line is slower than it was
SHORTEST = 1.0  # seconds that a measurement counts for at least: what buffers take in is no speed
MOST = 1 << 30  # bytes in flight: the memory of what waits is bounded elsewhere
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
