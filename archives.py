"""An archive becomes spans, and a span becomes members; knows no network and no bucket.

`plan` cuts a tar or zip into spans that can be read in any order and at once, each about SPAN bytes of the
archive; a compressed tar is one span. `members` reads one span. A tar has no directory: each of its spans
leaves a `Link`, and `broken_link` proves from all of them that no member was missed or invented.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import re
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol, cast

from errors import ArchiveError, MemberError

SPAN = 8 << 20  # bytes of archive that one unit of work reads and holds in memory
LARGE = SPAN  # bytes; a larger member is handed on in chunks
CHUNK = 1 << 20  # bytes of such a chunk
LONGEST_HEADER = 1 << 20  # bytes; a name or pax record beyond this is an attack, not a header
BLOCK = tarfile.BLOCKSIZE
LOOK_BACK = 8 * BLOCK  # before a span: shows whether its first header is the tail of an extended one
PAX_THAT_MATTERS = ("path", "linkpath", "size", "hdrcharset", "GNU.sparse.")  # the rest changes no member's bytes

Buffer = bytes | memoryview
Pax = tuple[tuple[str, str], ...]


class Reader(Protocol):
    """What is read from: a source, or anything that has these."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self, start: int, stop: int) -> bytes: ...
    def stream(self, start: int, stop: int) -> Iterator[bytes]: ...


class Member(NamedTuple):
    """One entry of an archive. `data` is chunks for a large file, and None where `refusal` says why."""

    name: str  # ends with "/" for a folder
    size: int  # bytes, unpacked
    offset: int  # bytes from the archive's beginning: to the data in a tar, to the local header in a zip
    data: bytes | Iterator[bytes] | None
    refusal: str = ""
    damaged: bool = False  # refused for its bytes, which another try may bring whole


class ZipEntry(NamedTuple):
    """What zip's central directory says of a member; offsets and sizes in bytes."""

    name: str
    raw_name: bytes
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    refusal: str


@dataclass(frozen=True)
class Span:
    """The bytes [start, stop) of an archive. Of a tar, the members whose headers begin there are its own."""

    kind: str  # "tar", "zip", or of a compressed tar "gz", "bz2", "xz"
    start: int
    stop: int
    entries: tuple[ZipEntry, ...] = ()
    begin: int | None = None  # tar: where the first header is, when that is known
    pax: Pax = ()  # tar: what global extended headers before it say


@dataclass
class Link:
    """What reading a tar span showed: its first header, and where the header after its last member must be.

    `first` is None where no member begins in the span; `pax` are the global headers in force at its end.
    """

    first: int | None = None
    end: int = 0
    pax: Pax = ()
    ended: bool = False  # the end-of-archive block was seen, at `end`


# ── planning ─────────────────────────────────────────────────────────────────────────────────────


def plan(reader: Reader, span: int = SPAN) -> list[Span]:
    """Cut the archive into spans, in file order. Raises ArchiveError when it is neither tar nor zip."""
    kind = _kind(reader.read(0, min(reader.size, BLOCK)))
    if kind == "tar":
        return [Span(kind, start, min(start + span, reader.size)) for start in range(0, reader.size, span)]
    if kind == "zip":
        return _plan_zip(reader, span)
    if kind:
        return [Span(kind, 0, reader.size)]
    raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got something else")


def _kind(head: bytes) -> str:
    magics = {b"PK\3\4": "zip", b"PK\5\6": "zip", b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
    for magic, kind in magics.items():
        if head.startswith(magic):
            return kind
    return "tar" if _header(head) or head == bytes(BLOCK) else ""


def _plan_zip(reader: Reader, span: int) -> list[Span]:
    entries, end = _zip_entries(reader)
    spans, start, group = [], 0, list[ZipEntry]()
    for entry, stop in zip(entries, [*(entry.offset for entry in entries[1:]), end], strict=True):
        if group and stop - start > span:
            spans.append(Span("zip", start, entry.offset, tuple(group)))
            start, group = entry.offset, []
        group.append(entry)
    return [*spans, Span("zip", start, end, tuple(group))]


def _zip_entries(reader: Reader) -> tuple[list[ZipEntry], int]:
    """The entries in file order, only the last of each name, and where the central directory begins."""
    try:
        with zipfile.ZipFile(cast(IO[bytes], io.BufferedReader(_Window(reader), CHUNK))) as archive:
            infos, end = {info.filename: info for info in archive.infolist()}, archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise ArchiveError(f"{reader.name}: not a whole zip archive: {error}; is it cut off?") from error
    return sorted(map(_zip_entry, infos.values()), key=lambda entry: entry.offset), end


def _zip_entry(info: zipfile.ZipInfo) -> ZipEntry:
    raw_name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    places = info.header_offset, info.compress_size, info.file_size
    return ZipEntry(info.filename, raw_name, *places, info.CRC, info.compress_type, _zip_refusal(info))


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # Unix makers keep st_mode there (APPNOTE.TXT 4.4.15)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or socket"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; stored and deflated are supported"
    return ""


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def members(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    """The members of one span, in file order; `link` is filled in by the time the last one is out.

    A large member's chunks are taken before the next member is asked for, or not at all.
    Raises ArchiveError when the bytes are not what the format demands.
    """
    if span.kind == "tar":
        return _tar_span(reader, span, link)
    if span.kind == "zip":
        return _zip_span(reader, span)
    return _compressed_tar(reader, span, link)


class _File(io.RawIOBase):
    """A file to give to tarfile and zipfile. Positions are the archive's; `last` is what was read last."""

    last = b""

    def __init__(self, position: int = 0) -> None:
        self.position = position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        if size > LONGEST_HEADER:
            raise ArchiveError(f"an extended header of {size:,} bytes; at most {LONGEST_HEADER:,} are read")
        self.last = self.take(self.position, self.position + size)
        self.position += len(self.last)
        return self.last

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.take(self.position, self.position + len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def take(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), or fewer where the archive ends."""
        chunks = list(self.stream(start, stop))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in chunks."""
        raise AssertionError("each kind has its own")


class _Window(_File):
    """A reader of which one piece, `data` at `start`, is in memory; only what lies outside is fetched."""

    def __init__(self, reader: Reader, data: bytes = b"", start: int = 0) -> None:
        super().__init__(start)
        self.reader, self.data, self.start = reader, data, start

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.reader.size)[whence]
        return self.position

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        edge, stop = self.start + len(self.data), min(stop, self.reader.size)
        if self.start <= start < edge:
            yield self.data[start - self.start : stop - self.start]
            start = edge
        if start < stop:
            yield from self.reader.stream(start, stop)


class _Unpacked(_File):
    """A decompressor, read forwards only."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file, self.taken = file, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        for _ in self.stream(self.taken, offset):
            pass
        self.position = offset
        return offset

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        while self.taken < stop and (chunk := self.file.read(min(stop - self.taken, CHUNK))):
            self.taken += len(chunk)
            yield chunk


# ── tar ──────────────────────────────────────────────────────────────────────────────────────────


def broken_link(name: str, spans: Sequence[Span], links: Sequence[Link]) -> tuple[int, Span | None] | None:
    """Follow the chain of a tar's spans; None when it joins from the first header to the end-of-archive block.

    Otherwise the index of the first span that does not join, and that span as it must be read, or None
    for one in which no member begins. Raises ArchiveError when the archive has no end.
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
    if not here.ended:
        raise ArchiveError(f"{name}: cut off: no end-of-archive block at byte {here.end:,}")
    return None


def _tar_span(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    low = max(0, span.start - LOOK_BACK)
    window = _Window(reader, reader.read(low, span.stop), low)
    start, is_tail = (0 if span.start == 0 else span.begin), False
    if start is None:
        start, is_tail = _first_header(window.data, low, span)
    if start is not None:
        yield from _tar_members(reader.name, window, start, span, link, is_tail)


def _first_header(data: bytes, low: int, span: Span) -> tuple[int | None, bool]:
    """Where the first header of the span is, and whether it belongs to an extended one before the span."""
    extended = [(low + at, info) for at in range(0, span.start - low, BLOCK) if (info := _header(data, at))]
    tails = {at + BLOCK + -(-info.size // BLOCK) * BLOCK for at, info in extended if info.type in b"xgXLK"}
    for at in range(span.start, span.stop, BLOCK):
        if _header(data, at - low):
            return at, at in tails
    return None, False


def _header(data: bytes, at: int = 0) -> tarfile.TarInfo | None:
    # The checksum alone tells: v7 headers have no magic, and random bytes pass about once in 10^12 blocks.
    if not re.match(rb" *[0-7]+[ \0]", data[at + 148 : at + 156]):
        return None
    try:
        return tarfile.TarInfo.frombuf(data[at : at + BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _tar_members(name: str, file: _File, start: int, span: Span, link: Link, is_tail: bool) -> Iterator[Member]:
    file.seek(start)
    link.first = None if is_tail else start
    try:
        archive = tarfile.TarFile(fileobj=file, pax_headers=dict(span.pax))
        while start < span.stop and (info := archive.next()):
            if archive.offset <= start or info.size < 0:
                raise ArchiveError(f"{name}: the tar header at byte {start:,} has an impossible size")
            start = archive.offset
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all it has seen
            if is_tail:
                is_tail, link.first = False, start if start < span.stop else None
                continue
            yield _tar_member(name, file, info)
            file.seek(start)
    except (tarfile.TarError, ValueError) as error:
        raise ArchiveError(f"{name}: bad tar header at byte {start:,}: {error}") from error
    link.end, link.pax = start, _pax_that_matters(archive.pax_headers)
    link.ended = start < span.stop and _is_end(name, file.last, start)


def _pax_that_matters(headers: Mapping[str, str]) -> Pax:
    return tuple(sorted((key, value) for key, value in headers.items() if key.startswith(PAX_THAT_MATTERS)))


def _is_end(name: str, block: bytes, start: int) -> bool:
    # tarfile takes a damaged header, or none at all, for the end; only a block of zeros is one.
    if block == bytes(BLOCK):
        return True
    what = "a damaged header" if len(block) == BLOCK else "the end of the file"
    raise ArchiveError(f"{name}: expected a tar header or the end-of-archive block at byte {start:,}, got {what}")


def _tar_member(name: str, file: _File, info: tarfile.TarInfo) -> Member:
    where = info.name, info.size, info.offset_data
    if info.isdir():
        return Member(info.name + "/", 0, info.offset_data, b"")
    if refusal := _tar_refusal(info):
        return Member(*where, None, refusal)
    chunks = _exactly(name, info, file.stream(info.offset_data, info.offset_data + info.size))
    return Member(*where, chunks if info.size > LARGE else b"".join(chunks))


def _exactly(name: str, info: tarfile.TarInfo, chunks: Iterator[bytes]) -> Iterator[bytes]:
    got = 0
    for chunk in chunks:
        got += len(chunk)
        yield chunk
    if got != info.size:
        raise ArchiveError(f"{name}: cut off: {info.name} has {got:,} of {info.size:,} bytes")


def _tar_refusal(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "a sparse file: its holes would have to be written out"
    if info.issym() or info.islnk():
        return f"a {'symbolic' if info.issym() else 'hard'} link to {info.linkname!r}"
    if not info.isreg():
        return "a device or pipe" if info.type in tarfile.SUPPORTED_TYPES else f"of unknown tar type {info.type!r}"
    return ""


# ── compressed tar ───────────────────────────────────────────────────────────────────────────────


class _Stream(io.RawIOBase):
    """Chunks as a file that is read once, from beginning to end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.rest = self.rest or next(self.chunks, b"")
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _compressed_tar(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    raw = cast(IO[bytes], io.BufferedReader(_Stream(reader.stream(span.start, span.stop)), CHUNK))
    kinds = {
        "gz": lambda: gzip.GzipFile(fileobj=raw),
        "bz2": lambda: bz2.BZ2File(raw),
        "xz": lambda: lzma.LZMAFile(raw),
    }
    file = _Unpacked(cast(IO[bytes], kinds[span.kind]()))
    try:
        yield from _tar_members(reader.name, file, 0, Span("tar", 0, sys.maxsize), link, False)
        while file.file.read(CHUNK):  # the checksum stands at the end, and is compared only when that is read
            pass
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"{reader.name}: not a whole .{span.kind} file: {error}") from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # how bz2 says "Invalid data stream"
            raise ArchiveError(f"{reader.name}: not a whole .{span.kind} file: {error}") from error
        raise


# ── zip ──────────────────────────────────────────────────────────────────────────────────────────

LOCAL_HEADER = struct.Struct("<4s22xHH")  # APPNOTE.TXT 4.3.7: signature, …, lengths of the name and the extra field


def _zip_span(reader: Reader, span: Span) -> Iterator[Member]:
    if span.stop - span.start > 2 * SPAN:  # one member that is too large to hold
        yield from _large_zip_member(reader, span)
        return
    data = memoryview(reader.read(span.start, span.stop))
    for entry in span.entries:
        yield _zip_member(reader.name, entry, iter([data[entry.offset - span.start :]]))


def _large_zip_member(reader: Reader, span: Span) -> Iterator[Member]:
    chunks = reader.stream(span.start, span.stop)
    for entry in span.entries:
        yield _zip_member(reader.name, entry, _skip(chunks, entry.offset - span.start))
    for _ in chunks:  # to the end, whatever became of the member: the archive's checksum is over every byte
        pass


def _zip_member(name: str, entry: ZipEntry, chunks: Iterator[Buffer]) -> Member:
    where = entry.name, entry.size, entry.offset
    if entry.refusal or entry.name.endswith("/"):
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
    first = next(chunks, b"")
    signature, name, extra = LOCAL_HEADER.unpack_from(bytes(first[: LOCAL_HEADER.size]).ljust(LOCAL_HEADER.size, b"\0"))
    if signature != b"PK\3\4" or bytes(first[LOCAL_HEADER.size :][:name]) != entry.raw_name:
        raise MemberError(f"damaged: no local header of this name at byte {entry.offset:,}")
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
            while len(chunk):
                yield inflater.decompress(chunk, CHUNK)
                chunk = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise MemberError(f"damaged: {error}") from error
