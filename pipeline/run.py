"""A dataset becomes stored objects and a manifest: resume, store, compare with the listing, write."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from datasets import DATASETS, Dataset
from errors import ArchiveError, BucketError, DamagedError, ExtractionError, MemberError, redact
from labels.noted import NotedRows
from labels.write import write_tables
from manifest.compare import Resolved, last_wins, matches
from manifest.counters import ReasonCounter
from manifest.journal import JournalEntry, checksum_id
from manifest.records import ABSENT, FAILED, GONE, LINKED, NOT_AN_IMAGE, STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.cluster import Cluster
from pipeline.context import ByteSemaphore
from pipeline.dataset_run import DatasetRun
from pipeline.existing import ExistingState, compared, existing_state
from pipeline.options import RunOptions
from pipeline.planner import PlannedArchive
from pipeline.progress import Report
from pipeline.results import Result
from pipeline.resume import covered, rest_of
from pipeline.unit import PhotoWork, Unit, is_whole
from storage.bucket import Bucket, Stored
from storage.names import is_unfinished

log = logging.getLogger("spotted")

ABSENT_LIMIT = 0.05  # share of photos that the source may lack; 0.9 % of Austin's are gone or web pages: normal
FOLDERS_AT_ONCE, FOLDERS_WAITING = 64, 1000
REPAIRS = 2  # rounds of storing again what the listing lacks, before it is called missing


class CardWriter(Protocol):
    """Draws the card of a complete dataset; an error here never makes the dataset incomplete."""

    def keep(self, dataset: Dataset, book: ManifestStore, rows: Rows, about: Mapping[str, Any], /) -> None:
        """Write the card of a dataset that was complete before, and has none."""

    def drawn(
        self, dataset: Dataset, book: ManifestStore, rows: Rows, about: Mapping[str, Any], failures: list[Row], /
    ) -> AbstractContextManager[None]:
        """Draw the card while the block writes the manifest, and write it after that."""


class Hooks(NamedTuple):
    """The callables of a run: one receives its progress, the other draws its card."""

    report: Report
    card: CardWriter


def extract(dataset: Dataset, options: RunOptions, bucket: Bucket, cluster: Cluster, hooks: Hooks) -> Result:
    """Make a dataset complete in the bucket, or report what is missing.

    Objects that are there and match are not stored again; a dataset with a manifest is only compared with the
    bucket's listing. Raises ExtractionError when it cannot continue; the next run uses what is stored by then.
    """
    start = time.monotonic()
    log.info("%s: %s%s", dataset.name, dataset.title, " (here: the small sample)" if options.sample else "")
    book = ManifestStore(bucket, dataset.name)
    result = (
        _already_complete(dataset, options, book, hooks.card)
        or ExtractionRun(dataset, options, book, cluster, hooks).run()
    )
    result.seconds = time.monotonic() - start
    return result


def _already_complete(dataset: Dataset, options: RunOptions, book: ManifestStore, card: CardWriter) -> Result | None:
    found = None if options.force else readable_manifest(book)
    if found is None:
        return None
    rows, about = found
    check_kind(dataset, options, book.bucket, about)
    lost, unfinished = 0, list[str]()
    for each, stored in compared(book.bucket, dataset, [rows]):
        lost += each is not None and not matches(each.row, stored)
        unfinished += [stored.name] if stored and is_unfinished(stored.name) else []
    lost += len(book.lost_tables(about))
    if lost:
        log.warning(
            "%s: %d objects of the complete dataset are missing or changed; extracting them again", dataset.name, lost
        )
        return None
    if "tables" not in about and dataset.layout:
        log.info("%s: no metadata.csv: an older version completed it; --force makes the table", dataset.name)
    book.bucket.delete(unfinished)  # by a run that was killed while another completed the dataset
    left = book.tidy()  # the run that wrote the manifest may have been killed right after it
    if not book.card <= left:
        card.keep(dataset, book, rows, about)
    not_images = about.get("not_images", 0)  # older versions called these gone
    return Result(dataset, len(rows), rows.size, True, gone=about["gone"], not_images=not_images)


def readable_manifest(book: ManifestStore) -> tuple[Rows, Mapping[str, Any]] | None:
    """A dataset's manifest; a damaged one counts as none, with a warning."""
    try:
        return book.manifest()
    except DamagedError as error:
        log.warning("%s; ignoring it and checking every object again", error)
        return None


def check_kind(dataset: Dataset, options: RunOptions, bucket: Bucket, about: Mapping[str, object]) -> None:
    """Raise ExtractionError if the bucket holds the sample and the run is for the real dataset, or the reverse."""
    if about["sample"] != options.sample:
        what = ("the sample", "the real dataset")[options.sample]
        raise ExtractionError(f"{dataset.name}: {bucket.url} holds {what} of it; --force puts the other in its place")


class ListingDiff(NamedTuple):
    """The comparison with the bucket's listing."""

    rows: Rows  # that match the listing
    lost: list[Resolved]  # that do not
    misnamed: ReasonCounter
    strangers: ReasonCounter  # objects in the dataset's folder that do not belong to it
    noted: NotedRows | None  # what the table of images is made of

    def lost_rows(self) -> list[Row]:
        """The lost ones as failures."""
        why = "the bucket's listing lacks it, or has another size or checksum"
        return [each.row._replace(outcome=FAILED, reason=why) for each in self.lost]


class ExtractionRun(DatasetRun):
    """One dataset on its way into one bucket."""

    def __init__(
        self, dataset: Dataset, options: RunOptions, book: ManifestStore, cluster: Cluster, hooks: Hooks
    ) -> None:
        super().__init__(dataset, options, cluster, hooks.report)
        self.card = hooks.card
        self.book, self.bucket = book, book.bucket
        self.stock = ExistingState({})  # what earlier runs stored, and counts
        self.threads, self.waiting = ThreadPoolExecutor(FOLDERS_AT_ONCE), ByteSemaphore(FOLDERS_WAITING)
        self.folders, self.lost_folders = set[str](), list[Row]()  # whose placeholders are made while the units run
        self.outdated: set[str] = set()  # objects of a manifest that --force overrules, or of an older source

    def run(self) -> Result:
        """Resume, store, compare with sources and listing, write the manifest."""
        self._begin()
        todo = self._resume()
        self.watch_checksums(todo)
        try:
            self.store(todo, self.stock.loose)
            self.join_chains(self.stock.loose)
            self._compare_checksums()
            self._remove_what_is_not_ours()
            self._make_folders(self._folders())
            self._wait_for_folders()
            return self._finish(self._prove())
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        """Open the dataset for change; with --force nothing of an earlier run counts."""
        found = readable_manifest(self.book) if self.options.force else None
        self.book.reopen()
        if self.options.force:
            self.book.tidy()
            self.outdated = {row.path for row in found[0]} if found else set()

    def _resume(self) -> list[Unit]:
        """Take over what journal and listing confirm; the units that are still to do."""
        journal = self.book.journal()
        self._remember_outdated(journal.values())
        versions = {unit.id: unit.fingerprint for unit in self.units.values()}
        same = {unit: entry for unit, entry in journal.items() if versions.get(unit) == entry.fingerprint}
        stock = existing_state(self.bucket, self.dataset, same)
        self.bucket.delete(filter(is_unfinished, stock.loose))
        if self.options.force:
            return list(self.units.values())
        self.stock, parts = stock, {unit: entry for unit, entry in stock.kept.items() if not is_whole(entry)}
        self.entries = {unit: entry for unit, entry in stock.kept.items() if is_whole(entry)}
        for each in self.planned:
            self.entries |= covered(each.units, self.entries)
        self._tell_of_what_is_done(parts)
        self._take_checksums(journal)
        return list(self._to_do(parts))

    def _tell_of_what_is_done(self, parts: Mapping[str, JournalEntry]) -> None:
        if self.entries or parts:
            begun = f", and parts of {len(parts)}" if parts else ""
            log.info(
                "%s: continuing: %d of %d pieces%s are done already",
                self.dataset.name, len(self.entries), len(self.units), begun,
            )  # fmt: skip

    def _take_checksums(self, journal: Mapping[str, JournalEntry]) -> None:
        """Take over the checksums of archives that an earlier run compared and whose objects are all there."""
        for each in self.planned:
            file, known = each.archive.file, journal.get(checksum_id(each.archive.file))
            is_same = known and (known.fingerprint, known.sha256) == (each.units[0].fingerprint, each.sha256)
            if is_same and each.sha256 and all(unit.id in self.entries for unit in each.units):
                self.checks[file] = "matches"
                log.info("%s: %s: sha256 matches, as an earlier run found", self.dataset.name, file)

    def _to_do(self, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
        """The units that are not stored, and those whose bytes a checksum needs once more, in the archive's order."""
        for each in self.planned:
            begun = [unit for unit in each.units if unit.id in self.entries or unit.id in parts]
            if begun and self.compares(each) and self.cluster.is_local:
                yield from self._compared_units(each, parts)
            else:
                yield from (
                    rest_of(unit, parts[unit.id]) if unit.id in parts else unit
                    for unit in each.units if unit.id not in self.entries
                )  # fmt: skip
        yield from (unit for unit in self.photo_units if unit.id not in self.entries)

    def _compared_units(self, each: PlannedArchive, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
        stored = {**parts, **self.entries}
        size = sum(stored[unit.id].size for unit in each.units if unit.id in stored)
        log.info(
            "%s: %s: reading %d bytes again to compare its sha256 and what was stored (--no-checksum: not)",
            self.dataset.name, each.archive.file, size,
        )  # fmt: skip
        return self.again(each, each.units, stored)

    def _remember_outdated(self, journal: Iterable[JournalEntry]) -> None:
        """Record stale objects so that a later run deletes them."""
        known = {(unit.id, unit.fingerprint) for unit in self.units.values()}
        stale = (entry.rows for entry in journal if (entry.unit, entry.fingerprint) not in known)
        self.outdated |= {row.path for rows in stale for row in rows if row.outcome == STORED and not row.is_folder}
        if self.outdated:
            self.book.write(JournalEntry("outdated", "", Rows.of(Row(path, 0, 0, "", 0) for path in self.outdated)))

    # ── storing ──────────────────────────────────────────────────────────────────────────────────

    def forget(self, units: Iterable[str]) -> None:
        self.book.forget(units)

    def keep_checksum(self, each: PlannedArchive, sha256: str) -> None:
        self.book.write(JournalEntry(checksum_id(each.archive.file), each.units[0].fingerprint, sha256=sha256))

    def take(self, unit: Unit, entry: JournalEntry) -> None:
        super().take(unit, entry)
        self._make_folders(entry.rows.folders)

    def _make_folders(self, names: Iterable[str]) -> None:
        """Placeholders for these folders: GCSFuse without implicit dirs shows only those that have one."""
        if self.bucket.has_folders:
            return
        for name in sorted(set(names) - self.stock.folders - self.folders):
            self.folders.add(name)
            self.waiting.acquire(1)
            self.threads.submit(self._make_folder, name)

    def _remove_what_is_not_ours(self) -> None:
        doomed = (self.outdated | self.false_starts | self.folders) - self._folders()
        if doomed:
            self._wait_for_folders()
            self.lost_folders = [row for row in self.lost_folders if row.path not in doomed]
            doomed -= {each.row.path for each in last_wins(self.runs()) if each.row.path in doomed}
            self.bucket.delete(sorted(doomed, reverse=True))

    def _folders(self) -> set[str]:
        return set[str]().union(*(rows.folders for rows in self.runs()))

    def _make_folder(self, name: str) -> None:
        try:
            self.bucket.put(name, b"")
        # In a directory, a file and a folder of one name; or a bucket that cannot be written. Nothing waits for
        # this thread, so the folder is reported as missing.
        except (MemberError, BucketError) as error:
            self.lost_folders.append(Row(name, 0, 0, "", 0, FAILED, str(error)))
        finally:
            self.waiting.release(1)

    def _wait_for_folders(self) -> None:
        self.waiting.acquire(FOLDERS_WAITING)
        self.waiting.release(FOLDERS_WAITING)

    # ── proving ──────────────────────────────────────────────────────────────────────────────────

    def _compare_checksums(self) -> None:
        for each, got in self.wrong_checksums():
            raise ArchiveError(
                f"{each.source.name}: expected sha256 {each.sha256}, got {got}: not the published archive;"
                " nothing of it counts as extracted"
            )

    def _prove(self) -> ListingDiff:
        """Compare with the bucket's own listing, and store again what it lacks."""
        proof = self._compare(is_first=True)
        for _ in range(REPAIRS):
            if not proof.lost:
                break
            log.info("%s: storing %d objects again, which the listing lacks", self.dataset.name, len(proof.lost))
            units = list(self.units.values())
            wanted = {each.row.path: each.row for each in proof.lost}
            self.store([units[run] for run in sorted({each.run for each in proof.lost})], {}, wanted)
            proof = self._compare()
        return proof

    def _compare(self, is_first: bool = False) -> ListingDiff:
        lost, misnamed, strangers = list[Resolved](), ReasonCounter(), ReasonCounter()
        noted = NotedRows(self.dataset.layout) if self.dataset.layout else None

        def proved() -> Iterator[Row]:
            for each, stored in compared(self.bucket, self.dataset, self.runs()):
                if each is None:
                    if stored and not stored.name.endswith("/"):
                        strangers.take(Row(stored.name, 0, 0, "", 0, reason="none of the dataset"))
                elif each.row.is_folder and self.bucket.has_folders:
                    continue
                elif not matches(each.row, stored) or (is_first and stored and self._is_contested(each, stored)):
                    lost.append(each)
                elif not each.row.is_folder:
                    misnamed.take(each.row)
                    if noted:
                        noted.take(each.row)
                    yield each.row._replace(reason="", note="")

        return ListingDiff(Rows.of_sorted(proved()), lost, misnamed, strangers, noted)

    def _is_contested(self, each: Resolved, stored: Stored) -> bool:
        """Whether several units wrote this path, and the listing has no checksum that shows which was last."""
        is_shared = each.runs > 1 or each.row.path in self.false_starts
        return is_shared and stored.crc32c is None and not each.row.is_folder

    # ── writing down ─────────────────────────────────────────────────────────────────────────────

    def _finish(self, proof: ListingDiff) -> Result:
        rows = proof.rows
        self._tell_of_strangers(proof.strangers)
        self._tell_of_repeats(len(rows) + sum(not each.row.is_folder for each in proof.lost))
        failures = [*self._failures(), *self.lost_folders, *proof.lost_rows()]
        outcomes = Counter(row.outcome for row in failures)
        if sum(outcomes[each] for each in ABSENT) <= ABSENT_LIMIT * self._photos():
            counted = [row for row in failures if row.outcome not in ABSENT]
        else:
            counted = failures
            self.forget(unit for unit, entry in self.entries.items() if entry.rows.absent)  # the next run asks again
        result = Result(self.dataset, len(rows), rows.size, missing=counted)
        result.gone, result.not_images = outcomes[GONE], outcomes[NOT_AN_IMAGE]
        result.fetched, result.retries = self.tally.fetched, self.tally.retries
        if counted:
            self.book.write_failures(failures)
        else:
            about = self._about(result, proof.misnamed) | write_tables(self.dataset, self.book, proof.noted)
            with self.card.drawn(self.dataset, self.book, rows, about, failures):
                self.book.finish(rows, failures, about)
        return result

    def _tell_of_strangers(self, strangers: ReasonCounter) -> None:
        if any(other.folder == self.dataset.folder for other in DATASETS.values() if other.name != self.dataset.name):
            return  # --verify reads the others' manifests and knows whose they are
        for reason, some in strangers.told().items():
            log.warning(
                "%s: %d objects in its folder are %s: left by a run on an older source, or by other programs; --verify"
                " names them: %s", self.dataset.name, some.count, reason, ", ".join(some.examples),
            )  # fmt: skip

    def _tell_of_repeats(self, won: int) -> None:
        stored = sum(rows.stored for rows in self.runs())
        if stored > won:
            log.info("%s: %d members were replaced by a later one of the same name", self.dataset.name, stored - won)

    def _failures(self) -> list[Row]:
        told = (rows for rows in self.runs() if rows.bad or rows.absent)
        broken = [entry for entry in self.entries.values() if entry.error]
        return [
            *(row for rows in told for row in rows if row.outcome not in (STORED, LINKED)),
            *(Row(self.dataset.folder, 0, 0, entry.unit, 0, FAILED, entry.error) for entry in broken),
        ]

    def _photos(self) -> int:
        return sum(len(unit.work.photos) for unit in self.units.values() if isinstance(unit.work, PhotoWork))

    def _about(self, result: Result, misnamed: ReasonCounter) -> dict[str, object]:
        return {
            "dataset": self.dataset.name,
            "title": self.dataset.title,
            "sample": self.options.sample,
            "objects": result.objects,
            "bytes": result.size,
            "gone": result.gone,
            "not_images": result.not_images,
            "wrong_format": {reason: asdict(some) for reason, some in misnamed.told().items()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": [
                {
                    "file": each.archive.file,
                    "url": redact(each.source.name),
                    "size": each.source.size,
                    "version": each.source.version,
                    "sha256": each.sha256,
                    "sha256_check": self.checks[each.archive.file],
                }
                for each in self.planned
            ],
        }
