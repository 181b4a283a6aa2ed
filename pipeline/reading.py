"""Read a source in a thread of its own, while members are parsed from the bytes that have arrived."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator

from errors import ExtractionError
from pipeline.context import WorkerContext
from pipeline.progress import UnitProgress
from sources.source import Source, proven, with_client


def _memory(size: int) -> memoryview:
    """Allocate `size` bytes, in huge pages where Linux has them: four page faults a span instead of two thousand."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them (madvise(2))
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]


class StreamingBuffer:
    """The bytes of a span in memory, filled by a reading thread while earlier members are stored.

    Slicing blocks until the bytes have arrived.
    """

    def __init__(self, size: int) -> None:
        self._memory, self._got, self._news = _memory(size), 0, threading.Condition()
        self._error: Exception | None = None
        self.is_wanted = True

    def fill(self, chunks: Iterator[bytes]) -> None:
        """Store the chunks, or the error that ends them; return early once they are no longer wanted."""
        try:
            for chunk in chunks:
                self._memory[self._got : self._got + len(chunk)] = chunk
                with self._news:
                    self._got += len(chunk)
                    self._news.notify()
                if not self.is_wanted:
                    return
        except Exception as error:  # raised again where the bytes are sliced
            with self._news:
                self._error = error
                self._news.notify()

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, part: slice) -> memoryview:
        _, stop, _ = part.indices(len(self._memory))
        if self._got < stop:
            with self._news:
                self._news.wait_for(lambda: self._got >= stop or self._error)
            if self._error:
                raise self._error
        return self._memory[part]


class CountingReader:
    """Reads a source, reports progress and feeds the archive's digest; an interrupt ends the reading."""

    def __init__(self, source: Source, context: WorkerContext, progress: UnitProgress) -> None:
        self.context, self.progress, self.digest = context, progress, context.digests.get(source.name)
        self.source = with_client(proven(source, self.digest is not None), context.http)
        self.name, self.size = source.name, source.size
        self._pieces = list[tuple[int, StreamingBuffer]]()  # offset and bytes of each read

    def read(self, start: int, stop: int) -> StreamingBuffer:
        piece = StreamingBuffer(stop - start)
        self._pieces.append((start, piece))
        self.context.readers.submit(piece.fill, self._chunks(start, stop))
        return piece

    def finish(self, begin: int, end: int) -> None:
        """Wait for the remaining bytes and feed those from `begin` to `end` to the digest.

        Bytes before and after them belong to the neighbours, which read them themselves.
        """
        if self.digest:
            self.digest.mark(end)
        while self._pieces:
            start, piece = self._pieces.pop()
            data = piece[:]
            if self.digest:
                self.digest.feed(max(start, begin), data[max(begin - start, 0) : max(end - start, 0)])

    def close(self) -> None:
        """Stop reading."""
        for _, piece in self._pieces:
            piece.is_wanted = False

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        for chunk in self._chunks(start, stop):
            if self.digest:
                self.digest.feed(start, chunk)
            start += len(chunk)
            yield chunk

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        with self.context.connections:
            for chunk in self.source.stream(start, end):
                if self.context.stop.is_set():
                    raise ExtractionError("interrupted")
                self.progress.add(len(chunk))
                yield chunk
