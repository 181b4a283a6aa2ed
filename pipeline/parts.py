"""A long-running unit becomes journal entries in parts, so that a killed run reads little twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from archives.spans import Pax, SpanBoundary
from manifest.journal import JournalEntry
from manifest.records import FAILED, Row, Rows

# A killed run's successor reads again what was stored after the last part: 2 % of what was read, 5 % with what was in
# flight. Parts become rare as a run gets longer; from a fast source most units have none.
SHARE = 0.02  # of the seconds that the process has run
SHORTEST = 0.25  # seconds between two parts of a unit
PHOTOS = 2.0  # the same, of photos


class Mark(NamedTuple):
    """A place between two members: from which byte of the archive on members are to do, and a tar's global headers."""

    upto: int
    pax: Pax = ()


class PartWriter:
    """Takes a unit's batches as they are stored, in any order, and writes down what has no gap before it.

    `blank` is an entry of the unit without rows, which begins where the unit does, `bounds` are its bytes in the
    archive; `link` is filled in while they are read; `started` is when the process began, by the monotonic clock.
    """

    def __init__(
        self,
        write: Callable[[JournalEntry], None],
        blank: JournalEntry,
        bounds: tuple[int, int],
        link: SpanBoundary,
        started: float,
    ) -> None:
        self._write, self._blank, self._link, self._started = write, blank, link, started
        self._begin, (self._passed, self._stop) = blank.begin, bounds
        self._early = dict[int, tuple[list[Row], Mark]]()
        self._next, self._rows, self._mark = 0, list[Row](), Mark(blank.begin)
        self._numbered, self._counted = 0, blank.begin  # of rows without an order
        self._written, self._lock, self._is_writing = time.monotonic(), threading.Lock(), False

    def add(self, number: int, rows: list[Row], mark: Mark) -> None:
        """The batch of this number is stored; after it comes `mark`."""
        with self._lock:
            self._early[number] = rows, mark
            part = self._part() if self._settle() and self._is_due() else None
        if part:
            self._write_part(part)

    def add_next(self, rows: list[Row]) -> None:
        """Rows are stored that have no order, such as those of a photo; a failed one is no part."""
        if any(row.outcome == FAILED for row in rows):
            return
        with self._lock:
            number, self._numbered = self._numbered, self._numbered + 1
            self._counted += len(rows)
            mark = Mark(self._counted)
        self.add(number, rows, mark)

    def flush(self, only_if_due: bool = False) -> None:
        """Write what is stored so far: the unit ends early, or stores nothing for a while."""
        with self._lock:
            part = self._part() if self._settle() and (not only_if_due or self._is_due()) else None
        if part:
            self._write_part(part)

    def _settle(self) -> bool:
        """Whether anything waits to be written, after all that is stored without a gap is counted."""
        while self._next in self._early:
            rows, mark = self._early[self._next]
            if any(row.outcome == FAILED for row in rows):  # is tried again by the next run, and all after it
                break
            del self._early[self._next]
            self._rows, self._mark, self._next = self._rows + rows, mark, self._next + 1
        return bool(self._rows) and not self._is_writing

    def _is_due(self) -> bool:
        now = time.monotonic()
        return now - self._written >= max(PHOTOS if self._numbered else SHORTEST, SHARE * (now - self._started))

    def _part(self) -> JournalEntry:
        rows, self._rows, self._is_writing = self._rows, [], True
        begin, passed, upto = self._begin, self._passed, self._mark.upto
        self._begin, self._passed = upto, max(passed, min(upto, self._stop))
        link = SpanBoundary(self._link.first, upto, self._mark.pax)
        size = self._passed - passed
        return replace(self._blank, rows=Rows.of(rows), size=size, link=link, begin=begin, upto=upto)

    def _write_part(self, part: JournalEntry) -> None:
        try:
            self._write(part)
        finally:
            with self._lock:
                self._written, self._is_writing = time.monotonic(), False
