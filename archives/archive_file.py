"""Give the parsers of tar headers and members one view of an archive, unpacked or not."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator

from archives.spans import Buffer, Piece, Reader


class ArchiveFile(ABC):
    """The bytes of a tar, after decompression where it is compressed; positions are bytes of the tar."""

    size = sys.maxsize  # bytes, where that is known

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def length(self) -> int:
        """Return the size in bytes, or the bytes unpacked so far."""
        return self.size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), fewer at the end of the archive."""
        return b"".join(self.stream(start, stop))

    def held(self, start: int, stop: int) -> Buffer:
        """Return the bytes [start, stop) without a copy if all are in memory, else none."""
        return b""

    @abstractmethod
    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the same bytes in chunks."""


class Window(ArchiveFile):
    """A reader with one piece, `data` at `start`, in memory; bytes outside it are fetched."""

    def __init__(self, reader: Reader, data: Piece = b"", start: int = 0) -> None:
        super().__init__(reader.name)
        self.reader, self.data, self.start, self.size = reader, data, start, reader.size
        self.edge = start + len(data)  # where the bytes in memory end

    def held(self, start: int, stop: int) -> Buffer:
        is_here = self.start <= start and stop <= self.edge
        return self.data[start - self.start : stop - self.start] if is_here else b""

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self.held(start, stop)) or super().read(start, stop)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        stop = min(stop, self.reader.size)
        if self.start <= start < self.edge:
            yield bytes(self.data[start - self.start : stop - self.start])
            start = self.edge
        if start < stop:
            yield from self.reader.stream(start, stop)
