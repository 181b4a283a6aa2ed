"""Compare the stored members with the bucket's own listing, and store again what it lacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from manifest.compare import Resolved, matches
from manifest.counters import ReasonCounter
from manifest.labels.noted import NotedRows
from manifest.records import FAILED, Row, Rows
from pipeline.dataset_run import DatasetRun
from pipeline.existing import compared, is_unnamed
from storage.bucket import Bucket, Stored

log = logging.getLogger("spotted")

MAX_REPAIR_ROUNDS = 2  # rounds of storing lost objects again, before they count as missing


class ListingDiff(NamedTuple):
    """The result of the comparison with the bucket's listing."""

    rows: Rows  # stored rows that match the listing
    lost: list[Resolved]  # stored rows that do not
    misnamed: ReasonCounter
    unnamed: list[Stored]  # objects in the dataset's folder without a row
    noted: NotedRows | None  # the rows with their notes, for the table of images

    def lost_rows(self) -> list[Row]:
        """The lost ones as failures."""
        why = "the bucket's listing lacks it, or has another size or checksum"
        return [each.row._replace(outcome=FAILED, reason=why) for each in self.lost]


def prove(run: DatasetRun, bucket: Bucket) -> ListingDiff:
    """Compare with the bucket's own listing, and store again what it lacks."""
    diff = _compare(run, bucket, is_first=True)
    for _ in range(MAX_REPAIR_ROUNDS):
        if not diff.lost:
            break
        log.info("%s: storing %d objects again, which the listing lacks", run.dataset.name, len(diff.lost))
        units = list(run.units.values())
        wanted = {each.row.path: each.row for each in diff.lost}
        run.run_units([units[index] for index in sorted({each.run for each in diff.lost})], {}, wanted)
        diff = _compare(run, bucket)
    return diff


def _compare(run: DatasetRun, bucket: Bucket, is_first: bool = False) -> ListingDiff:
    lost, misnamed, unnamed = list[Resolved](), ReasonCounter(), list[Stored]()
    noted = NotedRows(run.dataset.layout) if run.dataset.layout else None

    def proved() -> Iterator[Row]:
        for each, stored in compared(bucket, run.dataset, run.runs()):
            if stored and is_unnamed(each, stored):
                unnamed.append(stored)
            elif each is None or (each.row.is_folder and bucket.has_folders):
                continue
            elif not matches(each.row, stored) or (is_first and stored and _is_contested(run, each, stored)):
                lost.append(each)
            elif not each.row.is_folder:
                misnamed.add(each.row)
                if noted:
                    noted.add(each.row)
                yield Row(*each.row[:5])  # without reason and note

    return ListingDiff(Rows.of_sorted(proved()), lost, misnamed, unnamed, noted)


def _is_contested(run: DatasetRun, each: Resolved, stored: Stored) -> bool:
    """Whether several units wrote this path, and the listing has no checksum that shows which was last."""
    is_shared = each.runs > 1 or each.row.path in run.false_starts
    return is_shared and stored.crc32c is None and not each.row.is_folder
