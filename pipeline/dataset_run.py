"""A dataset's sources become entries: every unit is run, tar chains are joined, checksums are compared.

Base of pipeline/run.py, which stores the members, and used by commands/verify.py, which compares them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from archives.spans import Pax, Span
from datasets import Dataset
from errors import RereadError, SourceChangedError, SourceError
from manifest.checksums import Digest
from manifest.journal import JournalEntry
from manifest.records import FAILED, STORED, Row, Rows
from pipeline.cluster import SPARE_UNITS, Cluster, run
from pipeline.existing import Listing
from pipeline.hard_links import resolve, spans_with
from pipeline.options import RunOptions
from pipeline.planner import PlannedArchive, plan
from pipeline.progress import Report, Tally
from pipeline.resume import again, covered
from pipeline.unit import SpanWork, Unit, Wanted, is_whole
from pipeline.worker import run_unit
from storage.bucket import map_bounded

log = logging.getLogger("spotted")


class DatasetRun:
    """One dataset being read; `entries` are what its units gave so far."""

    def __init__(self, dataset: Dataset, options: RunOptions, cluster: Cluster, report: Report) -> None:
        self.dataset, self.options, self.cluster, self.report = dataset, options, cluster, report
        self.planned, self.photo_units = plan(dataset, options.mirror, options.limits)
        self.units: dict[str, Unit] = {}
        self.entries: dict[str, JournalEntry] = {}  # by unit
        self.checks: dict[str, str] = {}  # archive → result of comparing its checksum
        self.wrong: list[
            tuple[PlannedArchive, str]
        ] = []  # archives whose checksum is not the published one, and what it is
        self._unread: dict[str, set[str]] = {}  # archive whose checksum is computed → units that it still needs
        self.false_starts: set[str] = set()  # objects that spans wrote which began at the wrong place
        self.wanted: Wanted = None  # default of store()
        self.expect(itertools.chain(*(each.units for each in self.planned), self.photo_units))

    def expect(self, units: Iterable[Unit]) -> None:
        """These are the units that will be worked on."""
        self.units = {unit.id: unit for unit in units}
        self.tally = Tally(self.dataset, self.planned, self.units, self.report)
        self.cluster.hear = self.tally.hear

    # ── units ────────────────────────────────────────────────────────────────────────────────────

    def store(self, units: Sequence[Unit], present: Listing, wanted: Wanted = None) -> None:
        """Run these units; `present` and `wanted` as run_unit has them."""
        self.tally.begin(self.entries, units)
        with self._forgetting():
            for unit, entry in run(self.cluster, units, present, self.wanted if wanted is None else wanted):
                self.take(unit, entry)
                if entry.error:
                    log.warning("%s: %s: %s", self.dataset.name, unit.id, entry.error)
                    self._drop_digest(unit)
                self._pass_on(unit)

    def take(self, unit: Unit, entry: JournalEntry) -> None:
        """Record the entry of a unit; a unit that was only read again keeps its own."""
        if not is_whole(unit.so_far):
            self.entries[unit.id] = entry
        self.tally.take(unit, entry)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        except RereadError as error:
            archive = error.piece.rpartition("/")[0]
            self.forget(unit for unit in self.units if unit.rpartition("/")[0] == archive)
            raise

    def forget(self, units: Iterable[str]) -> None:
        """Discard what these units gave; a subclass that keeps a journal removes it there."""

    def keep_checksum(self, each: PlannedArchive, sha256: str) -> None:
        """Record that this archive is the published one; a subclass that keeps a journal writes it there."""

    def runs(self) -> list[Rows]:
        """What each unit gave, in the order of the units."""
        return [self.entries[unit].rows for unit in self.units]

    # ── the archives' checksums ──────────────────────────────────────────────────────────────────

    def watch_checksums(self, todo: Sequence[Unit]) -> None:
        """Have the archives' checksums computed from what passes through, where all of an archive does."""
        for each in self.planned:
            file = each.archive.file
            if not each.sha256:
                self.checks[file] = "not compared: none is published"
            elif self.options.no_checksum:
                self.checks[file] = "not compared: --no-checksum"
            elif self.compares(each) and self.cluster.is_local:
                self.cluster.context.digests[each.source.name] = Digest()
                self._unread[file] = {unit.id for unit in todo if unit.archive == file}

    def _drop_digest(self, unit: Unit) -> None:
        if unit.work.span:  # what comes after the missing bytes would wait in memory for them
            self.cluster.context.digests.pop(unit.work.source.name, None)

    def _pass_on(self, unit: Unit) -> None:
        """The unit's bytes were fed to its archive's checksum, which is compared once it has all bytes."""
        unread = self._unread.get(unit.archive, set())
        unread.discard(unit.id)
        if self._unread.get(unit.archive) == set():
            del self._unread[unit.archive]
            each = next(each for each in self.planned if each.archive.file == unit.archive)
            self._compare_checksum(each, self.cluster.context.digests.pop(each.source.name, None))

    def _compare_checksum(self, each: PlannedArchive, digest: Digest | None) -> None:
        got = digest.finish(each.source) if digest else None
        if got is None:
            return
        if got != each.sha256:
            self.wrong.append((each, got))
            self.forget(unit.id for unit in each.units)
            return
        self.checks[each.archive.file] = "matches"
        log.info("%s: %s: sha256 matches", self.dataset.name, each.archive.file)
        self.keep_checksum(each, got)

    def wrong_checksums(self) -> list[tuple[PlannedArchive, str]]:
        """The archives whose checksum is not the published one, with what it is.

        An archive that several processes read, or of which the checksum got not all bytes, is read again for it.
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
        entries = [self.entries[unit.id] for unit in each.units]
        failed = (row.outcome == FAILED for entry in entries if entry.rows.bad for row in entry.rows)
        return not any(entry.error for entry in entries) and not any(failed)

    def _read_again(self, each: PlannedArchive) -> None:
        log.info(
            "%s: %s: reading its %d bytes again to compare its sha256 and what was stored (--no-checksum: not)",
            self.dataset.name, each.archive.file, each.source.size,
        )  # fmt: skip
        digest = self.cluster.context.digests[each.source.name] = Digest()
        held = covered(each.units, {unit: entry for unit, entry in self.entries.items() if entry.rows.count})
        found = (self.units[unit.id] for unit in each.units if unit.id not in held)
        units = list(self.again(each, found, self.entries))
        for unit in units:
            self.tally.read_again(unit)
        max_in_flight = self.cluster.config.connections + SPARE_UNITS
        with ThreadPoolExecutor(max_in_flight, "again") as pool, self._forgetting():
            for unit, entry in zip(units, map_bounded(pool, self._run_again, units, max_in_flight), strict=True):
                if entry.error:
                    raise SourceError(entry.error)
                self.tally.take(unit, entry)
        self._compare_checksum(each, self.cluster.context.digests.pop(each.source.name, digest))

    def _run_again(self, unit: Unit) -> JournalEntry:
        return run_unit(unit, self.cluster.context, {}, {}, lambda told: self.tally.hear(*told))

    def compares(self, each: PlannedArchive) -> bool:
        """Whether an archive's checksum is still to be compared."""
        return bool(each.sha256) and not self.options.no_checksum and each.archive.file not in self.checks

    def again(self, each: PlannedArchive, units: Iterable[Unit], stored: Mapping[str, JournalEntry]) -> Iterator[Unit]:
        """These units of an archive, to be read again and compared with what is stored."""
        pax: dict[str, Pax] = {}
        for before, unit in itertools.pairwise(each.units):
            pax[unit.id] = stored[before.id].link.pax if before.id in stored else ()
        for unit in units:
            yield again(unit, stored[unit.id], pax.get(unit.id, ())) if unit.id in stored else unit

    # ── the tars' chains ─────────────────────────────────────────────────────────────────────────

    def join_chains(self, present: Listing) -> None:
        """Read again the spans of tars that began at the wrong place; what those stored is remembered.

        Then store what the tars' hard links mean, but for what is `present`.
        """
        for each in self.planned:
            if not any(self.entries[unit.id].error for unit in each.units):
                self._join_chain(each)
                self._store_links(each, present)

    def _store_links(self, each: PlannedArchive, present: Listing) -> None:
        extents = resolve([self.entries[unit.id].rows for unit in each.units])
        spans = spans_with(extents, each.works[0].span)
        units = [_links_unit(each, number, span) for number, span in enumerate(spans)]
        if not units:
            return
        self.units = _after(self.units, each.units[-1].id, units)
        wanted = {it.name: Row(it.name, it.size, it.crc32c, each.source.name, it.offset) for it in extents}
        self.store(units, present, wanted if self.wanted is None else None)
        for row in (row for unit in units for row in self.entries[unit.id].rows if row.outcome == STORED):
            if row.crc32c != wanted[row.path].crc32c:
                raise SourceChangedError(
                    f"{each.source.name}: {row.path}, a hard link, has other bytes than its target had; run again"
                )

    def _join_chain(self, each: PlannedArchive) -> None:
        spans = [work.span for work in each.works]
        while broken := each.kind.broken_link(
            each.source.name, spans, [self.entries[unit.id].link for unit in each.units]
        ):
            index, span = broken
            unit = each.units[index]
            self.false_starts |= {row.path for row in self.entries[unit.id].rows}
            self.entries[unit.id] = JournalEntry(unit.id, unit.fingerprint)
            self.forget([unit.id])
            if span is not None:
                if self.checks.get(each.archive.file) == "matches":  # of the bytes that were read before
                    del self.checks[each.archive.file]
                spans[index] = span
                self.units[unit.id] = replace(unit, work=replace(each.works[index], span=span))
                self.store([self.units[unit.id]], {})


def _links_unit(each: PlannedArchive, number: int, span: Span) -> Unit:
    work = SpanWork(each.source, span, "")  # the extents' names are those of objects
    return replace(each.units[0], id=f"{each.archive.file}/links-{number:06d}", work=work, size=span.stop - span.start)


def _after(units: Mapping[str, Unit], last: str, more: Iterable[Unit]) -> dict[str, Unit]:
    """The units with these inserted after one of them: for one path, the later unit counts."""
    at = list(units).index(last) + 1
    items = list(units.items())
    return dict([*items[:at], *((unit.id, unit) for unit in more), *items[at:]])
