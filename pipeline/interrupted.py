"""Resume a partly stored unit: the rest of it, or all of it to compare it with what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import google_crc32c

from archives.spans import Pax, Span
from archives.tar import NOWHERE
from errors import redact
from manifest.journal import JournalEntry
from manifest.labels.notes import facts_note
from manifest.records import Row, Rows
from pipeline.unit import Unit
from sources.photo_tables import Photo


def rest_of(unit: Unit, so_far: JournalEntry) -> Unit:
    """The unit without the members that its parts in the journal have; its entry will cover both."""
    work, upto = unit.work, so_far.upto
    if work.span is None or upto is None:
        return unit
    rest = work.span.kind.rest(work.span, upto, so_far.link.pax)
    return replace(unit, work=replace(work, span=rest), so_far=so_far)


def rest_of_photos(unit: Unit, so_far: JournalEntry | None, vouched: Mapping[str, Row]) -> Unit:
    """The unit without the photos of its parts, and without photos that `vouched` has with the same annotation."""
    work = unit.work
    if work.span is not None:
        return unit
    rows = list(so_far.rows) if so_far else []
    known, rest = {row.path for row in rows}, list[Photo]()
    for photo in work.photos:
        image, label = vouched.get(work.image_of(photo)), vouched.get(work.annotation_of(photo))
        if work.image_of(photo) in known:
            continue
        if (
            image
            and label
            and image.source == redact(photo.url)
            and label.crc32c == google_crc32c.value(photo.annotation)
        ):
            rows += [image, label._replace(note=facts_note(photo.annotation))]
        else:
            rest.append(photo)
    if not rows:
        return unit
    upto = so_far.upto if so_far and so_far.upto else 0  # the end of the parts in the journal
    entry = JournalEntry(unit.id, unit.fingerprint, Rows.of(rows), sum(row.size for row in rows), upto=upto)
    return replace(unit, work=replace(work, photos=tuple(rest)), so_far=entry)


def again(unit: Unit, so_far: JournalEntry, pax: Pax) -> Unit:
    """The whole unit, to be compared with `so_far`; `pax` are the global headers at the beginning of its span."""
    work = unit.work
    if work.span is not None:
        work = replace(work, span=_from_first(work.span, so_far.link.first, pax))
    return replace(unit, work=work, so_far=so_far, is_reread=True)


def _from_first(span: Span, first: int | None, pax: Pax) -> Span:
    is_known = first not in (None, NOWHERE)
    return replace(span, begin=first, is_guess=True, pax=pax) if is_known and first != span.begin else span


def covered(units: Iterable[Unit], entries: Mapping[str, JournalEntry]) -> dict[str, JournalEntry]:
    """Entries for the spans of a tar that lie within a large member of an earlier span: no member begins in them."""
    reach, found = -1, dict[str, JournalEntry]()
    for unit in units:
        span = unit.work.span
        if unit.id in entries:
            reach = max(reach, entries[unit.id].link.end)
        elif span and span.stop <= reach:
            found[unit.id] = JournalEntry(unit.id, unit.fingerprint, size=unit.size)
    return found
