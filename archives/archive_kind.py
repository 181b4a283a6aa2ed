"""The interface of a kind of archive; archives/kinds.py lists all kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from archives.spans import Member, Pax, Reader, Span, SpanBoundary


@dataclass(frozen=True)  # spans carry their kind to the workers, and are compared
class ArchiveKind(ABC):
    """One kind of archive: how it is recognised, cut into spans and read.

    By default an archive has no directory and is one span, which is read again as a whole after an interruption and
    for a repair.
    """

    is_resumable = False  # whether an interrupted span is continued after the last member that is stored
    reads_extents = False  # whether `members` takes spans with extents, for repairs and hard links
    is_seekable = False  # whether extents are bytes of the archive itself, and not of what it unpacks to

    @abstractmethod
    def recognises(self, reader: Reader, head: bytes) -> bool:
        """Return whether an archive is of this kind; `head` is its first 512 bytes."""

    def plan(self, reader: Reader, span: int, most: int) -> list[Span]:
        """Cut the archive into spans of about `span` bytes, in file order; they can be read in parallel.

        Raises ArchiveError for a damaged archive, or one that unpacks to more than `most` bytes.
        """
        return [Span(self, 0, reader.size, most=most)]

    @abstractmethod
    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        """Yield the members of one span in file order; `link` is complete after the last one.

        A large member's chunks are consumed before the next member, or not at all.
        Raises ArchiveError when the bytes are not what the format demands.
        """

    def objects(self, span: Span) -> int | None:
        """Return the number of files in a span, or None if it is not known before the span is read."""
        return None

    def only(self, spans: Sequence[Span], has: Callable[[str], bool]) -> list[Span]:
        """Return the spans that hold members whose name `has` accepts; all spans if there is no directory."""
        return list(spans)

    # ── interruptions and repairs ────────────────────────────────────────────────────────────────

    def place_after(self, member: Member, link: SpanBoundary) -> tuple[int, Pax]:
        """Return the position after this member, and the global headers in force there."""
        return link.end, link.pax

    def rest(self, span: Span, upto: int, pax: Pax) -> Span:
        """Return the rest of the span from such a position."""
        return replace(span, start=min(upto, span.stop))

    def narrowed(self, span: Span, offsets: Collection[int]) -> Span | None:
        """Return the span reduced to what a repair of the members at `offsets` reads; None if it has none of them."""
        return span if any(span.start <= offset < span.stop for offset in offsets) else None

    def broken_link(
        self, name: str, spans: Sequence[Span], links: Sequence[SpanBoundary]
    ) -> tuple[int, Span | None] | None:
        """Return the index of the first span read from a wrong position, and its replacement; None if there is none.

        For kinds whose spans begin at a guess (archives/tar.py).
        """
        return None
