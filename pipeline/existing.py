"""Compare journal, manifest and listing: which objects of a dataset a bucket has, and which are none of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, sharing
from errors import DamagedError, ExtractionError
from manifest.compare import Resolved, checked, last_wins, marks, matches, outer_join
from manifest.journal import JournalEntry
from manifest.records import STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.options import RunOptions
from storage.bucket import Bucket, Stored

log = logging.getLogger("spotted")

Listing = dict[str, Stored]
EARLIER = "earlier"  # stands for a unit
EXTRA = "extra"  # the outcome of the rows of objects that are none of a dataset
EMPTY = Rows()


@dataclass
class ExistingState:
    """What a bucket has of a dataset."""

    kept: dict[str, JournalEntry]  # by unit: the entries whose objects all exist
    loose: Listing = field(default_factory=dict)  # objects without a kept entry: the last ones of a killed run
    vouched: dict[str, Row] = field(default_factory=dict)  # loose objects with the checksum of an entry or manifest
    folders: set[str] = field(default_factory=set)
    objects: int = 0


def existing_state(
    bucket: Bucket, dataset: Dataset, journal: Mapping[str, JournalEntry], earlier: Rows = EMPTY, reads: bool = False
) -> ExistingState:
    """Compare journal entries with the bucket's listing; with `reads`, also with the bytes of a directory's files.

    `earlier` are the objects of another version, or of a manifest that is no longer valid.
    """
    units, state, lost = [EARLIER, *journal], ExistingState(dict(journal)), defaultdict[str, set[str]](set)
    runs = [earlier, *(entry.rows for entry in journal.values())]
    listing, has_checksums = bucket.list(dataset.folder, marks(runs)), bucket.has_checksums
    if reads and bucket.is_local:
        listing, has_checksums = checked(bucket, listing), True
    for each, stored in outer_join(last_wins(runs), listing):
        if stored and stored.name.endswith("/"):
            state.folders.add(stored.name)
            continue
        if stored:
            state.objects += 1
        is_right = each is not None and (each.row.is_folder or matches(each.row, stored))
        if each and not is_right and each.run:
            lost[units[each.run]].add(each.row.path)
        elif stored and not (each and each.run):
            state.loose[stored.name] = stored
            if each and is_right and has_checksums:
                state.vouched[stored.name] = each.row
    for unit, paths in lost.items():
        rows = [row for row in state.kept.pop(unit).rows if row.outcome == STORED and row.path not in paths]
        state.loose |= {row.path: Stored(row.path, row.size, row.crc32c if has_checksums else None) for row in rows}
        state.vouched |= {row.path: row for row in rows if has_checksums}
    return state


def compared(
    bucket: Bucket, dataset: Dataset, runs: Sequence[Rows], since: str | None = None
) -> Iterator[tuple[Resolved | None, Stored | None]]:
    """Join the expected members with the bucket's listing of the dataset's folder, by path.

    In a directory, files that were changed after the file `since` are read.
    """
    listing = bucket.list(dataset.folder, marks(runs))
    return outer_join(last_wins(runs), listing if since is None else checked(bucket, listing, since))


def is_unnamed(each: Resolved | None, stored: Stored) -> bool:
    """Whether a listed object has no row; a folder's placeholder, which may have bytes, needs none."""
    return each is None and not stored.name.endswith("/")


def extra_rows(dataset: Dataset, known: Iterable[Dataset], bucket: Bucket, unnamed: Sequence[Stored]) -> list[Row]:
    """The unnamed objects that no other known dataset in the same folder has stored either."""
    theirs = set[str]()
    for other in sharing(dataset, known) if unnamed else ():
        store = ManifestStore(bucket, other.name)
        complete = readable_manifest(store)
        runs = [complete[0]] if complete else [entry.rows for entry in store.journal().values()]
        theirs.update(row.path for rows in runs for row in rows)
    return [
        Row(stored.name, stored.size, stored.crc32c or 0, "", 0, EXTRA, reason="none of the dataset")
        for stored in unnamed
        if stored.name not in theirs
    ]


def readable_manifest(store: ManifestStore) -> tuple[Rows, Mapping[str, Any]] | None:
    """Return a dataset's manifest; None with a warning if it is damaged."""
    try:
        return store.manifest()
    except DamagedError as error:
        log.warning("%s; ignoring it and checking every object again", error)
        return None


def check_kind(dataset: Dataset, options: RunOptions, bucket: Bucket, metadata: Mapping[str, object]) -> None:
    """Raise ExtractionError if the bucket holds the sample and the run is for the real dataset, or the reverse."""
    if metadata["sample"] != options.sample:
        what = ("the sample", "the real dataset")[options.sample]
        raise ExtractionError(f"{dataset.name}: {bucket.url} holds {what} of it; --force puts the other in its place")
