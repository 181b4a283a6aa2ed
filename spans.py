"""What tar and zip have in common: members and spans, and a reader made into a file for the standard library."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol, cast

from errors import ArchiveError

SPAN = 8 << 20  # bytes of archive that one unit of work reads and holds in memory
LARGE = SPAN  # bytes; a larger member is handed on in chunks
CHUNK = 1 << 20  # bytes of such a chunk
LONGEST_HEADER = 1 << 20  # bytes; a name or pax record beyond this is an attack, not a header
LONGEST_HEADERS = 4 << 20  # bytes of all the headers that one member has
LARGEST_DIRECTORY = 128 << 20  # bytes; zipfile holds it as a whole, and this is of a million members
ALWAYS_ALLOWED = 1 << 30  # bytes that any archive may unpack to, however small it is

Buffer = bytes | memoryview
Pax = tuple[tuple[str, str], ...]


class Piece(Protocol):
    """Bytes of a reader, which may come only when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Buffer: ...


class Reader(Protocol):
    """What is read from: a source, or anything that has these."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self, start: int, stop: int) -> Piece: ...
    def stream(self, start: int, stop: int) -> Iterator[bytes]: ...


class Member(NamedTuple):
    """One entry of an archive. `data` is chunks for a large file, and None where `refusal` says why; it may lie in
    what was read of the archive, whose memory is then kept as long as it.
    """

    name: str  # ends with "/" for a folder
    size: int  # bytes, unpacked
    offset: int  # bytes from the archive's beginning: to the data in a tar, to the local header in a zip
    data: Buffer | Iterator[bytes] | None
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
    stop: int  # where the next entry, or the central directory, begins


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to: what goes beyond is a bomb, which would fill the bucket."""

    ratio: int = 100  # times its own size; photos make 1, annotations about 10
    total: int = 1000  # GB

    def most(self, size: int) -> int:
        """What an archive of `size` bytes may unpack to, in bytes."""
        return min(max(self.ratio * size, ALWAYS_ALLOWED), self.total * 10**9)


LIMITS = Limits()


def check_unpacked(name: str, unpacked: int, most: int) -> None:
    """Raise ArchiveError when that is too much."""
    if unpacked > most:
        raise ArchiveError(
            f"{name}: unpacks to {unpacked:,} bytes or more, at most {most:,} are allowed: a zip bomb?"
            " If it is meant to be so, allow more with --max-ratio or --max-unpacked"
        )


@dataclass(frozen=True)
class Span:
    """The bytes [start, stop) of an archive. Of a tar, the members whose headers begin there are its own."""

    kind: str  # "tar", "zip", or of a compressed tar "gz", "bz2", "xz"
    start: int
    stop: int
    entries: tuple[ZipEntry, ...] = ()
    begin: int | None = None  # tar: where the first header is, when that is known
    is_guess: bool = False  # tar: `begin` follows from a guess, which the chain has not yet proved
    pax: Pax = ()  # tar: what global extended headers before it say
    most: int = sys.maxsize  # compressed tar: bytes that it may unpack to


@dataclass
class Link:
    """What reading a tar span showed: its first header, and where the header after its last member must be.

    `first` is None where no member begins in the span; `pax` are the global headers in force at its end. While the
    span is read, `end` and `pax` are those after the member that is out.
    """

    first: int | None = None
    end: int = 0
    pax: Pax = ()
    ended: bool = False  # the end-of-archive block was seen, at `end`


class ArchiveFile(io.RawIOBase):
    """A file to give to tarfile and zipfile. Positions are the archive's; `last` is what was read last."""

    last = b""
    begin = 0  # where the headers of a member begin
    size = sys.maxsize  # bytes, where that is known

    def __init__(self, name: str, position: int = 0) -> None:
        self.name, self.position = name, position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise ArchiveError(f"an extended header of {size:,} bytes; at most {LONGEST_HEADER:,} are read")
        if self.position - self.begin > LONGEST_HEADERS:
            raise ArchiveError(f"{self.name}: more than {LONGEST_HEADERS:,} bytes of headers for one member")
        self.last = self.take(self.position, self.position + size)
        if re.search(rb"[0-9]{512}", self.last):  # CVE-2024-6232: Python before 3.11.10 takes hours over so many
            raise ArchiveError("an extended header of nothing but digits")
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

    def held(self, start: int, stop: int) -> Buffer:
        """The bytes [start, stop) if all of them are in memory, otherwise none; not copied."""
        return b""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """What `take` answers, in chunks."""
        raise AssertionError("each kind has its own")


class Window(ArchiveFile):
    """A reader of which one piece, `data` at `start`, is in memory; only what lies outside is fetched."""

    def __init__(self, reader: Reader, data: Piece = b"", start: int = 0) -> None:
        super().__init__(reader.name, start)
        self.reader, self.data, self.start, self.size = reader, data, start, reader.size

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = self.begin = offset + (0, self.position, self.reader.size)[whence]
        return self.position

    def held(self, start: int, stop: int) -> Buffer:
        is_here = self.start <= start and stop <= self.start + len(self.data)
        return self.data[start - self.start : stop - self.start] if is_here else b""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        edge, stop = self.start + len(self.data), min(stop, self.reader.size)
        if self.start <= start < edge:
            yield bytes(self.data[start - self.start : stop - self.start])
            start = edge
        if start < stop:
            yield from self.reader.stream(start, stop)


class _ZipFile(Window):
    """A reader for zipfile, which reads the end and then the central directory as a whole."""

    def seek(self, offset: int, whence: int = 0) -> int:
        if super().seek(offset, whence) < 0:  # zipfile looks for 22 bytes at the end, and takes this for an answer
            raise OSError("a place before the beginning")
        return self.position

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self.position + size, self.size)
        if stop - self.position > LARGEST_DIRECTORY:
            raise ArchiveError(
                f"{self.name}: a zip directory of {size:,} bytes; at most {LARGEST_DIRECTORY:,} are read"
            )
        data = self.take(self.position, max(stop, self.position))
        self.position += len(data)
        return data


def as_file(reader: Reader) -> IO[bytes]:
    """The reader as a file for zipfile."""
    return cast(IO[bytes], _ZipFile(reader))
