"""Compares a complete dataset with its manifest, by the bucket's listing or its sources; nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from commands.extract import Session, Work, start_workers
from datasets import DATASETS, Dataset
from errors import DamagedError
from gcs import Destination, Opened
from manifest.compare import matches
from manifest.records import Row, Rows
from manifest.selection import Filter
from manifest.store import ManifestStore
from pipeline.choosing import open_dataset
from pipeline.differences import DIFFERENT, MISSING, UNREAD, against_sources, difference
from pipeline.existing import EXTRA, check_kind, compared, extra_rows, is_unnamed
from pipeline.job import Job
from pipeline.options import RunOptions
from pipeline.results import Result
from storage.bucket import Bucket, Stored

log = logging.getLogger("spotted")


@dataclass
class Found:
    """The manifest of a dataset, and the differences that were found."""

    dataset: Dataset
    rows: Rows  # of the manifest
    metadata: Mapping[str, Any]
    wrong: list[Row] = field(default_factory=list)  # missing, different or unread
    extra: list[Row] = field(default_factory=list)

    @property
    def filter(self) -> Filter:
        """The filter with which the dataset was extracted."""
        return Filter.of(self.metadata.get("filter"))

    def result(self) -> Result:
        """Log the numbers of differences in one line, and return the result."""
        kinds = [row.outcome for row in (*self.wrong, *self.extra)]
        counted = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in (MISSING, DIFFERENT, UNREAD, EXTRA))
        what = f" of {self.filter}" if self.filter else ""
        log.info("%s: %d objects%s compared with the manifest: %s", self.dataset.name, len(self.rows), what, counted)
        return Result(
            self.dataset,
            len(self.rows),
            self.rows.size,
            missing=self.wrong,
            extra=self.extra,
            is_verification=True,
            gone=self.metadata["gone"],
            filter=self.filter,
        )


def open_run(options: RunOptions, session: Session) -> Work:
    """Open the bucket and, with --deep, the workers."""
    opened = Opened.of(Destination(options.to, terms=options.terms))
    opened.bucket.probe()  # fails fast: obstore, which reads the manifest, would retry for minutes
    if not options.deep:
        return lambda dataset: verify(dataset, opened.bucket, options.known)
    job = start_workers(options, opened, session)
    return lambda dataset: verify_deep(dataset, job)


# ── by listing ───────────────────────────────────────────────────────────────────────────────────


def verify(dataset: Dataset, bucket: Bucket, known: Iterable[Dataset] = DATASETS.values()) -> Result:
    """Compare a dataset's manifest with the bucket's listing."""
    found = compare(dataset, bucket, known)
    return found if isinstance(found, Result) else found.result()


def compare(dataset: Dataset, bucket: Bucket, known: Iterable[Dataset], is_deep: bool = False) -> Found | Result:
    """Compare the manifest with the listing; return a result if there is no manifest to compare with.

    Objects of other `known` datasets in the same folder are not extra.
    """
    store = ManifestStore(bucket, dataset.name)
    try:
        manifest = store.manifest()
    except DamagedError as error:
        return _no_manifest(dataset, f"{error}; extract it again: objects that are right are kept")
    if manifest is None:
        return _no_manifest(
            dataset, f"{bucket.url} has no manifest of this dataset, so it is not complete: extract it first"
        )
    found = Found(dataset, *manifest)
    folders = {name for name in found.rows.folders if name.startswith(dataset.folder)}  # the listing has none above it
    unnamed = list[Stored]()
    for each, stored in compared(bucket, dataset, [found.rows], "" if is_deep else store.table):
        if each and not matches(each.row, stored):
            found.wrong.append(difference(each.row, stored))
        elif stored and is_unnamed(each, stored):
            unnamed.append(stored)
        elif stored:
            folders.discard(stored.name)
    why = "the table of images is missing or changed: --repair makes it again from what is stored"
    found.wrong += [row._replace(outcome=MISSING, reason=why) for row in store.lost_tables(found.metadata)]
    if folders and not bucket.has_folders:
        why = "the folder has no placeholder object: a GCSFuse mount without --implicit-dirs does not show it"
        found.wrong += [Row(name, 0, 0, "", 0, MISSING, why) for name in sorted(folders)]
    found.extra = extra_rows(dataset, known, bucket, unnamed)
    return found


def _no_manifest(dataset: Dataset, why: str) -> Result:
    row = Row(f"_extraction/{dataset.name}/manifest.csv", 0, 0, "", 0, MISSING, why)
    return Result(dataset, missing=[row], is_verification=True)


# ── with the sources ─────────────────────────────────────────────────────────────────────────────


def verify_deep(dataset: Dataset, job: Job) -> Result:
    """Compare with the listing, read the sources again, and compare every member's bytes with the manifest.

    A directory's files are read too. Nothing is stored. Raises ExtractionError when a source cannot be read.
    """
    found = compare(dataset, job.bucket, job.options.known, is_deep=True)
    if isinstance(found, Result):
        return found
    check_kind(dataset, job.options, job.bucket, found.metadata)
    found.wrong += against_sources(found.rows, open_dataset(dataset, job.with_filter(found.filter)))
    return found.result()
