"""The notes of a complete dataset become its table in the bucket, and what the manifest says of it."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset
from labels.noted import NotedRows
from labels.table import KINDS, Tally, tables
from manifest.store import ManifestStore

log = logging.getLogger("spotted")


def write_tables(dataset: Dataset, store: ManifestStore, noted: NotedRows | None) -> dict[str, Any]:
    """Write the files of the table; returns what the manifest says of them: checksums, and counts for the card.

    They are written before the manifest, which seals them; without it they count for nothing. There is
    none of a dataset without a layout.
    """
    if noted is None:
        return {}
    files, tally = tables(noted, store.bucket, lambda path, group: "")
    for file in files:
        store.put_whole(file.name, file.text, file.size, KINDS[file.name])
    _warn(dataset, tally)
    return {"tables": {file.name: file.encode() for file in files}, "labels": tally.encode()}


def _warn(dataset: Dataset, tally: Tally) -> None:
    if tally.unparsed_count:
        log.warning(
            "%s: %d annotations cannot be parsed, their images have no boxes in the table: %s",
            dataset.name, tally.unparsed_count, "; ".join(tally.unparsed),
        )  # fmt: skip
