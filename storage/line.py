"""Bytes on their way into a bucket are bounded by what the line carries: on a slow one, all at once would time out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST = 4 << 20  # bytes in flight before anything has arrived
AHEAD = 10.0  # seconds that what is in flight takes to arrive
SPAN = 5.0  # seconds over which the speed is measured, at least
SHORTEST = 1.0  # seconds that a measurement counts for at least: what buffers take in is no speed
MOST = 1 << 30  # bytes in flight: the memory of what waits is bounded elsewhere


class Line:
    """Admits as many bytes as arrive in AHEAD seconds, and at least one object."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = FIRST
        self._clock, self._in_flight, self._changed = clock, 0, threading.Condition()
        self._begin, self._arrived = clock(), 0  # of the measurement

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Wait until so many bytes may be sent, and hold their place until they have arrived or failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._in_flight + size <= self.window)
            if not self._in_flight:  # an idle line says nothing of its speed
                self._begin, self._arrived = self._clock(), 0
            self._in_flight += size
        arrived = 0
        try:
            yield
            arrived = size
        finally:
            with self._changed:
                self._in_flight -= size
                self._measure(arrived)
                self._changed.notify_all()

    def _measure(self, size: int) -> None:
        self._arrived += size
        seconds = max(self._clock() - self._begin, SHORTEST)
        wanted = min(int(self._arrived / seconds * AHEAD), MOST)
        # Growth is believed at once: the first answers show a fast line. A slow one shows over seconds.
        if wanted > self.window or seconds >= SPAN:
            self.window = max(wanted, 1)
        if seconds >= SPAN:
            self._begin, self._arrived = self._clock(), 0
