"""Read the members of a tar's spans, and verify that the spans join up.

A tar has no directory. A span begins with the first block at or after its offset that is a header by its own
checksum, and ends where the header after its last member must be; `Tar.broken_link` checks that each end is the next
beginning.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from archives.archive_file import ArchiveFile, Window
from archives.archive_kind import ArchiveKind
from archives.spans import LARGE, Buffer, Extent, Member, Pax, Piece, Reader, Span, SpanBoundary, check_unpacked
from archives.tar_headers import BLOCK, EXTENDED, HARD_LINK, Header, HeaderReader, TarEntry, padded, parse, tar_refusal
from errors import ArchiveError, escaped

log = logging.getLogger("spotted")

NOWHERE = -1  # where no header can be
LOOK_BACK_BYTES = 8 * BLOCK  # before a span: shows whether its first header is the tail of an extended one
LOOK_BEYOND_BYTES = 64 << 10  # bytes after the end of a tar in which another one may begin: writers fill up 10 KiB
# Bytes beyond a span, where its last member usually ends. A member that continues after them costs one more request,
# which waits for a connection. With 5 MB/s a connection, a run is 4 % shorter than with such a request for every span.
READ_AHEAD_BYTES = 96 << 10


class Tar(ArchiveKind):
    """A tar: spans of equal length, which begin at a guess that the chain proves."""

    is_resumable = reads_extents = is_seekable = True

    def recognises(self, reader: Reader, head: bytes) -> bool:
        return parse(head) is not None or (head == bytes(BLOCK) and _is_blank(reader))

    def plan(self, reader: Reader, span: int, most: int) -> list[Span]:
        check_unpacked(reader.name, reader.size, most)
        return [Span(self, *ends) for ends in itertools.pairwise([*range(0, reader.size, span), reader.size])]

    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        if not span.extents:
            return read_span(reader, span, link)
        is_short = 0 < span.stop - span.start <= LARGE
        data = reader.read(span.start, span.stop) if is_short else b""
        return read_extents(Window(reader, data, span.start), span.extents)

    def rest(self, span: Span, upto: int, pax: Pax) -> Span:
        is_guess = span.begin is None and span.start > 0  # the chain proves the parts too, when all is read
        return replace(span, start=min(upto, span.stop), begin=upto, is_guess=is_guess, pax=pax)

    def broken_link(
        self, name: str, spans: Sequence[Span], links: Sequence[SpanBoundary]
    ) -> tuple[int, Span | None] | None:
        """Follow the chain of spans from the first header to the archive's end; a replacement None has no member."""
        here = SpanBoundary(0, 0)
        for index, (span, link) in enumerate(zip(spans, links, strict=True)):
            if here.ended or here.end >= span.stop:
                if link.first is not None:
                    return index, None
            elif link.first == here.end and span.pax == here.pax:
                here = link
            else:
                return index, Span(self, span.start, span.stop, begin=here.end, pax=here.pax)
        report_end(name, here)
        return None


def _is_blank(reader: Reader) -> bool:
    """Return whether there are only zeros: other bytes after the first block are a zip or a disk image."""
    return not any(chunk.strip(b"\0") for chunk in reader.stream(0, reader.size))


def report_end(name: str, link: SpanBoundary) -> None:
    """Log an odd end of a tar whose members are all whole."""
    if not link.ended:
        log.warning("%s: it ends with its last member, without blocks of zeros; every member is whole", name)
    if link.another:
        log.warning("%s: another tar begins at byte %d, after the end; it is not read, as by tar", name, link.another)


def read_span(reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
    """Yield the members of a span and fill `link`; raises ArchiveError for a damaged or cut-off tar."""
    low = max(0, span.start - LOOK_BACK_BYTES)
    beyond = READ_AHEAD_BYTES if span.begin is None else 0  # one read again, or for a few members, is alone
    window = Window(reader, reader.read(low, min(span.stop + beyond, reader.size)), low)
    start, is_tail = (0 if span.start == 0 else span.begin), False
    if start is None:
        start, is_tail = _first_header(window.data, low, span)
    if start is None:
        return
    try:
        yield from tar_members(window, start, span, link, is_tail)
    except ArchiveError:
        if start in (0, span.begin) and not span.is_guess:
            raise
        # A guess that proved wrong: the chain drops this span, or has it read from the right byte.
        link.first, link.end = NOWHERE, 0


def read_extents(file: ArchiveFile, extents: Iterable[Extent]) -> Iterator[Member]:
    """Yield members whose positions are known, in the order of their offsets."""
    last = Member("", 0, -1, None)
    for name, offset, size, _, refusal in extents:
        if refusal:
            yield Member(name, size, offset, None, refusal)
            continue
        data = last.data if last.offset == offset else data_of(file, name, size, offset)
        last = Member(name, size, offset, data)
        yield last


def _first_header(data: Piece, low: int, span: Span) -> tuple[int | None, bool]:
    """Return the span's first header, and whether it belongs to an extended header before the span."""

    def header(at: int) -> Header | None:
        return parse(bytes(data[at - low : at - low + BLOCK]))

    before = ((at, header(at)) for at in range(low, span.start, BLOCK))
    tails = {at + BLOCK + padded(each.size or 0) for at, each in before if each and each.kind in EXTENDED}
    for at in range(span.start, span.stop, BLOCK):
        if header(at):
            return at, at in tails
    return None, False


def tar_members(file: ArchiveFile, start: int, span: Span, link: SpanBoundary, is_tail: bool) -> Iterator[Member]:
    link.first = None if is_tail else start
    headers, whole = HeaderReader(file, span.pax), start
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
                f"{file.name}: cut off: {escaped(entry.name)} of {entry.size:,} bytes goes beyond the archive's end"
            )
        link.end, link.pax = start, headers.pax
        yield _member(file, entry)
    link.end, link.pax = start, headers.pax
    if start < span.stop:
        _end(file, start, whole, link)


def _end(file: ArchiveFile, start: int, whole: int, link: SpanBoundary) -> None:
    """Accept the archive's end at `start`, or raise ArchiveError; its members need `whole` bytes."""
    block = file.read(start, start + BLOCK)
    if not start and not block.startswith(b"\0"):
        raise ArchiveError(f"{file.name}: expected a compressed tar, got something else that is compressed")
    if any(block if len(block) == BLOCK else block.strip(b"\0 \t\r\n\x1a")):  # a line end is no cut-off header
        what = "a damaged header" if len(block) == BLOCK else "the end of the file"
        raise ArchiveError(
            f"{file.name}: expected a tar header or the end-of-archive block at byte {start:,}, got {what}"
        )
    if not block and file.length < whole:
        raise ArchiveError(f"{file.name}: cut off: no end-of-archive block at byte {start:,}")
    link.ended = bool(block) and not any(block)
    after = file.read(start, start + LOOK_BEYOND_BYTES)
    at = next((at for at in range(0, len(after), BLOCK) if any(after[at : at + BLOCK])), 0)
    link.another = start + at if parse(after[at : at + BLOCK]) else 0


def _member(file: ArchiveFile, entry: TarEntry) -> Member:
    where = entry.name, entry.size, entry.offset
    if entry.damage:
        return Member(*where, None, tar_refusal(entry))
    if entry.is_folder:
        return Member(entry.name.rstrip("/") + "/", 0, entry.offset, b"")
    if refusal := tar_refusal(entry):
        return Member(*where, None, refusal, link=entry.link if entry.kind == HARD_LINK else "")
    return Member(*where, data_of(file, *where))


def data_of(file: ArchiveFile, name: str, size: int, offset: int) -> Buffer | Iterator[bytes]:
    """Return a member's bytes, in chunks if it is large."""
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
        raise ArchiveError(f"{archive}: cut off: {escaped(name)} has {got:,} of {size:,} bytes")
