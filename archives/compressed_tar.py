"""A compressed tar becomes members: its stream is decompressed to the end, where its checksum is."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from archives.archive_file import ArchiveFile, Window
from archives.decompress import unpack
from archives.spans import LARGE, Member, Reader, Span, SpanBoundary, check_unpacked
from archives.tar import data_of, report_end, tar_members


def read_extents(reader: Reader, span: Span) -> Iterator[Member]:
    """Members of a tar whose places are known, in the order of their offsets."""
    file: ArchiveFile = _Unpacked(reader, span)
    if span.kind == "tar":
        is_short = 0 < span.stop - span.start <= LARGE
        file = Window(reader, reader.read(span.start, span.stop) if is_short else b"", span.start)
    last = Member("", 0, -1, None)
    for name, offset, size, _, refusal in span.extents:
        if refusal:
            yield Member(name, size, offset, None, refusal)
            continue
        data = last.data if last.offset == offset else data_of(file, name, size, offset)
        last = Member(name, size, offset, data)
        yield last


# ── compressed tar ───────────────────────────────────────────────────────────────────────────────


class _Unpacked(ArchiveFile):
    """The unpacked bytes of a compressed tar, read forwards only; the last bytes read can be read again."""

    def __init__(self, reader: Reader, span: Span) -> None:
        super().__init__(reader.name)
        self.position = 0  # of the chunk
        self._chunks = unpack(reader.name, span.kind, reader.stream(0, reader.size))
        self._most, self._chunk = span.most, b""

    @property
    def length(self) -> int:
        return self.position + len(self._chunk)

    def read(self, start: int, stop: int) -> bytes:
        while self.length < start and self._go_on():
            pass
        while self.length < stop and (chunk := next(self._chunks, b"")):
            kept = self._chunk[start - self.position :]
            self.position, self._chunk = start, kept + chunk
            check_unpacked(self.name, self.length, self._most)
        return self._chunk[start - self.position : stop - self.position]

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            if start >= self.length:
                if not self._go_on():
                    return
                continue
            part = self._chunk[start - self.position : stop - self.position]
            start += len(part)
            yield part

    def _go_on(self) -> bool:
        self.position, self._chunk = self.length, next(self._chunks, b"")
        check_unpacked(self.name, self.length, self._most)
        return bool(self._chunk)


def read_compressed(reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
    """The members of a compressed tar, which is read to its end, where its checksum is."""
    file = _Unpacked(reader, span)
    yield from tar_members(file, 0, Span("tar", 0, sys.maxsize), link, False)
    for _ in file.stream(file.length, sys.maxsize):
        pass
    report_end(reader.name, link)
