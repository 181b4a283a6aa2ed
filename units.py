"""A unit of work, and what a worker does with it: read a span of an archive or a batch of photos, and store it.

`run_unit` is what dask executes, in this process or in another; running a unit twice does no harm.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future as Pending
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import ParamSpec, TypeVar

import google_crc32c

import archives
import sources
import web
from archives import Link, Member, Span
from buckets import Stored, object_name
from digest import digests
from errors import ExtractionError, GoneError, MemberError, SourceChangedError, SourceError
from formats import IMAGES, content_type, misnamed
from gcs import Destination, open_bucket
from manifest import Book, Entry
from meter import Meter, Tell
from pace import Pace, Told
from photos import Photo
from rows import FAILED, GONE, REFUSED, STORED, Row, Rows

P = ParamSpec("P")
T = TypeVar("T")
BYTES_AT_ONCE = 64 << 20  # of members on their way into the bucket, in each process
BATCH = 4  # members that one thread puts one after the other; each takes 50 ms, and the last ones are waited for
BATCH_BYTES = 256 << 10  # of data in them; larger members go alone
PENDING = 256  # batches of one unit that are waited for at once; each is some kB, and a span can have 8,000 members
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
PHOTOS_AT_ONCE = 96  # in each process; at 50 ms a photo this is 1,900 a second

Wanted = Mapping[str, Row] | None  # object name → the member that it must be; None for all members


@dataclass(frozen=True)
class Settings:
    """What every worker must know; picklable."""

    destination: Destination
    connections: int = 8  # to the source, from each process
    uploads: int | None = None  # puts in flight in each process; None: what suits the bucket
    timeout: float = web.TIMEOUT[1]  # seconds without a byte from a source


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


# ── in the worker ────────────────────────────────────────────────────────────────────────────────


stop = threading.Event()  # set to make all units of this process end soon


class _Tee:
    """A source that shows what is read from it to the archive's digest, and ends when the program does."""

    def __init__(self, source: sources.Source, connections: threading.Semaphore, meter: Meter) -> None:
        self.source, self.name, self.size = source, source.name, source.size
        self.connections, self.meter, self.digest = connections, meter, digests.get(source.name)

    def read(self, start: int, stop: int) -> bytearray:
        data, at = bytearray(stop - start), 0
        for chunk in self._chunks(start, stop):
            data[at : at + len(chunk)] = chunk
            at += len(chunk)
        if self.digest:
            self.digest.feed(start, data)
        return data

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        for chunk in self._chunks(start, stop):
            if self.digest:
                self.digest.feed(start, chunk)
            start += len(chunk)
            yield chunk

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        with self.connections:
            for chunk in self.source.stream(start, end):
                if stop.is_set():
                    raise ExtractionError("interrupted")
                self.meter.add(len(chunk))
                yield chunk


class Budget:
    """Bytes that may be in memory at once; one request larger than all of it is let through alone."""

    def __init__(self, size: int) -> None:
        self.size, self._used, self._free = size, 0, threading.Condition()

    def acquire(self, size: int) -> None:
        with self._free:
            self._free.wait_for(lambda: not self._used or self._used + size <= self.size)
            self._used += size

    def release(self, size: int) -> None:
        with self._free:
            self._used -= size
            self._free.notify_all()


_paces: list[Pace] = []  # of the bucket that this process writes to


class _Process:
    """What the units in one process share: the bucket, the threads that put, and the bounds."""

    def __init__(self, settings: Settings) -> None:
        _keep_heap_small()
        web.set_timeout(settings.timeout)
        self.bucket = open_bucket(settings.destination)
        _paces[:] = [pace for pace in [getattr(self.bucket, "pace", None)] if pace]
        at_once = settings.uploads or self.bucket.at_once
        self.uploads = ThreadPoolExecutor(at_once, "put") if at_once > 1 else None
        self.photos = ThreadPoolExecutor(PHOTOS_AT_ONCE, "photo")
        self.bytes = Budget(BYTES_AT_ONCE)
        self.connections = threading.BoundedSemaphore(settings.connections)


def _keep_heap_small() -> None:
    """Have glibc give large buffers back at once: it learns not to, and 290 MB become 370 (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, archives.SPAN // 8)
        mallopt(M_ARENA_MAX, 2)


_starting = threading.Lock()  # a worker's threads begin together, and must share what bounds them


def _process(settings: Settings) -> _Process:
    with _starting:
        return _the_process(settings)


@lru_cache(maxsize=1)
def _the_process(settings: Settings) -> _Process:
    return _Process(settings)


def writes() -> Told | None:
    """What became of the writes of this process, where they went through the API."""
    return _paces[0].told() if _paces else None


def run_unit(unit: Unit, settings: Settings, present: Mapping[str, Stored], wanted: Wanted, tell: Tell) -> Entry:
    """Store what a unit holds, write its journal entry, and answer it.

    `present` are objects that are there already, of which those that prove right are kept; with `wanted` only
    those members are stored, where they still have the bytes that are wanted, the others' rows are answered
    alone, and no entry is written; `tell` hears how far it is. What goes wrong with one member is a row; with the
    source of this unit, the entry's `error`. Raises what no other unit would escape either: BucketError,
    ArchiveError, SourceChangedError.
    """
    process, link = _process(settings), Link()
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

    process: _Process
    present: Mapping[str, Stored]
    wanted: Wanted
    meter: Meter

    def members(self, work: SpanWork, link: Link) -> list[Row]:
        batches = _Batches(self)
        try:
            for member in archives.members(self._source(work), work.span, link):
                path, refusal = object_name(work.prefix, member.name)
                row = Row(path, member.size, 0, work.source.name, member.offset)
                self._member(row, member, member.refusal or refusal, batches)
            return batches.finish()
        finally:
            batches.wait()

    def _source(self, work: SpanWork) -> _Tee:
        return _Tee(work.source, self.process.connections, self.meter)

    def _member(self, row: Row, member: Member, refusal: str, batches: _Batches) -> None:
        if refusal or member.data is None:
            batches.rows.append(row._replace(outcome=FAILED if member.damaged else REFUSED, reason=refusal))
        elif row.is_folder:
            refused = row._replace(outcome=REFUSED, reason="a folder that has data")
            batches.rows.append(refused if row.size else row)
        elif isinstance(member.data, bytes):
            batches.add(row, member.data)
        else:
            batches.wait_for(row.path)
            batches.rows.append(self._put_large(row, member.data))

    def soon(self, size: int, put: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Pending[T]:
        """Put in a thread of its own, once there is room for so many bytes; at once where a put takes no time."""
        if self.process.uploads is None:
            done = Pending[T]()
            done.set_result(put(*arguments, **named))
            return done
        self.process.bytes.acquire(size)

        def released() -> T:
            try:
                return put(*arguments, **named)
            finally:
                self.process.bytes.release(size)

        return self.process.uploads.submit(released)

    def put_all(self, members: Sequence[tuple[Row, bytes]]) -> list[Row]:
        """Put one member after the other."""
        return [self._put(row, data) for row, data in members]

    def _put(self, row: Row, data: bytes) -> Row:
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
        fetched = list(self.process.photos.map(lambda photo: self._photo(photo, work), work.photos))
        rows = (each.result() if isinstance(each, Pending) else each for each in fetched)
        return list(itertools.chain.from_iterable(rows))

    def _photo(self, photo: Photo, work: PhotoWork) -> list[Row] | Pending[list[Row]]:
        image = Row(f"{work.image_prefix}{photo.name}.png", 0, 0, photo.url, 0)
        if photo.refusal:
            return [image._replace(outcome=REFUSED, reason=photo.refusal)]
        label = Row(f"{work.annotation_prefix}{photo.name}.json", len(photo.annotation), 0, photo.url, 0)
        there = self.present.get(image.path)
        label = label._replace(crc32c=google_crc32c.value(photo.annotation))
        if there and self._is_there(label):  # the annotation is written last: where it is, the photo is whole
            return [image._replace(size=there.size, crc32c=self._crc32c(there)), label]
        image, data = _fetch(image)
        self.meter.add(len(data))
        return self.soon(len(data), self._put_photo, image, data, label, photo.annotation) if data else [image]

    def _put_photo(self, image: Row, data: bytes, label: Row, annotation: bytes) -> list[Row]:
        image = self._put(image, data)
        return [image, self._put(label, annotation)] if image.outcome == STORED else [image]


class _Batches:
    """A unit's small members on their way: a few go to each thread, for handing one over costs as much as putting it.

    `rows` are what is known so far, in any order.
    """

    def __init__(self, task: _Task) -> None:
        self.task, self.rows = task, list[Row]()
        self._next, self._size = list[tuple[Row, bytes]](), 0
        self._pending = deque[Pending[list[Row]]]()
        self._last = dict[str, Pending[list[Row]]]()  # by path, of those that are pending

    def add(self, row: Row, data: bytes) -> None:
        """Put it soon. Of two members of one name the later must win, so it comes after the earlier."""
        if row.path in self._last:
            wait([self._last[row.path]])
        self._next.append((row, data))
        self._size += len(data)
        if len(self._next) >= BATCH or self._size >= BATCH_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, size, self._next, self._size = self._next, self._size, [], 0
        put = self.task.soon(size, self.task.put_all, batch)
        self._last |= dict.fromkeys((row.path for row, _ in batch), put)
        self._pending.append(put)
        if len(self._pending) > PENDING:
            self._settle()

    def _settle(self) -> None:
        put = self._pending.popleft()
        self.rows += put.result()
        for row in self.rows[-len(put.result()) :]:
            if self._last.get(row.path) is put:
                del self._last[row.path]

    def wait_for(self, path: str) -> None:
        """Until an earlier member of that name is put."""
        if self._next:
            self._hand_over()
        if path in self._last:
            wait([self._last[path]])

    def finish(self) -> list[Row]:
        """All rows, when all are put; raises what one of them met."""
        if self._next:
            self._hand_over()
        while self._pending:
            self._settle()
        return self.rows

    def wait(self) -> None:
        """Until nothing is under way any more."""
        wait(self._pending)


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
