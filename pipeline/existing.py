"""Journal and listing become what a bucket already has of a dataset."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from errors import DamagedError, ExtractionError
from manifest.compare import Resolved, last_wins, marks, matches, outer_join
from manifest.journal import JournalEntry
from manifest.records import STORED, Rows
from manifest.store import ManifestStore
from pipeline.options import RunOptions
from storage.bucket import Bucket, Stored

log = logging.getLogger("spotted")

Listing = dict[str, Stored]


@dataclass
class ExistingState:
    """What a bucket has of a dataset, by journal and listing together."""

    kept: dict[str, JournalEntry]  # by unit: the entries whose objects are all there
    loose: Listing = field(default_factory=dict)  # objects without a kept entry: the last ones of a killed run
    folders: set[str] = field(default_factory=set)
    objects: int = 0


def existing_state(bucket: Bucket, dataset: Dataset, journal: Mapping[str, JournalEntry]) -> ExistingState:
    """Hold these entries against the bucket's listing."""
    units, stock, lost = list(journal), ExistingState(dict(journal)), defaultdict[str, set[str]](set)
    has_checksums = False
    for each, stored in compared(bucket, dataset, [entry.rows for entry in journal.values()]):
        if stored and stored.name.endswith("/"):
            stock.folders.add(stored.name)
            continue
        if stored:
            stock.objects, has_checksums = stock.objects + 1, stored.crc32c is not None
        if each and not each.row.is_folder and not matches(each.row, stored):
            lost[units[each.run]].add(each.row.path)
        elif stored and not each:
            stock.loose[stored.name] = stored
    for unit, paths in lost.items():
        rows = (row for row in stock.kept.pop(unit).rows if row.outcome == STORED and row.path not in paths)
        stock.loose |= {row.path: Stored(row.path, row.size, row.crc32c if has_checksums else None) for row in rows}
    return stock


def compared(bucket: Bucket, dataset: Dataset, runs: Sequence[Rows]) -> Iterator[tuple[Resolved | None, Stored | None]]:
    """The members that count beside what the bucket lists in the dataset's folder, by path."""
    return outer_join(last_wins(runs), bucket.list(dataset.folder, marks(runs)))


def readable_manifest(store: ManifestStore) -> tuple[Rows, Mapping[str, Any]] | None:
    """A dataset's manifest; a damaged one counts as none, with a warning."""
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
