"""Write the manifest of a complete dataset, or failures.csv; return the result."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime

from errors import redact
from manifest.counters import ReasonCounter
from manifest.labels.write import write_tables
from manifest.records import ABSENT, FAILED, GONE, LINKED, NOT_AN_IMAGE, STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.dataset_run import DatasetRun
from pipeline.existing import extra_rows
from pipeline.job import CardWriter
from pipeline.planner import PlannedArchive
from pipeline.prove import ListingDiff
from pipeline.results import Result

log = logging.getLogger("spotted")

ABSENT_LIMIT = 0.05  # share of photos that the source may lack; 0.9 % of Austin's are gone or replaced by web pages


def write_down(run: DatasetRun, store: ManifestStore, diff: ListingDiff, card: CardWriter) -> Result:
    """Write the manifest when nothing is missing, else failures.csv."""
    _log_repeats(run, len(diff.rows) + sum(not each.row.is_folder for each in diff.lost))
    failures = [*_failures(run), *run.folders.failed, *diff.lost_rows()]
    result = _result(run, diff.rows, failures)
    result.extra = extra_rows(run.dataset, run.options.known, store.bucket, diff.unnamed)
    if result.missing:
        store.write_failures(failures)
    else:
        if run.lease:
            run.lease.renew()
        tables = write_tables(run.dataset, store, diff.noted, run.options.sample, run.filter)
        metadata = _metadata(run, result, diff.misnamed) | tables
        with card.drawn(run.dataset, store, diff.noted, metadata, failures):
            store.commit(diff.rows, failures, metadata)
    return result


def _log_repeats(run: DatasetRun, distinct: int) -> None:
    stored = sum(rows.stored for rows in run.runs())
    if stored > distinct:
        log.info("%s: %d members were replaced by a later one of the same name", run.dataset.name, stored - distinct)


def _failures(run: DatasetRun) -> list[Row]:
    incomplete = (rows for rows in run.runs() if rows.bad or rows.absent)
    broken = [entry for entry in run.entries.values() if entry.error]
    return [
        *(row for rows in incomplete for row in rows if row.outcome not in (STORED, LINKED)),
        *(Row(run.dataset.folder, 0, 0, entry.unit, 0, FAILED, entry.error) for entry in broken),
    ]


def _result(run: DatasetRun, rows: Rows, failures: list[Row]) -> Result:
    """The result; photos that the source lacks count as missing only above ABSENT_LIMIT."""
    outcomes = Counter(row.outcome for row in failures)
    if sum(outcomes[each] for each in ABSENT) <= ABSENT_LIMIT * _photos(run):
        missing = [row for row in failures if row.outcome not in ABSENT]
    else:
        missing = failures
        run.discard(unit for unit, entry in run.entries.items() if entry.rows.absent)  # the next run tries again
    result = Result(run.dataset, len(rows), rows.size, missing=missing, filter=run.filter)
    result.gone, result.not_images = outcomes[GONE], outcomes[NOT_AN_IMAGE]
    result.fetched, result.retries = run.progress.fetched, run.retries_before + run.progress.retries
    return result


def _photos(run: DatasetRun) -> int:
    return sum(len(unit.work.photos) for unit in run.units.values())


def _metadata(run: DatasetRun, result: Result, misnamed: ReasonCounter) -> dict[str, object]:
    """The fields of manifest.json."""
    return {
        "dataset": run.dataset.name,
        "title": run.dataset.title,
        "sample": run.options.sample,
        "objects": result.objects,
        "bytes": result.size,
        "gone": result.gone,
        "not_images": result.not_images,
        "wrong_format": {reason: asdict(some) for reason, some in misnamed.counts().items()},
        **({"filter": run.filter.encode()} if run.filter else {}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "sources": [_source_fields(each, run.checks[each.archive.file]) for each in run.planned],
    }


def _source_fields(each: PlannedArchive, check: str) -> dict[str, object]:
    return {
        "file": each.archive.file,
        "url": redact(each.source.name),
        "size": each.source.size,
        "version": each.source.version,
        "sha256": each.sha256,
        "sha256_check": check,
    }
