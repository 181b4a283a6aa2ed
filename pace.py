"""How fast a bucket is written to: one pace for all threads of a process, which falls when the bucket refuses.

Google asks for this: begin at 1,000 writes a second, at most double them every 20 minutes, and send less when
the answer is 429 or 503 (https://cloud.google.com/storage/docs/request-rate).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger("spotted")

START = 1000  # writes a second to a bucket at first
DOUBLING = 20 * 60  # seconds in which they may become twice as many
RECOVERY = 30  # seconds in which they become twice as many after a refusal, up to what they may be by then
PAUSE = 0.5  # seconds without a write after a refusal: whoever refused one refuses the next ones too
LEAST = 10  # writes a second, however often it is refused
WINDOW = 1.0  # seconds over which writes are counted
SHORTEST_WINDOW = 0.25  # seconds that count when it has just begun


class Told(NamedTuple):
    """What became of the writes of a process."""

    writes: int = 0  # sent, the refused ones among them
    peak: int = 0  # most writes in one second
    refused: int = 0

    def __add__(self, other: object) -> Told:
        """Those of two processes."""
        return Told(*map(sum, zip(self, other, strict=True))) if isinstance(other, Told) else NotImplemented


class Pace:
    """Hands out the moments at which something may be written.

    `start` is how many a second at first; infinity is no limit until the first refusal. Half of what was sent
    is sent after each refusal, and all threads wait a moment; then it grows again.
    """

    def __init__(
        self,
        name: str,
        start: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self._start, self._clock, self._sleep = name, start, clock, sleep
        self._lock = threading.Lock()
        self._began = self._next = clock()
        self._cut_at, self._cut_to, self._cuts = self._began, float("inf"), 0
        self._recent = deque[float]()  # when the last second's writes were sent
        self._writes = self._refused = self._peak = 0

    def rate(self) -> float:
        """How many may be sent in a second from now."""
        now = self._clock()
        allowed = self._start * 2 ** ((now - self._began) / DOUBLING)
        return min(allowed, self._cut_to * 2 ** ((now - self._cut_at) / RECOVERY))

    def take(self) -> float:
        """Wait until something may be sent; the moment, for `refuse`."""
        while True:
            with self._lock:
                cuts, now = self._cuts, self._clock()
                moment = max(now, self._next)
                self._next = moment + 1 / self.rate()
            if moment > now:
                self._sleep(moment - now)
            with self._lock:
                if cuts == self._cuts:  # otherwise the moment was given at a rate that is no longer right
                    self._count(self._clock())
                    return moment

    def _count(self, now: float) -> None:
        self._writes += 1
        self._recent.append(now)
        while self._recent[0] <= now - WINDOW:
            self._recent.popleft()
        self._peak = max(self._peak, len(self._recent))

    def refuse(self, moment: float) -> None:
        """What was sent at `moment` was refused: halve the rate, unless that is known since."""
        with self._lock:
            self._refused += 1
            now = self._clock()
            if self._cuts and moment <= self._cut_at:
                return
            sent = len(self._recent) / min(max(now - self._recent[0], SHORTEST_WINDOW), WINDOW)
            self._cut_to, self._cut_at = max(min(sent, self.rate()) / 2, LEAST), now
            self._cuts, self._next = self._cuts + 1, now + PAUSE
            log.info("%s: refuses %.0f writes/s; now %.0f, and slowly more again", self.name, sent, self._cut_to)

    def told(self) -> Told:
        """What became of the writes so far."""
        with self._lock:
            return Told(self._writes, self._peak, self._refused)
