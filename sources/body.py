"""An answer's body, read as it comes, with a least rate: one byte now and then would pass every time-out."""

from __future__ import annotations

import math
import time

import requests
import urllib3

from sources.http_answers import PassingError

LEAST_RATE = 500  # bytes a second; 160 photos at once bring so much each on a line of 80 kB/s


class Body:
    """The body of an answer, without decoding.

    In each `window` of seconds that are spent on reading it must bring LEAST_RATE, and end within `longest`.
    """

    def __init__(self, response: requests.Response, window: float, longest: float = math.inf) -> None:
        self._raw, self._window, self._longest = response.raw, window, longest
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
        return b"".join(pieces)

    def read_all(self, most: int) -> bytes:
        """All that is left, or one byte more than `most`; raises what `read` raises."""
        data = self.read(most + 1)
        return data + self.read(most + 1 - len(data))

    def _next(self, most: int) -> bytes:
        begin = time.monotonic()
        piece: bytes = self._raw.read1(most, decode_content=False)
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
