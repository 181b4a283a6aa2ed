"""An archive becomes spans, and a span becomes members; knows no network and no bucket.

`plan` cuts a tar or zip into spans that can be read in any order and at once, each about SPAN bytes of the
archive; a compressed tar is one span. `members` reads one span. Each span of a tar leaves a `Link`, and
`broken_link` proves from all of them that no member was missed or invented.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import tars
import zips
from errors import ArchiveError
from spans import LIMITS, SPAN, Limits, Link, Member, Reader, Span, check_unpacked
from tars import broken_link

__all__ = ["LIMITS", "SPAN", "Limits", "Link", "Member", "Reader", "Span", "broken_link", "members", "plan"]

# Spans of a tar that is long, and those of it that are cut in half: its connections then end at about one time, each
# with a short span instead of some with a long one. From slow sources a run is 2 % shorter.
LONG, LAST = 32, 8


def plan(reader: Reader, span: int = SPAN, limits: Limits = LIMITS) -> list[Span]:
    """Cut the archive into spans, in file order.

    Raises ArchiveError when it is neither tar nor zip, or would unpack to more than the limits allow.
    """
    most = limits.most(reader.size)
    kind = _kind(bytes(reader.read(0, min(reader.size, tars.BLOCK))[: tars.BLOCK]))
    if kind == "tar":
        check_unpacked(reader.name, reader.size, most)
        return [Span(kind, *ends) for ends in itertools.pairwise([*_starts(reader.size, span), reader.size])]
    if kind == "zip" or (not kind and zips.is_zip(reader)):  # a zip may stand after anything
        spans = zips.plan(reader, span)
        check_unpacked(
            reader.name, sum(entry.size for each in spans for entry in each.entries if not entry.refusal), most
        )
        return spans
    if kind:
        return [Span(kind, 0, reader.size, most=most)]
    raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got something else")


def _starts(size: int, span: int) -> Iterator[int]:
    """Where the spans of a tar of so many bytes begin."""
    whole, half = size // span, max(span // 2 // tars.BLOCK, 1) * tars.BLOCK
    turn = (whole - LAST) * span if whole >= LONG else size
    return itertools.chain(range(0, turn, span), range(turn, size, half))


def _kind(head: bytes) -> str:
    magics = {b"PK\3\4": "zip", b"PK\5\6": "zip", b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
    if tars.parse_header(head) or head == bytes(tars.BLOCK):  # first: a member's name may begin with any magic
        return "tar"
    return next((kind for magic, kind in magics.items() if head.startswith(magic)), "")


def members(reader: Reader, span: Span, link: Link) -> Iterator[Member]:
    """The members of one span, in file order; `link` is filled in by the time the last one is out.

    A large member's chunks are taken before the next member is asked for, or not at all.
    Raises ArchiveError when the bytes are not what the format demands.
    """
    if span.kind == "tar":
        return tars.read_span(reader, span, link)
    if span.kind == "zip":
        return zips.read_span(reader, span)
    return tars.read_compressed(reader, span, link)
