"""A finished unit becomes a journal entry, sealed by a checksum."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from archives.spans import SpanBoundary
from manifest.records import FAILED, Rows
from manifest.seal import seal, unseal

# Of journal entries; 0 had no parts, and no field that says the version; rows of 1 had no notes.
VERSION = 2
# Of an entry's name, after the unit's id: where a part begins, and its number among the entries of this name.
ENTRY_END = re.compile(r"(?P<part>\.\d{15})?(?:~(?P<version>\d+))?\.json$")


def unit_of(name: str) -> str:
    """The id of the unit, with what precedes it in the name of an entry."""
    return ENTRY_END.sub("", name)


def is_part(name: str) -> bool:
    """Whether this is the name of a part, and not of a finished unit's entry."""
    found = ENTRY_END.search(name)
    return found is not None and found["part"] is not None


def version_of(name: str) -> int:
    """Of several entries of one name, which a bucket keeps, the one with the largest number counts."""
    found = ENTRY_END.search(name)
    return int(found["version"] or 0) if found else 0


def checksum_id(archive: str) -> str:
    """The id of the entry that an archive's checksum was compared."""
    return f"{archive}/sha256"


@dataclass(frozen=True)
class JournalEntry:
    """A journal entry: the rows of a unit or of a part of one, and the fingerprint of its source.

    A unit that runs for long writes its parts down. Each is a stretch of its members, in their order in the archive: it
    begins where the one before it ends, and the first begins at 0.
    """

    unit: str
    fingerprint: str
    rows: Rows = field(default_factory=Rows)
    size: int = 0  # bytes of the source that it stands for
    link: SpanBoundary = field(default_factory=SpanBoundary)
    error: str = ""  # why the unit is not finished; such an entry is never written down
    retries: int = 0  # requests to the source that its process made once more meanwhile; not written down
    begin: int = 0  # of a part: where it begins
    upto: int | None = None  # of a part: from which byte of the archive on the unit is still to do; None: a whole unit
    sha256: str = ""  # of the whole archive, where the entry is about that

    @property
    def failure(self) -> str:
        """Why nothing at all came of the unit, or ""."""
        if self.rows.count == self.rows.bad > 0 and all(row.outcome == FAILED for row in self.rows):
            return next(iter(self.rows)).reason
        return self.error

    def encode(self) -> bytes:
        """As sealed JSON."""
        link = {"first": self.link.first, "end": self.link.end, "pax": self.link.pax, "ended": self.link.ended}
        fields = {"version": VERSION, "unit": self.unit, "fingerprint": self.fingerprint, "size": self.size}
        place = {"begin": self.begin, "upto": self.upto, "sha256": self.sha256}
        return seal({**fields, **place, "link": link, "rows": self.rows.encode()})

    @classmethod
    def decode(cls, data: bytes) -> JournalEntry:
        """Raises ValueError, KeyError or TypeError when this is no entry, or a damaged one."""
        fields = unseal(data)
        if fields.get("version", 0) > VERSION:
            raise ValueError(f"of version {fields['version']}, which a newer program wrote")
        link = fields["link"]
        pax = tuple((key, value) for key, value in link["pax"])
        return cls(
            fields["unit"], fields["fingerprint"], Rows.decode(fields["rows"]), fields["size"],
            SpanBoundary(link["first"], link["end"], pax, link["ended"]),
            begin=fields.get("begin", 0), upto=fields.get("upto"), sha256=fields.get("sha256", ""),
        )  # fmt: skip


def joined_parts(parts: Iterable[JournalEntry]) -> dict[str, JournalEntry]:
    """Each unit's parts as one entry, by unit; parts that do not join up are each by themselves, by another name."""
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
    )  # fmt: skip
