"""Cut a zip into spans by its central directory, and read the members of a span."""

from __future__ import annotations

import itertools
import logging
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from archives.archive_kind import ArchiveKind
from archives.spans import (
    LARGE,
    SPAN_BYTES,
    Buffer,
    Member,
    Pax,
    Piece,
    Reader,
    Span,
    SpanBoundary,
    ZipEntry,
    check_unpacked,
)
from archives.zip_directory import LOCAL_HEADER_BYTES, Record, has_end, read_directory
from archives.zip_methods import AES, DEFLATED, MAX_INFLATE_RATIO, STORED, method_refusal, unpack
from archives.zip_names import names, unix_mode
from errors import MemberError, escaped

log = logging.getLogger("spotted")

ENCRYPTED, PATCHED, STRONGLY, MASKED = 0x1, 0x20, 0x40, 0x2000  # flags (APPNOTE.TXT 4.4.4)
UNREADABLE = ENCRYPTED | PATCHED | STRONGLY | MASKED
UNIX_MODE = 0xFFFF  # external attributes beyond this hold an st_mode
LOCAL_HEADER = struct.Struct("<4s22xHH")  # APPNOTE.TXT 4.3.7: signature, …, lengths of the name and the extra field
MAX_GAP_BYTES = 1 << 18  # bytes between two entries that are read with them, instead of by another request
MAX_PROBES = 100  # local headers read in advance, of entries that lie in another one's bytes


Spelled = list[tuple[ZipEntry, bytes]]  # entries whose local header has another name, and that name


class Zip(ArchiveKind):
    """A zip, whose central directory lists the members of each span."""

    is_resumable = True

    def recognises(self, reader: Reader, head: bytes) -> bool:
        return head.startswith((b"PK\3\4", b"PK\5\6")) or has_end(reader)  # any bytes may precede a zip

    def plan(self, reader: Reader, span: int, most: int) -> list[Span]:
        entries, lost, end = _entries(reader)
        check_unpacked(reader.name, sum(entry.size for entry in (*entries, *lost) if not entry.refusal), most)
        spans, start, group = [], 0, list[ZipEntry]()
        for entry in entries:
            if group and entry.stop - start > span:
                spans.append(Span(self, start, entry.offset, tuple(group)))
                start, group = entry.offset, []
            group.append(entry)
        return [*spans, Span(self, start, end, (*group, *lost))]

    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        spelled: Spelled = []
        if span.stop - span.start > 2 * SPAN_BYTES:  # one member that is too large to hold
            yield from _large_member(reader, span, spelled)
        else:
            data = reader.read(span.start, span.stop)
            for entry in span.entries:
                yield _member(reader.name, entry, _piece(data, span.start, entry), spelled)
        if spelled:
            entry, spelling = spelled[0]
            what = f"{escaped(spelling.decode('utf-8', 'replace'))} is {escaped(entry.name)} in the directory"
            what = f"{len(spelled)} local headers spell the name otherwise; the directory's counts: {what}"
            log.info("%s: %s", reader.name, what)

    def objects(self, span: Span) -> int:
        return sum(not entry.name.endswith("/") for entry in span.entries)

    def only(self, spans: Sequence[Span], has: Callable[[str], bool]) -> list[Span]:
        groups = list[list[ZipEntry]]()
        for entry in (entry for span in spans for entry in span.entries if has(entry.name)):
            if groups and (not entry.stop or _is_near(groups[-1], entry)):  # one that is not there is not read
                groups[-1].append(entry)
            else:
                groups.append([entry])
        cut = ((group[0].offset, max(entry.stop for entry in group), group) for group in groups)
        found = [Span(self, start, max(start, stop), tuple(group)) for start, stop, group in cut]
        return found or [Span(self, 0, 0)]

    def place_after(self, member: Member, link: SpanBoundary) -> tuple[int, Pax]:
        return member.offset + 1, ()

    def rest(self, span: Span, upto: int, pax: Pax) -> Span:
        entries = tuple(entry for entry in span.entries if entry.offset >= upto)
        return replace(span, start=entries[0].offset if entries else span.stop, entries=entries)

    def narrowed(self, span: Span, offsets: Collection[int]) -> Span | None:
        entries = tuple(entry for entry in span.entries if entry.offset in offsets)
        return replace(span, entries=entries) if entries else None


def _is_near(group: Sequence[ZipEntry], entry: ZipEntry) -> bool:
    return 0 <= entry.offset - group[-1].stop <= MAX_GAP_BYTES and entry.stop - group[0].offset <= SPAN_BYTES


def _entries(reader: Reader) -> tuple[list[ZipEntry], list[ZipEntry], int]:
    """Return the entries in file order, the last of each name; the missing ones; the start of the directory."""
    records, end = read_directory(reader)
    entries = [_entry(record, name, end) for record, name in zip(records, names(reader.name, records), strict=True)]
    lost = [each for each in entries if not 0 <= each.offset < end]
    if lost:
        entries = [each for each in entries if 0 <= each.offset < end]
    entries.sort(key=lambda entry: entry.offset)
    astray = _astray(reader, entries)
    if astray:
        lost += astray
        entries = [each for each in entries if each not in astray]
    last = {entry.name: index for index, entry in enumerate(entries) if entry.is_sure}
    stops = [*(entry.offset for entry in entries[1:]), end]
    whole = [
        entry._replace(stop=stop)
        for index, (entry, stop) in enumerate(zip(entries, stops, strict=False))
        if not entry.is_sure or last[entry.name] == index
    ]
    if len(whole) < len(entries):
        log.info("%s: %d members were replaced by a later one of the same name", reader.name, len(entries) - len(whole))
    return whole, list(map(_placed, lost)), end


def _astray(reader: Reader, entries: Sequence[ZipEntry]) -> set[ZipEntry]:
    """Return entries inside another one's bytes that have no local header: they must not damage that one."""
    found, reach, probes = set[ZipEntry](), 0, 0
    for entry in entries:
        if entry.offset < reach and probes < MAX_PROBES:
            probes += 1
            if bytes(reader.read(entry.offset, entry.offset + 4)[:]) != b"PK\3\4":
                found.add(entry)
                continue
        reach = max(reach, entry.offset + LOCAL_HEADER_BYTES + len(entry.raw_name) + entry.packed)
    return found


def _placed(entry: ZipEntry) -> ZipEntry:
    why = f"damaged: its {entry.packed:,} bytes from byte {entry.offset:,} on are not there"
    return entry._replace(offset=max(entry.offset, 0), refusal=entry.refusal or why)


def _entry(record: Record, name: str, end: int) -> ZipEntry:
    size = record.size
    if record.method == STORED and not record.flags & ENCRYPTED:
        size = record.packed  # as unzip does; the CRC-32 shows whether it is right
    places, is_sure = (record.offset, record.packed, size), not record.is_damaged
    refusal = _refusal(record) if size or not name.endswith("/") else ""  # a folder without data is only its name
    entry = ZipEntry(name, record.raw_name, *places, record.crc, record.method, refusal, 0, is_sure)
    return entry if 0 <= record.offset <= end - LOCAL_HEADER_BYTES - record.packed else _placed(entry)


def _refusal(record: Record) -> str:
    if record.attributes > UNIX_MODE and (refusal := _kind_refusal(record)):
        return refusal
    if record.flags & UNREADABLE and (refusal := _flag_refusal(record)):
        return refusal
    if record.method != DEFLATED:
        return method_refusal(record.method)
    is_possible = record.size <= (record.packed + 1) * MAX_INFLATE_RATIO
    return "" if is_possible else f"damaged: {record.packed:,} bytes cannot unpack to {record.size:,}"


def _kind_refusal(record: Record) -> str:
    kind = stat.S_IFMT(unix_mode(record))
    if kind in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFIFO and record.size):
        return ""  # a pipe with data: what Info-ZIP or 7z was given on its standard input
    return "a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or socket"


def _flag_refusal(record: Record) -> str:
    if record.flags & (STRONGLY | MASKED):
        return "encrypted (PKWARE strong encryption)"
    if record.flags & ENCRYPTED:
        return "encrypted (AES)" if record.method == AES else "encrypted (ZipCrypto)"
    return "a patch to another file"


def _piece(data: Piece, start: int, entry: ZipEntry) -> Iterator[Buffer]:
    yield data[entry.offset - start : entry.stop - start]


def _large_member(reader: Reader, span: Span, spelled: Spelled) -> Iterator[Member]:
    chunks = reader.stream(span.start, span.stop)
    for entry in span.entries:
        yield _member(reader.name, entry, _skip(chunks, entry.offset - span.start), spelled)
    for _ in chunks:  # to the end, also of a failed member: the archive's checksum is over every byte
        pass


def _member(name: str, entry: ZipEntry, chunks: Iterator[Buffer], spelled: Spelled) -> Member:
    where = entry.name, entry.size, entry.offset
    if entry.refusal:
        return Member(*where, None, entry.refusal, damaged=entry.refusal.startswith("damaged"))
    if entry.name.endswith("/") and not entry.size:
        return Member(*where, b"")
    unpacked = _unpack(entry, _packed(entry, chunks, spelled))
    if entry.size > LARGE:
        return Member(*where, unpacked)
    try:
        return Member(*where, b"".join(unpacked))
    except MemberError as error:
        return Member(*where, None, f"{error} (in {name})", damaged=True)


def _skip(chunks: Iterator[Buffer], count: int) -> Iterator[Buffer]:
    for chunk in chunks:
        if count < len(chunk):
            yield memoryview(chunk)[count:]
        count -= min(count, len(chunk))


def _packed(entry: ZipEntry, chunks: Iterator[Buffer], spelled: Spelled) -> Iterator[Buffer]:
    """Yield the member's packed bytes after its local header; size and CRC-32 verify them later."""
    first: Buffer = b""
    while len(first) < LOCAL_HEADER.size + len(entry.raw_name) and (chunk := next(chunks, b"")):
        first = bytes(first) + bytes(chunk) if first else chunk
    if entry.stop == entry.offset:
        raise MemberError("damaged: it overlaps the next member")
    signature, name, extra = LOCAL_HEADER.unpack_from(bytes(first[: LOCAL_HEADER.size]).ljust(LOCAL_HEADER.size, b"\0"))
    if signature != b"PK\3\4":
        raise MemberError(f"damaged: no local header at byte {entry.offset:,}")
    if entry.offset + LOCAL_HEADER.size + name + extra + entry.packed > entry.stop:
        raise MemberError("damaged: it overlaps the next member")
    spelling = bytes(first[LOCAL_HEADER.size :][:name])
    if spelling != entry.raw_name and spelling.replace(b"\\", b"/") != entry.raw_name.replace(b"\\", b"/"):
        if not entry.is_sure:
            raise MemberError("damaged: its record in the zip directory is not whole")
        spelled.append((entry, spelling))
    left = entry.packed
    for chunk in _skip(itertools.chain([first], chunks), LOCAL_HEADER.size + name + extra):
        yield chunk[:left]
        left -= min(left, len(chunk))
        if not left:
            return


def _unpack(entry: ZipEntry, chunks: Iterator[Buffer]) -> Iterator[bytes]:
    size = crc = 0
    for chunk in unpack(entry.method, chunks, entry.size):
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        if size > entry.size:
            break
        yield chunk
    if (size, crc) != (entry.size, entry.crc):
        raise MemberError(
            f"damaged: expected {entry.size:,} bytes of CRC-32 {entry.crc:08x}, got {size:,} of {crc:08x}"
        )
