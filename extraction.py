"""The routine that turns a dataset into stored objects: plan, store, prove, write down."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from archives import broken_link
from buckets import PART, Bucket, Stored
from datasets import Dataset
from digest import Digest, digests
from errors import ArchiveError, ExtractionError, MemberError
from events import Progress, Result
from manifest import FAILED, GONE, STORED, Book, Entry, Row, missing, still_valid, winners
from planning import Planned, plan
from transfer import Crew, run
from units import PhotoWork, SpanWork, Unit, Wanted

log = logging.getLogger("spotted")

GONE_LIMIT = 0.05  # share of photos that may be gone at the source; 0.9 % of Austin's are, and that is normal
FOLDERS_AT_ONCE = 64
REPAIRS = 2  # rounds of storing again what the listing lacks, before it is called missing


@dataclass(frozen=True)
class Order:
    """What the user wants of the extraction, beyond the dataset."""

    mirror: str = ""  # URL or directory that has all sources
    is_sample: bool = False
    force: bool = False


Report = Callable[[Progress], None]
Listing = dict[str, Stored]


def extract(dataset: Dataset, order: Order, bucket: Bucket, crew: Crew, report: Report) -> Result:
    """Make a dataset complete in the bucket, or say what is missing.

    What is there already and right is not stored again; a dataset whose manifest is there is only compared with
    the bucket's listing. Raises ExtractionError when it cannot go on; what is stored by then stays, and is
    found by the next run.
    """
    start = time.monotonic()
    book = Book(bucket, dataset.name)
    result = _already_complete(dataset, order, book) or _Extraction(dataset, order, book, crew, report).run()
    result.seconds = time.monotonic() - start
    return result


def list_all(bucket: Bucket, dataset: Dataset, known: Iterable[str] = ()) -> Listing:
    """All that the bucket lists in the dataset's folder, by name; `known` are names that are likely there."""
    return {stored.name: stored for stored in bucket.list(dataset.folder, sorted(known))}


def _lost(rows: list[Row], bucket: Bucket, dataset: Dataset) -> list[Row]:
    """The rows of a manifest that the bucket does not list so."""
    return missing(rows, list_all(bucket, dataset, (row.path for row in rows)))


def _already_complete(dataset: Dataset, order: Order, book: Book) -> Result | None:
    found = book.manifest()
    if found is None or order.force:
        return None
    rows, about = found
    if about["sample"] != order.is_sample:
        what = ("the sample", "the real dataset")[order.is_sample]
        raise ExtractionError(
            f"{dataset.name}: {book.bucket.url} holds {what} of it; --force puts the other in its place"
        )
    lost = _lost(rows, book.bucket, dataset)
    if lost:
        log.warning(
            "%s: %d objects of the complete dataset are gone or changed, extracting them again", dataset.name, len(lost)
        )
        return None
    return Result(dataset, len(rows), sum(row.size for row in rows), True, gone=about["gone"])


def parents(paths: Iterable[str]) -> set[str]:
    """The placeholders of all folders above these paths: "a/b/c" makes "a/b/" and "a/", "a/b/" itself and "a/"."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {f"{folder[:end]}/" for folder in folders for end in (*(m.start() for m in re.finditer("/", folder)), None)}


def verify(dataset: Dataset, bucket: Bucket) -> Result:
    """Compare a dataset's manifest with the bucket's listing; writes nothing."""
    found = Book(bucket, dataset.name).manifest()
    if found is None:
        return Result(dataset, error=f"{dataset.name}: {bucket.url} has no manifest of it: it is not complete")
    rows, about = found
    lost = _lost(rows, bucket, dataset)
    return Result(dataset, len(rows), sum(row.size for row in rows), missing=lost, gone=about["gone"])


class _Extraction:
    """One dataset on its way into one bucket."""

    def __init__(self, dataset: Dataset, order: Order, book: Book, crew: Crew, report: Report) -> None:
        self.dataset, self.order, self.book, self.crew, self.report = dataset, order, book, crew, report
        self.bucket = book.bucket
        self.planned, photo_units = plan(dataset, order.mirror)
        self.units = {unit.id: unit for unit in itertools.chain(*(each.units for each in self.planned), photo_units)}
        self.entries: dict[str, Entry] = {}  # by unit
        self.checks: dict[str, str] = {}  # archive → what became of comparing its checksum
        self.listed: Listing = {}  # what was there at the beginning
        self.lost_folders: list[Row] = []
        self.outdated: set[str] = set()  # objects of a manifest that --force overrules
        self.false_starts: set[str] = set()  # objects that spans wrote which began at the wrong place
        self.total = sum(unit.size for unit in self.units.values())
        self.done = self.objects = 0

    def run(self) -> Result:
        self._begin()
        todo = self._resume()
        self._watch_checksums(todo)
        self._store(todo, self._unvouched())
        self._join_chains()
        self._compare_checksums()
        self._remove_what_is_not_ours()
        self._make_folders()
        return self._finish(self._prove())

    def _begin(self) -> None:
        """Open the dataset for change; with --force nothing of an earlier run counts."""
        found = self.book.manifest() if self.order.force else None
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
                self._take(unit, journal[unit.id])
        if self.entries:
            log.info("%s: going on: %d of %d pieces are there", self.dataset.name, len(self.entries), len(self.units))
        return [unit for unit in self.units.values() if unit.id not in self.entries]

    def _unvouched(self) -> Listing:
        """The objects that are there although no journal entry tells of them: the last ones of a killed run."""
        vouched = {row.path for entry in self.entries.values() for row in entry.rows}
        return {name: stored for name, stored in self.listed.items() if not name.endswith("/") and name not in vouched}

    # ── storing ──────────────────────────────────────────────────────────────────────────────────

    def _store(self, units: list[Unit], present: Listing, wanted: Wanted = None) -> None:
        for unit, entry in run(self.crew, units, present, wanted):
            self._take(unit, entry)
            if entry.error:
                log.warning("%s: %s: %s", self.dataset.name, unit.id, entry.error)
                self._drop_digest(unit)

    def _take(self, unit: Unit, entry: Entry) -> None:
        if unit.id not in self.entries:
            self.done, self.objects = self.done + unit.size, self.objects + entry.objects
        self.entries[unit.id] = entry
        self.report(Progress(self.dataset.name, self.done, self.total, self.objects, self.dataset.counted_in))

    def _drop_digest(self, unit: Unit) -> None:
        if isinstance(unit.work, SpanWork):  # what comes after the missing bytes would wait in memory for them
            digests.pop(unit.work.source.name, None)

    def _remove_what_is_not_ours(self) -> None:
        won = self._won()
        self.bucket.delete(sorted((self.outdated | self.false_starts) - won.keys() - parents(won), reverse=True))

    def _make_folders(self) -> None:
        """Placeholders for all folders: GCSFuse without implicit dirs shows only those that have one."""
        folders = parents(self._won())
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

    def _watch_checksums(self, todo: list[Unit]) -> None:
        """Have the archives' checksums computed from what passes through, where all of an archive does."""
        for each in self.planned:
            if not each.sha256:
                self.checks[each.archive.file] = "not compared: none is published"
            elif not self.crew.is_local:
                self.checks[each.archive.file] = "not compared: several processes read the archive"
            elif not {unit.id for unit in each.units} <= {unit.id for unit in todo}:
                self.checks[each.archive.file] = "not compared: an earlier run read parts of the archive"
            else:
                digests[each.source.name] = Digest()

    def _compare_checksums(self) -> None:
        for each in self.planned:
            digest = digests.pop(each.source.name, None)
            got = digest.finish(each.source) if digest else None
            if got and got != each.sha256:
                self.book.forget(unit.id for unit in each.units)
                raise ArchiveError(
                    f"{each.source.name}: expected sha256 {each.sha256}, got {got}: not the published archive;"
                    " nothing of it counts as extracted"
                )
            check = self.checks.setdefault(
                each.archive.file, "equal" if got else "not compared: not all of it was read"
            )
            log.info("%s: %s: sha256 %s", self.dataset.name, each.archive.file, check)

    def _join_chains(self) -> None:
        for each in self.planned:
            if each.kind == "tar" and not any(self.entries[unit.id].error for unit in each.units):
                self._join_chain(each)

    def _join_chain(self, each: Planned) -> None:
        """Read again the spans of a tar that began at the wrong place; what those stored is remembered."""
        spans = [work.span for work in each.works]
        while broken := broken_link(each.source.name, spans, [self.entries[unit.id].link for unit in each.units]):
            index, span = broken
            unit = each.units[index]
            self.false_starts |= {row.path for row in self.entries[unit.id].rows}
            self.entries[unit.id] = Entry(unit.id, unit.fingerprint)
            self.book.forget([unit.id])
            if span is not None:
                spans[index] = span
                self.units[unit.id] = replace(unit, work=replace(each.works[index], span=span))
                self._store([self.units[unit.id]], {})

    def _won(self) -> dict[str, Row]:
        rows = [row for unit in self.units for row in self.entries[unit].rows]
        return winners(rows)

    def _prove(self) -> list[Row]:
        """Compare with the bucket's own listing, store again what it lacks; what is missing in the end."""
        won = self._won()
        contested = self._contested(won)
        for attempt in range(REPAIRS + 1):
            listing = list_all(self.bucket, self.dataset, won)
            lost = missing(won.values(), listing)
            if attempt == 0:  # a listing without checksums does not show who wrote last
                lost += [won[path] for path in contested if path in listing and listing[path].crc32c is None]
            if not lost or attempt == REPAIRS:
                break
            log.info("%s: storing %d objects again that are not as they should be", self.dataset.name, len(lost))
            self._store(*self._again(lost))
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
        wanted = {row.path: row.offset for row in lost}
        units = [
            unit for unit in self.units.values()
            if any(wanted.get(row.path) == row.offset for row in self.entries[unit.id].rows)
        ]  # fmt: skip
        return units, {}, wanted

    # ── writing down ─────────────────────────────────────────────────────────────────────────────

    def _finish(self, lost: list[Row]) -> Result:
        won = self._won()
        rows = [row for row in won.values() if not row.is_folder]
        self._tell_of_repeats(len(won))
        failures = [*self._failures(), *self.lost_folders, *lost]
        gone = [row for row in failures if row.outcome == GONE]
        if len(gone) <= GONE_LIMIT * self._photos():
            counted = [row for row in failures if row.outcome != GONE]
        else:
            counted = failures
        result = Result(self.dataset, len(rows), sum(row.size for row in rows), missing=counted, gone=len(gone))
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
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": [
                {
                    "file": each.archive.file,
                    "url": each.source.name,
                    "size": each.source.size,
                    "version": each.source.version,
                    "sha256": each.sha256,
                    "sha256_check": self.checks[each.archive.file],
                }
                for each in self.planned
            ],
        }
