"""How far a unit of work is, told while it runs; a single one may be a member of gigabytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TELL_EVERY = 1  # seconds, of each unit: ten together are ten messages a second, and each takes a millisecond

Tell = Callable[[tuple[str, int, int]], None]  # unit, bytes read, objects stored, both since it began


class Meter:
    """Counts what one unit reads and stores, in whatever threads, and tells the sums now and then."""

    def __init__(self, unit: str, tell: Tell) -> None:
        self.unit, self.tell = unit, tell
        self.bytes = self.objects = 0
        self._told, self._lock = time.monotonic(), threading.Lock()

    def add(self, size: int = 0, objects: int = 0) -> None:
        """So many bytes more were read, so many objects more stored."""
        with self._lock:
            self.bytes, self.objects = self.bytes + size, self.objects + objects
            if time.monotonic() - self._told < TELL_EVERY:
                return
            self._told = time.monotonic()
            self.tell((self.unit, self.bytes, self.objects))
