"""Tar, plain and compressed: a span's members, and the proof that the spans of an archive join up.

A tar has no directory. A span begins with the first block at or after its offset that is a header by its own
checksum, and ends where the header after its last member must be; whether each end is the next beginning is for
`broken_link` to see. The headers themselves are parsed by tarfile.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
import tarfile
import zlib
from _compression import DecompressReader
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, cast

from errors import ArchiveError, shown
from spans import CHUNK, LARGE, ArchiveFile, Link, Member, Pax, Piece, Reader, Span, Window, check_unpacked

BLOCK = tarfile.BLOCKSIZE
NOWHERE = -1  # where no header can be
LOOK_BACK = 8 * BLOCK  # before a span: shows whether its first header is the tail of an extended one
# Bytes beyond a span, where its last member mostly ends. What goes on after them is a request of its own, which has to
# wait for a connection: with 5 MB/s for each of them, a run is 4 % shorter than with such a request for every span.
BEYOND = 96 << 10
XZ_MEMORY = 128 << 20  # bytes; xz -9 takes 65 MiB to unpack, and a header may ask for 4 GiB
DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gz": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    "xz": lambda file: cast(IO[bytes], io.BufferedReader(_xz(file))),
}
HOSTILE = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)  # what tarfile makes of bad headers
MOST_GLOBALS = 1000  # global pax headers in force at once; git archive writes one
# A header as GNU tar, bsdtar and Python write it for a file with a short name: all numbers octal, and no prefix to the
# name (ustar, POSIX.1-1988, and GNU's own agree in these fields).
PLAIN = re.compile(
    rb"(?P<name>.{100})(?:[0-7]{7}[ \0]){3}(?P<size>[0-7]{11})[ \0][0-7]{11}[ \0](?P<checksum>[0-7]{6})\0 [0\0]"
    rb".{172}(?:\0{8}|[0-7]{7}[ \0]){2}\0.{166}",
    re.DOTALL,
)
PAX_THAT_MATTERS = ("path", "linkpath", "size", "hdrcharset", "GNU.sparse.")  # the rest changes no member's bytes


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
        link.first, link.end = (
            NOWHERE,
            0,
        )  # a guess that proved wrong: the chain drops this span, or has it read from the right byte


def _first_header(data: Piece, low: int, span: Span) -> tuple[int | None, bool]:
    """Where the first header of the span is, and whether it belongs to an extended one before the span."""
    extended = [(low + at, info) for at in range(0, span.start - low, BLOCK) if (info := parse_header(data, at))]
    tails = {at + BLOCK + -(-info.size // BLOCK) * BLOCK for at, info in extended if info.type in b"xgXLK"}
    for at in range(span.start, span.stop, BLOCK):
        if parse_header(data, at - low):
            return at, at in tails
    return None, False


def parse_header(data: Piece, at: int = 0) -> tarfile.TarInfo | None:
    # The checksum alone tells: v7 headers have no magic, and random bytes pass about once in 10^12 blocks.
    if not re.match(rb" *[0-7]+[ \0]", data[at + 148 : at + 156]):
        return None
    try:
        return tarfile.TarInfo.frombuf(bytes(data[at : at + BLOCK]), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _tar_members(file: ArchiveFile, start: int, span: Span, link: Link, is_tail: bool) -> Iterator[Member]:
    link.first = None if is_tail else start
    headers = _Headers(file, span.pax)
    try:
        while start < span.stop:
            found = None if is_tail or headers.pax else _plain_file(file, start)
            if found:
                member, start = found
                link.end = start
                yield member
                continue
            info = headers.at(start)
            if info is None:
                break
            start = headers.end
            if is_tail:
                is_tail, link.first = False, start if start < span.stop else None
                continue
            link.end, link.pax = start, _pax_that_matters(headers.pax)
            yield _tar_member(file, info)
    except HOSTILE as error:
        raise ArchiveError(f"{file.name}: bad tar header at byte {start:,}: {error}") from error
    link.end, link.pax = start, _pax_that_matters(headers.pax)
    link.ended = start < span.stop and _is_end(file, start)


def _plain_file(file: ArchiveFile, start: int) -> tuple[Member, int] | None:
    """A file as almost all are, and where the next header is, in a third of tarfile's time; None for anything else."""
    block = bytes(file.held(start, start + BLOCK))
    found = PLAIN.fullmatch(block)
    if not found or sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(found["checksum"], 8):
        return None
    name = found["name"].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    size, begin = int(found["size"], 8), start + BLOCK
    data = file.held(begin, begin + size) if size <= LARGE else b""
    if len(data) != size or name.endswith("/"):
        return None
    return Member(name, size, begin, data), begin + -(-size // BLOCK) * BLOCK


class _Headers:
    """Headers of all kinds, as tarfile reads them."""

    def __init__(self, file: ArchiveFile, pax: Pax) -> None:
        self.file, self.end, self.pax = file, 0, cast(Mapping[str, str], dict(pax))
        self._archive: tarfile.TarFile | None = None

    def at(self, start: int) -> tarfile.TarInfo | None:
        """The member whose headers begin at `start`, and with it `end`, where the next ones do; None for no header."""
        self.file.seek(start)
        if self._archive is None:
            self._archive = tarfile.TarFile(fileobj=self.file, pax_headers=self.pax)
        else:
            self._archive.offset = start
        info = self._archive.next()
        self.pax, self.end = self._archive.pax_headers, self._archive.offset
        self._archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all it has seen
        if info:
            _check_header(self.file, self._archive, info, start)
        return info


def _check_header(file: ArchiveFile, archive: tarfile.TarFile, info: tarfile.TarInfo, start: int) -> None:
    if len(archive.pax_headers) > MOST_GLOBALS:  # tarfile goes through them all for each member
        raise ArchiveError(f"{file.name}: more than {MOST_GLOBALS:,} global pax headers")
    if archive.offset <= start or info.size < 0:
        raise ArchiveError(f"{file.name}: the tar header at byte {start:,} has an impossible size")
    if info.offset_data + info.size > file.size and info.isreg() and not info.issparse():
        raise ArchiveError(
            f"{file.name}: cut off: {shown(info.name)} of {info.size:,} bytes goes beyond the archive's end"
        )


def _pax_that_matters(headers: Mapping[str, str]) -> Pax:
    return tuple(sorted((key, value) for key, value in headers.items() if key.startswith(PAX_THAT_MATTERS)))


def _is_end(file: ArchiveFile, start: int) -> bool:
    # tarfile takes a damaged header, or none at all, for the end; only a block of zeros is one.
    if file.last == bytes(BLOCK):
        return True
    what = "a damaged header" if len(file.last) == BLOCK else "the end of the file"
    raise ArchiveError(f"{file.name}: expected a tar header or the end-of-archive block at byte {start:,}, got {what}")


def _tar_member(file: ArchiveFile, info: tarfile.TarInfo) -> Member:
    where = info.name, info.size, info.offset_data
    if info.isdir():
        return Member(info.name + "/", 0, info.offset_data, b"")
    if refusal := _tar_refusal(info):
        return Member(*where, None, refusal)
    chunks = _exactly(file.name, info, file.stream(info.offset_data, info.offset_data + info.size))
    return Member(*where, chunks if info.size > LARGE else b"".join(chunks))


def _exactly(name: str, info: tarfile.TarInfo, chunks: Iterator[bytes]) -> Iterator[bytes]:
    got = 0
    for chunk in chunks:
        got += len(chunk)
        yield chunk
    if got != info.size:
        raise ArchiveError(f"{name}: cut off: {shown(info.name)} has {got:,} of {info.size:,} bytes")


def _tar_refusal(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "a sparse file: its holes would have to be written out"
    if info.issym() or info.islnk():
        return f"a {'symbolic' if info.issym() else 'hard'} link to {shown(info.linkname)!r}"
    if not info.isreg():
        return "a device or pipe" if info.type in tarfile.SUPPORTED_TYPES else f"of unknown tar type {info.type!r}"
    return ""


# ── compressed tar ───────────────────────────────────────────────────────────────────────────────


class _Unpacked(ArchiveFile):
    """A decompressor, read forwards only."""

    def __init__(self, name: str, file: IO[bytes], most: int) -> None:
        super().__init__(name)
        self.file, self.most, self.taken = file, most, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        for _ in self.stream(self.taken, offset):
            pass
        self.position = self.begin = offset
        return offset

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        while self.taken < stop and (chunk := self.file.read(min(stop - self.taken, CHUNK))):
            self.taken += len(chunk)
            check_unpacked(self.name, self.taken, self.most)
            yield chunk

    def drain(self) -> None:
        for _ in self.stream(self.taken, sys.maxsize):
            pass


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


def _xz(file: IO[bytes]) -> DecompressReader:
    # What lzma.LZMAFile is made of; that one sets no limit to the memory.
    return DecompressReader(
        file, lzma.LZMADecompressor, trailing_error=lzma.LZMAError, format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY
    )


def read_compressed(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    """The members of a compressed tar, whose decompressor is read to its end, where its checksum stands."""
    raw = cast(IO[bytes], io.BufferedReader(_Stream(reader.stream(span.start, span.stop)), CHUNK))
    try:
        with DECOMPRESSORS[span.kind](raw) as file:
            unpacked = _Unpacked(reader.name, file, span.most)
            yield from _tar_members(unpacked, 0, Span("tar", 0, sys.maxsize), link, False)
            if not link.ended:  # a member goes on to where no byte can be
                raise ArchiveError(f"{reader.name}: cut off: no end-of-archive block at byte {link.end:,}")
            unpacked.drain()
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; gzip's and bz2's have no number
            raise
        raise ArchiveError(f"{reader.name}: not a whole .{span.kind} file: {error}") from error
