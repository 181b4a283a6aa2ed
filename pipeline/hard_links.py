"""Resolve the hard links of a tar: each becomes an object with the bytes of an earlier member.

A hard link has no bytes: it names an earlier member, which may be in another span or stored by an earlier run. So a
link is only a row at first. Once all spans of the archive are read, `resolve` finds the bytes of each link, and
`spans_with` returns the spans that read them again.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from archives.spans import LARGE, SPAN_BYTES, Extent, Span
from errors import escaped
from manifest.records import LINKED, REFUSED, STORED, Row, Rows
from storage.names import object_name

MAX_GAP_BYTES = 1 << 20  # bytes between two members that are read too, to save a request

Named = Mapping[str, Sequence[Row]]  # name → its members, in the order of the archive


def linked(row: Row, prefix: str, link: str) -> Row:
    """Return the row of a hard link to the member `link`; its reason is that member's object name.

    A slash at its beginning is removed, as by tar: it names a member, never a file of this machine.
    """
    target, refusal = object_name(prefix, link.lstrip("/"))
    if refusal:
        return row._replace(outcome=REFUSED, reason=f"a hard link to {escaped(link)!r}: {refusal}")
    return row._replace(outcome=LINKED, reason=target)


def resolve(runs: Sequence[Rows]) -> list[Extent]:
    """Find the bytes of each hard link of one archive, except links that a later member of the same name replaces.

    As in tar, a link means the last earlier member of that name, which may be a link itself. If there is no such
    member, or it is not stored, the link is refused.
    """
    links = sorted(
        (row for rows in runs if rows.links for row in rows if row.outcome == LINKED), key=attrgetter("offset")
    )
    named, found = _named(runs, links), dict[tuple[str, int], Extent]()
    for link in links:
        found[link.path, link.offset] = _extent(link, _before(link, named), found)
    return [found[link.path, link.offset] for link in links if not _is_replaced(link, named)]


def _named(runs: Sequence[Rows], links: Iterable[Row]) -> Named:
    named = defaultdict[str, list[Row]](list)
    names = {name for link in links for name in (link.path, link.reason)}
    if names:
        for row in (row for rows in runs for row in rows if row.path in names):
            named[row.path].append(row)
    return {name: sorted(rows, key=attrgetter("offset")) for name, rows in named.items()}


def _before(link: Row, named: Named) -> Row | None:
    rows = named.get(link.reason, ())
    at = bisect.bisect_left(rows, link.offset, key=attrgetter("offset"))
    return rows[at - 1] if at else None


def _extent(link: Row, target: Row | None, found: Mapping[tuple[str, int], Extent]) -> Extent:
    if target is None or target.outcome not in (STORED, LINKED):
        return Extent(link.path, link.offset, 0, refusal=_link_refusal(link, target))
    if target.outcome == LINKED:
        return found[target.path, target.offset]._replace(name=link.path)
    return Extent(link.path, target.offset, target.size, target.crc32c)


def _link_refusal(link: Row, target: Row | None) -> str:
    what = f"a hard link to {escaped(link.reason)!r}"
    if target is None:
        return f"{what}, which is no earlier member of the archive"
    return f"{what}, which is not stored: {target.reason}"


def _is_replaced(link: Row, named: Named) -> bool:
    return any(row.offset > link.offset and row.outcome in (STORED, LINKED) for row in named[link.path])


def spans_with(extents: Iterable[Extent], span: Span) -> Iterator[Span]:
    """Return the spans that read these extents in the archive of `span`; compressed tars are read from byte 0."""
    ordered = sorted(extents, key=lambda extent: (bool(extent.refusal), extent.offset))
    groups: list[list[Extent]] = []
    for extent in ordered:
        if span.kind.is_seekable:
            group = next((group for group in groups[-1:] if _fits_nearby(group, extent)), None)
        else:
            group = next((group for group in groups if _fits_later(group, extent)), None)
        if group is None:
            groups.append([extent])
        else:
            group.append(extent)
    for group in groups:
        start, stop = (group[0].offset, _end(group[-1])) if span.kind.is_seekable else (0, span.stop)
        yield Span(span.kind, start, stop, begin=start, most=span.most, extents=tuple(group))


def _end(extent: Extent) -> int:
    return extent.offset + extent.size


def _fits_nearby(group: Sequence[Extent], extent: Extent) -> bool:
    return extent.offset - _end(group[-1]) <= MAX_GAP_BYTES and _end(extent) - group[0].offset <= SPAN_BYTES


def _fits_later(group: Sequence[Extent], extent: Extent) -> bool:
    """Whether the extent comes later; a member in memory can be used twice, the chunks of a large one only once."""
    return extent.offset >= _end(group[-1]) or (extent.offset == group[-1].offset and extent.size <= LARGE)
