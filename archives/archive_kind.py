"""What a kind of archive must know; archives/kinds.py has all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from archives.spans import Member, Pax, Reader, Span, SpanBoundary


@dataclass(frozen=True)  # spans carry their kind to the workers, and are compared
class ArchiveKind(ABC):
    """One kind of archive: how it is recognised, cut into spans and read.

    The defaults are those of a kind without a directory that is one span, and is read again as a whole after an
    interruption and for a repair.
    """

    is_resumable = False  # whether an interrupted span is continued after the last member that is stored
    reads_extents = False  # whether `members` takes spans with extents, for repairs and hard links
    is_seekable = False  # whether extents are bytes of the archive itself, and not of what it unpacks to

    @abstractmethod
    def recognises(self, reader: Reader, head: bytes) -> bool:
        """Whether an archive that begins with `head`, its first 512 bytes, is of this kind."""

    def plan(self, reader: Reader, span: int, most: int) -> list[Span]:
        """Spans of about `span` bytes, in file order, which can be read in any order and in parallel.

        Raises ArchiveError for a damaged archive, or one that unpacks to more than `most` bytes.
        """
        return [Span(self, 0, reader.size, most=most)]

    @abstractmethod
    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        """The members of one span, in file order; `link` is filled in by the time the last one is out.

        A large member's chunks are consumed before the next member, or not at all.
        Raises ArchiveError when the bytes are not what the format demands.
        """

    def objects(self, span: Span) -> int | None:
        """How many files a span has, where that is known before it is read."""
        return None

    def only(self, spans: Sequence[Span], has: Callable[[str], bool]) -> list[Span]:
        """The spans that must be read for the members of these names; all of them without a directory."""
        return list(spans)

    # ── interruptions and repairs ────────────────────────────────────────────────────────────────

    def place_after(self, member: Member, link: SpanBoundary) -> tuple[int, Pax]:
        """From which byte on members are to do after this one, and the global headers there."""
        return link.end, link.pax

    def rest(self, span: Span, upto: int, pax: Pax) -> Span:
        """The span from such a place on."""
        return replace(span, start=min(upto, span.stop))

    def narrowed(self, span: Span, offsets: Collection[int]) -> Span | None:
        """The span with no more members than the repair of those at `offsets` needs; None where it has none of them."""
        return span if any(span.start <= offset < span.stop for offset in offsets) else None

    def broken_link(
        self, name: str, spans: Sequence[Span], links: Sequence[SpanBoundary]
    ) -> tuple[int, Span | None] | None:
        """The index of the first span that was read from a wrong place, and that span as it must be read; else None.

        For kinds whose spans begin at a guess (archives/tar.py).
        """
        return None
