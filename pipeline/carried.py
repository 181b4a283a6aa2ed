"""Carry the SHA-256 of an archive from one run to the next, so that it need not read again what is stored.

The journal has the state of the checksum at a byte before which all pieces are stored, and a fingerprint of what they
stored: the state counts only while the same objects are there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from manifest.checksums import Digest
from manifest.journal import JournalEntry, state_id
from manifest.sha256 import is_state
from manifest.store import ManifestStore
from pipeline.parts import PART_SHARE
from pipeline.planner import PlannedArchive

MIN_STATE_SECONDS = 2.0  # seconds between two writes, at least: Google Cloud Storage accepts one a second per name


class Checkpoint(NamedTuple):
    """The end of the first `units` of an archive, and a fingerprint of what they stored."""

    units: int
    position: int  # bytes of the archive
    fingerprint: str


class Carried(NamedTuple):
    """The number of an archive's first units that need not be read again, and the checksum's state after them."""

    units: int = 0
    position: int = 0
    state: bytes = b""

    def digest(self) -> Digest:
        """A new digest that begins there."""
        return Digest(self.position, self.state)


def carried(each: PlannedArchive, entries: Mapping[str, JournalEntry], journal: Mapping[str, JournalEntry]) -> Carried:
    """Return what the journal has of an archive's checksum; `entries` are those of the stored units."""
    known = journal.get(state_id(each.archive.file))
    if known and is_state(state := bytes.fromhex(known.sha256)):
        for point in _checkpoints(each, entries):
            if (point.position, point.fingerprint) == (known.size, known.fingerprint):
                return Carried(point.units, point.position, state)
    return Carried()


class StateWriter:
    """Writes the states of checksums, as rarely as the parts of units."""

    def __init__(self, store: ManifestStore | None) -> None:
        self._store = None if store is None or store.bucket.keeps else store  # or every state would stay in it
        self._begin = self._written = time.monotonic()

    def write(
        self, each: PlannedArchive, entries: Mapping[str, JournalEntry], unread: Set[str], digest: Digest
    ) -> None:
        """Write the state after the stored units, if it is time.

        The digest may have bytes of units that are `unread` (again), which are not compared with their entries yet.
        """
        now = time.monotonic()
        if not self._store or now - self._written < max(MIN_STATE_SECONDS, PART_SHARE * (now - self._begin)):
            return
        compared = {unit: entry for unit, entry in entries.items() if unit not in unread}
        for point in reversed([*_checkpoints(each, compared)]):
            if state := digest.states.get(point.position):
                name = state_id(each.archive.file)
                self._store.write(JournalEntry(name, point.fingerprint, size=point.position, sha256=state.hex()))
                self._written = now
                return


def _checkpoints(each: PlannedArchive, entries: Mapping[str, JournalEntry]) -> Iterator[Checkpoint]:
    """Yield the ends of the units from the first one on, up to one that is not stored."""
    reach, rows = 0, hashlib.sha256()
    for count, (unit, work) in enumerate(zip(each.units, each.works, strict=True), 1):
        entry = entries.get(unit.id)
        if entry is None or not entry.is_done:
            return
        reach = max(reach, work.span.stop, entry.link.end)
        rows.update(entry.fingerprint.encode() + entry.rows.packed)
        yield Checkpoint(count, reach, rows.hexdigest())
