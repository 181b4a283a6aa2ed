"""A complete dataset is made what its manifest says; with --deep, what its sources say too.

Only objects that are in the manifest are stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from archives.spans import Extent
from commands.extract import Session, Work, ready_destination, start_workers
from commands.verify import DIFFERENT, Found, against_sources, compare, described, of_manifest, reasons_of
from datasets import Dataset, sharing
from errors import ArchiveError, MemberError, redact
from gcs import open_bucket
from labels.noted import NotedRows
from labels.write import write_tables
from manifest.compare import last_wins
from manifest.journal import JournalEntry
from manifest.records import STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.choosing import open_dataset
from pipeline.cluster import Cluster
from pipeline.dataset_run import DatasetRun
from pipeline.existing import check_kind
from pipeline.hard_links import spans_with
from pipeline.options import RunOptions
from pipeline.planner import PlannedArchive
from pipeline.progress import Report
from pipeline.results import Result
from pipeline.unit import SpanWork, Unit
from report.card import write as card
from storage.bucket import METADATA_PREFIX, Bucket
from storage.names import parents

log = logging.getLogger("spotted")


def open_run(options: RunOptions, session: Session) -> Work:
    """Make ready what a repair needs: the destination, to be written, and the workers."""
    destination = session.stack.enter_context(ready_destination(options))
    options, cluster = start_workers(options, destination, session)
    bucket = open_bucket(destination)

    def work(dataset: Dataset) -> Result:
        with ManifestStore(bucket, dataset.name).lease():
            return repair(dataset, options, bucket, cluster, session.report)

    return work


def repair(dataset: Dataset, options: RunOptions, bucket: Bucket, cluster: Cluster, report: Report) -> Result:
    """Store again what is missing or different, reading only the spans that hold it; then compare once more.

    The manifest decides: a member whose source has other bytes now is not stored. With --deep the sources are read and
    compared too; where one reads twice alike, but not as the manifest says, the first reading was wrong: the member is
    stored again, and the manifest is corrected.
    """
    start = time.monotonic()
    found = compare(dataset, bucket, options.known, options.deep)
    if isinstance(found, Result):
        return found
    check_kind(dataset, options, bucket, found.metadata)
    options = of_manifest(options, found)
    if options.remove_extra and found.extra:
        _remove_extra(found, options, bucket)
    if found.wrong:
        log.info("%s: storing %d objects again", dataset.name, len(found.wrong))
        lost = [row for row in found.wrong if row.path.startswith(dataset.folder) and not row.is_folder]
        if lost:
            _put_right(found, lost, open_dataset(dataset, options, cluster, report))
        for row in sorted(row for row in found.wrong if row.is_folder):
            _put_folder(found, row, bucket)
    rest = _correct(found, bucket, lambda: open_dataset(dataset, options, cluster, report)) if options.deep else []
    again = compare(dataset, bucket, options.known, options.deep)
    if isinstance(again, Found) and _lacks_table(again, bucket):
        log.info("%s: making the table of images from what is stored", dataset.name)
        _rewrite(again, {}, ManifestStore(bucket, dataset.name))
        again = compare(dataset, bucket, options.known, options.deep)
    if isinstance(again, Result):
        return again
    again.wrong += rest
    return again.result(start)


def _lacks_table(found: Found, bucket: Bucket) -> bool:
    """Whether nothing is wrong but the table of images: it is lost, or an older version completed the dataset."""
    is_old = "tables" not in found.metadata and not bucket.keeps  # of a manifest that cannot be replaced it is no part
    is_lost = bool(found.wrong) and all(row.path.startswith(METADATA_PREFIX) for row in found.wrong)
    return found.dataset.layout is not None and (is_lost or (is_old and not found.wrong))


def _remove_extra(found: Found, options: RunOptions, bucket: Bucket) -> None:
    """Remove what is none of the dataset, and the folders that it was alone in."""
    names = [row.path for row in found.extra]
    log.info("%s: removing %d objects that are none of the dataset", found.dataset.name, len(names))
    bucket.delete(names)
    if not sharing(found.dataset, options.known):  # which have folders too
        bucket.delete(sorted(parents(names) - found.rows.folders, reverse=True))


def _put_folder(found: Found, row: Row, bucket: Bucket) -> None:
    try:
        bucket.put(row.path, b"")
    except MemberError as error:
        log.warning("%s: %s cannot be repaired: %s", found.dataset.name, row.path, error)


# ── what the manifest says ───────────────────────────────────────────────────────────────────────


def _put_right(found: Found, wanted: Sequence[Row], reading: DatasetRun) -> list[Row]:
    """Store these members again where their sources have them as these rows say; the rows of which that came true."""
    lost, causes = {row.path: row for row in wanted}, dict[str, str]()
    # Archive by archive: of some, the addresses differ in the query alone, which a manifest does not show.
    for units_with in (
        *(partial(_archive_units, found, each) for each in reading.planned),
        partial(_photo_units, reading),
    ):
        units = list(units_with(lost))
        if not units:
            continue
        reading.expect(units, lost)
        _run(reading, units)
        now = {each.row.path: each.row for each in last_wins(reading.runs()) if each.row.path in lost}
        lost = {path: row for path, row in lost.items() if _content(now.get(path)) != _content(row)}
        reasons = reasons_of(reading)
        for path in lost:
            why = f"the source has {described(now[path])}" if path in now else reasons(path)
            causes[path] = why
    for path, row in lost.items():
        reason = causes.get(path, "the source does not have it")
        log.warning("%s: %s cannot be repaired: expected %s; %s", found.dataset.name, path, described(row), reason)
    return [row for row in wanted if row.path not in lost]


def _content(row: Row | None) -> tuple[int, int] | None:
    return (row.size, row.crc32c) if row else None


def _run(reading: DatasetRun, units: Sequence[Unit]) -> None:
    try:
        reading.run_units(units, {})
    except ArchiveError as error:  # its place is in another archive of the same address
        log.info("%s: %s", reading.dataset.name, error)
        reading.entries |= {unit.id: JournalEntry(unit.id, unit.fingerprint, error=str(error)) for unit in units}


def _photo_units(reading: DatasetRun, lost: Mapping[str, Row]) -> Iterator[Unit]:
    for unit in reading.photo_units:
        work = unit.work
        if work.span is None:
            named = (photo for photo in work.photos if {work.image_of(photo), work.annotation_of(photo)} & lost.keys())
            if photos := tuple(named):
                yield replace(unit, work=replace(work, photos=photos), objects=2 * len(photos))


def _archive_units(found: Found, each: PlannedArchive, lost: Mapping[str, Row]) -> Iterator[Unit]:
    urls = {source["url"] for source in found.metadata["sources"] if source["file"] == each.archive.file}
    rows = sorted((row for row in lost.values() if redact(row.source) in urls), key=lambda row: row.offset)
    for number, work in enumerate(_works_with(each, rows)):
        name, size = f"{each.archive.file}/lost-{number:06d}", work.span.stop - work.span.start
        yield Unit(name, each.units[0].dataset, each.units[0].fingerprint, work, size)


def _works_with(each: PlannedArchive, lost: Iterable[Row]) -> Iterator[SpanWork]:
    """The work that reads the lost members: extents as the manifest has them, or spans with no more than needed."""
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
    """Read the sources, and correct members and manifest where these were read wrong; what differs after that."""
    reading = new_reading()
    differing = list(against_sources(found, reading))
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
    """Addresses of what is the same version as when it was extracted, and has no checksum that it fails; photos have
    no version."""
    then = {source["file"]: (source["size"], source["version"]) for source in found.metadata["sources"]}
    failed = {each.archive.file for each, _ in reading.wrong}
    same = {
        each.source.name for each in reading.planned
        if then.get(each.archive.file) == (each.source.size, each.source.version) and each.archive.file not in failed
    }  # fmt: skip
    return same | {photo.url for unit in reading.photo_units for photo in unit.work.photos}


def _rewrite(found: Found, right: Mapping[str, Row], store: ManifestStore) -> None:
    """The manifest and the table of images, with these rows in the place of those of their names."""
    now = (right.get(row.path, row) for row in found.rows)
    rows = Rows.of_sorted(row._replace(outcome=STORED, reason="", note="") for row in now)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    failures = store.failures()
    noted = NotedRows.of(found.dataset.layout, rows) if found.dataset.layout else None
    # Before the manifest goes: of 20,000 objects that are read back it takes a minute.
    tables = write_tables(found.dataset, store, noted, found.metadata["sample"], found.filter)
    store.mark_incomplete(keeps_tables=True)
    metadata = {**found.metadata, "bytes": rows.size, "finished": finished, **tables}
    with card.drawn(found.dataset, store, rows, metadata, failures):
        store.commit(rows, failures, metadata)
