"""The SHA-256 of an archive whose pieces arrive in any order."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import threading

from sources.source import Source, proven

MAX_REREAD_BYTES = 32 << 20  # that finish() reads again at most


class Digest:
    """A SHA-256 over bytes that arrive in any order; early pieces wait in memory."""

    def __init__(self) -> None:
        self.position = 0
        self._hash, self._lock, self._order = hashlib.sha256(), threading.Lock(), itertools.count()
        self._early: list[tuple[int, int, bytes | memoryview]] = []

    def feed(self, offset: int, data: bytes | memoryview) -> None:
        """Add bytes that begin at `offset`; those that were added before are ignored."""
        with self._lock:
            heapq.heappush(self._early, (offset, next(self._order), data))
            while self._early and self._early[0][0] <= self.position:
                begin, _, chunk = heapq.heappop(self._early)
                new = memoryview(chunk)[self.position - begin :]
                self._hash.update(new)
                self.position += len(new)

    def finish(self, source: Source) -> str | None:
        """Return the checksum of the whole archive; gaps are read again. None if they are too large."""
        holes = source.size - self.position - sum(len(data) for _, _, data in self._early)
        if holes > MAX_REREAD_BYTES:
            return None
        while self.position < source.size:
            stop = self._early[0][0] if self._early else source.size
            self.feed(self.position, proven(source, True).read(self.position, stop))
        return self._hash.hexdigest()
