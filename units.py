"""A unit of work, and what a worker does with it: read a span of an archive or a batch of photos, and store it.

`run_unit` is what dask executes, in this process or in another; running a unit twice does no harm.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import google_crc32c

import archives
import sources
import web
from archives import Link, Member, Span
from buckets import Stored, object_name
from digest import digests
from errors import ExtractionError, GoneError, MemberError, SourceChangedError, SourceError, UploadLostError
from formats import IMAGES, content_type, misnamed
from manifest import Book, Entry
from meter import Meter, Tell
from photos import Photo
from rows import FAILED, GONE, REFUSED, STORED, Row, Rows
from spans import Buffer
from uploads import Batches, Process, Settings, the_process

Wanted = Mapping[str, Row] | None  # object name → the member that it must be; None for all members


@dataclass(frozen=True)
class SpanWork:
    """A span of an archive, whose members become objects under `prefix`."""

    source: sources.Source
    span: Span
    prefix: str


@dataclass(frozen=True)
class PhotoWork:
    """Photos and their annotations, which become objects under two prefixes."""

    photos: tuple[Photo, ...]
    image_prefix: str
    annotation_prefix: str


@dataclass(frozen=True)
class Unit:
    """A piece of work; small, picklable, idempotent. `fingerprint` tells of which bytes of which version it is."""

    id: str
    dataset: str
    fingerprint: str
    work: SpanWork | PhotoWork
    size: int = 0  # bytes to fetch; 0 where nobody says
    objects: int | None = None  # that it holds, where that is known beforehand

    @property
    def archive(self) -> str:
        """The archive that it is a piece of; of photos, the same for all."""
        return self.id.rpartition("/")[0]


# ── in the worker ────────────────────────────────────────────────────────────────────────────────


stop = threading.Event()  # set to make all units of this process end soon


def _memory(size: int) -> memoryview:
    """Memory of so many bytes, in huge pages where Linux has them: four page faults for a span, not two thousand."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them (madvise(2))
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]


class _Arriving:
    """The bytes of a span in memory, which a thread reads: the first members go into the bucket while it does, and it
    goes on while they wait for the bucket. Whoever asks for bytes waits until they are there.
    """

    def __init__(self, size: int) -> None:
        self._memory, self._got, self._news = _memory(size), 0, threading.Condition()
        self._error: Exception | None = None
        self.is_wanted = True

    def fill(self, chunks: Iterator[bytes]) -> None:
        """Take the bytes, and what goes wrong with them, until they are no longer wanted."""
        try:
            for chunk in chunks:
                self._memory[self._got : self._got + len(chunk)] = chunk
                with self._news:
                    self._got += len(chunk)
                    self._news.notify()
                if not self.is_wanted:
                    return
        except Exception as error:  # is raised where the bytes are asked for
            with self._news:
                self._error = error
                self._news.notify()

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, part: slice) -> memoryview:
        _, stop, _ = part.indices(len(self))
        if self._got < stop:
            with self._news:
                self._news.wait_for(lambda: self._got >= stop or self._error)
            if self._error:
                raise self._error
        return self._memory[part]


class _Tee:
    """A source that shows what is read from it to the archive's digest, and ends when the program does."""

    def __init__(self, source: sources.Source, process: Process, meter: Meter) -> None:
        self.source, self.name, self.size = source, source.name, source.size
        self.process, self.meter, self.digest = process, meter, digests.get(source.name)
        self._pieces = list[tuple[int, _Arriving]]()  # that were read, and where each begins

    def read(self, start: int, stop: int) -> _Arriving:
        piece = _Arriving(stop - start)
        self._pieces.append((start, piece))
        self.process.readers.submit(piece.fill, self._chunks(start, stop))
        return piece

    def finish(self) -> None:
        """Wait for what no member needed too: the checksum is over every byte."""
        while self._pieces:
            start, piece = self._pieces.pop()
            data = piece[:]
            if self.digest:
                self.digest.feed(start, data)

    def close(self) -> None:
        """Read no further."""
        for _, piece in self._pieces:
            piece.is_wanted = False

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        for chunk in self._chunks(start, stop):
            if self.digest:
                self.digest.feed(start, chunk)
            start += len(chunk)
            yield chunk

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        with self.process.connections:
            for chunk in self.source.stream(start, end):
                if stop.is_set():
                    raise ExtractionError("interrupted")
                self.meter.add(len(chunk))
                yield chunk


def run_unit(unit: Unit, settings: Settings, present: Mapping[str, Stored], wanted: Wanted, tell: Tell) -> Entry:
    """Store what a unit holds, write its journal entry, and answer it.

    `present` are objects that are there already, of which those that prove right are kept; with `wanted` only
    those members are stored, where they still have the bytes that are wanted, the others' rows are answered
    alone, and no entry is written; `tell` hears how far it is. What goes wrong with one member is a row; with the
    source of this unit, the entry's `error`. Raises what no other unit would escape either: BucketError,
    ArchiveError, SourceChangedError.
    """
    process, link = the_process(settings), Link()
    task = _Task(process, present, wanted, Meter(unit.id, tell))
    try:
        rows = task.photos(unit.work) if isinstance(unit.work, PhotoWork) else task.members(unit.work, link)
    except SourceChangedError:
        raise
    except SourceError as error:
        return Entry(unit.id, unit.fingerprint, size=unit.size, error=str(error), retries=web.take_retries())
    entry = Entry(unit.id, unit.fingerprint, Rows.of(rows), _size(unit, rows), link, retries=web.take_retries())
    if wanted is None and all(row.outcome != FAILED for row in rows):
        Book(process.bucket, unit.dataset).write(entry)
    return entry


def _size(unit: Unit, rows: Iterable[Row]) -> int:
    """The bytes of its source: of photos nobody says them beforehand."""
    if not isinstance(unit.work, PhotoWork):
        return unit.size
    prefix = unit.work.image_prefix
    return sum(row.size for row in rows if row.outcome == STORED and row.path.startswith(prefix))


@dataclass
class _Task:
    """One unit being worked on."""

    process: Process
    present: Mapping[str, Stored]
    wanted: Wanted
    meter: Meter

    def members(self, work: SpanWork, link: Link) -> list[Row]:
        batches, source = Batches(self.process, self._put), _Tee(work.source, self.process, self.meter)
        try:
            for member in archives.members(source, work.span, link):
                path, refusal = object_name(work.prefix, member.name)
                row = Row(path, member.size, 0, work.source.name, member.offset)
                self._member(row, member, member.refusal or refusal, batches)
            source.finish()
            return batches.finish()
        finally:
            source.close()
            batches.wait()

    def _member(self, row: Row, member: Member, refusal: str, batches: Batches) -> None:
        if refusal or member.data is None:
            batches.rows.append(row._replace(outcome=FAILED if member.damaged else REFUSED, reason=refusal))
        elif row.is_folder:
            refused = row._replace(outcome=REFUSED, reason="a folder that has data")
            batches.rows.append(refused if row.size else row)
        elif isinstance(member.data, Buffer):
            batches.add(row, member.data)
        else:
            batches.wait_for(row.path)
            batches.rows.append(self._put_large(row, member.data))

    def _put(self, row: Row, data: Buffer) -> Row:
        data = bytes(data)  # not before its turn has come: what waits is in memory once
        kind = content_type(data)
        row = row._replace(crc32c=google_crc32c.value(data), reason=misnamed(row.path, kind))
        if stop.is_set():  # what waits its turn would keep the program, and its mount, for long
            raise ExtractionError("interrupted")
        if self._is_wanted(row, row.crc32c) and not self._is_there(row):
            try:
                self.process.bucket.put(row.path, data, kind)
            except MemberError as error:
                return row._replace(outcome=FAILED, reason=str(error))
        self.meter.add(objects=1)
        return row

    def _put_large(self, row: Row, chunks: Iterator[bytes]) -> Row:
        checksum = google_crc32c.Checksum()
        try:
            first = next(chunks, b"")
            kind = content_type(first)
            counted = _counted(itertools.chain([first], chunks), checksum)
            if self._is_wanted(row):
                # What has passed cannot be sent again. The comparison with the bucket's listing, which finds that it
                # lacks, has the member read and stored once more.
                with contextlib.suppress(UploadLostError):
                    self.process.bucket.put(row.path, counted, kind)
            for _ in counted:
                pass
        except MemberError as error:  # of the bucket, or of a damaged member, which is known when its last byte is
            return row._replace(outcome=FAILED, reason=str(error))
        return row._replace(crc32c=int.from_bytes(checksum.digest(), "big"), reason=misnamed(row.path, kind))

    def _is_wanted(self, row: Row, crc32c: int | None = None) -> bool:
        if self.wanted is None:
            return True
        wanted = self.wanted.get(row.path)
        return wanted is not None and wanted.offset == row.offset and crc32c in (wanted.crc32c, None)

    def _is_there(self, row: Row) -> bool:
        stored = self.present.get(row.path)
        return stored is not None and stored.size == row.size and self._crc32c(stored) == row.crc32c

    def _crc32c(self, stored: Stored) -> int:
        if stored.crc32c is not None:
            return stored.crc32c
        return int(google_crc32c.value(self.process.bucket.get(stored.name) or b""))

    def photos(self, work: PhotoWork) -> list[Row]:
        rows = self.process.photos.map(lambda photo: self._photo(photo, work), work.photos)
        return list(itertools.chain.from_iterable(rows))

    def _photo(self, photo: Photo, work: PhotoWork) -> list[Row]:
        image = Row(f"{work.image_prefix}{photo.name}.png", 0, 0, photo.url, 0)
        if photo.refusal:
            return [image._replace(outcome=REFUSED, reason=photo.refusal)]
        label = Row(f"{work.annotation_prefix}{photo.name}.json", len(photo.annotation), 0, photo.url, 0)
        there = self.present.get(image.path)
        label = label._replace(crc32c=google_crc32c.value(photo.annotation))
        if there and self._is_there(label):  # the annotation is written last: where it is, the photo is whole
            return [image._replace(size=there.size, crc32c=self._crc32c(there)), label]
        with self.process.fetching:
            image, data = _fetch(image)
            self.process.bytes.acquire(len(data))
        try:
            self.meter.add(len(data))
            return self._put_photo(image, data, label, photo.annotation) if data else [image]
        finally:
            self.process.bytes.release(len(data))

    def _put_photo(self, image: Row, data: bytes, label: Row, annotation: bytes) -> list[Row]:
        with self.process.putting:
            image = self._put(image, data)
            return [image, self._put(label, annotation)] if image.outcome == STORED else [image]


def _fetch(row: Row) -> tuple[Row, bytes]:
    """The photo's bytes, or none and a row that says why."""
    if stop.is_set():
        raise ExtractionError("interrupted")
    try:
        data = web.fetch(row.source)
    except GoneError as error:
        return row._replace(outcome=GONE, reason=str(error)), b""
    except SourceError as error:
        return row._replace(outcome=FAILED, reason=str(error)), b""
    if content_type(data) not in IMAGES.values() and data[:64].isascii():
        what = "an empty body" if not data else "text or a web page"
        return row._replace(outcome=GONE, reason=f"{row.source}: expected an image, got {what}"), b""
    return row._replace(size=len(data)), data


def _counted(chunks: Iterable[bytes], checksum: google_crc32c.Checksum) -> Iterator[bytes]:
    for chunk in chunks:
        checksum.update(chunk)
        yield chunk
