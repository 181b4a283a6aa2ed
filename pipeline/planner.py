"""Plan a dataset: open its sources, check them against what is published, and cut them into units."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from urllib.parse import unquote, urlsplit

from archives import kinds
from archives.archive_kind import ArchiveKind
from archives.spans import Limits
from datasets import Archive, Dataset
from errors import GoneError, SourceError
from manifest.selection import ALL, EVERYTHING, Filter, Selection
from pipeline.unit import PhotoWork, SpanWork, Unit
from sources.checksum_list import ChecksumList
from sources.http import HttpClient
from sources.http_status import FORBIDDEN_STATUSES
from sources.local_files import is_http, local_path
from sources.photo_tables import Photo, join
from sources.retry import MAX_FIRST_ATTEMPTS
from sources.source import Source, open_source, probe
from storage.names import object_name

log = logging.getLogger("spotted")

PHOTOS_PER_UNIT = 200


@dataclass(frozen=True)
class PlannedArchive:
    """An open archive, cut into units."""

    archive: Archive
    source: Source
    works: tuple[SpanWork, ...]
    units: tuple[Unit, ...]  # one for each of `works`
    sha256: str  # expected; "" if none is published
    selection: Selection = ALL
    is_whole: bool = True  # whether the units cover all of its bytes

    @property
    def kind(self) -> ArchiveKind:
        return self.works[0].span.kind

    @property
    def objects(self) -> int | None:
        """Number of files: by its directory, or as published for an archive of this size; None if unknown."""
        known = [unit.objects for unit in self.units]
        if None not in known:
            return sum(filter(None, known))
        is_published = self.source.size == self.archive.size and not self.selection.filter
        return self.archive.objects if is_published else None

    @property
    def names(self) -> list[str] | None:
        """The object names of its members, if it has a directory."""
        if None in (unit.objects for unit in self.units):
            return None
        members = (entry.name for work in self.works for entry in work.span.entries)
        return [object_name(self.archive.prefix, name)[0] for name in members]


@dataclass(frozen=True)
class ArchiveLocation:
    """URLs of an archive, and its expected size and SHA-256, where known."""

    archive: Archive
    urls: tuple[str, ...]
    size: int | None
    sha256: str
    lacking: str = ""  # URL of the list of checksums in which it is missing


def locate(dataset: Dataset, mirror: str, client: HttpClient) -> list[ArchiveLocation]:
    """The archives of a dataset, at their sources or on a mirror; a mirror's checksums replace the published ones."""
    sums = _checksums(mirror, client) if mirror and dataset.archives else None
    wanted = (archive for archive in dataset.archives if _is_wanted(dataset, archive, mirror, client))
    return [_located(archive, mirror, sums) for archive in wanted]


def _is_wanted(dataset: Dataset, archive: Archive, mirror: str, client: HttpClient) -> bool:
    """Whether to extract an archive: always, except an optional one that the source does not have."""
    try:
        for url in _urls(archive, mirror) if archive.is_optional else ():
            probe(url, client)
    except GoneError as error:
        log.warning("%s: going on without %s: %s", dataset.name, archive.file, error)
        return False
    return True


def _urls(archive: Archive, mirror: str) -> tuple[str, ...]:
    return tuple(_mirrored(mirror, file) for file in archive.files) if mirror else archive.urls


def _located(archive: Archive, mirror: str, sums: ChecksumList | None) -> ArchiveLocation:
    urls = _urls(archive, mirror)
    if sums is None:
        return ArchiveLocation(archive, urls, archive.size, archive.sha256)
    sha256 = sums.of(archive.file)
    return ArchiveLocation(archive, urls, None, sha256, "" if sha256 else sums.where)


def plan(
    dataset: Dataset, mirror: str, limits: Limits, client: HttpClient, filter_: Filter = EVERYTHING
) -> tuple[list[PlannedArchive], list[Unit]]:
    """Open every source of a dataset and cut it into units; the second list has the batches of photos.

    Small archives come first: their many small objects are stored while a large archive is still being read.
    """
    planned = [plan_archive(dataset, each, limits, client) for each in locate(dataset, mirror, client)]
    planned.sort(key=lambda each: each.source.size)
    return narrowed(dataset, planned, filter_), plan_photos(dataset, mirror, client, filter_)


def narrowed(dataset: Dataset, planned: list[PlannedArchive], filter_: Filter) -> list[PlannedArchive]:
    """Drop the spans that the filter does not need, as far as that is known before they are read."""
    if not filter_:
        return planned
    if filter_.lacks_names and dataset.layout:
        known = [each.names for each in planned]
        names = [name for each in known if each is not None for name in each]
        filter_ = filter_ if None in known else filter_.with_names(dataset.layout, names)
    return [_narrowed(dataset, each, Selection(filter_, dataset.layout)) for each in planned]


def _narrowed(dataset: Dataset, each: PlannedArchive, selection: Selection) -> PlannedArchive:
    def has(name: str) -> bool:
        return selection.has(object_name(each.archive.prefix, name)[0])

    spans = each.kind.only([work.span for work in each.works], has)
    works = tuple(SpanWork(each.source, span, each.archive.prefix, selection) for span in spans)
    units = tuple(_unit(dataset, each.archive, work) for work in works)
    is_whole = sum(unit.size for unit in units) == sum(unit.size for unit in each.units)
    return replace(each, works=works, units=units, selection=selection, is_whole=is_whole)


def plan_archive(dataset: Dataset, located: ArchiveLocation, limits: Limits, client: HttpClient) -> PlannedArchive:
    """Open one archive and cut it into units."""
    archive = located.archive
    source = open_source(located.urls, client, located.size, bool(located.sha256))
    works = tuple(SpanWork(source, span, archive.prefix) for span in kinds.plan(source, limits=limits))
    units = tuple(_unit(dataset, archive, work) for work in works)
    return PlannedArchive(archive, source, works, units, located.sha256 or _published(dataset, located, source.size))


def _published(dataset: Dataset, located: ArchiveLocation, size: int) -> str:
    """The published checksum of an archive of the published size; used where a mirror's list does not name it."""
    archive = located.archive
    if size == archive.size or not located.lacking:
        return archive.sha256
    log.warning(
        "%s: %s has no line for %s: it is stored without being compared", dataset.name, located.lacking, archive.file
    )
    return ""


def _unit(dataset: Dataset, archive: Archive, work: SpanWork) -> Unit:
    start, stop = work.span.start, work.span.stop
    fingerprint = f"{work.source.size} {work.source.version} {archive.prefix}{work.selection.filter.key}"
    objects = work.span.kind.objects(work.span)
    return Unit(f"{archive.file}/{start:015d}-{stop:015d}", dataset.name, fingerprint, work, stop - start, objects)


def tables_of(dataset: Dataset, mirror: str) -> tuple[str, ...]:
    """The URLs of a dataset's two tables of photos, if it has any."""
    tables = dataset.tables
    urls = (tables.dogs, tables.photos) if tables else ()
    return tuple(_mirrored(mirror, url.rpartition("/")[2]) if mirror else url for url in urls)


def plan_photos(dataset: Dataset, mirror: str, client: HttpClient, filter_: Filter = EVERYTHING) -> list[Unit]:
    """The photos of a dataset's tables, in batches; none if it has no tables."""
    tables = dataset.tables
    if tables is None:
        return []
    with ThreadPoolExecutor(2) as pool:
        urls, blobs = tables_of(dataset, mirror), ("", "") if mirror else tables.blobs
        dogs, photos = pool.map(lambda url, blob: _table(url, blob, tables.copy, client), urls, blobs)
    work = PhotoWork((), tables.image_prefix, tables.annotation_prefix, urls[1], filter_)
    found = _selected(join(dogs, photos), work)
    found = _mirrored_photos(mirror, found) if mirror else found
    batches = [tuple(found[at : at + PHOTOS_PER_UNIT]) for at in range(0, len(found), PHOTOS_PER_UNIT)]
    return [
        Unit(
            f"photos/{number:06d}",
            dataset.name,
            hashlib.sha256((repr(batch) + filter_.key).encode()).hexdigest(),
            replace(work, photos=batch),
            objects=sum(filter_.matches(name) for photo in batch for name in work.names_of(photo)),
        )
        for number, batch in enumerate(batches)
    ]


def _table(url: str, blob: str, copy: str, client: HttpClient) -> bytes:
    """Fetch a table and compare it with its Git object ID, if known; fetch its copy if that fails."""
    try:
        data = client.fetch(url, MAX_FIRST_ATTEMPTS)
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if found != (blob or found):
            raise SourceError(
                f"{url}: expected the table with the Git object ID {blob}, got {found}; docs/datasets.md says how to"
                " extract with tables of your own"
            )
    except SourceError as error:
        if not (copy and blob):  # with a mirror there is no ID
            raise
        log.warning("%s; taking the copy at %s", error, copy.format(blob))
        return _table(copy.format(blob), blob, "", client)
    return data


def _selected(photos: list[Photo], work: PhotoWork) -> list[Photo]:
    """The photos of which image or annotation is wanted; with a limit, the first of each dog by rank."""
    filter_ = work.filter
    if not filter_:
        return photos
    wanted = (photo for photo in photos if any(map(filter_.matches, work.names_of(photo))))
    dogs = groupby(wanted, lambda photo: photo.name.rpartition("_")[0])
    return [photo for _, some in dogs for photo in islice(some, filter_.limit)]


def _mirrored(mirror: str, path: str) -> str:
    return f"{mirror.rstrip('/')}/{path.lstrip('/')}"


def _mirrored_photos(mirror: str, photos: list[Photo]) -> list[Photo]:
    """The same photos on a mirror; a warning says if it has one file for several."""
    if not is_http(mirror):
        mirror = str(local_path(mirror))
    found = [photo if photo.refusal else photo._replace(url=_place(mirror, photo.url)) for photo in photos]
    places = {photo.url: there.url for photo, there in zip(photos, found, strict=True)}
    shared = len(places) - len(set(places.values()))
    if shared:
        log.warning("%s: has one file for %d photos whose addresses differ only in host or query", mirror, shared + 1)
    return found


def _place(mirror: str, url: str) -> str:
    """The place of a photo on a mirror; in a directory also by the unquoted name, and by the name with its query."""
    parts = urlsplit(url)
    if is_http(mirror) or ("%" not in parts.path and not parts.query):
        return _mirrored(mirror, parts.path)
    query = f"?{parts.query}" if parts.query else ""
    names = (f"{path}{end}" for end in dict.fromkeys((query, "")) for path in (parts.path, unquote(parts.path)))
    return next(filter(os.path.isfile, (_mirrored(mirror, name) for name in names)), _mirrored(mirror, parts.path))


def _checksums(mirror: str, client: HttpClient) -> ChecksumList | None:
    """The mirror's list of checksums, or None if it has none; then the published ones are used."""
    url = _mirrored(mirror, "SHA256SUMS")
    try:
        return ChecksumList(url, client.fetch(url, MAX_FIRST_ATTEMPTS))
    except GoneError:
        return None
    except SourceError as error:
        if error.status not in FORBIDDEN_STATUSES:
            raise
        log.warning("%s; going on without it, as if the mirror had no such list", error)
        return None
