"""Merge the rows of several units, and compare them with a listing, as streams sorted by path."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from errors import BucketError, escaped
from manifest.records import STORED, Row, Rows
from storage.bucket import Bucket, Stored, map_bounded

PATHS_PER_PIECE = 1900  # paths of a piece of a listing: two pages, with room for placeholders of folders
CONCURRENT_READS = 4  # of files, for their checksums


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


class Resolved(NamedTuple):
    """The row that counts for a path, the index of its run, and the number of runs that have the path."""

    row: Row
    run: int
    runs: int


def merge_sorted(runs: Sequence[Rows]) -> Iterator[tuple[Row, int]]:
    """Merge runs by path; yields each row with the index of its run. Of one path, later runs come later.

    A run is opened when its first path is due, so few runs are open at a time if they hardly overlap.
    """
    waiting = sorted(((run.marks[0], index) for index, run in enumerate(runs) if run.count), reverse=True)
    opened: list[tuple[str, int, Row, Iterator[Row]]] = []
    while opened or waiting:
        while waiting and (not opened or waiting[-1] <= opened[0][:2]):
            _, index = waiting.pop()
            rest = iter(runs[index])
            row = next(rest)
            heapq.heappush(opened, (row.path, index, row, rest))
        _, index, row, rest = opened[0]
        yield row, index
        following = next(rest, None)
        if following:
            heapq.heapreplace(opened, (following.path, index, following, rest))
        else:
            heapq.heappop(opened)


def last_wins(runs: Sequence[Rows]) -> Iterator[Resolved]:
    """The row that counts for each stored path: the last member of that name, as in tar and zip."""
    last: Resolved | None = None
    for row, run in merge_sorted(runs):
        if row.outcome == STORED:
            count = 1
            if last and last.row.path != row.path:
                yield last
            elif last:
                count = last.runs + (last.run != run)
            last = Resolved(row, run, count)
    if last:
        yield last


def marks(runs: Sequence[Rows]) -> list[str]:
    """Paths that divide all rows into pieces of about the same length."""
    found = sorted(mark for run in runs for mark in run.marks)
    step = max(1, len(found) * PATHS_PER_PIECE // max(1, sum(run.count for run in runs)))
    return found[step::step]


# ── listings ─────────────────────────────────────────────────────────────────────────────────────


def matches(row: Row, stored: Stored | Row | None) -> bool:
    """Whether an object, listed or just read, has the row's size and checksum; a missing checksum is not compared."""
    return stored is not None and stored.size == row.size and stored.crc32c in (row.crc32c, None)


def checked(bucket: Bucket, listing: Iterable[Stored], since: str = "") -> Iterator[Stored]:
    """Add the checksums that a directory's listing lacks, by reading the files.

    With `since`, the name of a file, only newer files are read, and none on a mount.
    """
    if bucket.has_checksums or (since and not bucket.is_local):
        yield from listing
        return
    moment = bucket.changed_at(since) if since else 0
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        yield from map_bounded(pool, lambda each: bucket.with_checksum(each, moment), listing, 2 * CONCURRENT_READS)


def outer_join(
    expected: Iterable[Resolved], listing: Iterable[Stored]
) -> Iterator[tuple[Resolved | None, Stored | None]]:
    """Join expected rows and listed objects, both sorted by path; None stands for the missing one of a pair.

    Raises BucketError for a listing that is out of order, because the comparison would be wrong.
    """
    rest = _in_order(listing)
    stored = next(rest, None)
    for each in expected:
        while stored and stored.name < each.row.path:
            yield None, stored
            stored = next(rest, None)
        if stored and stored.name == each.row.path:
            yield each, stored
            stored = next(rest, None)
        else:
            yield each, None
    while stored:
        yield None, stored
        stored = next(rest, None)


def _in_order(listing: Iterable[Stored]) -> Iterator[Stored]:
    last = ""
    for stored in listing:
        if stored.name <= last:
            raise BucketError(f"the listing is out of order: {escaped(stored.name)} comes after {escaped(last)}")
        last = stored.name
        yield stored
