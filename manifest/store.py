"""Read and write the journal and the manifest of a dataset, which are objects in its bucket.

They are under `_extraction/<dataset>/`, never in the dataset's own folders, because programs that read those parse
every file in them. A dataset is complete if and only if its manifest exists.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from errors import BucketError, DamagedError, ExtractionError, KeptError, MemberError, shown
from manifest.compare import checked, matches
from manifest.journal import JournalEntry, checksum_id, is_part, joined_parts, unit_of, version_of
from manifest.records import Row, Rows, read_rows
from manifest.seal import seal, unseal
from storage.bucket import METADATA_PREFIX, Bucket, Data, Lease, decode_crc32c
from storage.names import is_unfinished

log = logging.getLogger("spotted")

FAILURES = ("path", "source", "offset", "outcome", "reason")
MANIFEST = ("path", "size", "crc32c", "source", "offset")  # in the order of Rows
REQUIRED = ("sample", "sources", "gone")  # fields of manifest.json that later commands need
# The card, and the tables of its images: file names and media types.
CARD = {"card.html": "text/html; charset=utf-8", "card.json": "application/json"}
TABLES = {
    "metadata.csv": "text/csv", "metadata.jsonl": "application/x-ndjson", "croissant.json": "application/ld+json",
}  # fmt: skip
CONCURRENT_READS = 32  # concurrent reads of journal entries
MAX_SINGLE_PUT_BYTES = 8 << 20  # bytes; a longer file is sent in chunks


class ManifestStore:
    """The journal and the manifest of one dataset in one bucket.

    If the bucket does not allow objects to be replaced or removed (a retention policy, a hold), replacements are
    written as `<name>~1`, `<name>~2` and so on; the last one counts, of manifest.json that of manifest.csv's SHA-256.
    """

    def __init__(self, bucket: Bucket, dataset: str) -> None:
        self.bucket, self.folder = bucket, f"{METADATA_PREFIX}{dataset}/"
        self.lock, self.entries = f"{self.folder}lock", f"{self.folder}journal/"
        self.table, self.card = f"{self.folder}manifest.csv", {self.folder + name for name in CARD}
        self.image_tables = {self.folder + name for name in TABLES}

    def write(self, entry: JournalEntry) -> None:
        """Write the entry of a unit or part whose members are stored.

        Each part has a name of its own, because Google Cloud Storage accepts one write a second per name.
        """
        part = "" if entry.upto is None else f".{entry.begin:015d}"
        self._put_last(f"journal/{entry.unit}{part}", ".json", entry.encode(), "application/json")

    def _put_last(self, stem: str, end: str, data: bytes, kind: str) -> None:
        """Put a file that may be replaced; under the next free name if the bucket keeps the existing one."""
        for name in _versions(stem, end):
            with contextlib.suppress(KeptError):
                self._put_once(name, data, kind)
                return

    def lease(self) -> AbstractContextManager[Lease]:
        """Lease the dataset for writing; raises BusyError if another run holds the lease."""
        return self.bucket.lease(self.lock)

    def _put(self, name: str, data: Data, kind: str, put: Callable[[str, Data, str], None] | None = None) -> None:
        try:
            self._put_once(name, data, kind, put)
        except KeptError as error:
            raise ExtractionError(
                f"{self.bucket.url}: {self.folder}{name} cannot be written, as the bucket keeps that of an earlier run"
                f" ({error}); wait until it may be removed, or choose another place with --to"
            ) from error

    def _put_once(self, name: str, data: Data, kind: str, put: Callable[[str, Data, str], None] | None = None) -> None:
        try:
            (put or self.bucket.put)(self.folder + name, data, kind)
        except KeptError:
            raise
        except MemberError as error:
            raise BucketError(f"{self.bucket.url}: {self.folder}{name} cannot be written: {error}") from error

    def journal(self) -> dict[str, JournalEntry]:
        """Return the readable entries by unit; a damaged entry is skipped with a warning.

        The parts of an unfinished unit are joined to one entry, which has `upto`.
        """
        names = self._journal_names()
        units = {unit_of(name) for name in names if not is_part(name)}
        wanted = [name for name in names if not is_part(name) or unit_of(name) not in units]
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            found = list(filter(None, pool.map(self._entry, sorted(wanted, key=version_of))))
        whole = {entry.unit: entry for entry in found if entry.upto is None}
        return joined_parts(entry for entry in found if entry.upto is not None) | whole

    def _entry(self, name: str) -> JournalEntry | None:
        data = self.bucket.get(name)
        if data is None:  # another run has just become complete
            return None
        try:
            return JournalEntry.decode(data)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s: a damaged journal entry (%s); its piece is read again", self.bucket.url, name, error)
            return None

    def _journal_names(self) -> list[str]:
        return [stored.name for stored in self.bucket.list(self.entries) if not stored.name.endswith("/")]

    def discard(self, units: Iterable[str]) -> None:
        """Remove the journal entries of these units, and those of their archives' checksums.

        If the bucket keeps an entry, an empty one replaces it.
        """
        gone = set(units)
        gone |= {checksum_id(unit.rpartition("/")[0]) for unit in gone}
        names = {name: unit_of(name.removeprefix(self.entries)) for name in self._journal_names()}
        kept = self.bucket.delete([name for name, unit in names.items() if unit in gone])
        for unit in {names[name] for name in kept}:
            self.write(JournalEntry(unit, ""))

    def clean_up(self, *kept: str) -> set[str]:
        """Remove the journal, except the `kept` entries, and unfinished files; returns the names of what is left."""
        keep = {self.entries + unit for unit in kept}
        listed = [stored.name for stored in self.bucket.list(self.folder) if unit_of(stored.name) not in keep]
        over = [name for name in listed if name.startswith(self.entries) or is_unfinished(name)]
        held = self.bucket.delete(name for name in over if not name.endswith("/"))
        self.bucket.delete(sorted((name for name in over if name.endswith("/")), key=len, reverse=True))
        return (set(listed) - set(over)).union(held)

    def manifest(self) -> tuple[Rows, Mapping[str, Any]] | None:
        """Return the rows and the metadata of a complete dataset; None if it is not complete.

        Raises DamagedError if they are not what was written.
        """
        versions = self._kept("manifest", ".json")
        metadata = next(versions, None)
        table = None if metadata is None else self.bucket.read(self.folder + "manifest.csv")
        if metadata is None or table is None:
            return None
        try:
            return _read_manifest(map(unseal, itertools.chain([metadata], versions)), table)
        except (ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
            raise DamagedError(f"{self.bucket.url}/{self.folder}manifest: damaged ({error})") from error

    def commit(self, rows: Rows, failures: list[Row], metadata: Mapping[str, Any]) -> None:
        """Write the manifest; manifest.csv comes last, because it marks the dataset as complete."""
        sha256, table = hashlib.sha256(), _Table(rows)
        with ThreadPoolExecutor(1) as beside:
            failures_written = beside.submit(self.write_failures, failures)
            for chunk in table:
                sha256.update(chunk)
            sealed = seal({**metadata, "manifest_sha256": sha256.hexdigest()}, indent=2)
            self._put_last("manifest", ".json", sealed, "application/json")
        failures_written.result()
        self.bucket.sync()  # all objects are on disk before the manifest lists them
        self._put("manifest.csv", whole(table, rows.text_size), "text/csv", self.bucket.create)
        self.bucket.sync()
        self.clean_up()

    def put_beside(self, files: Mapping[str, Data]) -> None:
        """Write files of CARD or TABLES beside the manifest, in parallel."""
        kinds = CARD | TABLES
        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(lambda name: self._put(name, files[name], kinds[name]), files))

    def lost_tables(self, metadata: Mapping[str, Any]) -> list[Row]:
        """Return the rows of tables that are missing, or whose size or checksum is not the manifest's.

        In a directory, tables that are newer than the manifest are read.
        """
        rows = [
            Row(self.folder + name, sealed["size"], decode_crc32c(sealed["crc32c"]), "", 0)
            for name, sealed in metadata.get("tables", {}).items()
        ]
        names = {row.path for row in rows}
        listed = (stored for stored in (self.bucket.list(self.folder) if rows else ()) if stored.name in names)
        listing = {stored.name: stored for stored in checked(self.bucket, listed, self.table)}
        return [row for row in rows if not matches(row, listing.get(row.path))]

    def write_failures(self, failures: list[Row]) -> None:
        """Write failures.csv, or remove it if there are none."""
        if failures:
            lines = ((row.path, shown(row.source), row.offset, row.outcome, shown(row.reason)) for row in failures)
            self._put_last("failures", ".csv", _table(FAILURES, lines), "text/csv")
        elif self.bucket.delete([self.folder + "failures.csv"]):
            self._put_last("failures", ".csv", _table(FAILURES, ()), "text/csv")

    def failures(self) -> list[Row]:
        """Return the rows of the last failures.csv."""
        *_, table = b"", *self._kept("failures", ".csv")
        lines = csv.reader(io.StringIO(table.decode()))
        next(lines, None)
        return [Row(path, 0, 0, source, int(offset), outcome, why) for path, source, offset, outcome, why in lines]

    def _kept(self, stem: str, end: str) -> Iterator[bytes]:
        """A file of _put_last and all that replace it."""
        found = (self.bucket.get(self.folder + name) for name in _versions(stem, end))
        return iter(lambda: next(found), None)

    def mark_incomplete(self, keeps_tables: bool = False) -> None:
        """Remove the manifest, the card and the tables, before anything else is changed."""
        tables = () if keeps_tables else self.image_tables
        if self.folder + "manifest.csv" in self.bucket.delete([self.table, *self.card, *tables]):
            raise ExtractionError(
                f"{self.bucket.url}: {self.folder}manifest.csv says that the dataset is complete, and may not be"
                " removed (a retention policy, a hold, or no right to remove objects): --repair stores what is missing;"
                " to extract the dataset again, wait until it may be removed, or choose another place with --to"
            )

    def write_card(self, page: bytes, facts: bytes) -> None:
        """Write the card: the page, and its facts as JSON."""
        self.put_beside(dict(zip(CARD, (page, facts), strict=True)))


def _table(header: tuple[str, ...], lines: Iterable[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue().encode()


@dataclass(frozen=True)
class _Table:
    """manifest.csv in chunks; can be iterated any number of times."""

    rows: Rows

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain([_table(MANIFEST, ())], self.rows.text())


def whole(chunks: Iterable[bytes], size: int) -> Data:
    """Join the chunks of a file, unless they are too long for a single put."""
    return b"".join(chunks) if size < MAX_SINGLE_PUT_BYTES else chunks


def _versions(stem: str, end: str) -> Iterator[str]:
    return (f"{stem}~{number}{end}" if number else stem + end for number in itertools.count())


def _read_manifest(versions: Iterable[dict[str, Any]], table: Iterable[bytes]) -> tuple[Rows, Mapping[str, Any]]:
    sha256 = hashlib.sha256()

    def passed() -> Iterator[bytes]:
        for chunk in table:
            sha256.update(chunk)
            yield chunk

    rows = Rows.of_sorted(read_rows(_lines(passed())))
    for metadata in versions:
        if metadata.pop("manifest_sha256") == sha256.hexdigest():
            if lost := [key for key in REQUIRED if key not in metadata]:
                raise ValueError(f"another version wrote manifest.json, without {', '.join(lost)}")
            return rows, metadata
    raise ValueError("manifest.csv has another sha256 than manifest.json says")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-8"):
        *lines, rest = (rest + text).split("\n")
        yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest
