"""Carry the SHA-256 of an archive from one run to the next, so that it need not read again what is stored.

A journal entry has the state of the checksum at a byte before which all is stored, and a fingerprint of what was
stored: the state counts only while the same objects are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

from manifest.checksums import Digest
from manifest.journal import ChecksumState, JournalEntry
from manifest.records import Rows
from manifest.sha256 import is_state
from pipeline.planner import PlannedArchive


class Checkpoint(NamedTuple):
    """How far an archive is stored from its beginning: whole units, and a fingerprint of what they stored."""

    units: int  # their number
    next: str  # id of the unit after them; "" after the last one
    position: int  # bytes of the archive
    fingerprint: str
    state: ChecksumState | None  # the last one that is known

    def within(self, rows: Rows, position: int, state: bytes) -> ChecksumState:
        """The state at a position in the next unit, after parts of it that stored `rows`."""
        fingerprint = hashlib.sha256(self.fingerprint.encode() + rows.packed).hexdigest()
        return ChecksumState(position, fingerprint, state.hex())


class Carried(NamedTuple):
    """What need not be read again: an archive's first units, and what is stored of the next one if `inside` has it."""

    units: int = 0
    inside: str = ""  # id of that unit
    state: ChecksumState | None = None  # of the checksum after them

    @property
    def position(self) -> int:
        """The byte of the archive from which on it is read."""
        return self.state.position if self.state else 0

    def digest(self) -> Digest:
        """A new digest that begins there."""
        return Digest(self.position, bytes.fromhex(self.state.state)) if self.state else Digest()


class Frontier:
    """Follows how far the units of an archive are stored; `state` is what earlier runs know of its checksum."""

    def __init__(self, each: PlannedArchive, state: ChecksumState | None = None) -> None:
        self._units = list(zip(each.units, each.works, strict=True))
        self._rows = hashlib.sha256(each.units[0].fingerprint.encode())
        self.point = Checkpoint(0, each.units[0].id, 0, self._rows.hexdigest(), state)

    def advance(self, entries: Mapping[str, JournalEntry], unread: Collection[str] = ()) -> bool:
        """Go on to the end of the next unit; return False if it is not stored, or is `unread`.

        A digest may have the bytes of units that are read again and not compared with their entries yet.
        """
        entry = entries.get(self.point.next)
        if entry is None or not entry.is_done or entry.unit in unread:
            return False
        units, span = self.point.units + 1, self._units[self.point.units][1].span
        self._rows.update(entry.rows.packed)
        after = self._units[units][0].id if units < len(self._units) else ""
        position = max(self.point.position, span.stop, entry.link.end)
        self.point = Checkpoint(units, after, position, self._rows.hexdigest(), self.point.state)
        return True

    def follow(self, entries: Mapping[str, JournalEntry], unread: Collection[str], digest: Digest) -> Checkpoint:
        """Go on as far as possible, with the states of this digest."""
        while self.advance(entries, unread):
            if state := digest.states.pop(self.point.position, b""):
                known = ChecksumState(self.point.position, self.point.fingerprint, state.hex())
                self.point = self.point._replace(state=known)
        return self.point


def carried(each: PlannedArchive, entries: Mapping[str, JournalEntry], journal: Mapping[str, JournalEntry]) -> Carried:
    """Return what the journal has of an archive's checksum; `entries` are those of the stored units and parts."""
    known = {entry.state[:2]: entry.state for entry in journal.values() if entry.state}
    known = {place: state for place, state in known.items() if is_state(bytes.fromhex(state.state))}
    frontier, found = Frontier(each), Carried()
    whole = {unit: entry for unit, entry in entries.items() if entry.upto is None}
    while frontier.advance(whole):
        if state := known.get((frontier.point.position, frontier.point.fingerprint)):
            found = Carried(frontier.point.units, "", state)
    part = entries.get(frontier.point.next)
    if part and part.upto is not None:
        place = frontier.point.within(part.rows, part.upto, b"")[:2]
        if state := known.get(place):
            found = Carried(frontier.point.units, part.unit, state)
    return found
