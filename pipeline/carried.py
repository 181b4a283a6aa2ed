"""Carry the SHA-256 of an archive from one run to the next, so that it need not read again what is stored.

Each journal entry has the state of the checksum at a byte before which all units are stored, and a fingerprint of what
they stored: the state counts only while the same objects are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from manifest.checksums import Digest
from manifest.journal import ChecksumState, JournalEntry
from manifest.sha256 import is_state
from pipeline.planner import PlannedArchive


class Checkpoint(NamedTuple):
    """The end of the first `units` of an archive, and a fingerprint of what they stored."""

    units: int = 0
    position: int = 0  # bytes of the archive
    fingerprint: str = ""


class Carried(NamedTuple):
    """The number of an archive's first units that need not be read again, and the checksum's state after them."""

    units: int = 0
    state: ChecksumState | None = None

    @property
    def position(self) -> int:
        """The byte of the archive from which on it is read."""
        return self.state.position if self.state else 0

    def digest(self) -> Digest:
        """A new digest that begins there."""
        return Digest(self.position, bytes.fromhex(self.state.state)) if self.state else Digest()


class Frontier:
    """Follows how far the units of an archive are stored from the first one on."""

    def __init__(self, each: PlannedArchive) -> None:
        self._each, self._rows, self._point = each, hashlib.sha256(), Checkpoint()

    def advance(self, entries: Mapping[str, JournalEntry], unread: Collection[str] = ()) -> Iterator[Checkpoint]:
        """Yield the ends of the units that are stored since the last call, up to one that is not, or is `unread`.

        A digest may have the bytes of units that are read again and not compared with their entries yet.
        """
        for unit, work in zip(
            self._each.units[self._point.units :], self._each.works[self._point.units :], strict=True
        ):
            entry = entries.get(unit.id)
            if entry is None or not entry.is_done or unit.id in unread:
                return
            reach = max(self._point.position, work.span.stop, entry.link.end)
            self._rows.update(entry.fingerprint.encode() + entry.rows.packed)
            self._point = Checkpoint(self._point.units + 1, reach, self._rows.hexdigest())
            yield self._point


def carried(each: PlannedArchive, entries: Mapping[str, JournalEntry], journal: Mapping[str, JournalEntry]) -> Carried:
    """Return what the journal has of an archive's checksum; `entries` are those of the stored units."""
    known = {entry.state[:2]: entry.state for entry in journal.values() if entry.state}
    found = Carried()
    for point in Frontier(each).advance(entries):
        state = known.get((point.position, point.fingerprint))
        if state and is_state(bytes.fromhex(state.state)):
            found = Carried(point.units, state)
    return found


def latest_state(
    frontier: Frontier, entries: Mapping[str, JournalEntry], unread: Collection[str], digest: Digest
) -> ChecksumState | None:
    """Return the state of the checksum after the units that are stored by now; None if there is nothing new."""
    found = None
    for point in frontier.advance(entries, unread):
        if state := digest.states.pop(point.position, b""):
            found = ChecksumState(point.position, point.fingerprint, state.hex())
    return found
