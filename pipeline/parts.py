"""Write a long-running unit to the journal in parts, so that the run after a kill reads little twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from archives.spans import Pax, SpanBoundary
from manifest.journal import JournalEntry
from manifest.records import FAILED, Row, Rows

# After a kill, what was stored since the last part is read again: 2 % of the bytes, 5 % with those in flight. Parts
# become rare as a run gets longer; units of a fast source mostly have none.
PART_SHARE = 0.02  # interval between two parts of a unit, as a share of the seconds that the process has run
MIN_PART_SECONDS = 0.25  # seconds, at least
MIN_PHOTO_PART_SECONDS = 2.0  # seconds, at least, for photos


class Mark(NamedTuple):
    """A position between two members: the archive's byte where the next one begins, and a tar's global headers."""

    upto: int
    pax: Pax = ()
    state: bytes = b""  # of the archive's checksum there, if it is known


class PartWriter:
    """Receives a unit's stored batches in any order, and writes those that have no gap before them.

    `write` is called with the part, the rows of all parts so far, and the state of the archive's checksum at its end.
    `blank` is the unit's entry without rows; `bounds` are its first and last byte in the archive; `link` is filled in
    by the reader; `started` is the start of the process on the monotonic clock.
    """

    def __init__(
        self,
        write: Callable[[JournalEntry, Sequence[Row], bytes], None],
        blank: JournalEntry,
        bounds: tuple[int, int],
        link: SpanBoundary,
        started: float,
    ) -> None:
        self._write, self._blank, self._link, self._started = write, blank, link, started
        self._begin, (self._passed, self._stop) = blank.begin, bounds
        self._early = dict[int, tuple[list[Row], Mark]]()
        self._next, self._rows, self._mark = 0, list[Row](), Mark(blank.begin)
        self._all = list[Row]()
        self._numbered, self._counted = 0, blank.begin  # batches and rows of add_next()
        self._written, self._lock, self._is_writing = time.monotonic(), threading.Lock(), False

    def add(self, number: int, rows: list[Row], mark: Mark) -> None:
        """Add the stored batch of this number; it ends at `mark`."""
        with self._lock:
            self._early[number] = rows, mark
            part = self._part() if self._settle() and self._is_due() else None
        if part:
            self._write_part(*part)

    def add_next(self, rows: list[Row]) -> None:
        """Add stored rows that have no position, such as those of a photo; failed ones are ignored."""
        if any(row.outcome == FAILED for row in rows):
            return
        with self._lock:
            number, self._numbered = self._numbered, self._numbered + 1
            self._counted += len(rows)
            mark = Mark(self._counted)
        self.add(number, rows, mark)

    def flush(self, only_if_due: bool = False) -> None:
        """Write what is stored so far, when the unit ends early or is about to store nothing for a while."""
        with self._lock:
            part = self._part() if self._settle() and (not only_if_due or self._is_due()) else None
        if part:
            self._write_part(*part)

    def _settle(self) -> bool:
        """Collect the batches that have no gap before them; return whether there is something to write."""
        while self._next in self._early:
            rows, mark = self._early[self._next]
            if any(row.outcome == FAILED for row in rows):  # the next run continues here
                break
            del self._early[self._next]
            self._rows += rows
            self._mark, self._next = mark, self._next + 1
        return bool(self._rows) and not self._is_writing

    def _is_due(self) -> bool:
        now = time.monotonic()
        least = MIN_PHOTO_PART_SECONDS if self._numbered else MIN_PART_SECONDS
        return now - self._written >= max(least, PART_SHARE * (now - self._started))

    def _part(self) -> tuple[JournalEntry, Sequence[Row], bytes]:
        rows, self._rows, self._is_writing = self._rows, [], True
        self._all = [*self._all, *rows]
        begin, passed, upto = self._begin, self._passed, self._mark.upto
        self._begin, self._passed = upto, max(passed, min(upto, self._stop))
        link = SpanBoundary(self._link.first, upto, self._mark.pax)
        size = self._passed - passed
        part = replace(self._blank, rows=Rows.of(rows), size=size, link=link, begin=begin, upto=upto)
        return part, self._all, self._mark.state

    def _write_part(self, part: JournalEntry, rows: Sequence[Row], state: bytes) -> None:
        try:
            self._write(part, rows, state)
        finally:
            with self._lock:
                self._written, self._is_writing = time.monotonic(), False
