"""Limit the rate of writes to a bucket, for all threads of a process, and retry refused writes.

storage/congestion.py decides the rate.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from errors import BucketError, shown
from storage.congestion import WINDOW_SECONDS, Congestion

T = TypeVar("T")
log = logging.getLogger("spotted")

# Google's guideline: start at 1,000 writes/s, double them at most every 20 minutes, and send fewer after 429 or 503
# (https://cloud.google.com/storage/docs/request-rate). A warm bucket accepts more.
INITIAL_RATE = 1000
# With a hierarchical namespace, 8 times that (https://cloud.google.com/storage/docs/hns-overview).
HIERARCHICAL_FACTOR = 8
DOUBLING_SECONDS = 20 * 60  # seconds
WAIT_SLICE = 0.25  # seconds after which a waiting thread checks whether the rate has changed
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 5.0  # seconds
DEFAULT_PATIENCE = 180  # seconds for which a write is repeated; the default of --outage
MIN_ATTEMPTS = 3  # attempts of a write, however long they take: the machine may sleep meanwhile
MIN_FAILING_WRITES = 8  # consecutive failing writes that mean that the bucket accepts none
WARN_AFTER = 3.0  # seconds of only failing writes, until a warning


class WriteLimits(NamedTuple):
    """The initial rate of writes into a bucket, and how long to wait for a bucket that accepts none."""

    rate: float | None = None  # initial writes/s, the sum over all writers; None: usual; infinity: no limit at first
    writers: int = 1  # processes that share the rate
    patience: float = DEFAULT_PATIENCE  # seconds to wait for a bucket that accepts no writes (--outage)


USUAL_LIMITS = WriteLimits()


class WriteStats(NamedTuple):
    """Counts of the writes of a process."""

    writes: int = 0  # refused ones included
    peak: int = 0  # most writes in one second
    refused: int = 0

    def __add__(self, other: object) -> WriteStats:
        """Add those of another process."""
        return WriteStats(*map(sum, zip(self, other, strict=True))) if isinstance(other, WriteStats) else NotImplemented


class Failure(NamedTuple):
    """The classification of a write's error."""

    is_passing: bool  # the same request may succeed later
    is_refusal: bool  # the bucket is overloaded
    retry_after: float = 0.0  # seconds, by the Retry-After header
    reason: str = ""  # in one line


class RateLimiter:
    """Schedules writes, and repeats those that the bucket refuses for now."""

    def __init__(
        self,
        name: str,
        limits: WriteLimits = USUAL_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self._clock, self._sleep = name, clock, sleep
        self._lock = threading.Lock()
        self._congestion = Congestion(limits.rate or INITIAL_RATE, limits.writers, clock())
        self._patience = limits.patience
        self._recent = deque[float]()  # when the last second's writes were sent
        self._writes = self._refused = self._peak = 0
        self._failing, self._failing_since, self._is_reported = 0, 0.0, False  # writes since one was answered well

    def rate(self) -> float:
        """The current limit, in writes/s."""
        with self._lock:
            return self._congestion.rate

    def acquire(self) -> float:
        """Wait until a write may be sent; returns the time, for `delivered` or `throttled`."""
        congestion, grant = self._congestion, None
        while True:
            with self._lock:
                now = self._clock()
                if grant is None or not grant.may_send or grant.version != congestion.version:
                    grant = congestion.reserve(now)
                if grant.may_send and grant.moment <= now:
                    return self._count(now)
            self._check_patience()
            self._sleep(min(grant.moment - now, WAIT_SLICE))

    def _count(self, now: float) -> float:
        self._congestion.sent(now)
        self._writes += 1
        self._recent.append(now)
        while self._recent[0] <= now - WINDOW_SECONDS:
            self._recent.popleft()
        self._peak = max(self._peak, len(self._recent))
        return now

    def delivered(self, sent: float, is_timed: bool = True) -> None:
        """Record that a write was not refused; `is_timed` if its duration shows how busy the bucket is."""
        with self._lock:
            since = self._failing_since if self._is_reported else self._congestion.outage_since
            self._congestion.delivered(sent, self._clock(), is_timed)
            is_over = since is not None and self._congestion.outage_since is None
            self._failing, self._is_reported = 0, False
        if is_over and since is not None:
            log.info("%s: takes writes again, after %.0f s", self.name, self._clock() - since)

    def throttled(self, sent: float, retry_after: float = 0.0) -> None:
        """Record that a write was refused."""
        with self._lock:
            self._refused += 1
            before, since = self._congestion.rate, self._congestion.outage_since
            self._congestion.throttled(sent, self._clock(), retry_after)
            now, is_outage = self._congestion.rate, self._congestion.outage_since is not None
        if is_outage and since is None:
            log.warning("%s: refuses all writes (429, 503); waiting for up to %d s", self.name, self._patience)
        elif now < before:
            log.info("%s: refuses %.0f writes/s; now %.0f, and slowly more again", self.name, before, now)

    def stats(self) -> WriteStats:
        """Return the counts so far."""
        with self._lock:
            return WriteStats(self._writes, self._peak, self._refused)

    def run(self, write: Callable[[], T], judge: Callable[[Exception], Failure], is_timed: bool = True) -> T:
        """Send a write, and repeat it while its error is passing; raises the last error after `patience` seconds.

        `is_timed` is that of `delivered`. Raises BucketError if the bucket accepts no writes at all.
        """
        begin, tries = self._clock(), 0
        while True:
            sent = self.acquire()
            try:
                answer = write()
            except Exception as error:
                failure = judge(error)
                self._judged(sent, failure)
                wait = max(backoff(tries), failure.retry_after)
                if not failure.is_passing:
                    raise
                is_last = self._clock() + wait > begin + self._patience and tries + 1 >= MIN_ATTEMPTS
                self._fails(failure, is_first=tries == 0, is_last=is_last)
                if is_last:
                    raise
                log.debug("%s: trying again in %.1f s: %s", self.name, wait, failure.reason)
            else:
                self.delivered(sent, is_timed)
                return answer
            tries += 1
            self._sleep(wait)

    def _fails(self, failure: Failure, is_first: bool, is_last: bool) -> None:
        with self._lock:
            now = self._clock()
            self._failing_since = self._failing_since if self._failing else now
            self._failing += is_first
            is_new = (is_last or now - self._failing_since >= WARN_AFTER) and not self._is_reported
            self._is_reported = self._is_reported or is_new
            is_known = self._congestion.outage_since is not None  # by its refusals, and logged
        if is_new and not is_known:
            log.warning("%s: writes fail: %s; trying for %d s", self.name, shown(failure.reason), self._patience)
        self._check_patience()

    def _check_patience(self) -> None:
        with self._lock:
            seconds = self._clock() - self._failing_since
            if self._failing >= MIN_FAILING_WRITES and seconds > self._patience:
                raise BucketError(f"{self.name}: took no writes for {seconds:.0f} s (--outage)")

    def _judged(self, sent: float, failure: Failure) -> None:
        if failure.is_refusal:
            self.throttled(sent, failure.retry_after)
        elif not failure.is_passing:
            self.delivered(sent)


def backoff(tries: int, rng: random.Random = random.SystemRandom()) -> float:  # noqa: B008  # it has no state
    """Seconds to wait after `tries` attempts, with jitter, so that threads that failed together retry apart."""
    return rng.uniform(0, min(FIRST_BACKOFF * 2 ** min(tries, 10), MAX_BACKOFF))


def retry_after(response: object) -> float:
    """The Retry-After of a response in seconds; 0 if it has none, or a date."""
    headers = getattr(response, "headers", None) or {}
    try:
        return max(float(headers.get("Retry-After", 0)), 0.0)
    except ValueError:
        return 0.0
