"""Tar, plain and compressed: a span's members, and the proof that the spans of an archive join up.

A tar has no directory. A span begins with the first block at or after its offset that is a header by its own
checksum, and ends where the header after its last member must be; whether each end is the next beginning is for
`broken_link` to see.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence

from compressed import unpack
from errors import ArchiveError, shown
from spans import LARGE, ArchiveFile, Buffer, Link, Member, Piece, Reader, Span, Window, check_unpacked
from tar_headers import (
    BLOCK,
    CONTINUED,
    DEVICES,
    EXTENDED,
    FILES,
    FOLDERS,
    HARD_LINK,
    SYMBOLIC_LINK,
    Entry,
    Header,
    HeaderReader,
    padded,
    parse,
    pax_that_matters,
)

log = logging.getLogger("spotted")

NOWHERE = -1  # where no header can be
LOOK_BACK = 8 * BLOCK  # before a span: shows whether its first header is the tail of an extended one
LOOK_BEYOND = 64 << 10  # bytes after the end of a tar in which another one may begin: writers fill up 10 KiB
# Bytes beyond a span, where its last member mostly ends. What goes on after them is a request of its own, which has to
# wait for a connection: with 5 MB/s for each of them, a run is 4 % shorter than with such a request for every span.
BEYOND = 96 << 10


def broken_link(name: str, spans: Sequence[Span], links: Sequence[Link]) -> tuple[int, Span | None] | None:
    """Follow the chain of a tar's spans; None when it joins from the first header to the archive's end.

    Otherwise the index of the first span that does not join, and that span as it must be read, or None
    for one in which no member begins.
    """
    here = Link(0, 0)
    for index, (span, link) in enumerate(zip(spans, links, strict=True)):
        if here.ended or here.end >= span.stop:
            if link.first is not None:
                return index, None
        elif link.first == here.end and span.pax == here.pax:
            here = link
        else:
            return index, Span(span.kind, span.start, span.stop, begin=here.end, pax=here.pax)
    _report_end(name, here)
    return None


def _report_end(name: str, link: Link) -> None:
    """Say what is odd about the end of a tar whose members are all whole."""
    if not link.ended:
        log.warning("%s: it ends with its last member, without blocks of zeros; every member is whole", name)
    if link.another:
        log.warning("%s: another tar begins at byte %d, after the end; it is not read, as by tar", name, link.another)


def read_span(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    low = max(0, span.start - LOOK_BACK)
    beyond = BEYOND if span.begin is None else 0  # one read again, or for a few members, is alone
    window = Window(reader, reader.read(low, min(span.stop + beyond, reader.size)), low)
    start, is_tail = (0 if span.start == 0 else span.begin), False
    if start is None:
        start, is_tail = _first_header(window.data, low, span)
    if start is None:
        return
    try:
        yield from _tar_members(window, start, span, link, is_tail)
    except ArchiveError:
        if start in (0, span.begin) and not span.is_guess:
            raise
        # A guess that proved wrong: the chain drops this span, or has it read from the right byte.
        link.first, link.end = NOWHERE, 0


def _first_header(data: Piece, low: int, span: Span) -> tuple[int | None, bool]:
    """Where the first header of the span is, and whether it belongs to an extended one before the span."""
    before = range(low, span.start, BLOCK)
    extended = [(at, found) for at in before if (found := _parse(data, at - low)) and found.kind in EXTENDED]
    tails = {at + BLOCK + padded(found.size or 0) for at, found in extended}
    for at in range(span.start, span.stop, BLOCK):
        if _parse(data, at - low):
            return at, at in tails
    return None, False


def _parse(data: Piece, at: int) -> Header | None:
    return parse(bytes(data[at : at + BLOCK]))


def _tar_members(file: ArchiveFile, start: int, span: Span, link: Link, is_tail: bool) -> Iterator[Member]:
    link.first = None if is_tail else start
    headers, whole = HeaderReader(file.name, file.take, span.pax), start
    while start < span.stop:
        entry, start = headers.read(start)
        if entry is None:
            break
        if is_tail:
            is_tail, link.first = False, start if start < span.stop else None
            continue
        whole = entry.end
        if whole > file.size:
            raise ArchiveError(
                f"{file.name}: cut off: {shown(entry.name)} of {entry.size:,} bytes goes beyond the archive's end"
            )
        link.end, link.pax = start, pax_that_matters(headers.pax)
        yield _member(file, entry)
    link.end, link.pax = start, pax_that_matters(headers.pax)
    if start < span.stop:
        _end(file, start, whole, link)


def _end(file: ArchiveFile, start: int, whole: int, link: Link) -> None:
    """Take what is at `start` for the archive's end, or raise ArchiveError; its members need `whole` bytes."""
    block = file.take(start, start + BLOCK)
    if any(block):
        what = "a damaged header" if len(block) == BLOCK else "the end of the file"
        raise ArchiveError(
            f"{file.name}: expected a tar header or the end-of-archive block at byte {start:,}, got {what}"
        )
    if not block and (not start or file.length < whole):
        raise ArchiveError(f"{file.name}: cut off: no end-of-archive block at byte {start:,}")
    link.ended = bool(block)
    link.another = _another(file, start) if block else 0


def _another(file: ArchiveFile, end: int) -> int:
    after = file.take(end, end + LOOK_BEYOND)
    found = (at for at in range(0, len(after), BLOCK) if any(after[at : at + BLOCK]))
    at = next(found, 0)
    return end + at if parse(after[at : at + BLOCK]) else 0


def _member(file: ArchiveFile, entry: Entry) -> Member:
    where = entry.name, entry.size, entry.offset
    if entry.kind in FOLDERS or (not entry.size and entry.kind in FILES and entry.name.endswith("/")):
        return Member(entry.name.rstrip("/") + "/", 0, entry.offset, b"")
    if refusal := _tar_refusal(entry):
        return Member(*where, None, refusal, link=entry.link if entry.kind == HARD_LINK else "")
    return Member(*where, _data(file, *where))


def _data(file: ArchiveFile, name: str, size: int, offset: int) -> Buffer | Iterator[bytes]:
    """A member's bytes, in chunks where there are many."""
    held = file.held(offset, offset + size) if size <= LARGE else b""
    if len(held) == size:
        return held
    chunks = _exactly(file.name, name, size, file.stream(offset, offset + size))
    return chunks if size > LARGE else b"".join(chunks)


def _exactly(archive: str, name: str, size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    got = 0
    for chunk in chunks:
        got += len(chunk)
        yield chunk
    if got != size:
        raise ArchiveError(f"{archive}: cut off: {shown(name)} has {got:,} of {size:,} bytes")


def _tar_refusal(entry: Entry) -> str:
    if entry.is_sparse:
        return "a sparse file: its holes would have to be written out"
    if entry.kind in (SYMBOLIC_LINK, HARD_LINK):
        return f"a {'symbolic' if entry.kind == SYMBOLIC_LINK else 'hard'} link to {shown(entry.link)!r}"
    if entry.kind == CONTINUED:
        return "the rest of a file that begins in another volume of the archive"
    if entry.kind not in FILES:
        return "a device or pipe" if entry.kind in DEVICES else f"of unknown tar type {entry.kind!r}"
    return ""


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
        data = last.data if last.offset == offset else _data(file, name, size, offset)
        last = Member(name, size, offset, data)
        yield last


# ── compressed tar ───────────────────────────────────────────────────────────────────────────────


class _Unpacked(ArchiveFile):
    """What a compressed tar unpacks to, read forwards only; what was taken last can be taken again."""

    def __init__(self, reader: Reader, span: Span) -> None:
        super().__init__(reader.name)
        self._chunks = unpack(reader.name, span.kind, reader.stream(0, reader.size))
        self._most, self._chunk = span.most, b""

    @property
    def length(self) -> int:
        return self.position + len(self._chunk)

    def take(self, start: int, stop: int) -> bytes:
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


def read_compressed(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    """The members of a compressed tar, which is read to its end, where its checksum stands."""
    file = _Unpacked(reader, span)
    yield from _tar_members(file, 0, Span("tar", 0, sys.maxsize), link, False)
    for _ in file.stream(file.length, sys.maxsize):
        pass
    _report_end(reader.name, link)
