"""A dataset becomes stored objects and a manifest: resume, store, prove, write down."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from errors import ArchiveError, BusyError
from manifest.compare import last_wins, matches, outer_join
from manifest.journal import JournalEntry
from manifest.records import Rows
from manifest.selection import Filter
from manifest.store import ManifestStore
from pipeline.chains import join_chains
from pipeline.choosing import check_unfinished, check_wider, note_filter, open_dataset
from pipeline.dataset_run import DatasetRun
from pipeline.existing import check_kind, compared, extra_rows, is_unnamed, readable_manifest
from pipeline.job import CardWriter, Job
from pipeline.options import RunOptions
from pipeline.prove import prove
from pipeline.results import Result
from pipeline.resume import Resumed, resume
from pipeline.write_down import write_down
from storage.bucket import Bucket, Stored
from storage.names import is_unfinished, parents

log = logging.getLogger("spotted")


def extract(dataset: Dataset, job: Job) -> Result:
    """Extract a dataset into the bucket; the result lists what is missing.

    Objects that exist and match are not stored again. A dataset that has a manifest is only compared with the bucket's
    listing. Raises ExtractionError if the run cannot continue; the next run continues from what is stored.
    """
    options = job.options
    log.info("%s: %s%s", dataset.name, dataset.title, " (here: the small sample)" if options.sample else "")
    store = ManifestStore(job.bucket, dataset.name)
    result = None if options.force else _already_complete(dataset, options, store, job.card)
    if result is None:
        with store.lease() as lease:
            journal = store.journal()
            if not options.force:
                check_unfinished(dataset, options.filter, store, journal)
            note_filter(options.filter, store, journal)
            run = open_dataset(dataset, job, store)
            run.hold(lease)
            result = _extract(run, store, journal, job.card)
    return result


def _already_complete(dataset: Dataset, options: RunOptions, store: ManifestStore, card: CardWriter) -> Result | None:
    """Return the result of a dataset that is complete; None if something is left to do."""
    found = readable_manifest(store)
    if found is None:
        return None
    rows, metadata = found
    check_kind(dataset, options, store.bucket, metadata)
    there = Filter.of(metadata.get("filter"))
    if not there.covers(options.filter):
        check_wider(dataset, store.bucket.url, there, options.filter)
        log.info("%s: what is there is %s; going on with the rest of %s", dataset.name, there, options.filter)
        return None
    lost, unfinished, unnamed = _look_through(dataset, store, rows)
    lost += len(store.lost_tables(metadata))
    if lost:
        check_wider(dataset, store.bucket.url, there, options.filter)
        log.warning(
            "%s: %d objects of the complete dataset are missing or changed; extracting them again", dataset.name, lost
        )
        return None
    store.bucket.delete(unfinished)  # of a run that was killed while another completed the dataset
    _finish(dataset, store, rows, metadata, card)
    if there != options.filter:
        log.info("%s: %s holds %s, of which %s is a part", dataset.name, store.bucket.url, there, options.filter)
    not_images = metadata.get("not_images", 0)  # older versions called these gone
    extra = extra_rows(dataset, options.known, store.bucket, unnamed)
    return Result(
        dataset, len(rows), rows.size, True, extra=extra, gone=metadata["gone"], not_images=not_images, filter=there
    )


def _look_through(dataset: Dataset, store: ManifestStore, rows: Rows) -> tuple[int, list[str], list[Stored]]:
    """Compare the manifest with the listing: the number of lost objects, the unfinished files, the unnamed objects."""
    lost, unfinished, unnamed = 0, list[str](), list[Stored]()
    for each, stored in compared(store.bucket, dataset, [rows], store.table):
        lost += each is not None and not matches(each.row, stored)
        if stored and is_unfinished(stored.name):
            unfinished.append(stored.name)
        elif stored and is_unnamed(each, stored):
            unnamed.append(stored)
    return lost, unfinished, unnamed


def _finish(dataset: Dataset, store: ManifestStore, rows: Rows, metadata: Mapping[str, Any], card: CardWriter) -> None:
    """Finish for a run that was killed after it wrote the manifest: remove its journal and lock, write the card."""
    if "tables" not in metadata and dataset.layout:
        log.info("%s: no metadata.csv: an older version completed it; --repair makes the table", dataset.name)
    left = store.clean_up()
    if store.lock in left and not any("/journal/" in name for name in left):  # else nothing may be removed
        with contextlib.suppress(BusyError), store.lease():  # its end removes the file
            pass
    if not store.card <= left:
        card.write_missing(dataset, store, rows, metadata)


def _extract(run: DatasetRun, store: ManifestStore, journal: Mapping[str, JournalEntry], card: CardWriter) -> Result:
    resumed = resume(run, store, journal)
    with run.folders:
        _store(run, resumed, store)
        return write_down(run, store, prove(run, store.bucket), card)


def _store(run: DatasetRun, resumed: Resumed, store: ManifestStore) -> None:
    """Run the units, join the spans of tars, compare the archives' checksums, and remove stale objects."""
    run.watch_checksums(resumed.todo)
    run.run_units(resumed.todo, resumed.loose)
    join_chains(run, resumed.loose)
    for each, got in run.wrong_checksums():
        raise ArchiveError(
            f"{each.source.name}: expected sha256 {each.sha256}, got {got}: not the published archive;"
            " nothing of it counts as extracted"
        )
    folders = set[str]().union(*(rows.folders for rows in run.runs()))
    _remove_stale(run, resumed.earlier, folders, store.bucket)
    run.folders.create(folders | parents([store.table]))
    run.folders.wait()


def _remove_stale(run: DatasetRun, earlier: Rows, folders: set[str], bucket: Bucket) -> None:
    """Remove objects of earlier versions, and those of false starts, unless this version has them too."""
    if earlier:
        ours = (Stored(each.row.path, 0, None) for each in last_wins(run.runs()))
        bucket.delete(each.row.path for each, found in outer_join(last_wins([earlier]), ours) if each and not found)
    stale = (run.false_starts | run.folders.created) - folders
    if stale:
        run.folders.wait()
        run.folders.discard(stale)
        stale -= {each.row.path for each in last_wins(run.runs()) if each.row.path in stale}
        bucket.delete(sorted(stale, reverse=True))
