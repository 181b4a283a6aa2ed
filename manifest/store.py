"""What is stored: the journal during the extraction of a dataset, and at its end the manifest, all in the bucket.

Everything is under `_extraction/<dataset>/`, never in the dataset's own folders: the programs that read those
parse every file in them. A dataset is complete when, and only when, its manifest is there.
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
from manifest.compare import matches
from manifest.journal import JournalEntry, checksum_id, is_part, joined_parts, unit_of, version_of
from manifest.records import Row, Rows, read_rows
from manifest.seal import seal, unseal
from storage.bucket import METADATA_PREFIX, Bucket, Data, Lease, decode_crc32c
from storage.names import is_unfinished

log = logging.getLogger("spotted")

FAILURES = ("path", "source", "offset", "outcome", "reason")
MANIFEST = ("path", "size", "crc32c", "source", "offset")  # as Rows has them
CARD = ("card.html", "card.json")
TABLES = ("metadata.csv", "metadata.jsonl", "croissant.json")  # of its images
READS_AT_ONCE = 32  # journal entries
IN_ONE = 8 << 20  # bytes of a manifest that is put in one piece; a longer one is sent in chunks


class ManifestStore:
    """The journal and the manifest of one dataset in one bucket.

    Where the bucket lets nothing be replaced or removed (a retention policy, a hold), a replacement is written
    beside what is there, as `<name>~1`, `<name>~2` and so on: the last one counts.
    """

    def __init__(self, bucket: Bucket, dataset: str) -> None:
        self.bucket, self.folder = bucket, f"{METADATA_PREFIX}{dataset}/"
        self.lock = f"{self.folder}lock"
        self.table, self.card = f"{self.folder}manifest.csv", {self.folder + name for name in CARD}
        self.image_tables = {self.folder + name for name in TABLES}

    def write(self, entry: JournalEntry) -> None:
        """Write down a finished unit or part, after its members are stored.

        Each part has a name of its own: Google Cloud Storage takes one write a second of each name.
        """
        part = "" if entry.upto is None else f".{entry.begin:015d}"
        self._put_last(f"journal/{entry.unit}{part}", ".json", entry.encode(), "application/json")

    def _put_last(self, stem: str, end: str, data: bytes, kind: str) -> None:
        """Put what may be put anew: under the first name that is free, where the bucket keeps what is there."""
        for name in _versions(stem, end):
            with contextlib.suppress(KeptError):
                self._put_once(name, data, kind)
                return

    def lease(self) -> AbstractContextManager[Lease]:
        """Be the only run that writes this dataset; raises BusyError where another one does."""
        return self.bucket.lease(self.lock)

    def _put(self, name: str, data: Data, kind: str) -> None:
        self._wrap(self.bucket.put, name, data, kind)

    def _wrap(self, put: Callable[[str, Data, str], None], name: str, data: Data, kind: str) -> None:
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
        """All readable entries by unit; one that is damaged is passed over, and its unit is worked on again.

        The parts of a unit are one entry, which has `upto`; those of a finished unit are left out.
        """
        names = self._journal_names()
        units = {unit_of(name) for name in names if not is_part(name)}
        wanted = [name for name in names if not is_part(name) or unit_of(name) not in units]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
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
        return [stored.name for stored in self.bucket.list(f"{self.folder}journal/") if not stored.name.endswith("/")]

    def discard(self, units: Iterable[str]) -> None:
        """Remove the journal entries of these units, and what is known of their archives' checksums.

        An entry that the bucket keeps is followed by an empty one.
        """
        gone = set(units)
        gone |= {checksum_id(unit.rpartition("/")[0]) for unit in gone}
        start = len(f"{self.folder}journal/")
        names = {name: unit_of(name[start:]) for name in self._journal_names()}
        kept = self.bucket.delete([name for name, unit in names.items() if unit in gone])
        for unit in {names[name] for name in kept}:
            self.write(JournalEntry(unit, ""))

    def clean_up(self, *kept: str) -> set[str]:
        """Remove the journal but these entries, and what a killed run did not finish; the names of what is left."""
        journal = f"{self.folder}journal/"
        keep = {f"{journal}{unit}" for unit in kept}
        listed = [stored.name for stored in self.bucket.list(self.folder) if unit_of(stored.name) not in keep]
        over = [name for name in listed if name.startswith(journal) or is_unfinished(name)]
        self.bucket.delete(name for name in over if not name.endswith("/"))
        self.bucket.delete(sorted((name for name in over if name.endswith("/")), key=len, reverse=True))
        return set(listed) - set(over)

    def manifest(self) -> tuple[Rows, Mapping[str, Any]] | None:
        """The rows and the description of a complete dataset; None when it is not complete.

        Raises DamagedError when the two are not what was written.
        """
        metadata = self.bucket.get(self.folder + "manifest.json")
        table = None if metadata is None else self.bucket.read(self.folder + "manifest.csv")
        if metadata is None or table is None:
            return None
        try:
            return _read_manifest(unseal(metadata), table)
        except (ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
            raise DamagedError(f"{self.bucket.url}/{self.folder}manifest: damaged ({error})") from error

    def commit(self, rows: Rows, failures: list[Row], metadata: Mapping[str, Any]) -> None:
        """Write the manifest; manifest.csv comes last, since it makes the dataset complete."""
        sha256 = hashlib.sha256()
        with ThreadPoolExecutor(1) as beside:
            failures_written = beside.submit(self.write_failures, failures)
            for chunk in _Table(rows):
                sha256.update(chunk)
            self._put_metadata({**metadata, "manifest_sha256": sha256.hexdigest()})
        failures_written.result()
        table = _Table(rows)
        self.bucket.sync()  # all that the manifest says is on the disk before it is
        data = _whole(table, rows.text_size)
        self._wrap(self.bucket.create, "manifest.csv", data, "text/csv")
        self.bucket.sync()
        self.clean_up()

    def put_beside(self, name: str, chunks: Iterable[bytes], size: int, kind: str) -> None:
        """Write a file beside the manifest: in one piece, or a long one in chunks."""
        self._put(name, _whole(chunks, size), kind)

    def lost_tables(self, metadata: Mapping[str, Any]) -> list[Row]:
        """The files sealed by the manifest that the bucket's listing lacks, or shows with another size or checksum.

        In a directory, those are read that were changed after the manifest was.
        """
        rows = [
            Row(self.folder + name, sealed["size"], decode_crc32c(sealed["crc32c"]), "", 0)
            for name, sealed in metadata.get("tables", {}).items()
        ]
        names = {row.path for row in rows}
        listed = (stored for stored in (self.bucket.list(self.folder) if rows else ()) if stored.name in names)
        if self.bucket.is_local:
            moment = self.bucket.changed_at(self.table)
            listed = (self.bucket.with_checksum(stored, moment) for stored in listed)
        listing = {stored.name: stored for stored in listed}
        return [row for row in rows if not matches(row, listing.get(row.path))]

    def _put_metadata(self, metadata: Mapping[str, Any]) -> None:
        sealed = seal(metadata, indent=2)
        try:
            self._put_once("manifest.json", sealed, "application/json")
        except KeptError:
            # A run that was stopped right after it wrote this one; with the same rows it is as valid.
            with contextlib.suppress(ValueError):
                there = unseal(self.bucket.get(self.folder + "manifest.json") or b"")
                if all(there.get(key) == metadata[key] for key in ("dataset", "sample", "manifest_sha256")):
                    return
            self._put("manifest.json", sealed, "application/json")  # which says why it cannot be written

    def write_failures(self, failures: list[Row]) -> None:
        """Write failures.csv, or remove it when there are none."""
        if failures:
            lines = ((row.path, shown(row.source), row.offset, row.outcome, shown(row.reason)) for row in failures)
            self._put_last("failures", ".csv", _table(FAILURES, lines), "text/csv")
        elif self.bucket.delete([self.folder + "failures.csv"]):
            self._put_last("failures", ".csv", _table(FAILURES, ()), "text/csv")

    def failures(self) -> list[Row]:
        """The rows of the last failures.csv."""
        found = (self.bucket.get(self.folder + name) for name in _versions("failures", ".csv"))
        *_, table = None, *itertools.takewhile(lambda each: each is not None, found)
        return list(_read_failures(table)) if table else []

    def mark_incomplete(self, keeps_tables: bool = False) -> None:
        """Mark the dataset as incomplete, before anything of it is changed."""
        tables = () if keeps_tables else self.image_tables
        if self.folder + "manifest.csv" in self.bucket.delete([self.table, *self.card, *tables]):
            raise ExtractionError(
                f"{self.bucket.url}: {self.folder}manifest.csv says that the dataset is complete, and may not be"
                " removed (a retention policy, a hold, or no right to remove objects): --repair stores what is missing;"
                " to extract the dataset again, wait until it may be removed, or choose another place with --to"
            )

    def write_card(self, page: bytes, facts: bytes) -> None:
        """Write the page, and at the same time what it shows as JSON."""
        with ThreadPoolExecutor(len(CARD)) as pool:
            list(pool.map(self._put, CARD, (page, facts), ("text/html; charset=utf-8", "application/json")))


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


def _whole(chunks: Iterable[bytes], size: int) -> Data:
    """In one piece, but for a long one."""
    return b"".join(chunks) if size < IN_ONE else chunks


def _versions(stem: str, end: str) -> Iterator[str]:
    return (f"{stem}~{number}{end}" if number else stem + end for number in itertools.count())


def _read_manifest(metadata: dict[str, Any], table: Iterable[bytes]) -> tuple[Rows, Mapping[str, Any]]:
    sha256 = hashlib.sha256()

    def passed() -> Iterator[bytes]:
        for chunk in table:
            sha256.update(chunk)
            yield chunk

    rows = Rows.of_sorted(read_rows(_lines(passed())))
    if metadata.pop("manifest_sha256") != sha256.hexdigest():
        raise ValueError("manifest.csv has another sha256 than manifest.json says")
    return rows, metadata


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-8"):
        *lines, rest = (rest + text).split("\n")
        yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest


def _read_failures(table: bytes) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(table.decode()))
    next(lines)
    for path, source, offset, outcome, reason in lines:
        yield Row(path, 0, 0, source, int(offset), outcome, reason)
