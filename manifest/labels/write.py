"""Write the table of a complete dataset's images into the bucket."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset
from manifest.labels.croissant import croissant
from manifest.labels.noted import NotedRows
from manifest.labels.splits import compare_counts, read_splits, split_fields
from manifest.labels.table import COLUMNS, CROISSANT, sealed, tables
from manifest.selection import EVERYTHING, Filter
from manifest.store import ManifestStore, whole

log = logging.getLogger("spotted")


def write_tables(
    dataset: Dataset, store: ManifestStore, noted: NotedRows | None, is_sample: bool, filter_: Filter = EVERYTHING
) -> dict[str, Any]:
    """Write the files of the table; returns the manifest's fields about them: checksums, and counts for the card.

    They are written before the manifest, which has their checksums. A dataset without a layout has no table.
    """
    if noted is None:
        return {}
    splits = read_splits(dataset, noted.layout, store.bucket, filter_)
    files, tally = tables(noted, store.bucket, splits.of)
    described = croissant(dataset, files, (*COLUMNS, *noted.layout.columns))
    store.put_beside({CROISSANT: described, **{file.name: whole(file, file.size) for file in files}})
    if tally.unparsed.count:
        log.warning(
            "%s: %d annotations cannot be parsed, their images have no boxes in the table: %s",
            dataset.name, tally.unparsed.count, "; ".join(tally.unparsed.examples),
        )  # fmt: skip
    labels = tally.encode() | split_fields(splits, not filter_)
    if not (is_sample or filter_):
        compare_counts(dataset, noted.layout.splits, labels["splits"])
    tables_sealed = {file.name: file.encode() for file in files} | {CROISSANT: sealed(described)}
    return {"tables": tables_sealed, "labels": labels}
