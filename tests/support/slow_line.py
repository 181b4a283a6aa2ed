"""A line between a program and a server that carries so many bytes a second, all connections together."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from typing import Self
from urllib.parse import urlsplit

PIECE = 16 << 10


class SlowLine:
    """Forwards what comes to its `url` to a server at another; what goes up is slow, and ends after so many bytes."""

    def __init__(self, to: str, speed: int, dies_after: float = math.inf) -> None:
        parts = urlsplit(to)
        self._to, self._speed = (parts.hostname or "", parts.port or 80), speed
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        # As on a real line: with segments of 64 KB, as the loopback interface has them, a small buffer stalls.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._dies_after, self._over = dies_after, threading.Event()
        self._lock, self._free_at, self._open = threading.Lock(), 0.0, list[socket.socket]()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._socket.accept()
            except OSError:  # it is over
                return
            there = socket.create_connection(self._to)
            self._open += [here, there]
            for source, target, is_slow in ((here, there, True), (there, here, False)):
                threading.Thread(target=self._forward, args=(source, target, is_slow), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_slow: bool) -> None:
        with contextlib.suppress(OSError):  # one end has gone
            while data := source.recv(PIECE):
                if is_slow:
                    self._wait(len(data))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _wait(self, size: int) -> None:
        """The pieces of all connections go one after the other."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self._speed
            self._dies_after -= size
            pause = self._free_at - now
        self._over.wait(pause if self._dies_after > 0 else None)
