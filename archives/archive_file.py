"""A reader becomes a file from which tar headers and members are parsed."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

from archives.spans import Buffer, Piece, Reader


class ArchiveFile(io.RawIOBase):
    """A seekable file, from which headers and members are read. Positions are the archive's."""

    size = sys.maxsize  # bytes, where that is known

    def __init__(self, name: str, position: int = 0) -> None:
        self.name, self.position = name, position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    @property
    def length(self) -> int:
        """Its size in bytes, if known."""
        return self.size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.take(self.position, self.position + len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def take(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), or fewer where the archive ends."""
        chunks = list(self.stream(start, stop))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def held(self, start: int, stop: int) -> Buffer:
        """The bytes [start, stop) if all of them are in memory, otherwise none; not copied."""
        return b""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same as `take`, in chunks."""
        raise AssertionError("each kind has its own")


class Window(ArchiveFile):
    """A reader of which one piece, `data` at `start`, is in memory; only what lies outside is fetched."""

    def __init__(self, reader: Reader, data: Piece = b"", start: int = 0) -> None:
        super().__init__(reader.name, start)
        self.reader, self.data, self.start, self.size = reader, data, start, reader.size

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.reader.size)[whence]
        return self.position

    def held(self, start: int, stop: int) -> Buffer:
        is_here = self.start <= start and stop <= self.start + len(self.data)
        return self.data[start - self.start : stop - self.start] if is_here else b""

    def take(self, start: int, stop: int) -> bytes:
        return bytes(self.held(start, stop)) or super().take(start, stop)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        edge, stop = self.start + len(self.data), min(stop, self.reader.size)
        if self.start <= start < edge:
            yield bytes(self.data[start - self.start : stop - self.start])
            start = edge
        if start < stop:
            yield from self.reader.stream(start, stop)
