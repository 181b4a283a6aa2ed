"""An answer's body, read as it comes: no slower than a least rate, and no faster than --bwlimit."""

from __future__ import annotations

import threading
import time

import urllib3

from sources.http_answers import PassingError

LEAST_RATE = 500  # bytes a second; 160 photos at once bring so much each on a line of 80 kB/s


class Bandwidth:
    """So many bytes a second from all sources of a process together; 0: no limit.

    What has arrived is paid for before its thread reads on, so that the network's own buffers hold the senders back.
    """

    def __init__(self, rate: int = 0) -> None:
        self._rate, self._paid_until, self._lock = rate, 0.0, threading.Lock()

    def take(self, size: int) -> None:
        """Wait until these bytes, and those that came before them, are paid for."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now) + size / self._rate
            left = self._paid_until - now
        time.sleep(left)


class Body:
    """The body of an answer, without decoding.

    In each `window` of seconds that are spent on reading it must bring LEAST_RATE, as one byte now and then would pass
    every time-out; and it must end within `longest`.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, bandwidth: Bandwidth, window: float, longest: float) -> None:
        self._raw, self._bandwidth, self._window, self._longest = raw, bandwidth, window, longest
        self._got, self._seconds, self._before = 0, 0.0, 0.0  # of the window; seconds before it
        self._error: Exception | None = None

    def read(self, amount: int) -> bytes:
        """So many bytes, fewer at the end; what came before a failure is returned, and the next call raises it.

        Raises PassingError where bytes come too slowly, and what urllib3 raises.
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
        """All that is left, or one byte more than `most`; raises what `read` raises."""
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
        if self._got < LEAST_RATE * self._seconds:
            raise PassingError(f"expected {LEAST_RATE} bytes/s at least, got {self._got:,} in {self._seconds:,.0f} s")
        self._got, self._seconds, self._before = 0, 0.0, self._before + self._seconds
