"""Pieces of an archive, which arrive in any order, become its SHA-256."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import threading

from sources.source import Source, proven

MAX_REREAD_BYTES = 32 << 20  # bytes that may be read again to finish a checksum


class Digest:
    """A SHA-256 over bytes that arrive in any order; early pieces wait in memory."""

    def __init__(self) -> None:
        self.position = 0
        self._hash, self._lock, self._order = hashlib.sha256(), threading.Lock(), itertools.count()
        self._early: list[tuple[int, int, bytes | memoryview]] = []

    def feed(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes from `offset` on; what was taken before is ignored."""
        with self._lock:
            heapq.heappush(self._early, (offset, next(self._order), data))
            while self._early and self._early[0][0] <= self.position:
                begin, _, chunk = heapq.heappop(self._early)
                new = memoryview(chunk)[self.position - begin :]
                self._hash.update(new)
                self.position += len(new)

    def finish(self, source: Source) -> str | None:
        """The checksum of the whole; holes are read again unless they are large, which gives None."""
        holes = source.size - self.position - sum(len(data) for _, _, data in self._early)
        if holes > MAX_REREAD_BYTES:
            return None
        while self.position < source.size:
            stop = self._early[0][0] if self._early else source.size
            self.feed(self.position, proven(source, True).read(self.position, stop))
        return self._hash.hexdigest()
