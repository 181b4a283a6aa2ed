"""Run the units of a dataset, collect their entries, and compare the archives' checksums.

This is the state of pipeline/run.py, which stores members, and of pipeline/differences.py, which compares them.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from archives.spans import Pax
from datasets import Dataset
from errors import RereadError, SourceError
from manifest.checksums import Digest
from manifest.journal import JournalEntry, checksum_id
from manifest.records import Rows
from manifest.store import ManifestStore
from pipeline.carried import Carried, Frontier
from pipeline.dispatch import run
from pipeline.existing import Listing
from pipeline.folders import FolderPlaceholders
from pipeline.interrupted import again, covered
from pipeline.job import Job
from pipeline.planner import PlannedArchive, plan
from pipeline.progress import DatasetProgress
from pipeline.unit import Unit, Wanted, is_whole
from pipeline.worker import run_unit
from storage.bucket import Lease, map_bounded

log = logging.getLogger("spotted")


class DatasetRun:
    """The state of one dataset's run; `entries` are those of its finished units.

    With a `store`, members are stored and the journal is written; without one, the sources are only read.
    """

    def __init__(self, dataset: Dataset, job: Job, store: ManifestStore | None = None) -> None:
        self.dataset, self.options, self.cluster, self.report = dataset, job.options, job.cluster, job.report
        self.store, self.folders = store, FolderPlaceholders(store.bucket if store else None)
        client, options = job.cluster.context.http, job.options
        self.planned, self.photo_units = plan(dataset, options.mirror, options.limits, client, options.filter)
        # With the names that the directories of archives gave, if any.
        self.filter = next((each.selection.filter for each in self.planned), options.filter)
        self.retries_before = client.drain_retries()  # repeated requests to open the sources
        self.entries: dict[str, JournalEntry]  # by unit
        part = "not compared: not all of it was read"
        self.checks = {each.archive.file: part for each in self.planned if not each.is_whole}  # of their checksums
        self.wrong = list[tuple[PlannedArchive, str]]()  # archives whose checksum is not the published one, with theirs
        self.carried = defaultdict[str, Carried](Carried)  # archive → what earlier runs have of its checksum
        self._unread: dict[str, set[str]] = {}  # archive whose checksum is computed → units that it still needs
        self._frontiers: dict[str, Frontier] = {}  # of the same archives
        self.false_starts: set[str] = set()  # objects of spans that began at the wrong place
        self.lease: Lease | None = None
        self.expect(itertools.chain(*(each.units for each in self.planned), self.photo_units), None if store else {})

    def expect(self, units: Iterable[Unit], wanted: Wanted) -> None:
        """Run these units from now on, and store of their members those that are `wanted`."""
        self.units, self.entries, self.wanted = {unit.id: unit for unit in units}, {}, wanted
        verb = "read" if wanted == {} else "stored"
        self.progress = DatasetProgress(self.dataset, self.planned, self.units, self.report, verb)
        self.cluster.subscribe(self.progress.update)

    def hold(self, lease: Lease) -> None:
        """Check this lease before each write."""
        self.lease = self.cluster.context.lease = lease

    # ── units ────────────────────────────────────────────────────────────────────────────────────

    def run_units(self, units: Sequence[Unit], present: Listing, wanted: Wanted = None) -> None:
        """Run these units; `present` and `wanted` are those of run_unit. By default, store what expect() says."""
        self.progress.begin(self.entries, units)
        with self._discarding():
            for unit, entry in run(self.cluster, units, present, self.wanted if wanted is None else wanted):
                if self.lease:
                    self.lease.check()
                self._record(unit, entry)
                if entry.error:
                    log.warning("%s: %s: %s", self.dataset.name, unit.id, entry.error)
                    self._cut_digest(unit)
                self._pass_on(unit)

    def _record(self, unit: Unit, entry: JournalEntry) -> None:
        """Record the entry of a unit; a unit that was only read again keeps its entry."""
        if not is_whole(unit.so_far):
            self.entries[unit.id] = entry
        self.progress.record(unit, entry)
        self.folders.create(entry.rows.folders)

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        """Discard all entries of an archive if one of its units has other bytes than were stored before."""
        try:
            yield
        except RereadError as error:
            archive = error.piece.rpartition("/")[0]
            self.discard(unit for unit in self.units if unit.rpartition("/")[0] == archive)
            raise

    def discard(self, units: Iterable[str]) -> None:
        """Remove the entries of these units from the journal."""
        if self.store:
            self.store.discard(units)

    def runs(self) -> list[Rows]:
        """The rows of each unit, in the order of the units."""
        return [self.entries[unit].rows for unit in self.units]

    # ── the archives' checksums ──────────────────────────────────────────────────────────────────

    def watch_checksums(self, todo: Sequence[Unit]) -> None:
        """Compute the checksums of the archives that this process reads whole, from the bytes that it reads."""
        for each in self.planned:
            file = each.archive.file
            if not each.sha256:
                self.checks[file] = "not compared: none is published"
            elif self.options.no_checksum:
                self.checks[file] = "not compared: --no-checksum"
            elif self.compares(each) and self.cluster.is_local:
                self._begin_digest(each, {unit.id for unit in todo if unit.archive == file})
                self._compare_if_read(each)

    def _begin_digest(self, each: PlannedArchive, unread: set[str]) -> None:
        """Compute the checksum of an archive, of which these units are not read yet."""
        file, known = each.archive.file, self.carried[each.archive.file]
        self.cluster.context.digests[each.source.name] = known.digest()
        self._frontiers[file], self._unread[file] = Frontier(each, known.state), unread
        self._follow(each)

    def _follow(self, each: PlannedArchive) -> None:
        """Let the next journal entries have the state of the checksum after what is stored by now."""
        file, context = each.archive.file, self.cluster.context
        digest = context.digests[each.source.name]
        context.checkpoints[file] = self._frontiers[file].follow(self.entries, self._unread[file], digest)

    def _cut_digest(self, unit: Unit) -> None:
        if unit.work.span and (digest := self.cluster.context.digests.get(unit.work.source.name)):
            digest.cut(unit.work.span.start)

    def _pass_on(self, unit: Unit) -> None:
        """Compare an archive's checksum after the last of its units."""
        if unread := self._unread.get(unit.archive):
            unread.discard(unit.id)
            each = next(each for each in self.planned if each.archive.file == unit.archive)
            self._follow(each)
            self._compare_if_read(each)

    def _compare_if_read(self, each: PlannedArchive) -> None:
        if not self._unread[each.archive.file]:
            del self._unread[each.archive.file]
            del self.cluster.context.checkpoints[each.archive.file]
            self._compare_checksum(each, self.cluster.context.digests.pop(each.source.name, None))

    def _compare_checksum(self, each: PlannedArchive, digest: Digest | None) -> None:
        got = digest.finish(each.source) if digest else None
        if got is None:
            return
        if got != each.sha256:
            self.wrong.append((each, got))
            self.discard(unit.id for unit in each.units)
            return
        self.checks[each.archive.file] = "matches"
        log.info("%s: %s: sha256 matches", self.dataset.name, each.archive.file)
        if self.store:
            self.store.write(JournalEntry(checksum_id(each.archive.file), each.units[0].fingerprint, sha256=got))

    def wrong_checksums(self) -> list[tuple[PlannedArchive, str]]:
        """The archives whose checksum is not the published one, each with its checksum.

        An archive that no process read whole is read again for its checksum.
        """
        wrong = [each for each, _ in self.wrong]
        for each in self.planned:
            if each.archive.file not in self.checks and each not in wrong:
                if self._is_read(each):
                    self._read_again(each)
                else:
                    self.checks[each.archive.file] = "not compared: not all of it was read"
            if self.checks.get(each.archive.file, "matches") != "matches":
                log.info("%s: %s: sha256 %s", self.dataset.name, each.archive.file, self.checks[each.archive.file])
        return self.wrong

    def _is_read(self, each: PlannedArchive) -> bool:
        return all(self.entries[unit.id].is_done for unit in each.units)

    def _read_again(self, each: PlannedArchive) -> None:
        self.log_again(each, each.source.size - self.carried[each.archive.file].position)
        held = covered(each.units, {unit: entry for unit, entry in self.entries.items() if entry.rows.count})
        rest = each.units[self.carried[each.archive.file].units :]
        found = (self.units[unit.id] for unit in rest if unit.id not in held)
        units = list(self.again(each, found, self.entries))
        for unit in units:
            self.progress.read_again(unit)
        self._begin_digest(each, {unit.id for unit in units})
        self._compare_if_read(each)
        max_in_flight = self.cluster.context.max_spans()
        with ThreadPoolExecutor(max_in_flight, "again") as pool, self._discarding():
            for unit, entry in zip(units, map_bounded(pool, self._run_again, units, max_in_flight), strict=True):
                if entry.error:
                    raise SourceError(entry.error)
                self.progress.record(unit, entry)
                self._pass_on(unit)

    def log_again(self, each: PlannedArchive, size: int) -> None:
        """Log that so many bytes of an archive are read again for its checksum."""
        log.info(
            "%s: %s: reading %d bytes again to compare its sha256 and what was stored (--no-checksum: not)",
            self.dataset.name, each.archive.file, size,
        )  # fmt: skip

    def _run_again(self, unit: Unit) -> JournalEntry:
        return run_unit(unit, self.cluster.context, {}, {}, lambda sums: self.progress.update(*sums))

    def compares(self, each: PlannedArchive) -> bool:
        """Whether an archive's checksum is to be compared, and was not compared yet."""
        return bool(each.sha256) and not self.options.no_checksum and each.archive.file not in self.checks

    def again(self, each: PlannedArchive, units: Iterable[Unit], stored: Mapping[str, JournalEntry]) -> Iterator[Unit]:
        """Change these units of an archive to be read again and compared with what is stored."""
        pax: dict[str, Pax] = {}
        for before, unit in itertools.pairwise(each.units):
            pax[unit.id] = stored[before.id].link.pax if before.id in stored else ()
        for unit in units:
            yield again(unit, stored[unit.id], pax.get(unit.id, ())) if unit.id in stored else unit
