"""Bytes that were received become the time until more may be asked for: --bwlimit."""

from __future__ import annotations

import threading
import time


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
