"""Execute a unit: read a span of an archive or a batch of photos, and store its members.

dask calls `run_unit`, in this process or in another. Running a unit twice does no harm.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import google_crc32c

from archives.spans import Buffer, Member, SpanBoundary
from archives.tar import NOWHERE, READ_AHEAD_BYTES
from errors import ExtractionError, MemberError, RereadError, SourceChangedError, SourceError, UploadLostError
from manifest.journal import JournalEntry
from manifest.labels.notes import IMAGE, facts_note, note_of
from manifest.records import FAILED, REFUSED, STORED, Row, Rows
from pipeline.context import WorkerContext
from pipeline.hard_links import linked
from pipeline.parts import Mark, PartWriter
from pipeline.photos import fetch_photo
from pipeline.progress import ReportUnit, UnitProgress
from pipeline.reading import CountingReader
from pipeline.unit import PhotoWork, SpanWork, Unit, Wanted, is_whole
from pipeline.uploads import UploadBatcher
from sources.content_type import content_type, misnamed
from sources.photo_tables import Photo
from storage.bucket import Stored
from storage.names import object_name


def run_unit(
    unit: Unit, context: WorkerContext, present: Mapping[str, Stored], wanted: Wanted, report: ReportUnit
) -> JournalEntry:
    """Store the members of a unit, write its journal entry, and return it.

    Objects of `present` that have the right size and checksum are not stored again. With `wanted`, only those members
    are stored, if the source still has the wanted bytes, and no entry is written. `report` receives the progress. An
    error of one member becomes a row; an error of the source becomes the entry's `error`. Raises BucketError,
    ArchiveError and SourceChangedError, which every other unit would raise too.
    """
    link = SpanBoundary()
    task = _Task(context, present, wanted, UnitProgress(unit.id, report), _known(unit))
    parts = _part_writer(unit, context, link) if wanted is None else None
    try:
        rows = task.rows(unit, link, parts)
    except SourceChangedError:
        raise
    except SourceError as error:
        if parts:
            parts.flush()
        retries = context.http.drain_retries()
        return JournalEntry(unit.id, unit.fingerprint, size=unit.size, error=str(error), retries=retries)
    entry = _entry(unit, rows, link, context.http.drain_retries())
    if wanted is None:
        if entry.is_done:
            context.record(unit.dataset, unit.so_far if unit.so_far and is_whole(unit.so_far) else entry)
        elif parts:
            parts.flush()
    return entry


def _known(unit: Unit) -> dict[tuple[str, int], Row]:
    """The stored rows of a unit that is read again, by path and offset."""
    known = unit.so_far.rows if unit.so_far and unit.is_reread else Rows()
    return {(row.path, row.offset): row for row in known}


def _part_writer(unit: Unit, context: WorkerContext, link: SpanBoundary) -> PartWriter | None:
    """A writer of parts, for units that can be resumed in the middle; None for others, such as compressed tars."""
    span, bounds = unit.work.span, (0, 0)
    if span is not None:
        bounds = span.start, span.stop
        if not span.kind.is_resumable or unit.is_reread:
            return None
    begin = unit.so_far.upto or 0 if unit.so_far else 0
    blank = JournalEntry(unit.id, unit.fingerprint, begin=begin)
    return PartWriter(partial(_record_part, unit, context), blank, bounds, link, context.started)


def _record_part(unit: Unit, context: WorkerContext, part: JournalEntry, rows: Sequence[Row], state: bytes) -> None:
    """Write a part; with the state of the archive's checksum at its end, if all before the unit is stored."""
    before = context.checkpoints.get(unit.archive)
    if state and before and before.next == unit.id:
        earlier = unit.so_far.rows if unit.so_far else ()
        part = replace(part, state=before.within(Rows.of([*earlier, *rows]), part.upto or 0, state))
    context.record(unit.dataset, part)


def _entry(unit: Unit, rows: list[Row], link: SpanBoundary, retries: int) -> JournalEntry:
    """The entry of the whole unit, earlier parts included; raises RereadError if their bytes have changed."""
    so_far = unit.so_far
    if so_far and unit.is_reread:
        _compare(unit, so_far, rows)
    elif so_far:
        rows = [*so_far.rows, *rows]
        link.first = so_far.link.first if link.first != NOWHERE else NOWHERE
    return JournalEntry(unit.id, unit.fingerprint, Rows.of(rows), _size(unit, rows), link, retries=retries)


def _compare(unit: Unit, so_far: JournalEntry, rows: Iterable[Row]) -> None:
    now = {(row.path, row.offset): (row.size, row.crc32c, row.outcome) for row in rows}
    before = {(row.path, row.offset): (row.size, row.crc32c, row.outcome) for row in so_far.rows}
    differs = [place for place, what in before.items() if now.get(place) != what]
    if so_far.upto is None:
        differs += now.keys() - before.keys()
    if differs:
        raise RereadError(
            f"{unit.id}: {differs[0][0]}: the bytes are not those that were stored before; nothing of the archive"
            " counts as extracted: run again",
            unit.id,
        )


def _size(unit: Unit, rows: Iterable[Row]) -> int:
    """The size of the unit in the source, in bytes; for photos it is known only now."""
    if unit.work.span is not None:
        return unit.size
    prefix = unit.work.image_prefix
    return sum(row.size for row in rows if row.outcome == STORED and row.path.startswith(prefix))


@dataclass
class _Task:
    """The execution of one unit."""

    context: WorkerContext
    present: Mapping[str, Stored]
    wanted: Wanted
    progress: UnitProgress
    known: Mapping[tuple[str, int], Row]  # by path and offset: stored members, which are only compared

    def rows(self, unit: Unit, link: SpanBoundary, parts: PartWriter | None) -> list[Row]:
        if unit.work.span is None:
            return self.photos(unit.work, parts)
        if unit.is_reread and unit.so_far and is_whole(unit.so_far) and not unit.so_far.rows.count:
            return self._pass(unit.work)
        return self.members(unit.work, link, parts)

    def _pass(self, work: SpanWork) -> list[Row]:
        """Read a span in which no member begins; only the archive's checksum needs it."""
        source = CountingReader(work.source, self.context, self.progress)
        for _ in source.stream(work.span.start, work.span.stop):
            pass
        return []

    def members(self, work: SpanWork, link: SpanBoundary, parts: PartWriter | None) -> list[Row]:
        source = CountingReader(work.source, self.context, self.progress)
        batches = UploadBatcher(
            self.context, self._put, parts, lambda end: source.state_at(_own_start(work.span.start, link), end)
        )
        kind = work.span.kind
        try:
            for member in kind.members(source, work.span, link):
                path, refusal = object_name(work.prefix, member.name)
                if not work.selection.has(path):
                    _pass_over(member)
                    continue
                row = Row(path, member.size, 0, work.source.name, member.offset)
                mark = Mark(*kind.place_after(member, link))
                if member.link and not refusal:
                    batches.add(linked(row, work.prefix, member.link), None, mark)
                else:
                    self._member(row, member, member.refusal or refusal, batches, mark)
            source.finish(_own_start(work.span.start, link), max(link.end, work.span.stop))
            return batches.finish()
        finally:
            source.close()
            batches.wait()

    def _member(self, row: Row, member: Member, refusal: str, batches: UploadBatcher, mark: Mark) -> None:
        if refusal or member.data is None:
            outcome = FAILED if member.damaged else REFUSED
            batches.add(row._replace(outcome=outcome, reason=refusal), None, mark)
        elif row.is_folder:
            refused = row._replace(outcome=REFUSED, reason="a folder that has data")
            batches.add(refused if row.size else row, None, mark)
        elif isinstance(member.data, Buffer):
            batches.add(row, member.data, mark)
        else:
            batches.make_way(row.path)
            batches.add(self._put_large(row, member.data), None, mark)

    def _put(self, row: Row, data: Buffer) -> Row:
        data = bytes(data)  # copied only now, so that waiting members are in memory once
        kind = content_type(data)
        path, size, _, source, offset, outcome, _, note = row
        row = Row(
            path, size, google_crc32c.value(data), source, offset, outcome,
            misnamed(path, kind), note or note_of(data, kind),
        )  # fmt: skip
        if self.context.stop.is_set():  # or waiting members would delay the end of the program
            raise ExtractionError("interrupted")
        if self._is_wanted(row, row.crc32c) and not self._is_there(row):
            try:
                self.context.put(row.path, data, kind)
            except MemberError as error:
                return row._replace(outcome=FAILED, reason=str(error))
        self.progress.add(objects=1)
        return row

    def _put_large(self, row: Row, chunks: Iterator[bytes]) -> Row:
        checksum = google_crc32c.Checksum()
        try:
            first = next(chunks, b"")
            kind = content_type(first)
            row = row._replace(note=note_of(first, kind, is_whole=False) if kind.startswith(IMAGE) else "")
            counted = _counted(itertools.chain([first], chunks), checksum)
            if self._is_wanted(row):
                # The chunks cannot be sent twice. The comparison with the bucket's listing finds the member missing,
                # and it is read and stored once more.
                with contextlib.suppress(UploadLostError):
                    self.context.put(row.path, counted, kind)
            for _ in counted:
                pass
        except MemberError as error:  # from the bucket, or from a damaged member, which is known at its last byte
            return row._replace(outcome=FAILED, reason=str(error))
        return row._replace(crc32c=int.from_bytes(checksum.digest(), "big"), reason=misnamed(row.path, kind))

    def _is_wanted(self, row: Row, crc32c: int | None = None) -> bool:
        if self.wanted is None:
            return (row.path, row.offset) not in self.known
        wanted = self.wanted.get(row.path)
        return wanted is not None and wanted.offset == row.offset and crc32c in (wanted.crc32c, None)

    def _is_there(self, row: Row) -> bool:
        stored = self.present.get(row.path)
        return stored is not None and stored.size == row.size and self._crc32c(stored) == row.crc32c

    def _crc32c(self, stored: Stored) -> int:
        if stored.crc32c is not None:
            return stored.crc32c
        return int(google_crc32c.value(self.context.bucket.get(stored.name) or b""))

    def photos(self, work: PhotoWork, parts: PartWriter | None) -> list[Row]:
        def stored(photo: Photo) -> list[Row]:
            rows = self._photo(photo, work)
            if parts:
                parts.add_next(rows)
            return rows

        return list(itertools.chain.from_iterable(self.context.photos.map(stored, work.photos)))

    def _photo(self, photo: Photo, work: PhotoWork) -> list[Row]:
        image = Row(work.image_of(photo), 0, 0, photo.url, 0)
        if photo.refusal:
            return [image._replace(outcome=REFUSED, reason=photo.refusal)]
        label = Row(
            work.annotation_of(photo), len(photo.annotation), 0, photo.url, 0, note=facts_note(photo.annotation)
        )
        with self.context.fetching:
            if self.context.stop.is_set():
                raise ExtractionError("interrupted")
            image, data = fetch_photo(image, work.table, self.context.http, self.context.bytes)
            self.context.bytes.acquire(len(data))
        try:
            self.progress.add(len(data))
            return self._put_photo(image, data, label, photo, work) if data else [image]
        finally:
            self.context.bytes.release(len(data))

    def _put_photo(self, image: Row, data: bytes, label: Row, photo: Photo, work: PhotoWork) -> list[Row]:
        with self.context.putting:
            wanted = [(image, data)] if work.filter.matches(image.path) else []
            wanted += [(label, photo.annotation)] if work.filter.matches(label.path) else []
            rows = list[Row]()
            for row, content in wanted:
                rows.append(self._put(row, content))
                if rows[-1].outcome != STORED:
                    break
            return rows


def _own_start(start: int, link: SpanBoundary) -> int:
    """Where the bytes begin that this unit feeds to the digest: after the last member of the unit before.

    That unit feeds the member. The end of a large one comes late, and all bytes after it would wait in memory, so both
    feed it.
    """
    first = link.first or 0
    return first if start < first <= start + READ_AHEAD_BYTES else start


def _pass_over(member: Member) -> None:
    """Read the chunks of a large member that is not wanted: the archive's checksum covers every byte."""
    if member.data is not None and not isinstance(member.data, Buffer):
        with contextlib.suppress(MemberError):
            for _ in member.data:
                pass


def _counted(chunks: Iterable[bytes], checksum: google_crc32c.Checksum) -> Iterator[bytes]:
    for chunk in chunks:
        checksum.update(chunk)
        yield chunk
