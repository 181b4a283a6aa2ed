"""Read the body of an answer, no slower than a minimum rate and no faster than --bwlimit."""

from __future__ import annotations

import threading
import time

import urllib3

from sources.http_answers import PassingError

MIN_RATE = 500  # bytes a second; 160 photos in parallel bring so much each on a line of 80 kB/s


class Bandwidth:
    """A limit in bytes/s of all sources of a process together; 0: no limit.

    A thread waits after it has read, so that full network buffers slow the senders down.
    """

    def __init__(self, rate: int = 0) -> None:
        self._rate, self._paid_until, self._lock = rate, 0.0, threading.Lock()

    def take(self, size: int) -> None:
        """Wait until the limit allows more, after `size` bytes were read."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now) + size / self._rate
            left = self._paid_until - now
        time.sleep(left)


class Body:
    """The body of an answer, without decoding.

    It must bring LEAST_RATE in each `window` (seconds of reading), because one byte now and then would pass every
    time-out, and it must end within `longest` seconds.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, bandwidth: Bandwidth, window: float, longest: float) -> None:
        self._raw, self._bandwidth, self._window, self._longest = raw, bandwidth, window, longest
        self._got, self._seconds, self._before = 0, 0.0, 0.0  # of the window; seconds before it
        self._error: Exception | None = None

    def read(self, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end; after a failure, the bytes before it, and the next call raises it.

        Raises PassingError if bytes come too slowly, and what urllib3 raises.
        """
        if self._error:
            raise self._error
        pieces, left = list[bytes](), amount
        try:
            while left and (piece := self._next(left)):
                pieces.append(piece)
                left -= len(piece)
        except (PassingError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not pieces:
                raise
            self._error = error
        self._bandwidth.take(amount - left)
        return b"".join(pieces)

    def read_all(self, most: int) -> bytes:
        """Return the rest, but at most one byte more than `most`; raises what `read` raises."""
        data = self.read(most + 1)
        return data + self.read(most + 1 - len(data))

    def _next(self, most: int) -> bytes:
        begin = time.monotonic()
        piece = self._raw.read1(most, decode_content=False)
        self._count(len(piece), time.monotonic() - begin)
        return piece

    def _count(self, size: int, seconds: float) -> None:
        self._got, self._seconds = self._got + size, self._seconds + seconds
        if self._before + self._seconds > self._longest:
            raise PassingError(f"it was not whole after {self._before + self._seconds:,.0f} s")
        if self._seconds < self._window:
            return
        if self._got < MIN_RATE * self._seconds:
            raise PassingError(f"expected {MIN_RATE} bytes/s at least, got {self._got:,} in {self._seconds:,.0f} s")
        self._got, self._seconds, self._before = 0, 0.0, self._before + self._seconds
