"""Stores again what a complete dataset lacks; only objects that its manifest names are stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from archives.spans import Extent
from commands.extract import Session, Work, open_to_write
from commands.verify import Found, compare
from datasets import Dataset, sharing
from errors import ArchiveError, MemberError, redact
from manifest.compare import last_wins, matches
from manifest.journal import JournalEntry
from manifest.labels.noted import NotedRows
from manifest.labels.write import write_tables
from manifest.records import STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.choosing import open_dataset
from pipeline.dataset_run import DatasetRun
from pipeline.differences import DIFFERENT, against_sources, described, reasons_of
from pipeline.existing import check_kind
from pipeline.hard_links import spans_with
from pipeline.job import Job
from pipeline.options import RunOptions
from pipeline.planner import PlannedArchive
from pipeline.results import Result
from pipeline.unit import SpanWork, Unit
from report.card import write as card
from storage.bucket import METADATA_PREFIX, Bucket
from storage.names import parents

log = logging.getLogger("spotted")


def open_run(options: RunOptions, session: Session) -> Work:
    """Open the destination and the workers for a repair."""
    job = open_to_write(options, session)

    def work(dataset: Dataset) -> Result:
        with ManifestStore(job.bucket, dataset.name).lease():
            return repair(dataset, job)

    return work


def repair(dataset: Dataset, job: Job) -> Result:
    """Store again what is missing or different, reading only the spans that hold it; then compare once more.

    The manifest decides: a member whose source has other bytes now is not stored. With --deep the sources are read and
    compared too. If a source gives the same bytes twice, but not those of the manifest, the first reading was wrong:
    the member is stored again, and the manifest is corrected.
    """
    options, bucket = job.options, job.bucket
    found = compare(dataset, bucket, options.known, options.deep)
    if isinstance(found, Result):
        return found
    check_kind(dataset, options, bucket, found.metadata)

    def new_reading() -> DatasetRun:
        return open_dataset(dataset, job.with_filter(found.filter))

    if options.remove_extra and found.extra:
        _remove_extra(found, options, bucket)
    if found.wrong:
        log.info("%s: storing %d objects again", dataset.name, len(found.wrong))
        lost = [row for row in found.wrong if row.path.startswith(dataset.folder) and not row.is_folder]
        if lost:
            _put_right(found, lost, new_reading())
        for row in sorted(row for row in found.wrong if row.is_folder):
            _put_folder(found, row, bucket)
    rest = _correct(found, bucket, new_reading) if options.deep else []
    again = compare(dataset, bucket, options.known, options.deep)
    if isinstance(again, Found) and _lacks_table(again, bucket):
        log.info("%s: making the table of images from what is stored", dataset.name)
        _rewrite(again, {}, ManifestStore(bucket, dataset.name))
        again = compare(dataset, bucket, options.known, options.deep)
    if isinstance(again, Result):
        return again
    again.wrong += rest
    return again.result()


def _lacks_table(found: Found, bucket: Bucket) -> bool:
    """Return whether only the table of images is wrong: it is lost, or an older version completed the dataset."""
    is_old = "tables" not in found.metadata and not bucket.keeps  # else the manifest could not be replaced
    is_lost = bool(found.wrong) and all(row.path.startswith(METADATA_PREFIX) for row in found.wrong)
    return found.dataset.layout is not None and (is_lost or (is_old and not found.wrong))


def _remove_extra(found: Found, options: RunOptions, bucket: Bucket) -> None:
    """Remove the objects that do not belong to the dataset, and the folders that this leaves empty."""
    names = [row.path for row in found.extra]
    log.info("%s: removing %d objects that are none of the dataset", found.dataset.name, len(names))
    bucket.delete(names)
    if not sharing(found.dataset, options.known):  # another dataset may need the folders
        bucket.delete(sorted(parents(names) - found.rows.folders, reverse=True))


def _put_folder(found: Found, row: Row, bucket: Bucket) -> None:
    try:
        bucket.put(row.path, b"")
    except MemberError as error:
        log.warning("%s: %s cannot be repaired: %s", found.dataset.name, row.path, error)


# ── what the manifest says ───────────────────────────────────────────────────────────────────────


def _put_right(found: Found, wanted: Sequence[Row], reading: DatasetRun) -> list[Row]:
    """Store the members of these rows again if the sources still have their bytes; return the rows that were stored."""
    lost, causes = {row.path: row for row in wanted}, dict[str, str]()
    # Archive by archive: the addresses of some differ in the query only, which a manifest does not show.
    for archive in (*reading.planned, None):
        units = list(_archive_units(found, archive, lost) if archive else _photo_units(reading, lost))
        if not units:
            continue
        reading.expect(units, lost)
        _run(reading, units)
        now = {each.row.path: each.row for each in last_wins(reading.runs()) if each.row.path in lost}
        lost = {path: row for path, row in lost.items() if not matches(row, now.get(path))}
        reasons = reasons_of(reading)
        for path in lost:
            why = f"the source has {described(now[path])}" if path in now else reasons(path)
            causes[path] = why
    for path, row in lost.items():
        reason = causes.get(path, "the source does not have it")
        log.warning("%s: %s cannot be repaired: expected %s; %s", found.dataset.name, path, described(row), reason)
    return [row for row in wanted if row.path not in lost]


def _run(reading: DatasetRun, units: Sequence[Unit]) -> None:
    try:
        reading.run_units(units, {})
    except ArchiveError as error:  # the member is in another archive of the same address
        log.info("%s: %s", reading.dataset.name, error)
        reading.entries |= {unit.id: JournalEntry(unit.id, unit.fingerprint, error=str(error)) for unit in units}


def _photo_units(reading: DatasetRun, lost: Mapping[str, Row]) -> Iterator[Unit]:
    for unit in reading.photo_units:
        work = unit.work
        if work.span is None:
            photos = tuple(photo for photo in work.photos if lost.keys() & work.names_of(photo))
            if photos:
                yield replace(unit, work=replace(work, photos=photos), objects=2 * len(photos))


def _archive_units(found: Found, each: PlannedArchive, lost: Mapping[str, Row]) -> Iterator[Unit]:
    urls = {source["url"] for source in found.metadata["sources"] if source["file"] == each.archive.file}
    rows = sorted((row for row in lost.values() if redact(row.source) in urls), key=lambda row: row.offset)
    for number, work in enumerate(_works_with(each, rows)):
        name, size = f"{each.archive.file}/lost-{number:06d}", work.span.stop - work.span.start
        yield Unit(name, each.units[0].dataset, each.units[0].fingerprint, work, size)


def _works_with(each: PlannedArchive, lost: Iterable[Row]) -> Iterator[SpanWork]:
    """Yield the work that reads the lost members: their extents in the manifest, or the spans that have them."""
    if each.kind.reads_extents:
        extents = [Extent(row.path, row.offset, row.size) for row in lost]
        if each.kind.is_seekable:
            extents = [extent for extent in extents if extent.offset + extent.size <= each.source.size]
        yield from (SpanWork(each.source, span, "") for span in spans_with(extents, each.works[0].span))
        return
    offsets = {row.offset for row in lost}
    for work in each.works:
        if span := each.kind.narrowed(work.span, offsets):
            yield replace(work, span=span)


# ── what the sources say ─────────────────────────────────────────────────────────────────────────


def _correct(found: Found, bucket: Bucket, new_reading: Callable[[], DatasetRun]) -> list[Row]:
    """Correct members and manifest where the sources were read wrong; return the rows that still differ."""
    reading = new_reading()
    differing = list(against_sources(found.rows, reading))
    expected = {row.path: row for row in differing if row.outcome == DIFFERENT and row.path not in reading.checks}
    now = (each.row for each in last_wins(reading.runs()) if each.row.path in expected)
    unchanged = _unchanged(found, reading)
    wanted = [row for row in now if row.source in unchanged]
    right = _put_right(found, wanted, new_reading()) if wanted else []
    if right:
        log.warning("%s: %d objects were read wrong, and are stored again as the source has them", found.dataset.name,
                    len(right))  # fmt: skip
        _rewrite(found, {row.path: row for row in right}, ManifestStore(bucket, found.dataset.name))
    corrected = {row.path for row in right}
    return [row for row in differing if row.path not in corrected]


def _unchanged(found: Found, reading: DatasetRun) -> set[str]:
    """Return the addresses of the archives that have the version of the extraction and the right checksum, and of all
    photos, which have no version."""
    then = {source["file"]: (source["size"], source["version"]) for source in found.metadata["sources"]}
    failed = {each.archive.file for each, _ in reading.wrong}
    same = {
        each.source.name for each in reading.planned
        if then.get(each.archive.file) == (each.source.size, each.source.version) and each.archive.file not in failed
    }  # fmt: skip
    return same | {photo.url for unit in reading.photo_units for photo in unit.work.photos}


def _rewrite(found: Found, right: Mapping[str, Row], store: ManifestStore) -> None:
    """Write the manifest and the table of images with `right` in place of the rows of the same paths."""
    now = (right.get(row.path, row) for row in found.rows)
    rows = Rows.of_sorted(row._replace(outcome=STORED, reason="", note="") for row in now)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    failures = store.failures()
    noted = NotedRows.of(found.dataset.layout, rows) if found.dataset.layout else None
    # Before the manifest is removed, for this reads objects back: 20,000 of them take a minute.
    tables = write_tables(found.dataset, store, noted, found.metadata["sample"], found.filter)
    store.mark_incomplete(keeps_tables=True)
    metadata = {**found.metadata, "bytes": rows.size, "finished": finished, **tables}
    with card.drawn(found.dataset, store, noted, metadata, failures):
        store.commit(rows, failures, metadata)
