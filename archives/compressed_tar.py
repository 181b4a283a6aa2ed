"""Read the members of a compressed tar, whose stream is decompressed to its end, where the checksum is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from archives.archive_file import ArchiveFile
from archives.archive_kind import ArchiveKind
from archives.decompress import FORMATS, unpack
from archives.spans import Member, Reader, Span, SpanBoundary, check_unpacked
from archives.tar import read_extents, report_end, tar_members


@dataclass(frozen=True)
class CompressedTar(ArchiveKind):
    """A compressed tar: one span; the offsets of members count unpacked bytes."""

    format: str  # a key of FORMATS

    reads_extents = True

    def recognises(self, reader: Reader, head: bytes) -> bool:
        return head.startswith(FORMATS[self.format].magic)

    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        file = _Unpacked(reader, self.format, span.most)
        if span.extents:
            yield from read_extents(file, span.extents)
            return
        yield from tar_members(file, 0, replace(span, stop=sys.maxsize), link, False)
        for _ in file.stream(file.length, sys.maxsize):  # to the end, where the checksum is
            pass
        report_end(file.name, link)


class _Unpacked(ArchiveFile):
    """The unpacked bytes of a compressed tar, read forwards; the bytes of the last read can be read again."""

    def __init__(self, reader: Reader, format_: str, most: int) -> None:
        super().__init__(reader.name)
        self.position = 0  # of the chunk
        self._chunks = unpack(reader.name, format_, reader.stream(0, reader.size))
        self._most, self._chunk = most, b""

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
            while start >= self.length:
                if not self._go_on():
                    return
            part = self._chunk[start - self.position : stop - self.position]
            start += len(part)
            yield part

    def _go_on(self) -> bool:
        self.position, self._chunk = self.length, next(self._chunks, b"")
        check_unpacked(self.name, self.length, self._most)
        return bool(self._chunk)
