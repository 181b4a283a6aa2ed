"""An interrupted unit becomes its rest, or the whole unit to be compared with what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from archives.spans import Pax, Span
from archives.tar import NOWHERE
from manifest.journal import JournalEntry
from pipeline.unit import PhotoWork, SpanWork, Unit


def rest_of(unit: Unit, so_far: JournalEntry) -> Unit:
    """The unit without the members that parts in the journal have; its entry will be of all of it."""
    work, upto = unit.work, so_far.upto
    if isinstance(work, PhotoWork) or upto is None:
        return unit
    span = work.span
    if span.kind == "tar":
        is_guess = span.begin is None and span.start > 0  # the chain proves the parts too, when all is read
        start = min(upto, span.stop)
        rest = replace(span, start=start, begin=upto, is_guess=is_guess, pax=so_far.link.pax)
    else:
        entries = tuple(entry for entry in span.entries if entry.offset >= upto)
        rest = replace(span, start=entries[0].offset if entries else span.stop, entries=entries)
    return replace(unit, work=replace(work, span=rest), so_far=so_far)


def again(unit: Unit, so_far: JournalEntry, pax: Pax) -> Unit:
    """The unit from its beginning, compared with what is stored of it; `pax` is in force where a tar's span begins."""
    work = unit.work
    if isinstance(work, SpanWork) and work.span.kind == "tar":
        work = replace(work, span=_from_first(work.span, so_far.link.first, pax))
    return replace(unit, work=work, so_far=so_far, is_reread=True)


def _from_first(span: Span, first: int | None, pax: Pax) -> Span:
    is_known = first not in (None, NOWHERE)
    return replace(span, begin=first, is_guess=True, pax=pax) if is_known and first != span.begin else span


def covered(units: Iterable[Unit], entries: Mapping[str, JournalEntry]) -> dict[str, JournalEntry]:
    """Entries for the spans of a tar in which a large member of an earlier span lies: nothing begins in them."""
    reach, found = 0, dict[str, JournalEntry]()
    for unit in units:
        work = unit.work
        if unit.id in entries:
            reach = max(reach, entries[unit.id].link.end)
        elif isinstance(work, SpanWork) and work.span.kind == "tar" and work.span.stop <= reach:
            found[unit.id] = JournalEntry(unit.id, unit.fingerprint, size=unit.size)
    return found
