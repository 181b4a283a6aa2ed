"""The types that all kinds of archives share: readers, spans, members, and limits of what may be unpacked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from errors import ArchiveError

if TYPE_CHECKING:
    from archives.archive_kind import ArchiveKind

SPAN_BYTES = 8 << 20  # bytes of archive that one unit of work reads and holds in memory
LARGE = SPAN_BYTES  # bytes; a larger member is handed on in chunks
MAX_HEADER_BYTES = 1 << 20  # bytes; a name or pax record beyond this is an attack, not a header
MAX_HEADERS_BYTES = 4 << 20  # bytes of all the headers that one member has
ALWAYS_ALLOWED_BYTES = 1 << 30  # bytes that any archive may unpack to, however small it is

Buffer = bytes | memoryview
Pax = tuple[tuple[str, str], ...]


class Piece(Protocol):
    """Bytes of a reader; slicing waits until they have arrived."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Buffer: ...


class Reader(Protocol):
    """A random-access file, such as a source."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self, start: int, stop: int) -> Piece: ...
    def stream(self, start: int, stop: int) -> Iterator[bytes]: ...


class Member(NamedTuple):
    """One entry of an archive. `data` is chunks for a large file, and None if `refusal` says why; it may be a view that
    keeps the memory of its span.
    """

    name: str  # ends with "/" for a folder
    size: int  # bytes, unpacked
    offset: int  # bytes from the archive's beginning: to the data in a tar, to the local header in a zip
    data: Buffer | Iterator[bytes] | None
    refusal: str = ""
    damaged: bool = False  # refused for its bytes, which another try may bring whole
    link: str = ""  # of a hard link: the name of the member whose bytes are its own too


class ZipEntry(NamedTuple):
    """A member by a zip's central directory; offsets and sizes in bytes."""

    name: str
    raw_name: bytes
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    refusal: str
    stop: int  # where the next entry, or the central directory, begins
    is_sure: bool = True  # or its record in the directory is damaged, and its local header must say the same


class Extent(NamedTuple):
    """The known place of a member in a tar, or in an unpacked tar."""

    name: str
    offset: int  # bytes
    size: int
    crc32c: int = 0
    refusal: str = ""  # why it has no bytes


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to; more is treated as a zip bomb."""

    ratio: int = 100  # times its own size; photos make 1, annotations about 10
    total: int = 1000  # GB

    def most(self, size: int) -> int:
        """Return the bytes that an archive of `size` bytes may unpack to."""
        return min(max(self.ratio * size, ALWAYS_ALLOWED_BYTES), self.total * 10**9)


LIMITS = Limits()


def check_unpacked(name: str, unpacked: int, most: int) -> None:
    """Raise ArchiveError for more than `most` bytes."""
    if unpacked > most:
        raise ArchiveError(
            f"{name}: unpacks to {unpacked:,} bytes or more, at most {most:,} are allowed: a zip bomb?"
            " If it is meant to be so, allow more with --max-ratio or --max-unpacked"
        )


@dataclass(frozen=True)
class Span:
    """The bytes [start, stop) of an archive. A span of a tar has the members whose headers begin in it."""

    kind: ArchiveKind  # which reads it
    start: int
    stop: int
    entries: tuple[ZipEntry, ...] = ()
    begin: int | None = None  # tar: where the first header is, when that is known
    is_guess: bool = False  # tar: `begin` follows from a guess, which the chain has not yet proved
    pax: Pax = ()  # tar: what global extended headers before it say
    most: int = sys.maxsize  # compressed tar: bytes that it may unpack to
    extents: tuple[Extent, ...] = ()  # of a tar: these alone are read, and no headers


@dataclass
class SpanBoundary:
    """The ends of a tar span that was read: its first header, and where the header after its last member must be.

    `first` is None where no member begins in the span; `pax` are the global headers in force at its end. While the
    span is read, `end` and `pax` are those after the member that is out.
    """

    first: int | None = None
    end: int = 0
    pax: Pax = ()
    ended: bool = False  # the end-of-archive block was seen, at `end`
    another: int = 0  # the byte after it at which another tar begins, which is not read; 0 for none
