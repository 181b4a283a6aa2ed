"""Read a source over all connections, in stripes, while members are parsed from the bytes that have arrived."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import threading
import time
from collections import deque
from collections.abc import Iterator

from archives.spans import SPAN_BYTES
from errors import ExtractionError
from pipeline.context import MIN_STRIPE_BYTES, SPARE_UNITS, WorkerContext
from pipeline.progress import UnitProgress
from sources.source import Source, proven, with_client

SPANS_AHEAD = 3  # spans in memory of an archive that is one unit, such as a compressed tar
CHUNK_BYTES = 256 << 10  # bytes of its chunks


def _memory(size: int) -> memoryview:
    """Allocate `size` bytes, in huge pages where Linux has them: four page faults a span instead of two thousand."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them (madvise(2))
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]


class StreamingBuffer:
    """The bytes of a span in memory, filled by reading threads while earlier members are stored.

    Slicing blocks until the bytes have arrived.
    """

    def __init__(self, size: int) -> None:
        self._memory, self._got, self._news = _memory(size), 0, threading.Condition()
        self._ends = dict[int, int]()  # of each stripe: where it begins → where its next byte belongs
        self._error: Exception | None = None
        self._taken, self._broken_at = 0, size  # bytes

    def take(self, length: int) -> tuple[int, int] | None:
        """Take the next stripe, of about `length` bytes: its beginning and its end; None if all are taken."""
        with self._news:
            begin, left = self._taken, len(self) - self._taken
            self._taken += left if left < 1.5 * length else length
            return (begin, self._taken) if left and not self._error else None

    def fill(self, begin: int, chunks: Iterator[bytes]) -> None:
        """Store the chunks of the stripe at `begin`, or the error that ends them."""
        end = begin
        try:
            for chunk in chunks:
                self._memory[end : end + len(chunk)] = chunk
                end += len(chunk)
                self._arrived(begin, end)
        except Exception as error:  # raised again where the bytes are sliced
            with self._news:
                if end <= self._broken_at:
                    self._broken_at, self._error = end, error
                self._news.notify()

    def _arrived(self, begin: int, end: int) -> None:
        with self._news:
            self._ends[begin], reach = end, 0
            for first, last in sorted(self._ends.items()):
                if first > reach:
                    break
                reach = last
            self._got = reach
            self._news.notify()

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, part: slice) -> memoryview:
        _, stop, _ = part.indices(len(self._memory))
        if self._got < stop:
            with self._news:
                self._news.wait_for(lambda: self._got >= min(stop, self._broken_at))
            if self._error and self._got < stop:
                raise self._error
        return self._memory[part]


class CountingReader:
    """Reads a source, reports progress and feeds the archive's digest; an interrupt ends the reading."""

    def __init__(self, source: Source, context: WorkerContext, progress: UnitProgress) -> None:
        self.context, self.progress, self.digest = context, progress, context.digests.get(source.name)
        self.source = with_client(proven(source, self.digest is not None), context.http)
        self.name, self.size = source.name, source.size
        self._pieces = list[tuple[int, StreamingBuffer]]()  # offset and bytes of each read
        self._is_closed, self._fed = False, 0

    def read(self, start: int, stop: int) -> StreamingBuffer:
        piece = self._begin(start, stop)
        self._pieces.append((start, piece))
        return piece

    def _begin(self, start: int, stop: int) -> StreamingBuffer:
        piece = StreamingBuffer(stop - start)
        for _ in range(min(self.context.config.readers, 1 + len(piece) // MIN_STRIPE_BYTES)):
            self.context.readers.submit(self._fill, start, piece)
        return piece

    def _fill(self, start: int, piece: StreamingBuffer) -> None:
        """Read stripes of the piece at `start`, as other connections do, until all are taken."""
        since = time.monotonic()
        while not self._is_closed and (stripe := piece.take(self.context.stripe_bytes())):
            begin, end = stripe
            piece.fill(begin, self._chunks(start + begin, start + end))
            before, since = since, time.monotonic()
            if end - begin >= MIN_STRIPE_BYTES:
                self.context.connection_rate = (end - begin) / (since - before)

    def state_at(self, begin: int, end: int) -> bytes:
        """Feed the bytes from `begin` to `end` to the digest; return its state there, b"" if it is not known.

        It is known only while one span is read at a time: those of faster sources end before their parts are due, and
        many small updates, each of which releases the GIL, take 4 % of a run.
        """
        if self.digest is None or len(self._pieces) != 1 or self.context.max_spans() > 1 + SPARE_UNITS:
            return b""
        start, piece = self._pieces[0]
        self._feed(start, piece, begin, end)
        self._fed = min(end, start + len(piece))
        return self.digest.state_at(end)

    def finish(self, begin: int, end: int) -> None:
        """Wait for the remaining bytes, and feed those from `begin` to `end` to the digest."""
        if self.digest:
            self.digest.mark(end)
        while self._pieces:
            start, piece = self._pieces.pop()
            _ = piece[:]
            self._feed(start, piece, begin, end)

    def _feed(self, start: int, piece: StreamingBuffer, begin: int, end: int) -> None:
        """Feed what the piece at `start` has of these bytes and was not fed; all others are the neighbours'."""
        if self.digest:
            begin = max(begin, start, self._fed)
            self.digest.feed(begin, piece[begin - start : max(end - start, 0)])

    def close(self) -> None:
        """Stop reading."""
        self._is_closed = True

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        is_alone = stop - start == self.size > SPAN_BYTES  # as one unit: no other one uses the connections
        for chunk in self._ahead() if is_alone else self._chunks(start, stop):
            if self.digest:
                self.digest.feed(start, chunk)
            start += len(chunk)
            yield chunk

    def _ahead(self) -> Iterator[bytes]:
        """Read the whole archive over all connections, and yield it from its beginning to its end."""
        pieces = (self._begin(*ends) for ends in itertools.pairwise([*range(0, self.size, SPAN_BYTES), self.size]))
        ahead = deque(itertools.islice(pieces, SPANS_AHEAD))
        while ahead:
            piece = ahead.popleft()
            for at in range(0, len(piece), CHUNK_BYTES):
                yield bytes(piece[at : at + CHUNK_BYTES])
            ahead += itertools.islice(pieces, 1)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        with self.context.connections:
            for chunk in self.source.stream(start, end):
                if self._is_closed:
                    return
                if self.context.stop.is_set():
                    raise ExtractionError("interrupted")
                self.progress.add(len(chunk))
                yield chunk
