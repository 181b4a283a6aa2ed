"""Compare the filter of a run with those of earlier runs. A wider filter extends a dataset; only --force shrinks it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from datasets import Dataset
from errors import ExtractionError, SourceChangedError, SourceError
from manifest.journal import JournalEntry
from manifest.selection import EVERYTHING, Filter
from manifest.store import ManifestStore
from pipeline.chains import join_chains
from pipeline.dataset_run import DatasetRun
from pipeline.job import Job

log = logging.getLogger("spotted")

FILTER = "filter"  # journal entry: the filter of the run that wrote the journal


def check_wider(dataset: Dataset, where: str, there: Filter, wanted: Filter) -> None:
    """Raise ExtractionError unless the filter `wanted` certainly has everything that `there` has."""
    if not wanted.covers(there):
        raise ExtractionError(
            f"{dataset.name}: {where} holds {there}, and it is not certain that {wanted} has all of that: use"
            " the same filter or a wider one, or another place with --to; --force removes what is not wanted"
        )


def check_unfinished(
    dataset: Dataset, wanted: Filter, store: ManifestStore, journal: Mapping[str, JournalEntry]
) -> None:
    """Raise ExtractionError if the run that wrote this journal may have wanted more."""
    if journal:
        check_wider(dataset, f"an unfinished run in {store.bucket.url}", _begun(journal), wanted)


def note_filter(wanted: Filter, store: ManifestStore, journal: Mapping[str, JournalEntry]) -> None:
    """Record the filter of this run, before it stores or removes anything."""
    if wanted != _begun(journal):
        store.write(JournalEntry(FILTER, json.dumps(wanted.encode())))


def _begun(journal: Mapping[str, JournalEntry]) -> Filter:
    return Filter.of(json.loads(journal[FILTER].fingerprint)) if FILTER in journal else EVERYTHING


def open_dataset(dataset: Dataset, job: Job, store: ManifestStore | None = None) -> DatasetRun:
    """Open the sources of a dataset and plan its units.

    A limit needs the names of all images. An archive without a directory is read once for them, and nothing is stored
    meanwhile. Raises SourceError, also if an archive changes between the two readings.
    """
    if job.options.filter.limit and not dataset.layout:
        raise ExtractionError(f"{dataset.name}: --limit needs a layout, which says what of it are images")
    run = DatasetRun(dataset, job, store)
    if not (dataset.layout and any(each.selection.filter.lacks_names for each in run.planned)):
        return run
    reading = DatasetRun(dataset, job.with_filter(EVERYTHING))
    versions = [each.source.version for each in reading.planned]
    known = job.options.filter.with_names(dataset.layout, _member_names(reading))
    run = DatasetRun(dataset, job.with_filter(known), store)
    if [each.source.version for each in run.planned] != versions:
        raise SourceChangedError(f"{dataset.name}: its archives changed while they were read; run again")
    return run


def _member_names(run: DatasetRun) -> list[str]:
    """Return the object names of all members; archives without a directory are read."""
    listed = [path for each in run.planned for path in each.names or ()]
    run.planned = [each for each in run.planned if each.names is None]
    run.expect((unit for each in run.planned for unit in each.units), {})
    log.info(
        "%s: reading %s bytes for the names in them, of which --limit takes the first",
        run.dataset.name, f"{sum(each.source.size for each in run.planned):,}",
    )  # fmt: skip
    run.run_units(list(run.units.values()), {})
    join_chains(run, {})
    for entry in run.entries.values():
        if entry.error:
            raise SourceError(entry.error)
    return [row.path for rows in run.runs() for row in rows] + listed
