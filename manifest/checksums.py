"""The SHA-256 of an archive whose pieces arrive in any order."""

from __future__ import annotations

import heapq
import itertools
import sys
import threading

from manifest.sha256 import Sha256
from sources.source import Source, proven

MAX_REREAD_BYTES = 32 << 20  # that finish() reads again at most


class Digest:
    """A SHA-256 over bytes that arrive in any order; early pieces wait in memory.

    It begins at `position`, with the `state` that another one had there. `states` has those at the marked positions.
    """

    def __init__(self, position: int = 0, state: bytes = b"") -> None:
        self.position, self.states = position, dict[int, bytes]()
        self._hash, self._lock, self._order = Sha256(state), threading.Lock(), itertools.count()
        self._early: list[tuple[int, int, bytes | memoryview]] = []
        self._marks, self._stop = set[int](), sys.maxsize

    def mark(self, position: int) -> None:
        """Keep the state at this position; to be called before the bytes up to it are fed."""
        with self._lock:
            self._marks.add(position)

    def state_at(self, position: int) -> bytes:
        """Return the state at this position if the bytes so far end there, else b""."""
        with self._lock:
            return self._hash.state() if self.position == position else b""

    def cut(self, position: int) -> None:
        """Take no bytes from this position on: those before them will not come, and they would wait in memory."""
        with self._lock:
            self._stop = min(self._stop, position)
            self._early = sorted(each for each in self._early if each[0] < position)

    def feed(self, offset: int, data: bytes | memoryview) -> None:
        """Add bytes that begin at `offset`; those that were added before are ignored."""
        with self._lock:
            if offset >= self._stop:
                return
            heapq.heappush(self._early, (offset, next(self._order), data))
            while self._early and self._early[0][0] <= self.position:
                begin, _, chunk = heapq.heappop(self._early)
                new = memoryview(chunk)[self.position - begin :]
                self._hash.update(new)
                self.position += len(new)
                if self.position in self._marks:
                    self.states[self.position] = self._hash.state()

    def finish(self, source: Source) -> str | None:
        """Return the checksum of the whole archive; gaps are read again. None if they are too large, or it was cut."""
        holes = source.size - self.position - sum(len(data) for _, _, data in self._early)
        if holes > MAX_REREAD_BYTES or self._stop < source.size:
            return None
        while self.position < source.size:
            stop = self._early[0][0] if self._early else source.size
            self.feed(self.position, proven(source, True).read(self.position, stop))
        return self._hash.hexdigest()
