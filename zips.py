"""Zip: the central directory cut into spans, and a span's members. The directory itself is parsed by zipfile."""

from __future__ import annotations

import itertools
import logging
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from errors import ArchiveError, MemberError
from spans import CHUNK, LARGE, SPAN, Buffer, Member, Reader, Span, ZipEntry, as_file

log = logging.getLogger("spotted")

ENCRYPTED, PATCHED = 0x2041, 0x20  # flags (APPNOTE.TXT 4.4.4)
LOCAL_HEADER = struct.Struct("<4s22xHH")  # APPNOTE.TXT 4.3.7: signature, …, lengths of the name and the extra field


def is_zip(reader: Reader) -> bool:
    """Whether there is the end of a zip, which may stand after anything."""
    try:
        return zipfile.is_zipfile(as_file(reader))
    except zipfile.BadZipFile:  # one of several disks, which zipfile tells in this way
        return True


def plan(reader: Reader, span: int) -> list[Span]:
    entries, end = _entries(reader)
    spans, start, group = [], 0, list[ZipEntry]()
    for entry, stop in zip(entries, [*(entry.offset for entry in entries[1:]), end], strict=False):
        if group and stop - start > span:
            spans.append(Span("zip", start, entry.offset, tuple(group)))
            start, group = entry.offset, []
        group.append(entry)
    return [*spans, Span("zip", start, end, tuple(group))]


def _entries(reader: Reader) -> tuple[list[ZipEntry], int]:
    """The entries in file order, only the last of each name, and where the central directory begins."""
    try:
        with zipfile.ZipFile(as_file(reader)) as archive:
            infos, last, end = archive.infolist(), archive.NameToInfo, archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        # Besides a bad zip: a version that zipfile does not know, a name not UTF-8, and fields that are cut off.
        raise ArchiveError(f"{reader.name}: not a whole zip archive: {error}; is it cut off?") from error
    infos = sorted(infos, key=lambda info: info.header_offset)
    stops = [*(info.header_offset for info in infos[1:]), end]
    entries = [_entry(info, stop) for info, stop in zip(infos, stops, strict=False) if last[info.filename] is info]
    if entries and not 0 <= entries[0].offset <= entries[-1].offset < end:
        raise ArchiveError(f"{reader.name}: not a whole zip archive: its directory points outside; is it cut off?")
    listed = _listed(reader)
    if listed not in (len(infos) & 0xFFFF, 0xFFFF):
        raise ArchiveError(f"{reader.name}: a damaged zip directory: expected {listed:,} entries, got {len(infos):,}")
    if len(entries) < len(infos):
        log.info("%s: %d members were replaced by a later one of the same name", reader.name, len(infos) - len(entries))
    return entries, end


def _listed(reader: Reader) -> int:
    # The end of the directory counts its entries, modulo 2^16 (APPNOTE.TXT 4.3.16); zipfile does not compare.
    tail = bytes(reader.read(max(0, reader.size - 22 - 0xFFFF), reader.size)[:])
    return int.from_bytes(tail[tail.rfind(b"PK\5\6") + 10 :][:2], "little")


def _entry(info: zipfile.ZipInfo, stop: int) -> ZipEntry:
    raw_name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    places = info.header_offset, info.compress_size, info.file_size
    return ZipEntry(info.filename, raw_name, *places, info.CRC, info.compress_type, _refusal(info), stop)


def _refusal(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # Unix makers keep st_mode there (APPNOTE.TXT 4.4.15)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or socket"
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.flag_bits & PATCHED:
        return "a patch to another file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; stored and deflated are supported"
    return ""


def read_span(reader: Reader, span: Span) -> Iterator[Member]:
    if span.stop - span.start > 2 * SPAN:  # one member that is too large to hold
        yield from _large_member(reader, span)
        return
    data = reader.read(span.start, span.stop)
    for entry in span.entries:
        yield _member(reader.name, entry, iter([data[entry.offset - span.start : entry.stop - span.start]]))


def _large_member(reader: Reader, span: Span) -> Iterator[Member]:
    chunks = reader.stream(span.start, span.stop)
    for entry in span.entries:
        yield _member(reader.name, entry, _skip(chunks, entry.offset - span.start))
    for _ in chunks:  # to the end, whatever became of the member: the archive's checksum is over every byte
        pass


def _member(name: str, entry: ZipEntry, chunks: Iterator[Buffer]) -> Member:
    where = entry.name, entry.size, entry.offset
    if entry.refusal or (entry.name.endswith("/") and not entry.size):
        return Member(*where, None if entry.refusal else b"", entry.refusal)
    unpacked = _unpack(entry, _packed(entry, chunks))
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


def _packed(entry: ZipEntry, chunks: Iterator[Buffer]) -> Iterator[Buffer]:
    """The member's own bytes, after its local header, which must agree with the central directory."""
    first: Buffer = b""
    while len(first) < LOCAL_HEADER.size + len(entry.raw_name) and (chunk := next(chunks, b"")):
        first = bytes(first) + bytes(chunk) if first else chunk
    signature, name, extra = LOCAL_HEADER.unpack_from(bytes(first[: LOCAL_HEADER.size]).ljust(LOCAL_HEADER.size, b"\0"))
    if signature != b"PK\3\4" or bytes(first[LOCAL_HEADER.size :][:name]) != entry.raw_name:
        raise MemberError(f"damaged: no local header of this name at byte {entry.offset:,}")
    if entry.offset + LOCAL_HEADER.size + name + extra + entry.packed > entry.stop:
        raise MemberError("damaged: it overlaps the next member")
    left = entry.packed
    for chunk in _skip(itertools.chain([first], chunks), LOCAL_HEADER.size + name + extra):
        yield chunk[:left]
        left -= min(left, len(chunk))
        if not left:
            return


def _unpack(entry: ZipEntry, chunks: Iterator[Buffer]) -> Iterator[bytes]:
    size = crc = 0
    for chunk in _inflate(chunks) if entry.method == zipfile.ZIP_DEFLATED else map(bytes, chunks):
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        if size > entry.size:
            break
        yield chunk
    if (size, crc) != (entry.size, entry.crc):
        raise MemberError(
            f"damaged: expected {entry.size:,} bytes of CRC-32 {entry.crc:08x}, got {size:,} of {crc:08x}"
        )


def _inflate(chunks: Iterator[Buffer]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            yield inflater.decompress(chunk, CHUNK)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, CHUNK)
            if inflater.eof:  # or it would keep all that follows
                return
        yield inflater.flush()
    except zlib.error as error:
        raise MemberError(f"damaged: {error}") from error
