"""Find objects in a dataset's folder that do not belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from datasets import Dataset, sharing
from manifest.compare import Resolved
from manifest.records import Row
from manifest.store import ManifestStore
from pipeline.existing import readable_manifest
from storage.bucket import Bucket, Stored

EXTRA = "extra"  # the outcome of their rows


def is_unnamed(each: Resolved | None, stored: Stored | None) -> bool:
    """Whether a listed object has no row; a folder's placeholder, which may have bytes, needs none."""
    return each is None and stored is not None and not stored.name.endswith("/")


def extra_rows(dataset: Dataset, known: Iterable[Dataset], bucket: Bucket, unnamed: Sequence[Stored]) -> list[Row]:
    """The unnamed objects that no other known dataset in the same folder has stored either."""
    theirs = set(_named_by(sharing(dataset, known), bucket)) if unnamed else set()
    return [
        Row(stored.name, stored.size, stored.crc32c or 0, "", 0, EXTRA, reason="none of the dataset")
        for stored in unnamed
        if stored.name not in theirs
    ]


def _named_by(datasets: Iterable[Dataset], bucket: Bucket) -> Iterator[str]:
    for each in datasets:
        store = ManifestStore(bucket, each.name)
        complete = readable_manifest(store)
        runs = [complete[0]] if complete else [entry.rows for entry in store.journal().values()]
        yield from (row.path for rows in runs for row in rows)
