"""A complete dataset is compared with its manifest, by the bucket's listing or its sources, and repaired.

Only `repair` writes, and only objects that are in the manifest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from archives.spans import Extent
from commands.extract import Session, Work, ready_destination, start_workers
from datasets import DATASETS, Dataset
from errors import DamagedError, MemberError
from gcs import Destination, open_bucket
from manifest.compare import last_wins, marks, matches, outer_join
from manifest.records import ABSENT, Row, Rows
from manifest.store import ManifestStore
from pipeline.chains import join_chains
from pipeline.cluster import Cluster
from pipeline.dataset_run import DatasetRun
from pipeline.existing import check_kind
from pipeline.hard_links import spans_with
from pipeline.options import RunOptions
from pipeline.planner import PlannedArchive
from pipeline.progress import Report
from pipeline.results import Result
from pipeline.unit import PhotoWork, SpanWork, Unit
from storage.bucket import Bucket, Stored, encode_crc32c, map_bounded
from storage.directory import FolderBucket

log = logging.getLogger("spotted")

MISSING, DIFFERENT, EXTRA, UNREAD = "missing", "different", "extra", "unread"
READS_AT_ONCE = 4  # of a directory's files, for their checksums


@dataclass
class Found:
    """What a dataset should be, and what was found to be otherwise."""

    dataset: Dataset
    rows: Rows  # of the manifest
    about: Mapping[str, Any]
    wrong: list[Row] = field(default_factory=list)  # missing, different or unread
    extra: list[Row] = field(default_factory=list)

    def result(self, start: float) -> Result:
        """The result, which is logged in one line."""
        kinds = [row.outcome for row in (*self.wrong, *self.extra)]
        counted = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in (MISSING, DIFFERENT, UNREAD, EXTRA))
        log.info("%s: %d objects compared with the manifest: %s", self.dataset.name, len(self.rows), counted)
        return Result(
            self.dataset,
            len(self.rows),
            self.rows.size,
            missing=self.wrong,
            extra=self.extra,
            is_verification=True,
            gone=self.about["gone"],
            seconds=time.monotonic() - start,
        )


def open_run(options: RunOptions, session: Session) -> Work:
    """Make ready what a verification or a repair needs: with neither sources nor writing, the bucket alone."""
    destination = Destination(options.to)
    if options.command == "verify" and not options.deep:
        return lambda dataset: verify(dataset, open_bucket(destination))
    if options.command == "repair":
        destination = session.stack.enter_context(ready_destination(options))
    options, cluster = start_workers(options, destination, session)
    bucket, work = open_bucket(destination), repair if options.command == "repair" else verify_deep
    return lambda dataset: work(dataset, options, bucket, cluster, session.report)


# ── by listing ───────────────────────────────────────────────────────────────────────────────────


def verify(dataset: Dataset, bucket: Bucket) -> Result:
    """Compare a dataset's manifest with the bucket's listing, and with nothing else."""
    start = time.monotonic()
    found = _compare(dataset, bucket)
    return found if isinstance(found, Result) else found.result(start)


def _compare(dataset: Dataset, bucket: Bucket, is_deep: bool = False) -> Found | Result:
    """The comparison with the listing, or the result where there is nothing to compare with."""
    book = ManifestStore(bucket, dataset.name)
    try:
        known = book.manifest()
    except DamagedError as error:
        return _no_manifest(dataset, f"{error}; extract it again: objects that are right are kept")
    if known is None:
        return _no_manifest(
            dataset, f"{bucket.url} has no manifest of this dataset, so it is not complete: extract it first"
        )
    found = Found(dataset, *known)
    folders, unnamed = set(found.rows.folders), list[Stored]()
    listing = bucket.list(dataset.folder, marks([found.rows]))
    for each, stored in outer_join(last_wins([found.rows]), _with_checksums(bucket, listing) if is_deep else listing):
        if each and not matches(each.row, stored):
            found.wrong.append(difference(each.row, stored))
        elif stored and stored.name.endswith("/") and not stored.size:
            folders.discard(stored.name)
        elif stored and not each:
            unnamed.append(stored)
    found.wrong += map(_lost_table, book.lost_tables(found.about))
    if folders and not bucket.has_folders:
        found.wrong += [_lost_folder(name) for name in sorted(folders)]
    found.extra = [_extra(stored, bucket) for stored in _not_by_others(found.dataset, bucket, unnamed)]
    return found


def _no_manifest(dataset: Dataset, why: str) -> Result:
    row = Row(f"_extraction/{dataset.name}/manifest.csv", 0, 0, "", 0, MISSING, why)
    return Result(dataset, missing=[row], is_verification=True)


def difference(row: Row, stored: Stored | None) -> Row:
    """The row of a manifest, with how the listing differs."""
    if stored is None:
        return row._replace(outcome=MISSING, reason="it is not in the bucket")
    return row._replace(outcome=DIFFERENT, reason=f"expected {_looks(row)}; the bucket lists {_looks(stored)}")


def _lost_folder(name: str) -> Row:
    why = "the folder has no placeholder object: a GCSFuse mount without --implicit-dirs does not show it"
    return Row(name, 0, 0, "", 0, MISSING, why)


def _lost_table(row: Row) -> Row:
    why = "the table of images is missing or changed: extract the dataset again, objects that are right are kept"
    return row._replace(outcome=MISSING, reason=why)


def _looks(it: Row | Stored) -> str:
    return f"{it.size:,} bytes" + ("" if it.crc32c is None else f", crc32c {encode_crc32c(it.crc32c)}")


def _not_by_others(dataset: Dataset, bucket: Bucket, unnamed: list[Stored]) -> Iterator[Stored]:
    """Those that no other dataset with the same folder has either."""
    others = set(_named_by_others(dataset, bucket)) if unnamed else set()
    return (each for each in unnamed if each.name not in others)


def _named_by_others(dataset: Dataset, bucket: Bucket) -> Iterator[str]:
    for other in DATASETS.values():
        if other.folder == dataset.folder and other.name != dataset.name:
            book = ManifestStore(bucket, other.name)
            complete = book.manifest()
            runs = [complete[0]] if complete else [entry.rows for entry in book.journal().values()]
            yield from (row.path for rows in runs for row in rows)


def _extra(stored: Stored, bucket: Bucket) -> Row:
    why = f"it is not in the manifest; if it is not needed, remove {bucket.url}/{stored.name}"
    return Row(stored.name, stored.size, stored.crc32c or 0, "", 0, EXTRA, why)


def _with_checksums(bucket: Bucket, listing: Iterable[Stored]) -> Iterator[Stored]:
    """The listing with the checksums that a directory's has not, from the files' own bytes."""
    if not isinstance(bucket, FolderBucket):
        yield from listing
        return
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        yield from map_bounded(pool, bucket.with_checksum, listing, 2 * READS_AT_ONCE)


# ── with the sources ─────────────────────────────────────────────────────────────────────────────


def verify_deep(dataset: Dataset, options: RunOptions, bucket: Bucket, cluster: Cluster, report: Report) -> Result:
    """Compare with the listing, read the sources again, and compare every member's bytes with the manifest.

    A directory's files are read too. Nothing is stored. Raises ExtractionError when a source cannot be read.
    """
    start = time.monotonic()
    found = _compare(dataset, bucket, is_deep=True)
    if isinstance(found, Result):
        return found
    check_kind(dataset, options, bucket, found.about)
    found.wrong += _against_sources(found, DatasetRun(dataset, options, cluster, report))
    return found.result(start)


def _against_sources(found: Found, reading: DatasetRun) -> Iterator[Row]:
    reading.wanted = {}
    units = list(reading.units.values())
    reading.watch_checksums(units)
    reading.run_units(units, {})
    join_chains(reading, {})
    for each, got in reading.wrong_checksums():
        why = f"expected sha256 {each.sha256}, the source has {got}"
        yield Row(each.archive.file, each.source.size, 0, each.source.name, 0, DIFFERENT, why)
    yield from _differences(found, reading)


def _differences(found: Found, reading: DatasetRun) -> Iterator[Row]:
    now = (each.row for each in last_wins(reading.runs()) if not each.row.is_folder)
    gone = {row.path for rows in reading.runs() if rows.absent for row in rows if row.outcome in ABSENT}
    reasons = _reasons(reading)
    for each, read in outer_join(last_wins([found.rows]), (Stored(*row[:3]) for row in now)):
        if each is None and read:
            why = "the source has it, but the manifest does not"
            yield Row(read.name, read.size, read.crc32c or 0, "", 0, MISSING, why)
        elif each and not read and each.row.path not in gone:
            yield each.row._replace(outcome=UNREAD, reason=reasons(each.row.path))
        elif each and read and not matches(each.row, read):
            why = f"expected {_looks(each.row)}; the source has {_looks(read)}"
            yield each.row._replace(outcome=DIFFERENT, reason=why)
    if gone:
        log.info("%s: the source no longer has %d photos, which could not be compared", found.dataset.name, len(gone))


def _reasons(reading: DatasetRun) -> Callable[[str], str]:
    """Why a path could not be read, for any that could not."""
    failed = {row.path: row.reason for rows in reading.runs() if rows.bad or rows.absent for row in rows if row.reason}
    error = next((entry.error for entry in reading.entries.values() if entry.error), "the source does not have it")
    return lambda path: failed.get(path, error)


# ── putting right ────────────────────────────────────────────────────────────────────────────────


def repair(dataset: Dataset, options: RunOptions, bucket: Bucket, cluster: Cluster, report: Report) -> Result:
    """Store again what is missing or different, reading only the spans that hold it; then compare once more.

    The manifest decides: a member whose source has other bytes now is not stored.
    """
    start = time.monotonic()
    found = _compare(dataset, bucket, options.deep)
    if isinstance(found, Result):
        return found
    check_kind(dataset, options, bucket, found.about)
    if found.wrong:
        log.info("%s: storing %d objects again", dataset.name, len(found.wrong))
        lost = [row for row in found.wrong if row.path.startswith(dataset.folder) and not row.is_folder]
        if lost:
            _put_right(found, lost, DatasetRun(dataset, options, cluster, report))
        for row in sorted(row for row in found.wrong if row.is_folder):
            _put_folder(found, row, bucket)
    again = _compare(dataset, bucket, options.deep)
    return again if isinstance(again, Result) else again.result(start)


def _put_folder(found: Found, row: Row, bucket: Bucket) -> None:
    try:
        bucket.put(row.path, b"")
    except MemberError as error:
        log.warning("%s: %s cannot be repaired: %s", found.dataset.name, row.path, error)


def _put_right(found: Found, lost: list[Row], reading: DatasetRun) -> None:
    reading.wanted = {row.path: row for row in lost}
    reading.expect(_units_that_hold(found, reading))
    reading.run_units(list(reading.units.values()), {})
    won = {each.row.path: each.row for each in last_wins(reading.runs()) if each.row.path in reading.wanted}
    reasons = _reasons(reading)
    for row in lost:
        now = won.get(row.path)
        if now is None or now.crc32c != row.crc32c:
            why = f"the source has {_looks(now)}" if now else reasons(row.path)
            log.warning("%s: %s cannot be repaired: expected %s; %s", found.dataset.name, row.path, _looks(row), why)


def _units_that_hold(found: Found, reading: DatasetRun) -> Iterator[Unit]:
    files = {source["url"]: source["file"] for source in found.about["sources"]}
    for each in reading.planned:
        rows = sorted(
            (row for row in found.rows if files.get(row.source) == each.archive.file), key=lambda row: row.offset
        )
        yield from _archive_units(each, rows, reading.wanted or {})
    for unit in reading.photo_units:
        if isinstance(unit.work, PhotoWork) and (work := _lost_photos(unit.work, reading.wanted or {})).photos:
            yield replace(unit, work=work, objects=2 * len(work.photos))


def _lost_photos(work: PhotoWork, wanted: Mapping[str, Row]) -> PhotoWork:
    photos = tuple(
        photo for photo in work.photos
        if f"{work.image_prefix}{photo.name}.png" in wanted or f"{work.annotation_prefix}{photo.name}.json" in wanted
    )  # fmt: skip
    return replace(work, photos=photos)


def _archive_units(each: PlannedArchive, rows: Iterable[Row], wanted: Mapping[str, Row]) -> Iterator[Unit]:
    lost = [row for row in rows if row.path in wanted]
    for work in _works_with(each, lost):
        name = f"{each.archive.file}/{work.span.start:015d}-{work.span.stop:015d}"
        yield Unit(name, each.units[0].dataset, each.units[0].fingerprint, work, work.span.stop - work.span.start)


def _works_with(each: PlannedArchive, lost: Sequence[Row]) -> Iterator[SpanWork]:
    """The work that reads the lost members: entries of a zip, extents of a tar as the manifest has them."""
    if each.kind == "zip":
        offsets = {row.offset for row in lost}
        for work in each.works:
            if entries := tuple(entry for entry in work.span.entries if entry.offset in offsets):
                yield replace(work, span=replace(work.span, entries=entries))
        return
    extents = (Extent(row.path, row.offset, row.size) for row in lost)
    yield from (SpanWork(each.source, span, "") for span in spans_with(extents, each.works[0].span))
