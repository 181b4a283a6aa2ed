"""A reader becomes a file from which tar headers and members are parsed."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator

from archives.spans import Buffer, Piece, Reader


class ArchiveFile(ABC):
    """The bytes of an archive, from which headers and members are parsed. Positions are the archive's."""

    size = sys.maxsize  # bytes, where that is known

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def length(self) -> int:
        """Its size in bytes; of a compressed archive, how many were unpacked so far."""
        return self.size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), or fewer where the archive ends."""
        return b"".join(self.stream(start, stop))

    def held(self, start: int, stop: int) -> Buffer:
        """The bytes [start, stop) if all of them are in memory, otherwise none; not copied."""
        return b""

    @abstractmethod
    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same as `read`, in chunks."""


class Window(ArchiveFile):
    """A reader of which one piece, `data` at `start`, is in memory; only what lies outside is fetched."""

    def __init__(self, reader: Reader, data: Piece = b"", start: int = 0) -> None:
        super().__init__(reader.name)
        self.reader, self.data, self.start, self.size = reader, data, start, reader.size

    def held(self, start: int, stop: int) -> Buffer:
        is_here = self.start <= start and stop <= self.start + len(self.data)
        return self.data[start - self.start : stop - self.start] if is_here else b""

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self.held(start, stop)) or super().read(start, stop)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        edge, stop = self.start + len(self.data), min(stop, self.reader.size)
        if self.start <= start < edge:
            yield bytes(self.data[start - self.start : stop - self.start])
            start = edge
        if start < stop:
            yield from self.reader.stream(start, stop)
