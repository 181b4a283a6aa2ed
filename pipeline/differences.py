"""Name the differences of a dataset from its manifest, in the bucket's listing and in the sources."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from manifest.compare import last_wins, matches, outer_join
from manifest.records import ABSENT, Row, Rows
from pipeline.chains import join_chains
from pipeline.dataset_run import DatasetRun
from storage.bucket import UNREADABLE, Stored, encode_crc32c

log = logging.getLogger("spotted")

MISSING, DIFFERENT, UNREAD = "missing", "different", "unread"


def difference(row: Row, stored: Stored | None) -> Row:
    """Return the row of the manifest, whose reason is how the listing differs."""
    if stored is None:
        return row._replace(outcome=MISSING, reason="it is not in the bucket")
    return row._replace(outcome=DIFFERENT, reason=f"expected {described(row)}; the bucket lists {described(stored)}")


def described(it: Row | Stored) -> str:
    """Return size and checksum for a message."""
    if it.size == UNREADABLE:
        return "something that is no plain file, or cannot be read"
    return f"{it.size:,} bytes" + ("" if it.crc32c is None else f", crc32c {encode_crc32c(it.crc32c)}")


def against_sources(rows: Rows, run: DatasetRun) -> Iterator[Row]:
    """Read the sources of `run`, and yield a row for each difference from the rows of the manifest."""
    units = list(run.units.values())
    run.watch_checksums(units)
    run.run_units(units, {})
    join_chains(run, {})
    for each, got in run.wrong_checksums():
        why = f"expected sha256 {each.sha256}, the source has {got}"
        yield Row(each.archive.file, each.source.size, 0, each.source.name, 0, DIFFERENT, why)
    yield from _differences(rows, run)


def _differences(manifest: Rows, run: DatasetRun) -> Iterator[Row]:
    now = (each.row for each in last_wins(run.runs()) if not each.row.is_folder)
    gone = {row.path for rows in run.runs() if rows.absent for row in rows if row.outcome in ABSENT}
    reasons = reasons_of(run)
    for each, read in outer_join(last_wins([manifest]), (Stored(*row[:3]) for row in now)):
        if each is None and read:
            why = "the source has it, but the manifest does not"
            yield Row(read.name, read.size, read.crc32c or 0, "", 0, MISSING, why)
        elif each and not read and each.row.path not in gone:
            yield each.row._replace(outcome=UNREAD, reason=reasons(each.row.path))
        elif each and read and not matches(each.row, read):
            why = f"expected {described(each.row)}; the source has {described(read)}"
            yield each.row._replace(outcome=DIFFERENT, reason=why)
    if gone:
        log.info("%s: the source no longer has %d photos, which could not be compared", run.dataset.name, len(gone))


def reasons_of(run: DatasetRun) -> Callable[[str], str]:
    """Return a function that gives the reason why a path could not be read."""
    failed = {row.path: row.reason for rows in run.runs() if rows.bad or rows.absent for row in rows if row.reason}
    error = next((entry.error for entry in run.entries.values() if entry.error), "the source does not have it")
    return lambda path: failed.get(path, error)
