"""Journal entries of finished units, each sealed by a checksum."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from archives.spans import SpanBoundary
from manifest.records import FAILED, Rows
from manifest.seal import seal, unseal

VERSION = 2  # of the format: 0 had neither parts nor this field, 1 had no notes
# The end of an entry's name, after the unit's id: where a part begins, and the number of the replacement.
ENTRY_END = re.compile(r"(?P<part>\.\d{15})?(?:~(?P<version>\d+))?\.json$")


def unit_of(name: str) -> str:
    """The name of an entry up to the end of the unit's id."""
    return ENTRY_END.sub("", name)


def is_part(name: str) -> bool:
    """Whether this is the name of a part."""
    found = ENTRY_END.search(name)
    return found is not None and found["part"] is not None


def version_of(name: str) -> int:
    """The number of a replacement, 0 for the original; the largest one counts."""
    found = ENTRY_END.search(name)
    return int(found["version"] or 0) if found else 0


def checksum_id(archive: str) -> str:
    """The id of the entry that records the comparison of an archive's checksum."""
    return f"{archive}/sha256"


class ChecksumState(NamedTuple):
    """The state of an archive's SHA-256 at `position`, and a fingerprint of what the units before it stored."""

    position: int  # bytes of the archive
    fingerprint: str
    state: str  # hexadecimal

    def encode(self) -> dict[str, object]:
        """Encode for JSON; the keys are those of stored journals."""
        return {"position": self.position, "fingerprint": self.fingerprint, "state": self.state}

    @classmethod
    def decode(cls, fields: Mapping[str, Any] | None) -> ChecksumState | None:
        """Reverse encode(); None of an entry without a state."""
        return cls(fields["position"], fields["fingerprint"], fields["state"]) if fields else None


@dataclass(frozen=True)
class JournalEntry:
    """The rows of a unit or of a part of it, and the fingerprint of its source.

    A long-running unit writes its parts. Each part has consecutive members in the order of the archive: the first
    begins at 0, and each other one where the part before it ends.
    """

    unit: str
    fingerprint: str
    rows: Rows = field(default_factory=Rows)
    size: int = 0  # bytes of the source that it covers
    link: SpanBoundary = field(default_factory=SpanBoundary)
    error: str = ""  # why the unit is not finished; such an entry is not written
    retries: int = 0  # repeated requests to sources in its process meanwhile; not written
    begin: int = 0  # of a part: where it begins
    upto: int | None = None  # of a part: where it ends, in bytes of the archive; None: a whole unit
    sha256: str = ""  # of the whole archive, in the entry of its comparison
    state: ChecksumState | None = None  # the latest of the archive when the entry was written

    @property
    def is_done(self) -> bool:
        """Whether every member is stored, or refused for good; only such an entry is written for a whole unit."""
        return not self.error and not (self.rows.bad and any(row.outcome == FAILED for row in self.rows))

    @property
    def failure(self) -> str:
        """Why nothing of the unit was stored; "" otherwise."""
        if self.rows.count == self.rows.bad > 0 and all(row.outcome == FAILED for row in self.rows):
            return next(iter(self.rows)).reason
        return self.error

    def encode(self) -> bytes:
        """Encode as sealed JSON."""
        link = {"first": self.link.first, "end": self.link.end, "pax": self.link.pax, "ended": self.link.ended}
        fields = {"version": VERSION, "unit": self.unit, "fingerprint": self.fingerprint, "size": self.size}
        state = self.state.encode() if self.state else None
        place = {"begin": self.begin, "upto": self.upto, "sha256": self.sha256, "state": state}
        return seal({**fields, **place, "link": link, "rows": self.rows.encode()})

    @classmethod
    def decode(cls, data: bytes) -> JournalEntry:
        """Reverse encode(); raises ValueError, KeyError or TypeError for damaged or other input."""
        fields = unseal(data)
        if fields.get("version", 0) > VERSION:
            raise ValueError(f"of version {fields['version']}, which a newer program wrote")
        link = fields["link"]
        pax = tuple((key, value) for key, value in link["pax"])
        return cls(
            fields["unit"], fields["fingerprint"], Rows.decode(fields["rows"]), fields["size"],
            SpanBoundary(link["first"], link["end"], pax, link["ended"]),
            begin=fields.get("begin", 0), upto=fields.get("upto"), sha256=fields.get("sha256", ""),
            state=ChecksumState.decode(fields.get("state")),
        )  # fmt: skip


def joined_parts(parts: Iterable[JournalEntry]) -> dict[str, JournalEntry]:
    """Join the parts of each unit to one entry; parts with a gap before them remain, under other names."""
    found, by_unit = dict[str, JournalEntry](), defaultdict[str, dict[int, JournalEntry]](dict)
    for part in parts:
        by_unit[part.unit][part.begin] = part
    for unit, rest in by_unit.items():
        chain = list(_chain(rest))
        if chain:
            found[unit] = _as_one(chain)
        found |= {f"{unit}.{part.begin}": part for part in rest.values() if part not in chain}
    return found


def _chain(parts: Mapping[int, JournalEntry]) -> Iterator[JournalEntry]:
    at: int | None = 0
    fingerprint = parts[0].fingerprint if 0 in parts else ""
    while at is not None and at in parts and parts[at].fingerprint == fingerprint:
        yield parts[at]
        at = upto if (upto := parts[at].upto) is not None and upto > at else None


def _as_one(chain: list[JournalEntry]) -> JournalEntry:
    first, last = chain[0], chain[-1]
    return JournalEntry(
        first.unit, first.fingerprint, Rows.of(itertools.chain(*(part.rows for part in chain))),
        sum(part.size for part in chain), SpanBoundary(first.link.first, last.link.end, last.link.pax), upto=last.upto,
        state=last.state,
    )  # fmt: skip
