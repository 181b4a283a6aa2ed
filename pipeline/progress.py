"""Count the bytes and objects of all units, running ones included, and report the sums."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from datasets import Dataset
from manifest.journal import JournalEntry
from pipeline.planner import PlannedArchive
from pipeline.results import Progress
from pipeline.unit import Unit, is_whole

log = logging.getLogger("spotted")

Report = Callable[[Progress], None]


@dataclass
class _Part:
    """An archive, or all photos: the unfinished units, and the sums over the finished ones."""

    published: int | None
    left: dict[str, Unit] = field(default_factory=dict)
    stored: int = 0
    gone: int = 0
    not_images: int = 0
    failed: int = 0
    bytes: int = 0

    @property
    def total(self) -> int | None:
        """Number of objects in the end, if known."""
        expected = [unit.objects for unit in self.left.values()]
        if None not in expected:
            return self.stored + sum(filter(None, expected))
        return None if self.published is None else max(self.published, self.stored)


class DatasetProgress:
    """Counts one dataset's units, and reports each change."""

    def __init__(
        self,
        dataset: Dataset,
        planned: Iterable[PlannedArchive],
        units: Mapping[str, Unit],
        report: Report,
        verb: str = "stored",
    ) -> None:
        self.dataset, self.units, self.report = dataset, units, report
        published = {
            each.archive.file: each.objects for each in planned if {unit.id for unit in each.units} <= units.keys()
        }
        self.parts = {part: _Part(published.get(part)) for part in map(_part, units)}
        for unit in units.values():
            self.parts[_part(unit.id)].left[unit.id] = unit
        self.running: dict[str, tuple[int, int]] = {}  # unit → bytes and objects so far
        self.bytes_total = None if dataset.tables else sum(unit.size for unit in units.values())
        self.again: dict[str, int] = {}  # finished unit that is read again → bytes so far
        self.before: dict[str, tuple[int, int]] = {}  # partly finished unit → bytes and objects of its parts
        self.bytes = self.begun_with = 0
        self.has_begun, self.verb, self.retries = False, verb, 0
        self._lock = threading.Lock()

    @property
    def fetched(self) -> int:
        """Bytes read since begin()."""
        return self.bytes - self.begun_with

    def begin(self, entries: Mapping[str, JournalEntry], todo: Iterable[Unit] = ()) -> None:
        """Start from the entries of earlier runs; later calls, for repairs, have no effect."""
        if self.has_begun:
            return
        self.has_begun = True
        for unit, entry in entries.items():
            self._count(unit, entry)
        for each in todo:
            if each.so_far and is_whole(each.so_far):
                self.read_again(each)
            elif each.so_far and not each.is_reread:
                self.before[each.id] = self.running[each.id] = each.so_far.size, each.so_far.rows.stored
        self._report()
        self.begun_with = self.bytes

    def read_again(self, unit: Unit) -> None:
        """Expect a finished unit to be read again."""
        self.again[unit.id] = 0
        if self.bytes_total is not None:
            self.bytes_total += unit.size

    def record(self, unit: Unit, entry: JournalEntry) -> None:
        """Count a finished unit; a unit that was only repaired is not counted again."""
        self.retries += entry.retries
        if unit.id in self.again:
            self.update(unit.id, unit.size, 0)
        part = self.parts[_part(unit.id)]
        if unit.id in part.left:
            with self._lock:
                self._count(unit.id, entry)
                self._report()
            if not part.left:
                self._log_part(_part(unit.id), part)

    def update(self, unit: str, size: int, objects: int) -> None:
        """Set the bytes and objects of a running unit; may be called from any thread."""
        with self._lock:
            if unit in self.units and unit in self.parts[_part(unit)].left:
                bytes_before, objects_before = self.before.get(unit, (0, 0))
                self.running[unit] = size + bytes_before, objects + objects_before
                self._report()
            elif unit in self.again:
                self.again[unit] = min(size, self.units[unit].size)
                self._report()

    def _count(self, unit: str, entry: JournalEntry) -> None:
        part = self.parts[_part(unit)]
        part.left.pop(unit)
        self.running.pop(unit, None)
        part.stored += entry.rows.stored
        part.gone += entry.rows.gone
        part.not_images += entry.rows.not_images
        part.failed += entry.rows.bad or bool(entry.error)
        part.bytes += entry.size

    def _report(self) -> None:
        running = list(self.running.values())
        read = sum(part.bytes for part in self.parts.values()) + sum(size for size, _ in running)
        read += sum(self.again.values())
        # One unit reads a member that is larger than its span; the units of the other spans then read nothing.
        self.bytes = max(self.bytes, min(read, self.bytes_total or read))
        totals = [part.total for part in self.parts.values()]
        total = None if None in totals else sum(filter(None, totals))
        objects = sum(part.stored for part in self.parts.values()) + sum(stored for _, stored in running)
        objects = objects if total is None else min(objects, total)
        self.report(Progress(self.dataset.name, objects, total, self.bytes, self.bytes_total))

    def _log_part(self, name: str, part: _Part) -> None:
        counts = (
            (part.stored, self.verb), (part.gone, "gone at the source"), (part.not_images, "not an image"),
            (part.failed, "failed or refused"),
        )  # fmt: skip
        counted = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        log.info("%s: %s: done, %s", self.dataset.name, name, counted or "nothing in it")


def _part(unit: str) -> str:
    return unit.rpartition("/")[0]


REPORT_INTERVAL = 1  # seconds between two reports of a unit; a report takes a millisecond

ReportUnit = Callable[[tuple[str, int, int]], None]  # unit, bytes read, objects stored; sums since the unit began


class UnitProgress:
    """Sums up what one unit reads and stores in all threads; reports the sums every REPORT_INTERVAL seconds."""

    def __init__(self, unit: str, report: ReportUnit) -> None:
        self.unit, self.report = unit, report
        self.bytes = self.objects = 0
        self._reported, self._lock = time.monotonic(), threading.Lock()

    def add(self, size: int = 0, objects: int = 0) -> None:
        """Add bytes read and objects stored."""
        with self._lock:
            self.bytes, self.objects = self.bytes + size, self.objects + objects
            if time.monotonic() - self._reported < REPORT_INTERVAL:
                return
            self._reported = time.monotonic()
            self.report((self.unit, self.bytes, self.objects))
