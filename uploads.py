"""How members go into the bucket: what the units of a process share, and the threads that put, a few members each."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import ParamSpec, TypeVar

import web
from gcs import Destination, open_bucket
from parts import Mark, PartWriter
from rate_limit import RateLimiter, WriteStats
from rows import Row
from spans import SPAN, Buffer

P = ParamSpec("P")
T = TypeVar("T")
BYTES_AT_ONCE = 64 << 20  # of members on their way into the bucket, in each process
BATCH = 4  # members that one thread puts one after the other; each takes 50 ms, and the last ones are waited for
BATCH_BYTES = 256 << 10  # of data in them; larger members go alone
BATCH_SECONDS = 0.1  # after which a member of a slow source goes alone: what waits is read again after a kill
LOCAL_BATCH, LOCAL_BATCH_BYTES = 64, 4 << 20  # where puts take no time: a turn each is what takes time
# Batches of one unit that are waited for at once. A span of photos has 50, one of annotations thousands: where these
# all queue up before the threads, photos are left for the end, and those alone are more than two cores bear.
PENDING = 120
PHOTOS_AT_ONCE = 160  # fetched in each process; at 50 ms a photo this is 3,200 a second, more than two cores bear
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h


@dataclass(frozen=True)
class Settings:
    """What every worker must know; picklable."""

    destination: Destination
    connections: int = 8  # to the source, from each process
    uploads: int | None = None  # puts in flight in each process; None: what suits the bucket
    timeout: float = web.TIMEOUT[1]  # seconds without a byte from a source


class Budget:
    """What may be under way at once, say bytes in memory; one request larger than all of it is let through alone."""

    def __init__(self, size: int) -> None:
        self.size, self._used, self._free = size, 0, threading.Condition()

    def acquire(self, size: int) -> None:
        with self._free:
            self._free.wait_for(lambda: not self._used or self._used + size <= self.size)
            self._used += size

    def release(self, size: int) -> None:
        with self._free:
            self._used -= size
            self._free.notify_all()


_limiters: list[RateLimiter] = []  # of the bucket that this process writes to


class Process:
    """What the units in one process share: the bucket, the threads that put and fetch, and the bounds."""

    def __init__(self, settings: Settings) -> None:
        _keep_heap_small()
        gc.freeze()  # or Python goes through all its modules each time that it looks for cycles: 4 % of a run
        web.set_timeout(settings.timeout)
        self.bucket, self.started = open_bucket(settings.destination), time.monotonic()
        _limiters[:] = [limiter for limiter in [getattr(self.bucket, "limiter", None)] if limiter]
        at_once = settings.uploads or self.bucket.at_once
        self._uploads = ThreadPoolExecutor(at_once, "put") if at_once > 1 else None
        self.batch = (BATCH, BATCH_BYTES) if self._uploads else (LOCAL_BATCH, LOCAL_BATCH_BYTES)
        self.bytes, self.putting = Budget(BYTES_AT_ONCE), threading.BoundedSemaphore(at_once)
        self.photos = ThreadPoolExecutor(PHOTOS_AT_ONCE + at_once, "photo")  # each fetches a photo, then puts it
        self.fetching = threading.BoundedSemaphore(PHOTOS_AT_ONCE)
        self.connections = threading.BoundedSemaphore(settings.connections)
        self.readers = ThreadPoolExecutor(settings.connections, "read")

    def soon(self, size: int, put: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Put in a thread of its own, once there is room for so many bytes; at once where a put takes no time."""
        if self._uploads is None:
            done = Future[T]()
            # Units that write side by side would wait for Python's lock after each call of the system.
            with self.putting:
                done.set_result(put(*arguments, **named))
            return done
        self.bytes.acquire(size)

        def released() -> T:
            try:
                return put(*arguments, **named)
            finally:
                self.bytes.release(size)

        return self._uploads.submit(released)


def _keep_heap_small() -> None:
    """Have glibc give large buffers back at once: it learns not to, and 290 MB become 370 (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, SPAN // 8)
        mallopt(M_ARENA_MAX, 2)


_starting = threading.Lock()  # a worker's threads begin together, and must share what bounds them


def the_process(settings: Settings) -> Process:
    """What this process has for these settings, made once."""
    with _starting:
        return _the_process(settings)


@lru_cache(maxsize=1)
def _the_process(settings: Settings) -> Process:
    return Process(settings)


def writes() -> WriteStats | None:
    """What became of the writes of this process, where they went through the API."""
    return _limiters[0].stats() if _limiters else None


class Batches:
    """A unit's small members on their way: a few go to each thread, for handing one over costs as much as putting it.

    `parts` hears of each batch that is done.
    """

    def __init__(self, process: Process, put: Callable[[Row, Buffer], Row], parts: PartWriter | None) -> None:
        self.process, self.put, self.parts, self.rows = process, put, parts, list[Row]()
        self._next, self._size = list[tuple[Row, Buffer | None]](), 0
        self._mark, self._batches, self._handed_over = Mark(0), 0, time.monotonic()
        self._pending = deque[Future[list[Row]]]()
        self._last = dict[str, Future[list[Row]]]()  # by path, of those that are pending

    def add(self, row: Row, data: Buffer | None, mark: Mark) -> None:
        """Put it soon; without data, it is only a row. `mark` is the place after it.

        Of two members of one name the later must win, so it comes after the earlier.
        """
        if row.path in self._last:
            wait([self._last[row.path]])
        self._next.append((row, data))
        self._size, self._mark = self._size + len(data or b""), mark
        members, size = self.process.batch
        is_late = time.monotonic() - self._handed_over > BATCH_SECONDS
        if len(self._next) >= members or self._size >= size or is_late:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, size, self._next, self._size = self._next, self._size, [], 0
        put = self.process.soon(size, self._put_all, self._batches, batch, self._mark)
        self._batches, self._handed_over = self._batches + 1, time.monotonic()
        self._last |= dict.fromkeys((row.path for row, _ in batch), put)
        self._pending.append(put)
        if len(self._pending) > PENDING:
            self._settle()

    def _put_all(self, number: int, members: Sequence[tuple[Row, Buffer | None]], mark: Mark) -> list[Row]:
        rows = [row if data is None else self.put(row, data) for row, data in members]
        if self.parts:
            self.parts.take(number, rows, mark)
        return rows

    def _settle(self) -> None:
        put = self._pending.popleft()
        arrived = put.result()
        self.rows += arrived
        for row in arrived:
            if self._last.get(row.path) is put:
                del self._last[row.path]

    def make_way(self, path: str) -> None:
        """For a large member of that name: wait for an earlier one, and write down all, for this may take minutes."""
        if self._next:
            self._hand_over()
        if self.parts:
            self.settle()
            self.parts.flush(only_if_due=True)
        elif path in self._last:
            wait([self._last[path]])

    def finish(self) -> list[Row]:
        """All rows, when all are put; raises what one of them met."""
        if self._next:
            self._hand_over()
        self.settle()
        return self.rows

    def settle(self) -> None:
        """Wait until all that was handed over is put."""
        while self._pending:
            self._settle()

    def wait(self) -> None:
        """Until nothing is under way any more."""
        wait(self._pending)
