"""Limit the parallel requests to each server, by --connections and by its refusals."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("spotted")

PROBE_AFTER = 10  # seconds after the last refusal, until the limit grows by one request


class Host:
    """The limit of one server: a refusal lowers it below the requests in flight, good answers raise it by one.

    It is at most `most` (--connections). Waiting requests have no connection. A server's own limit is found exactly:
    each refused request lowers the limit by one, and is repeated when another request has ended (additive increase,
    as in TCP, RFC 5681).
    """

    def __init__(self, name: str, most: float = math.inf) -> None:
        self.name, self.most = name, most
        self.has_if_range = True  # False: it answers ranges with If-Range by the whole file
        self._logged = set[str]()
        self.served = self.answering = 0  # good answers; those of them that are being read
        self._limit, self._in_flight, self._completed = most, 0, 0
        self._proven = 0  # answers that were read in parallel
        self._refused_at, self._changed = 0.0, threading.Condition()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Wait for a turn, and hold it until the answer is read."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < self._limit)
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify()

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Count an answer that is read while the context lasts."""
        with self._changed:
            self.served, self.answering = self.served + 1, self.answering + 1
            self._proven = max(self._proven, self.answering)
        try:
            yield
            self._complete()
        finally:
            with self._changed:
                self.answering -= 1

    def _complete(self) -> None:
        with self._changed:
            self._completed += 1
            if self._completed >= self._limit and time.monotonic() - self._refused_at >= PROBE_AFTER:
                self._limit, self._completed = min(self._limit + 1, self.most), 0
                self._changed.notify()

    def is_new(self, subject: str) -> bool:
        """Whether this is the first call with this subject, for messages that are logged once."""
        with self._changed:
            is_new = subject not in self._logged
            self._logged.add(subject)
            return is_new

    def throttled(self) -> int:
        """Record the refusal of a request; returns the number of others in flight."""
        with self._changed:
            others = self._in_flight - 1
            if others:
                self._lower(others)
            return others

    def _lower(self, others: int) -> None:
        self._completed, self._refused_at = 0, time.monotonic()
        if others < self._proven:  # the server may not have noticed the end of an answer: believe only a second refusal
            self._proven -= 1
            return
        if self._limit == self.most:
            log.info("%s: refuses some of %d parallel requests; sending fewer", self.name, self._in_flight)
        self._limit = min(self._limit, others)
