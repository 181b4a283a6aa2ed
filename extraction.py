"""The routine that turns a dataset into stored objects: plan, store, prove, write down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import card
from buckets import PART, Bucket, parents
from datasets import Dataset
from errors import ArchiveError, DamagedError, ExtractionError, MemberError
from events import Result
from manifest import FAILED, GONE, STORED, Book, Row, by_reason, missing, still_valid
from reading import Listing, Order, Reading, list_all
from redaction import redact
from tally import Report
from transfer import Crew
from units import PhotoWork, Unit, Wanted

log = logging.getLogger("spotted")

GONE_LIMIT = 0.05  # share of photos that may be gone at the source; 0.9 % of Austin's are, and that is normal
FOLDERS_AT_ONCE = 64
REPAIRS = 2  # rounds of storing again what the listing lacks, before it is called missing


def extract(dataset: Dataset, order: Order, bucket: Bucket, crew: Crew, report: Report) -> Result:
    """Make a dataset complete in the bucket, or say what is missing.

    What is there already and right is not stored again; a dataset whose manifest is there is only compared with
    the bucket's listing. Raises ExtractionError when it cannot go on; what is stored by then stays, and is
    found by the next run.
    """
    start = time.monotonic()
    log.info("%s: %s", dataset.name, dataset.title)
    book = Book(bucket, dataset.name)
    result = _already_complete(dataset, order, book) or _Extraction(dataset, order, book, crew, report).run()
    card.keep(result, book)
    result.seconds = time.monotonic() - start
    return result


def _already_complete(dataset: Dataset, order: Order, book: Book) -> Result | None:
    found = None if order.force else readable_manifest(book)
    if found is None:
        return None
    rows, about = found
    check_kind(dataset, order, book.bucket, about)
    lost = missing(rows, list_all(book.bucket, dataset, (row.path for row in rows)))
    if lost:
        log.warning(
            "%s: %d objects of the complete dataset are gone or changed, extracting them again", dataset.name, len(lost)
        )
        return None
    return Result(dataset, len(rows), sum(row.size for row in rows), True, gone=about["gone"])


def readable_manifest(book: Book) -> tuple[list[Row], Mapping[str, Any]] | None:
    """A dataset's manifest; a damaged one is as good as none, and the log says so."""
    try:
        return book.manifest()
    except DamagedError as error:
        log.warning("%s; it does not count, and every object is looked at again", error)
        return None


def check_kind(dataset: Dataset, order: Order, bucket: Bucket, about: Mapping[str, object]) -> None:
    """Raise ExtractionError where the bucket holds the sample of a dataset and the order is for the real one."""
    if about["sample"] != order.is_sample:
        what = ("the sample", "the real dataset")[order.is_sample]
        raise ExtractionError(f"{dataset.name}: {bucket.url} holds {what} of it; --force puts the other in its place")


class _Extraction(Reading):
    """One dataset on its way into one bucket."""

    def __init__(self, dataset: Dataset, order: Order, book: Book, crew: Crew, report: Report) -> None:
        super().__init__(dataset, order, crew, report)
        self.book, self.bucket = book, book.bucket
        self.listed: Listing = {}  # what was there at the beginning
        self.lost_folders: list[Row] = []
        self.outdated: set[str] = set()  # objects of a manifest that --force overrules

    def run(self) -> Result:
        self._begin()
        todo = self._resume()
        self.watch_checksums(todo)
        self.store(todo, self._unvouched())
        self.join_chains()
        self._compare_checksums()
        self._remove_what_is_not_ours()
        self._make_folders()
        return self._finish(self._prove())

    def _begin(self) -> None:
        """Open the dataset for change; with --force nothing of an earlier run counts."""
        found = readable_manifest(self.book) if self.order.force else None
        self.book.reopen()
        if self.order.force:
            self.book.forget()
            self.outdated = {row.path for row in found[0]} if found else set()
        listed = list_all(self.bucket, self.dataset)
        self.bucket.delete(name for name in listed if name.rpartition("/")[2].startswith(PART))
        self.listed = {} if self.order.force else listed

    def _resume(self) -> list[Unit]:
        """Take over what the journal vouches for; the units that are still to do."""
        journal = self.book.journal()
        for unit in self.units.values():
            if unit.id in journal and still_valid(journal[unit.id], unit.fingerprint, self.listed):
                self.entries[unit.id] = journal[unit.id]
        if self.entries:
            log.info("%s: going on: %d of %d pieces are there", self.dataset.name, len(self.entries), len(self.units))
        return [unit for unit in self.units.values() if unit.id not in self.entries]

    def _unvouched(self) -> Listing:
        """The objects that are there although no journal entry tells of them: the last ones of a killed run."""
        vouched = {row.path for entry in self.entries.values() for row in entry.rows}
        return {name: stored for name, stored in self.listed.items() if not name.endswith("/") and name not in vouched}

    # ── storing ──────────────────────────────────────────────────────────────────────────────────

    def forget(self, units: Iterable[str]) -> None:
        self.book.forget(units)

    def _remove_what_is_not_ours(self) -> None:
        won = self.won()
        self.bucket.delete(sorted((self.outdated | self.false_starts) - won.keys() - parents(won), reverse=True))

    def _make_folders(self) -> None:
        """Placeholders for all folders: GCSFuse without implicit dirs shows only those that have one."""
        folders = parents(self.won())
        with ThreadPoolExecutor(FOLDERS_AT_ONCE) as pool:
            made = pool.map(self._make_folder, sorted(folders - self.listed.keys()))
            self.lost_folders = [row for row in made if row]

    def _make_folder(self, name: str) -> Row | None:
        try:
            self.bucket.put(name, b"")
        except MemberError as error:  # in a directory, a file and a folder of one name
            return Row(name, 0, 0, "", 0, FAILED, str(error))
        return None

    # ── proving ──────────────────────────────────────────────────────────────────────────────────

    def _compare_checksums(self) -> None:
        for each, got in self.wrong_checksums():
            self.forget(unit.id for unit in each.units)
            raise ArchiveError(
                f"{each.source.name}: expected sha256 {each.sha256}, got {got}: not the published archive;"
                " nothing of it counts as extracted"
            )

    def _prove(self) -> list[Row]:
        """Compare with the bucket's own listing, store again what it lacks; what is missing in the end."""
        won = self.won()
        contested = self._contested(won)
        for attempt in range(REPAIRS + 1):
            listing = list_all(self.bucket, self.dataset, won)
            lost = missing(won.values(), listing)
            if attempt == 0:  # a listing without checksums does not show who wrote last
                lost += [won[path] for path in contested if path in listing and listing[path].crc32c is None]
            if not lost or attempt == REPAIRS:
                break
            log.info("%s: storing %d objects again that are not as they should be", self.dataset.name, len(lost))
            self.store(*self._again(lost))
        return [row._replace(outcome=FAILED, reason="the bucket's listing does not show it so") for row in lost]

    def _contested(self, won: dict[str, Row]) -> set[str]:
        """The stored paths that more than one unit wrote: members of one name, or what a false start wrote over."""
        seen, twice = set(self.false_starts), set[str]()
        for entry in self.entries.values():
            paths = {row.path for row in entry.rows if row.outcome == STORED and not row.is_folder}
            twice |= seen & paths
            seen |= paths
        return twice & won.keys()

    def _again(self, lost: list[Row]) -> tuple[list[Unit], Listing, Wanted]:
        wanted = {row.path: row for row in lost}
        units = [
            unit for unit in self.units.values()
            if any(row == wanted.get(row.path) for row in self.entries[unit.id].rows)
        ]  # fmt: skip
        return units, {}, wanted

    # ── writing down ─────────────────────────────────────────────────────────────────────────────

    def _finish(self, lost: list[Row]) -> Result:
        won = self.won()
        rows = [row for row in won.values() if not row.is_folder]
        self._tell_of_repeats(len(won))
        failures = [*self._failures(), *self.lost_folders, *lost]
        gone = [row for row in failures if row.outcome == GONE]
        if len(gone) <= GONE_LIMIT * self._photos():
            counted = [row for row in failures if row.outcome != GONE]
        else:
            counted = failures
        result = Result(self.dataset, len(rows), sum(row.size for row in rows), missing=counted, gone=len(gone))
        result.fetched, result.retries = self.tally.fetched, self.tally.retries
        if counted:
            self.book.write_failures(failures)
        else:
            self.book.finish(sorted(rows), failures, self._about(result))
        return result

    def _tell_of_repeats(self, won: int) -> None:
        stored = sum(row.outcome == STORED for entry in self.entries.values() for row in entry.rows)
        if stored > won:
            log.info("%s: %d members have the name of a later one, which counts", self.dataset.name, stored - won)

    def _failures(self) -> list[Row]:
        rows = [row for unit in self.units for row in self.entries[unit].rows if row.outcome != STORED]
        broken = [entry for entry in self.entries.values() if entry.error]
        return rows + [Row(self.dataset.folder, 0, 0, entry.unit, 0, FAILED, entry.error) for entry in broken]

    def _photos(self) -> int:
        return sum(len(unit.work.photos) for unit in self.units.values() if isinstance(unit.work, PhotoWork))

    def _about(self, result: Result) -> dict[str, object]:
        return {
            "dataset": self.dataset.name,
            "title": self.dataset.title,
            "sample": self.order.is_sample,
            "objects": result.objects,
            "bytes": result.size,
            "gone": result.gone,
            "misnamed": {reason: asdict(some) for reason, some in by_reason(self.won().values()).items()},
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
